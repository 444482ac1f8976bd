-- What sessions must do if a program replaces methods of one of the library's storage objects:
-- `require("spec.replaced")(make, refreshes)` in a `describe`, where `make()` returns a new
-- storage. `refreshes` adds a test that takes some seconds.

local session = require "resty.session"
local support = require "spec.support"
local waiting = require "resty.session.waiting"

local METHODS = { "get", "set", "delete" }

-- Returns the counts of calls, and functions that count and then call a storage's methods.
local function counting(storage)
  local calls, methods = { get = 0, set = 0, delete = 0 }, {}
  for _, name in ipairs(METHODS) do
    local method = storage[name]
    methods[name] = function(...)
      calls[name] = calls[name] + 1
      return method(...)
    end
  end
  return calls, methods
end

local function put(methods, into)
  for name, method in pairs(methods) do
    rawset(into, name, method)
  end
end

-- The ways in which programs replace methods. Each gets a storage and the methods. It returns the
-- storage to use from then on and, if the storage was changed in place, a function that undoes the
-- change.
local WAYS = {
  ["in the object"] = function(storage, methods)
    put(methods, storage)
    return storage, function()
      for name in pairs(methods) do
        rawset(storage, name, nil)
      end
    end
  end,
  ["in the metatable"] = function(storage, methods)
    local meta, former = getmetatable(storage), {}
    for name, method in pairs(methods) do
      former[name], meta[name] = rawget(meta, name), method
    end
    return storage, function() put(former, meta) end
  end,
  ["by the metatable's __index"] = function(storage, methods)
    local meta = getmetatable(storage)
    meta.__index = function(_, name) return methods[name] or rawget(meta, name) end
    return storage, function() meta.__index = meta end
  end,
  ["by another metatable"] = function(storage, methods)
    local meta = getmetatable(storage)
    setmetatable(storage, { __index = function(_, name) return methods[name] or meta[name] end })
    return storage, function() setmetatable(storage, meta) end
  end,
  ["by a metatable that hides itself"] = function(storage, methods)
    local meta = getmetatable(storage)
    setmetatable(storage, { __metatable = meta, __index = function(_, name) return methods[name] or meta[name] end })
    return storage
  end,
  ["by a proxy"] = function(storage, methods)
    return setmetatable(methods, { __index = storage })
  end,
}

return function(make, refreshes)
  local spec = getfenv(2) -- busted gives its functions to spec files only
  local it, assert = spec.it, spec.assert
  local browser

  spec.describe("with replaced methods", function()
    support.fresh(function(fresh)
      browser = fresh
    end, spec)

    local REMEMBER = { remember = true, remember_safety = "None" }

    -- Runs every act, and checks the calls that each makes. `calls` holds the counts.
    local function all_acts(storage, calls, way, calls_expected)
      browser = support.browser()
      local function with(more)
        return support.with({ storage = storage, audience = "a" }, more)
      end
      local function makes(get, set, delete, act)
        calls.get, calls.set, calls.delete = 0, 0, 0
        assert.is_truthy(act(), way)
        browser:next()
        local expected = { get = get, set = set, delete = delete }
        assert.same(calls_expected and expected or { get = 0, set = 0, delete = 0 }, calls, way)
      end
      local s = session.new(with())
      s:set("n", 1)
      makes(0, 1, 0, function() return s:save() end)
      makes(1, 0, 0, function() return (select(3, session.open(with()))) end)
      makes(1, 0, 0, function() return (select(4, session.start(with()))) end)
      makes(0, 0, 0, function() return s:touch() end)
      s.info:set("seen", 1)
      makes(1, 1, 0, function() return s.info:save() end)
      makes(1, 0, 0, function() return s:open() end)
      assert.equal(1, s.info:get("seen"))
      makes(1, 1, 0, function()
        local b = session.open(with({ audience = "b" }))
        return b:save()
      end)
      makes(1, 1, 0, function() return (session.logout(with({ audience = "b" }))) end)
      makes(1, 0, 1, function() return (session.logout(with())) end)
      s = session.new(with())
      makes(0, 1, 0, function() return s:save() end)
      makes(1, 0, 1, function() return (session.destroy(with())) end)
      s = session.new(with())
      makes(0, 1, 0, function() return s:save() end)
      makes(0, 0, 1, function() return s:destroy() end)
      s = session.new(with(REMEMBER))
      makes(0, 2, 0, function() return s:save() end)
      browser.var.cookie_session, browser.cookies.session = nil, nil
      makes(1, 2, 0, function() return (select(3, session.open(with(REMEMBER)))) end)
      makes(1, 0, 2, function() return (session.destroy(with(REMEMBER))) end)
    end

    it("calls them in every act, and bypasses none", function()
      for way, replace in pairs(WAYS) do
        local own = make()
        local calls, methods = counting(own)
        local storage, undo = replace(own, methods)
        local ok, err = pcall(all_acts, storage, calls, way, true)
        if undo then
          undo()
        end
        assert(ok, err)
      end
    end)

    it("notices methods that are replaced and restored between two acts", function()
      local run, runs = waiting.run, 0
      waiting.run = function(...)
        runs = runs + 1
        return run(...)
      end
      local ok, err = pcall(function()
        for way, replace in pairs(WAYS) do
          local own = make()
          local options = { storage = own, remember = false }
          assert(session.new(options):save())
          browser:next()
          local calls, methods = counting(own)
          local storage, undo = replace(own, methods)
          if undo and storage == own then
            local opened = pcall(session.open, options)
            local s = session.open(options)
            local saved = s:save()
            undo()
            assert.same({ true, true, { get = 2, set = 1, delete = 0 } }, { opened, saved, calls }, way)
            browser:next()
            runs = 0
            all_acts(own, calls, way, false)
            assert.equal(0, runs, way)
          end
        end
      end)
      waiting.run = run
      assert(ok, err)
    end)

    if refreshes then
      it("refreshes with them", function()
        local storage = make()
        local calls, methods = counting(storage)
        local options = { storage = storage }
        local s = session.new(options)
        assert(s:save())
        browser:next()
        put(methods, storage)
        support.wait(7) -- a refresh saves between the seventh and the eighth second
        assert.is_true((select(4, session.start(support.with(options, { rolling_timeout = 8 })))))
        assert.same({ get = 1, set = 1, delete = 0 }, calls)
      end)
    end

    it("leaves other storages alone when methods are replaced in a metatable", function()
      local storage, other = make(), require("resty.session.memcached").new()
      local meta, get = getmetatable(storage), other.get
      local former = meta.get
      meta.get = function() end
      local other_get, fresh = other.get, make().get
      meta.get = former
      assert.equal(get, other_get)
      assert.not_equal(former, fresh)
    end)

    it("uses fields that are assigned later", function()
      local storage, tenant = make(), make()
      local options = { storage = storage }
      assert(session.new(options):save())
      browser:next()
      assert.is_true((select(3, session.open(options))))
      storage.prefix, storage.suffix = "tenant", "s"
      assert.is_false((select(3, session.open(options))))
      assert(session.new(options):save())
      browser:next()
      assert.is_true((select(3, session.open(options))))
      assert.is_false((select(3, session.open({ storage = tenant }))))
      tenant.prefix, tenant.suffix = "tenant", "s"
      assert.is_true((select(3, session.open({ storage = tenant }))))
      storage.prefix, storage.suffix = nil, nil
      assert.is_false((select(3, session.open(options))))
    end)
  end)
end
