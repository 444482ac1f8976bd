-- Needs a Redis server, a Sentinel group and a Cluster: `?redis=port&sentinels=port,port&nodes=port,port`.

local contract = require "spec.contract"
local names = require "spec.names"
local session = require "resty.session"
local sessions = require "spec.sessions"
local support = require "spec.support"
local utils = require "resty.session.utils"

local function ports(argument)
  local nodes = {}
  for port in (ngx.var["arg_" .. argument] or ""):gmatch("%d+") do
    nodes[#nodes + 1] = { host = "127.0.0.1", port = tonumber(port) }
  end
  return nodes
end

local REDIS = { port = tonumber(ngx.var.arg_redis), connect_timeout = 1000, read_timeout = 1000, send_timeout = 1000 }
local SENTINEL = support.with(REDIS, { sentinels = ports("sentinels"), master = "sessions" })
local CLUSTER = support.with(REDIS, { nodes = ports("nodes") })

for name, options in pairs { redis = REDIS, ["redis.sentinel"] = SENTINEL, ["redis.cluster"] = CLUSTER } do
  describe(name, function()
    local function make(more)
      return require("resty.session." .. name).new(support.with(options, more))
    end

    contract(make)
    names(make)
    sessions({ storage = name:gsub("%.", "-"), redis = options })
  end)
end

describe("redis in sessions", function()
  local browser

  support.fresh(function(fresh)
    browser = fresh
  end)

  it("is found by every name", function()
    for storage, redis in pairs {
      ["redis"] = REDIS, ["redis-sentinel"] = SENTINEL, ["redis-cluster"] = CLUSTER,
    } do
      local options = { storage = storage, redis = redis, store_metadata = true }
      local s = session.new(options)
      s:set_subject("ada")
      s:set("name", "Ada")
      assert(s:save())
      browser:next()
      local opened, err, exists = session.open(options)
      assert.is_nil(err)
      assert.is_true(exists)
      assert.equal("Ada", opened:get("name"))
      assert.same({ true, nil, true, true }, { session.destroy(options) })
    end
    assert.is_table(utils.load_storage("redis", { redis = CLUSTER }))
    assert.is_table(utils.load_storage("redis", { redis = SENTINEL }))
    assert.is_table(require "resty.session.redis-cluster")
    assert.is_table(require "resty.session.redis-sentinel")
  end)

  it("names what is wrong with an option", function()
    for problem, redis in pairs {
      ["invalid redis port (at most 65535)"] = { port = 70000 },
      ["invalid redis read_timeout (number that is not negative expected, got string)"] = { read_timeout = "soon" },
      ["invalid redis sentinels (it is empty)"] = { sentinels = {} },
      ["invalid redis nodes (each must be { host = …, port = … })"] = { nodes = { "localhost" } },
      ["invalid redis role (\"master\" or \"slave\" expected)"] = { sentinels = SENTINEL.sentinels, role = "king" },
    } do
      local ok, err = pcall(session.new, { storage = "redis", redis = redis })
      assert.is_false(ok)
      assert.equal(problem, err)
    end
  end)
end)
