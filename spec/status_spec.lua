local status = require "resty.session.status"
local support = require "spec.support"

describe("status", function()
  support.fresh(function() end)

  it("tells of each server that storages use, and what happens on the bridge", function()
    local counts = status.counts()
    for _, name in ipairs { "submitted", "completed", "in_flight", "waiting", "rings", "drains" } do
      assert.is_number(counts[name], name)
    end
    local storage = require("resty.session.memcached").new({ port = 1, connect_timeout = 100 })
    local value, err = storage:get("session", "key")
    assert.is_nil(value)
    assert.is_string(err)
    local found
    for _, endpoint in ipairs(status.endpoints()) do
      found = endpoint.server == "127.0.0.1:1" and endpoint or found
    end
    assert.equal("memcached", found.storage)
    assert.equal("failing", found.state)
    assert.is_string(found.error)
    assert.is_true(found.failing_for >= 0 and found.failing_for < 5)
    for _, name in ipairs { "in_flight", "connections", "connects", "reconnects", "failures", "failed_fast" } do
      assert.is_number(found[name], name)
    end
    assert.equal(0, found.connections)
    assert.is_true(found.connects >= 1)
  end)
end)
