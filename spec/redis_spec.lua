-- Needs a Redis server, a Sentinel group, a Cluster, and a server whose user `sessions` has only
-- the documented rights: `?redis=port&sentinels=port,port&nodes=port,port&limited=port`.

local contract = require "spec.contract"
local found = require "spec.found"
local mistakes = require "spec.mistakes"
local names = require "spec.names"
local replaced = require "spec.replaced"
local rolling = require "spec.rolling"
local session = require "resty.session"
local sessions = require "spec.sessions"
local support = require "spec.support"

-- Milliseconds: longer where a tool slows nginx down.
local LIMIT = 1000 * (tonumber(ngx.var.arg_slowness) or 1)

local function ports(argument)
  local nodes = {}
  for port in (ngx.var["arg_" .. argument] or ""):gmatch("%d+") do
    nodes[#nodes + 1] = { host = "127.0.0.1", port = tonumber(port) }
  end
  return nodes
end

local REDIS = {
  port = tonumber(ngx.var.arg_redis), connect_timeout = LIMIT, read_timeout = LIMIT, send_timeout = LIMIT,
}
local SENTINEL = support.with(REDIS, { sentinels = ports("sentinels"), master = "sessions" })
local CLUSTER = support.with(REDIS, { nodes = ports("nodes") })

for name, options in pairs { redis = REDIS, ["redis.sentinel"] = SENTINEL, ["redis.cluster"] = CLUSTER } do
  describe(name, function()
    local function make(more)
      return require("resty.session." .. name).new(support.with(options, more))
    end

    contract(make, true)
    names(make)
    sessions({ storage = name:gsub("%.", "-"), redis = options }, true)
    rolling({ revocation = name:gsub("%.", "-"), redis = options })
  end)
end

describe("redis with the rights that are documented", function()
  local user = { port = tonumber(ngx.var.arg_limited), username = "sessions", password = "secret" }
  contract(function(more)
    return require("resty.session.redis").new(support.with(support.with(REDIS, user), more))
  end)
end)

describe("redis", function()
  found({
    { storage = "redis", redis = REDIS },
    { storage = "redis", redis = SENTINEL },
    { storage = "redis", redis = CLUSTER },
    { storage = "redis-sentinel", redis = SENTINEL },
    { storage = "redis-cluster", redis = CLUSTER },
  })
  mistakes("redis", {
    ["invalid redis port (at most 65535)"] = { port = 70000 },
    ["invalid redis read_timeout (number that is not negative expected, got string)"] = { read_timeout = "soon" },
    ["invalid redis sentinels (it is empty)"] = { sentinels = {} },
    ["invalid redis sentinels (a Unix socket cannot be used here)"] = { sentinels = { { host = "unix:/run/s.sock" } } },
    ["invalid redis nodes (not a valid IPv6 address)"] = { nodes = { { ip = "127.0.0.1" }, { ip = "[]" } } },
    ["invalid redis nodes (the port must be a number from 1 to 65535)"] = { nodes = { { ip = "127.0.0.1:0" } } },
    ["invalid redis nodes (each must be { host = …, port = … })"] = { nodes = { "localhost" } },
    ["invalid redis role (\"master\" or \"slave\" expected)"] = { sentinels = SENTINEL.sentinels, role = "king" },
  })

  replaced(function()
    return require("resty.session.redis").new(REDIS)
  end, true)

  it("renews its password in a method that a program has replaced", function()
    local limited = { port = tonumber(ngx.var.arg_limited), username = "sessions", password = "old" }
    local storage = require("resty.session.redis").new(support.with(REDIS, limited))
    support.browser()
    local s = session.new({ storage = storage })
    assert.is_nil((s:save()))
    local set = storage.set
    storage.set = function(self, ...)
      self.password = "secret"
      return set(self, ...)
    end
    assert.same({ true }, { s:save() })
    storage.set = nil
    assert.same({ true }, { s:save() })
    storage.password = "old"
    assert.is_nil((s:save()))
    support.restore()
  end)

  it("has modules by the storages' names", function()
    assert.is_table(require "resty.session.redis-cluster")
    assert.is_table(require "resty.session.redis-sentinel")
  end)
end)
