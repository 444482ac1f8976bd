-- Needs a memcached: `?memcached=port`.

local contract = require "spec.contract"
local found = require "spec.found"
local mistakes = require "spec.mistakes"
local names = require "spec.names"
local rolling = require "spec.rolling"
local sessions = require "spec.sessions"
local support = require "spec.support"

-- Milliseconds: longer where a tool slows nginx down.
local LIMIT = 1000 * (tonumber(ngx.var.arg_slowness) or 1)
local MEMCACHED = {
  port = tonumber(ngx.var.arg_memcached), connect_timeout = LIMIT, read_timeout = LIMIT, send_timeout = LIMIT,
}

describe("memcached", function()
  local function make(more)
    return require("resty.session.memcached").new(support.with(MEMCACHED, more))
  end

  contract(make, false)
  names(make)
  sessions({ storage = "memcached", memcached = MEMCACHED }, false)
  rolling({ revocation = "memcached", memcached = MEMCACHED })
  found({ { storage = "memcached", memcached = MEMCACHED }, { storage = "memcache", memcached = MEMCACHED } })
  mistakes("memcached", {
    ["invalid memcached port (at most 65535)"] = { port = 70000 },
    ["invalid memcached port (at least 1)"] = { port = 0 },
    ["invalid memcached host (the port must be a number from 1 to 65535)"] = { host = "127.0.0.1:70000" },
    ["invalid memcached host (not a valid IPv6 address)"] = { host = "[]:11211" },
    ["invalid memcached host (the host is missing)"] = { host = ":11211" },
    ["invalid memcached host (the path of the Unix socket is missing)"] = { host = "unix:" },
  })

  local key = support.key

  it("refuses names that are too long, and stores nothing then", function()
    local storage, metadata = make(), { audiences = { "a" }, subjects = { ("s"):rep(250) } }
    local k, now = key(), ngx.time()
    local ok, err = storage:set("n", k, "v", 60, now, nil, nil, metadata)
    assert.is_nil(ok)
    assert.matches("^a name of 258 bytes is longer than the 250 that memcached takes", err)
    assert.is_nil((storage:get("n", k, now)))
    ok, err = storage:get(("n"):rep(205), k, now)
    assert.is_nil(ok)
    assert.matches("^a name of 251 bytes", err)
    assert.same({}, { storage:get(("n"):rep(204), k, now) })
  end)

  it("refuses a record that is too large, and keeps working", function()
    local storage, k, now = make(), key(), ngx.time()
    local value = ("x"):rep(1100000)
    assert.same({ nil, "the server refuses a record of 1100000 bytes: object too large for cache" }, {
      storage:set("large", k, value, 60, now),
    })
    value = value:sub(1, 1000000)
    assert(storage:set("large", k, value, 60, now))
    assert.equal(value, storage:get("large", k, now))
  end)

  it("deletes a replaced record whose stale_ttl is 0", function()
    local storage, old, now = make(), key(), ngx.time()
    assert(storage:set("stale", old, "v", 60, now))
    assert(storage:set("stale", key(), "v", 60, now, old, 0))
    assert.is_nil((storage:get("stale", old, now)))
  end)

  it("loses no session while others add to and compact the same metadata", function()
    local storage, now = make(), ngx.time()
    local metadata = { audiences = { key() }, subjects = { key() } }
    local expected, threads = {}, {}
    for i = 1, 32 do
      threads[i] = ngx.thread.spawn(function()
        local old
        for round = 1, 10 do
          ngx.sleep(math.random() / 100)
          local k, ttl = key(), (10 * i + 500) * round
          assert(storage:set("many", k, "v", ttl, now, old, 10, metadata))
          if round % 5 == 0 then
            assert(storage:delete("many", k, now, metadata))
          elseif round % 5 == 3 then
            expected[k], old = now + ttl, nil
          else
            old = k
          end
        end
      end)
    end
    for i = 1, 32 do
      assert(ngx.thread.wait(threads[i]))
    end
    assert.same(expected, storage:read_metadata("many", metadata.audiences[1], metadata.subjects[1], now))
  end)
end)
