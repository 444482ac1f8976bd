-- Blocks and phases of nginx in which sessions can't work.

local session = require "resty.session"
local support = require "spec.support"

describe("where sessions can't work", function()
  support.fresh(function() end)

  it("says that it needs the http subsystem, and can be loaded without", function()
    -- A stream block has no `ngx.header`, and an `ngx.req` with no more than `socket`. The native
    -- module keeps the function that reads the request.
    local native = require "resty.session.native"
    local loaders = { ["resty.session.native"] = setmetatable({ set_reader = function() end }, { __index = native }) }
    for _, request in ipairs { { socket = ngx.req.socket }, false } do
      local stream = { req = request or nil }
      for name, value in pairs(ngx) do
        if name ~= "header" and name ~= "req" then
          stream[name] = value
        end
      end
      setmetatable(stream, { __index = function(_, name)
        return name ~= "header" and name ~= "req" and ngx[name] or nil
      end })
      local environment = setmetatable({ ngx = stream }, { __index = _G })
      local function load(name)
        return setfenv(assert(loadfile((assert(package.searchpath(name, package.path))))), environment)()
      end
      function environment.require(name)
        return loaders[name] or name == "resty.session.http" and load(name) or require(name)
      end
      local module = load("resty.session")
      module.init({ secret = "stream", storage = "shm" })
      local instance = module.new()
      local acts = {
        module.open, module.start, module.logout, module.destroy,
        function() return instance:open() end, function() return instance:save() end,
        function() return instance:destroy() end, function() return module.open({ storage = "cookie" }) end,
        function() return module.new({ storage = "cookie" }):save() end,
      }
      for _, act in ipairs(acts) do
        local ok, err = pcall(act)
        assert.is_false(ok)
        assert.matches("^sessions need nginx's http subsystem", err)
      end
    end
    assert(require("resty.session.shm").new():set("stream", "k", "v", 1))
  end)

  it("stores nothing where there is no request", function()
    support.restore()
    local done, problems = false, {}
    local memory = support.memory()
    assert(ngx.timer.at(0, function()
      local instance = session.new({ storage = memory })
      local acts = {
        function() return session.open({ storage = memory }) end,
        function() return session.destroy({ storage = memory }) end, function() return instance:open() end,
        function() return instance:save() end,
      }
      for i, act in ipairs(acts) do
        local ok, result, err = pcall(act)
        problems[i] = ok and err or result
      end
      done = true
    end))
    for _ = 1, 100 do
      if done then break end
      ngx.sleep(0.01)
    end
    local problem = "sessions need a request: there is none in the timer phase"
    local unsendable = "unable to save session (this phase has no response that could set a cookie)"
    assert.same({ problem, problem, problem, unsendable }, problems)
    assert.same({}, memory.calls)
  end)
end)
