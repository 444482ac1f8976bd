-- Needs two nodes of a dshm that share their memory: `?dshm=port&other=port`.

local contract = require "spec.contract"
local found = require "spec.found"
local mistakes = require "spec.mistakes"
local names = require "spec.names"
local rolling = require "spec.rolling"
local sessions = require "spec.sessions"
local support = require "spec.support"

-- Milliseconds: longer where a tool slows nginx down.
local LIMIT = 1000 * (tonumber(ngx.var.arg_slowness) or 1)
local DSHM = { port = tonumber(ngx.var.arg_dshm), connect_timeout = LIMIT, read_timeout = LIMIT, send_timeout = LIMIT }
local key = support.key

describe("dshm", function()
  local function make(more)
    return require("resty.session.dshm").new(support.with(DSHM, more))
  end

  contract(make, false)
  names(make)
  sessions({ storage = "dshm", dshm = DSHM }, false)
  rolling({ revocation = "dshm", dshm = DSHM })
  found({ { storage = "dshm", dshm = DSHM } })
  mistakes("dshm", {
    ["invalid dshm port (at most 65535)"] = { port = 70000 },
    ["invalid dshm host (string expected, got table)"] = { host = {} },
    ["invalid dshm read_timeout (number that is not negative expected, got string)"] = { read_timeout = "soon" },
  })

  it("shows at each node what was done at another", function()
    local here, there = make(), make({ port = tonumber(ngx.var.arg_other) })
    local k, new, now = key(), key(), ngx.time()
    local metadata = { audiences = { "a" }, subjects = { key() } }
    assert(here:set("nodes", k, "v", 60, now, nil, nil, metadata))
    assert.equal("v", there:get("nodes", k, now))
    assert.same({ [k] = now + 60 }, there:read_metadata("nodes", "a", metadata.subjects[1], now))
    assert(there:set("nodes", new, "w", 60, now, k, 1, metadata))
    assert.equal("w", here:get("nodes", new, now))
    assert.same({ [new] = now + 60 }, here:read_metadata("nodes", "a", metadata.subjects[1], now))
    ngx.sleep(2.1)
    assert.is_nil((here:get("nodes", k, now)))
    assert(here:delete("nodes", new, now, metadata))
    assert.is_nil((there:get("nodes", new, now)))
    assert.same({}, there:read_metadata("nodes", "a", metadata.subjects[1], now))
  end)

  it("does not lengthen a replaced record's life when it is replaced again", function()
    local storage, old, now = make(), key(), ngx.time()
    assert(storage:set("twice", old, "v", 60, now))
    assert(storage:set("twice", key(), "v", 60, now, old, 2))
    assert(storage:set("twice", key(), "v", 60, now, old, 60))
    assert.equal("v", storage:get("twice", old, now))
    ngx.sleep(3.1)
    assert.is_nil((storage:get("twice", old, now)))
  end)

  it("deletes a replaced record whose stale_ttl is 0", function()
    local storage, old, now = make(), key(), ngx.time()
    assert(storage:set("stale", old, "v", 60, now))
    assert(storage:set("stale", key(), "v", 60, now, old, 0))
    assert.is_nil((storage:get("stale", old, now)))
  end)

  it("takes any name, or says that it cannot", function()
    local storage, k, now = make(), key(), ngx.time()
    local odd = { "a b", "a\r\nget x", "%20", "+", "?&=", "ä", "\0", "a b c 60 1", "'", '"', "\\", ("n"):rep(5000) }
    for i, name in ipairs(odd) do
      assert(storage:set(name, k, "v" .. i, 60, now))
    end
    for i, name in ipairs(odd) do
      assert.equal("v" .. i, storage:get(name, k, now))
      assert.same({ true }, { storage:delete(name, k, now) })
      assert.same({}, { storage:get(name, k, now) })
    end
    local ok, err = storage:set("\255", k, "v", 60, now)
    assert.is_nil(ok)
    assert.is_string(err)
  end)

  it("says which values it does not take, and keeps working", function()
    local storage, k, now = make(), key(), ngx.time()
    local expected = "dshm accepts only ASCII values that are not empty"
    for _, value in ipairs { "", "ä", "\255" } do
      assert.same({ nil, expected }, { storage:set("values", k, value, 60, now) })
      assert.same({}, { storage:get("values", k, now) })
    end
    for _, value in ipairs { "\r\n", "DONE\r\n", "ERROR not_found\r\n", "\0", ("x"):rep(2 ^ 20) } do
      assert(storage:set("values", k, value, 60, now))
      assert.equal(value, storage:get("values", k, now))
    end
  end)
end)
