local contract = require "spec.contract"
local names = require "spec.names"
local replaced = require "spec.replaced"
local session = require "resty.session"
local sessions = require "spec.sessions"
local support = require "spec.support"
local utils = require "resty.session.utils"

describe("storage", function()
  local browser

  support.fresh(function(fresh)
    browser = fresh
  end)

  -- Runs the same life of a session over each storage.
  local function life(configuration)
    local s = session.new(configuration)
    s:set("@key", "as it is")
    s:set_subject("ada")
    s.info:set("seen", 1)
    assert(s:save())
    assert.equal(1, #browser:next())
    assert.equal(110, #browser.cookies.session)
    assert.equal(1, s.meta.flags)

    local opened, err, exists = session.open(configuration)
    assert.is_nil(err)
    assert.is_true(exists)
    assert.equal("as it is", opened:get("@key"))
    assert.equal(1, opened.info:get("seen"))
    local id = opened:get_property("id")

    opened.info:set("seen", 2)
    assert.same({ true }, { opened.info:save() })
    assert.same({}, browser:next())
    opened = session.open(configuration)
    assert.equal(2, opened.info:get("seen"))
    assert.equal(id, opened:get_property("id"))

    assert.is_true(opened:touch())
    browser:next()
    local old = browser.cookies.session
    opened = session.open(configuration)
    assert.equal("as it is", opened:get("@key"))
    opened:set("n", 2)
    assert(opened:save())
    browser:next()
    assert.equal(2, session.open(configuration):get("n"))

    local new = browser.cookies.session
    browser.var.cookie_session = old
    assert.is_true((select(3, session.open(configuration))), "the old record goes on working")
    browser.var.cookie_session = new

    assert.same({ true, nil, true, true }, { session.destroy(configuration) })
    browser.var.cookie_session = new
    browser:next()
    browser.var.cookie_session = new
    assert.equal("unable to load session", (select(2, session.open(configuration))))
  end

  it("may be a table, and may yield", function()
    life({ storage = support.memory() })
  end)

  it("may be a module by name", function()
    package.loaded["spec.custom"] = {
      new = function(configuration)
        assert.equal("bar", configuration.foo)
        return support.memory()
      end,
    }
    life({ storage = "spec.custom", ["spec.custom"] = { foo = "bar" } })
  end)

  it("may be shared memory", function()
    life({ storage = "shm", shm = { zone = "sessions", prefix = "p", suffix = "s" } })
  end)

  it("may be the one that init names", function()
    session.init({ secret = "spec", storage = "shm" })
    life()
  end)

  it("is the cookie again where a session says so", function()
    session.init({ secret = "spec", storage = "shm" })
    for _, storage in ipairs { "cookie", false } do
      local s = session.new({ storage = storage })
      assert(s:save())
      assert.equal(0, s.meta.flags)
      browser:next()
      assert.is_true((select(3, session.open({ storage = storage }))))
      assert.equal("invalid session flags", (select(2, session.open())))
    end
  end)

  it("is called with the documented arguments", function()
    local memory = support.memory()
    local options = { storage = memory, store_metadata = true, audience = "shop" }
    local s = session.new(options)
    s:set_subject("ada")
    assert(s:save())
    local key = s:get_property("id")
    assert(s:save())
    local first, second = memory.calls[1], memory.calls[2]
    local metadata = { audiences = { utils.encode_base64url("shop") }, subjects = { utils.encode_base64url("ada") } }
    assert.same({ "set", "session", key, first[4], 3600, first[6], nil, 10, metadata }, first)
    assert.equal(key, second[7])
    assert.is_near(ngx.time(), second[6], 1)
    local value = utils.decode_json(first[4])
    assert.equal(1, #value)
    assert.equal(s.meta.data_size, #value[1])
    local id = s:get_property("id")
    assert(s:destroy())
    assert.same({ "delete", "session", id, memory.calls[3][4], metadata }, memory.calls[3])
  end)

  local GONE = "unable to store session info (there is no such session any more)"

  it("of a program's own is called to set a record for its info", function()
    local memory = support.memory()
    local s = session.new({ storage = memory })
    assert(s:save())
    s.info:set("seen", 1)
    assert.is_true(s.info:save())
    local call = memory.calls[#memory.calls]
    assert.same({ "set", "session", s:get_property("id"), call[4], call[5], call[6] }, call)
    assert.is_near(3600, call[5], 1)
    assert.is_near(ngx.time(), call[6], 1)
    memory.set = function() end
    assert.same({ nil, "unable to store session info (the storage gives no reason)" }, { s.info:save() })
    memory.records = {}
    assert.same({ nil, GONE }, { s.info:save() })
  end)

  it("brings no session back that is destroyed while its info is saved", function()
    local storage = require("resty.session.shm").new()
    local s = session.new({ storage = storage })
    assert(s:save())
    s.info:set("seen", 1)
    local shm = getmetatable(storage)
    function storage:get(...)
      local value = shm.get(self, ...)
      shm.delete(self, ...)
      return value
    end
    assert.same({ nil, GONE }, { s.info:save() })
    assert.is_nil((shm.get(storage, "session", s:get_property("id"))))
  end)

  it("is called through a method that a program has replaced", function()
    local storage, sets = require("resty.session.shm").new(), 0
    local shm = getmetatable(storage)
    function storage:set(...)
      sets = sets + 1
      return shm.set(self, ...)
    end
    local s = session.new({ storage = storage })
    assert(s:save())
    s.info:set("seen", 1)
    assert.is_true(s.info:save())
    assert.equal(2, sets)
  end)

  it("of a program's own gets no more than the documented arguments", function()
    local shm = require("resty.session.shm").new()
    for name, storage in pairs { own = support.memory(), replaced = shm } do
      local set, most = storage.set, 0
      function storage:set(...)
        most = math.max(most, select("#", ...))
        return set(self, ...)
      end
      local s = session.new({ storage = storage })
      assert(s:save())
      assert(storage:delete("session", s:get_property("id"), ngx.time()))
      assert.is_true(s:save(), name)
      assert.equal(8, most)
    end
  end)

  it("drops the info of an audience that is gone", function()
    for _, leave in ipairs { "module", "instance", "enforced" } do
      local options = { storage = support.memory() }
      local function of(audience)
        return { storage = options.storage, audience = audience, enforce_same_subject = leave == "enforced" }
      end
      browser = support.browser()
      local s = session.new(of("a"))
      s:set_subject("john")
      s.info:set("secret", "john's")
      assert(s:save())
      browser:next()
      s = session.open({ storage = options.storage, audience = "b" })
      assert.is_nil(s.info:get("secret"))
      s.info:set("own", 1)
      s:set_subject("jane")
      assert(s:save())
      browser:next()
      if leave == "module" then
        assert.is_true((session.logout(of("a"))))
      elseif leave == "instance" then
        s = session.open(of("a"))
        assert.equal("john's", s.info:get("secret"))
        assert.is_true(s:logout())
        assert.equal("closed", s.state)
      else
        s = session.open(of("b"))
        assert(s:save())
        assert.equal(1, s.info:get("own"))
      end
      browser:next()
      local fresh, err = session.open(of("a"))
      assert.equal("missing session audience", err)
      assert.is_nil(fresh.info:get("secret"), leave)
      assert.equal(1, session.open(of("b")).info:get("own"))
    end
  end)

  it("returns nil for info that was not set", function()
    local s = session.new({ storage = support.memory() })
    assert.is_nil(s.info:get("x"))
    s.info:set("flag", true)
    assert.is_true(s.info:get("flag"))
  end)

  it("refuses a cookie with anything after the header", function()
    local options = { storage = support.memory() }
    local s = session.new(options)
    assert(s:save())
    browser:next()
    local good = browser.cookies.session
    for _, junk in ipairs { "\255junk", "A", (("A"):rep(1000)) } do
      browser.var.cookie_session = good .. junk
      local _, err, exists = session.open(options)
      assert.same({ "invalid session header (text behind it)", false }, { err, exists })
    end
    session.destroy(options)
    browser:next()
    assert.same({}, browser.cookies)
    browser.var.cookie_session = good
    assert.is_true((select(3, session.open(options))))
  end)

  it("keeps no replaced record in shared memory for ever", function()
    local storage = utils.load_storage("shm")
    local old, now = ("o"):rep(43), ngx.time()
    assert(storage:set("s", old, "v", 60, now))
    assert(storage:set("s", ("n"):rep(43), "v", 60, now, old, 0))
    assert.is_nil((storage:get("s", old)))
  end)

  it("refuses a record whose info is not valid", function()
    local memory = support.memory()
    local s = session.new({ storage = memory })
    s.info:set("a", 1)
    assert(s:save())
    browser:next()
    for _, info in ipairs { "5", "null", '{"default":5}', "{" } do
      for name, value in pairs(memory.records) do
        memory.records[name] = value:gsub(',".*"', ',"' .. utils.encode_base64url(info) .. '"')
      end
      local _, err, exists = session.open({ storage = memory })
      assert.is_false(exists)
      assert.matches("^unable to json decode session info %(", err)
    end
  end)

  it("loses no audience if a save fails", function()
    local memory = support.memory()
    local s = session.new({ storage = memory, audience = "a", subject = "john" })
    assert(s:save())
    browser:next()
    s = session.open({ storage = memory, audience = "b", enforce_same_subject = true })
    s:set_subject("jane")
    memory.broken = "down"
    assert.is_nil((s:save()))
    assert.equal(2, #s.data)
  end)

  it("returns an error for arguments that are not valid", function()
    local redis = require("resty.session.redis").new({ port = 1 })
    local ok, err = redis:set("n", "k", "v")
    assert.is_nil(ok)
    assert.matches("^invalid argument %(", err)
  end)

  it("hashes keys and subjects", function()
    local memory = support.memory()
    local s = session.new({ storage = memory, hash_storage_key = true, hash_subject = true, store_metadata = true })
    s:set_subject("ada")
    assert(s:save())
    assert.equal(utils.encode_base64url(utils.sha256(s.meta.sid)), memory.calls[1][3])
    assert.equal(utils.encode_base64url(utils.sha256("ada"):sub(1, 16)), memory.calls[1][9].subjects[1])
  end)

  it("leaves the session as it was if it fails", function()
    local memory = support.memory()
    local options = { storage = memory }
    local s = session.new(options)
    memory.broken = "connection refused"
    assert.same({ nil, "unable to store session data (connection refused)" }, { s:save() })
    assert.equal("new", s.state)
    assert.same({}, browser:lines())
    memory.broken = nil
    assert(s:save())
    browser:next()
    memory.broken = "connection refused"
    assert.equal("unable to load session (connection refused)", (select(2, session.open(options))))
    assert.same({ nil, "unable to destroy session (connection refused)" }, { s:destroy() })
    assert.equal("open", s.state)
    s.info:set("a", 1)
    assert.same({ nil, "unable to store session info (connection refused)" }, { s.info:save() })
    assert.same({}, browser:lines())
  end)

  it("causes only a warning if it cannot save the remember cookie", function()
    local memory = support.memory()
    local set, count = memory.set, 0
    function memory:set(...)
      count = count + 1
      if count == 2 then
        return nil, "out of memory"
      end
      return set(self, ...)
    end
    local s = session.new({ storage = memory, remember = true, remember_safety = "None" })
    assert.is_true(s:save())
    assert.equal(1, #browser:lines())
    assert.same({ ngx.WARN, "[session] ", "unable to store session data (out of memory)" }, browser.log[1])
  end)
end)

describe("shm", function()
  local function make(options)
    return require("resty.session.shm").new(options)
  end

  contract(make)
  names(make)
  sessions({ storage = "shm" })
  replaced(make)
end)
