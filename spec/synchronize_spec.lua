-- One request of a session at a time, as far as one worker can show it;
-- `tests/nginx/synchronize.rs` has more of them.

local native = require "resty.session.native"
local session = require "resty.session"
local shm = require "resty.session.shm"
local support = require "spec.support"
local utils = require "resty.session.utils"

local function key_of(purpose, sign_in)
  return utils.encode_base64url(utils.sha256(purpose .. ":" .. sign_in))
end

local function derived(s, subject)
  return native.sign_in(s.meta.value, "default", subject)
end

for _, where in ipairs { "cookie", "shm" } do
  describe("synchronize, with sessions in storage " .. where, function()
    local browser, configuration, store

    support.fresh(function(fresh)
      browser, configuration, store = fresh, { storage = where }, shm.new()
      store.dict:flush_all()
    end)

    local function open()
      return (session.open(configuration))
    end

    -- Opens the session as another request does that the same browser has sent at the same time.
    local function concurrent()
      for name in pairs(browser.header) do
        browser.header[name] = nil
      end
      return open()
    end

    -- Takes the lines that were logged.
    local function logged()
      local lines = {}
      while browser.log[1] do
        lines[#lines + 1] = table.concat(table.remove(browser.log, 1), "", 2)
      end
      return lines
    end

    -- Counts up in a session.
    local function count_up(s)
      s:set("count", (s:get("count") or 0) + 1)
      assert(s:save())
      return s:get("count")
    end

    it("calls the function with the session, and returns what it returns", function()
      browser:sign_in(configuration)
      local s = open()
      local data = { s:synchronize(function(same, ...)
        assert.equal(s, same)
        assert.same({}, { ... })
        assert.equal("Ada", same:get("name"))
        return 1, nil, false, nil
      end) }
      assert.same({ 1, nil, false, nil }, data)
      assert.equal(0, select("#", s:synchronize(function() end)))
      assert.same({ true }, { s:save() })
    end)

    it("raises what the function raises, and frees the lock", function()
      browser:sign_in(configuration)
      local s = open()
      local problem = {}
      local ok, err = pcall(s.synchronize, s, function() error(problem) end)
      assert.same({ false, true }, { ok, err == problem })
      assert.equal("next", concurrent():synchronize(function() return "next" end, 0))
    end)

    it("shows each request what the one before has saved", function()
      browser:sign_in(configuration)
      for i = 1, 5 do
        assert.equal(i, concurrent():synchronize(count_up))
      end
      browser:next()
      assert.equal(5, open():get("count"))
      assert.equal(6, concurrent():synchronize(count_up))
    end)

    it("does the same for sessions without a subject", function()
      local s = session.new(configuration)
      s:set("name", "Ada")
      assert(s:save())
      browser:next()
      for i = 1, 3 do
        assert.equal(i, concurrent():synchronize(count_up))
      end
      browser:next()
      for i = 4, 6 do
        assert.equal(i, concurrent():synchronize(count_up))
      end
    end)

    it("opens a newer cookie that another request has set meanwhile", function()
      browser:sign_in(configuration)
      assert.equal(1, open():synchronize(count_up))
      browser:next()
      local s = open()
      s:set("count", 10)
      assert(s:save())
      browser:next()
      assert.equal(11, open():synchronize(count_up))
    end)

    it("opens what this response has set already", function()
      browser:sign_in(configuration)
      local s = open()
      s:set("count", 10)
      assert(s:save())
      assert.equal(11, s:synchronize(count_up))
      assert.equal(12, s:synchronize(count_up))
    end)

    it("loses what was not saved", function()
      browser:sign_in(configuration)
      local s = open()
      s:set("name", "Eve")
      assert.equal("Ada", s:synchronize(function(same) return same:get("name") end))
      assert.equal("Ada", s:get("name"))
    end)

    it("works with chunks, with other audiences and with info", function()
      local s = session.new(configuration)
      s:set_subject("ada")
      s:set("big", ("x"):rep(9000))
      s.info:set("code", 1)
      assert(s:save())
      s:set_audience("other")
      browser:next()
      configuration.compression_threshold = 0
      assert.equal(1, concurrent():synchronize(count_up))
      local size = concurrent():synchronize(function(same)
        assert.equal(1, same:get("count"))
        assert.equal(1, same.info:get("code"))
        same.info:set("code", 2)
        same:set("big", "y")
        assert(same:save())
        return #same:get("big")
      end)
      assert.equal(1, size)
      local count, code = concurrent():synchronize(function(same)
        return same:get("count"), same.info:get("code")
      end)
      assert.same({ 1, 2 }, { count, code })
    end)

    it("does not run after the session was destroyed", function()
      for _, finish in ipairs { "destroy", "logout" } do
        browser:sign_in(configuration)
        local s = open()
        assert.same({ true }, { s:synchronize(function(same) return same[finish](same) end) })
        assert.equal("closed", s.state)
        for _ = 1, 2 do
          browser.header["Set-Cookie"] = nil
          local late = session.new(configuration)
          late.state, late.meta, late.data = "open", s.meta, { { {}, "default", "ada" } }
          local ran = false
          assert.same({ nil, "unable to synchronize session (it was destroyed meanwhile)" },
            { late:synchronize(function() ran = true end) })
          assert.is_false(ran)
          assert.equal("open", late.state)
        end
        browser.cookies.session = nil
        store.dict:flush_all()
      end
    end)

    it("leaves a session that was only closed", function()
      browser:sign_in(configuration)
      open():synchronize(function(same) count_up(same) same:close() end)
      assert.equal(2, concurrent():synchronize(count_up))
    end)

    it("knows a touch", function()
      browser:sign_in(configuration)
      local real = ngx.time
      local s = open()
      s:synchronize(function(same) assert(same:touch()) end)
      assert.equal("Ada", concurrent():synchronize(function(same) return same:get("name") end))
      assert.equal(real, ngx.time)
    end)

    it("takes the touch of an older cookie from the response", function()
      browser:sign_in(configuration)
      local first = browser.cookies.session
      assert.equal(1, open():synchronize(count_up))
      browser:next()
      local newest = browser.cookies.session
      local others = { "other=1", "session1=1", "session0=1", "session10=1" }
      browser.cookies.session, browser.header["Set-Cookie"] = first, others
      local late = open()
      assert.is_true(late:touch())
      assert.equal(1, late:synchronize(function(same) return same:get("count") end))
      assert.same(others, browser.header["Set-Cookie"])
      browser.header["Set-Cookie"] = nil
      assert.equal(2, concurrent():synchronize(count_up))
      assert.not_equal(newest, first)
    end)

    it("keeps another session of the same second apart", function()
      browser:sign_in(configuration)
      local first = browser.cookies.session
      browser.cookies.session = nil
      browser:sign_in(configuration)
      local second = browser.cookies.session
      assert.equal(1, open():synchronize(count_up))
      browser.header["Set-Cookie"], browser.cookies.session = nil, first
      open():synchronize(function(same) same:set("count", 100) assert(same:save()) end)
      browser.header["Set-Cookie"], browser.cookies.session = nil, second
      assert.is_true(open():synchronize(count_up) < 100)
    end)

    -- Saves a session without a subject, whose cookie somebody else may know, too.
    local function plant()
      configuration.revocation = store
      assert(session.new(configuration):save())
      browser:next()
      return browser.cookies.session
    end

    -- Returns the subject that a request gets in its turn which has this cookie only.
    local function subject_with(cookie)
      browser.cookies.session = cookie
      local subject
      concurrent():synchronize(function(same)
        subject = same:get_subject()
        assert(same:save())
      end)
      return subject
    end

    local function set_subject(s)
      s:set_subject("ada")
      assert(s:save())
    end

    it("does not lead from a cookie to the session that began over it", function()
      local planted = plant()
      local sign_in = open().data[1][5]
      set_subject(open())
      browser:next()
      local s = open()
      assert.not_equal(sign_in, s.data[1][5])
      support.wait(1) -- the note is later than the cookie
      s:synchronize(count_up)
      local own = browser.cookies.session
      assert.is_nil(subject_with(planted))
      assert.equal("ada", subject_with(own))
    end)

    it("does not lead there if both share a response", function()
      local planted = plant()
      local s = open()
      set_subject(open())
      s:synchronize(count_up)
      assert.equal("ada", s:get_subject())
      assert.is_nil(subject_with(planted))
    end)

    it("does not lead from a cookie to the session that began in its turn", function()
      local planted = plant()
      open():synchronize(count_up)
      assert.equal(2, concurrent():synchronize(count_up))
      concurrent():synchronize(set_subject)
      browser:next()
      local own = browser.cookies.session
      local subject = subject_with(planted)
      assert.is_nil(subject)
      assert.same({}, logged()) -- the note does not know the cookie
      assert.equal("ada", subject_with(own))
    end)

    it("does not lead to another subject, whatever a note says", function()
      for _, index in ipairs { 1, 2 } do
        local planted = plant()
        assert.equal(1, concurrent():synchronize(function(same)
          assert(same:get_subject() == nil)
          same.data[2] = { {}, "other" }
          same.data[index][3] = "ada"
          count_up(same)
          same.data[1][3] = nil
          return 1
        end))
        browser.cookies.session = planted
        local data
        concurrent():synchronize(function(same) data = same.data end)
        assert.same({ 1, false }, { #data, data[1][3] or false })
        assert.same({
          "[session] ignored what another request has noted of a synchronized session: "
            .. "the session is for another subject now",
        }, logged())
        browser.cookies.session = nil
      end
    end)

    it("goes on beside a cookie of the same name that does not open", function()
      browser:sign_in(configuration)
      local good = browser.cookies.session
      local function name(same) return same:get("name") end
      for _, cookies in ipairs { "session=x; session=%s", "session=%s; session=x", "session=x; s2=y; session=%s" } do
        browser.var.http_cookie = cookies:format(good)
        assert.equal("Ada", open():synchronize(name))
        assert.equal("Ada", concurrent():synchronize(name))
      end
      assert.equal(1, concurrent():synchronize(count_up))
      assert.equal(2, concurrent():synchronize(count_up))
      assert.same({ true }, { concurrent():synchronize(function(same) return same:destroy() end) })
      browser.header["Set-Cookie"], browser.var.http_cookie = nil, "session=x; session=" .. good
      local s = open()
      if s.state == "open" then -- the cookie alone still opens
        assert.same({ nil, "unable to synchronize session (it was destroyed meanwhile)" }, { s:synchronize(error) })
      end
    end)

    it("takes nothing for its own that the response had before", function()
      local planted = plant()
      assert.equal(1, concurrent():synchronize(count_up))
      local s = concurrent() -- its turn opens what the one before has saved
      set_subject(open())
      assert.equal(1, s:synchronize(function(same) return same:get("count") end))
      assert.is_nil(subject_with(planted))
      browser.cookies.session = planted
      assert.equal(1, concurrent():synchronize(function(same) return same:get("count") end))
    end)

    it("leaves what it has saved to the next one, however long that may wait", function()
      browser:sign_in(configuration)
      for i, timeout in ipairs { math.huge, 1e300, 0 } do
        assert.equal(i, concurrent():synchronize(count_up, timeout))
      end
      assert.same({}, logged())
    end)

    it("waits no longer than its timeout", function()
      browser:sign_in(configuration)
      local s = open()
      local key = key_of("lock", derived(s, "ada"))
      assert.is_true(store:lock("session", key, "another", 60))
      for _, timeout in ipairs { 0, 0.1 } do
        local start = ngx.now()
        assert.same({ nil, "unable to synchronize session (timeout)" }, { s:synchronize(error, timeout) })
        ngx.update_time()
        local took = ngx.now() - start
        assert.is_true(took > timeout - 0.01 and took < timeout + 0.2, took)
      end
      assert.is_true(store:unlock("session", key, "another"))
      assert.equal("ran", s:synchronize(function() return "ran" end, 0))
    end)

    it("does not run within itself", function()
      browser:sign_in(configuration)
      local s = open()
      local inner = s:synchronize(function(same)
        return { same:synchronize(error) }
      end)
      assert.same({ nil, "unable to synchronize session (it is synchronized already)" }, inner)
      assert.equal(1, s:synchronize(count_up))
    end)

    it("runs for two sessions at once", function()
      browser:sign_in(configuration)
      local other = support.with(configuration, { cookie_name = "other" })
      browser:sign_in(other)
      local both = open():synchronize(function(one)
        return session.open(other):synchronize(function(two) return count_up(one) + count_up(two) end, 0)
      end, 0)
      assert.equal(2, both)
    end)

    it("keeps nothing in clear, and ignores a note that does not open", function()
      browser:sign_in(configuration)
      local s = open()
      local sign_in = derived(s, "ada")
      assert.equal(1, s:synchronize(count_up))
      local note = key_of("newest", sign_in)
      local text = store:get("session", note)
      assert.is_truthy(text:match("^[%w_-]+$"))
      browser:next()
      local opened = utils.decode_base64url(text)
      assert.is_nil(opened:find("session=", 1, true))
      assert.is_nil(opened:find(browser.cookies.session:sub(1, 20), 1, true))
      assert.is_true(store.dict:ttl("session:" .. note) <= 60)

      for _, damaged in ipairs { "", "x", text:sub(1, -2), text:sub(2), ("A"):rep(200000) } do
        assert(store:set("session", note, damaged, 60))
        assert.equal("Ada", concurrent():synchronize(function(same) return same:get("name") end))
      end
      local log = logged()
      assert.equal(5, #log)
      for i = 1, #log do
        assert.is_truthy(log[i]:find("ignored what another request has noted of a synchronized session", 1, true))
      end
    end)

    it("names the sign-in in the data, so that each save carries it", function()
      browser:sign_in(configuration)
      local s = open()
      local sign_in = derived(s, "ada")
      s:synchronize(count_up)
      assert.equal(sign_in, s.data[1][5])
      browser:next()
      assert.equal(sign_in, open().data[1][5])
      browser.cookies.session = nil
      assert(session.new(configuration):save())
      browser:next()
      s = open()
      sign_in = derived(s)
      s:synchronize(count_up)
      assert.same({ false, sign_in }, { s.data[1][3], s.data[1][5] })
      assert.is_nil(s:get_subject())
      browser:next()
      assert.equal(sign_in, open().data[1][5])
    end)

    it("refuses what it can't run", function()
      local s = session.new(configuration)
      assert.same({ nil, "unable to synchronize nonexistent session" }, { s:synchronize(error) })
      for _, fn in ipairs { 1, "fn", {}, true } do
        assert.has_error(function() s:synchronize(fn) end,
          "invalid synchronize function (function expected, got " .. type(fn) .. ")")
      end
      assert.has_error(function() s:synchronize() end, "invalid synchronize function (function expected, got nil)")
      for timeout, found in pairs { [-1] = "-1", [true] = "boolean", ["5"] = "string" } do
        assert.has_error(function() s:synchronize(error, timeout) end,
          "invalid synchronize timeout (number that is not negative expected, got " .. found .. ")")
      end
      assert.has_error(function() s:synchronize(error, 0 / 0) end,
        "invalid synchronize timeout (number that is not negative expected, got NaN)")
      s:close()
      assert.has_error(function() s:synchronize(error) end, "unable to synchronize closed session")
    end)

    it("says that it can't wait where it can't", function()
      browser:sign_in(configuration)
      local s, ok, err = open(), nil, nil
      ("x"):gsub("x", function() ok, err = s:synchronize(error) end)
      assert.is_nil(ok)
      assert.is_truthy(err:find("^unable to synchronize session %(storages can't be waited for inside a function"))
    end)

    it("says why the session does not open any more", function()
      browser:sign_in(configuration)
      local s = open()
      browser.cookies.session = nil
      browser.var.http_cookie = "session=x"
      local ok, err = s:synchronize(error)
      assert.is_nil(ok)
      assert.is_truthy(err:find("^unable to synchronize session %("))
      assert.same({ "open", "Ada" }, { s.state, s:get("name") })
    end)
  end)
end

describe("the lock of synchronize", function()
  local browser

  support.fresh(function(fresh)
    browser = fresh
    ngx.shared.sessions:flush_all()
  end)

  it("is kept in shared memory if the program's storage has none", function()
    local storage = support.memory()
    browser:sign_in { storage = storage }
    local s = session.open { storage = storage }
    assert.equal("Ada", s:synchronize(function(same)
      assert.is_false(shm.new():lock("session", key_of("lock", derived(same, "ada")), "another", 1))
      return same:get("name")
    end))
  end)

  it("needs the dictionary then", function()
    local configuration = { storage = support.memory(), shm = { zone = "missing" } }
    browser:sign_in(configuration)
    assert.same({ nil, "unable to synchronize session (lua_shared_dict missing is missing; configure revocation, or "
      .. "add that lua_shared_dict, for the lock)" }, { session.open(configuration):synchronize(error) })
  end)

  it("is kept in the program's storage if that has one", function()
    local storage, calls = support.memory(), {}
    function storage:lock(name, key, holder, ttl)
      calls[#calls + 1] = { "lock", name, #key, #holder, ttl }
      return self.answer, self.problem
    end
    function storage.unlock(_, name, key, holder)
      calls[#calls + 1] = { "unlock", name, #key, #holder }
      return true
    end
    local configuration = { storage = storage }
    browser:sign_in(configuration)
    local s = session.open(configuration)
    storage.answer = true
    assert.equal("ran", s:synchronize(function() return "ran" end))
    assert.same({ { "lock", "session", 43, 22, 5 }, { "unlock", "session", 43, 22 } }, calls)
    storage.answer, storage.problem = nil, "out of order"
    assert.same({ nil, "unable to synchronize session (out of order)" }, { s:synchronize(error) })
    storage.answer, storage.problem = false, nil
    assert.same({ nil, "unable to synchronize session (timeout)" }, { s:synchronize(error, 0) })
    storage.lock = function() error("broken", 0) end
    assert.same({ nil, "unable to synchronize session (broken)" }, { s:synchronize(error) })
  end)

  it("is kept in the revocation store of a session in its cookie", function()
    local storage, locked = support.memory(), nil
    function storage.lock(_, name, key)
      locked = name .. " " .. #key
      return true
    end
    function storage.unlock()
      return true
    end
    local configuration = { revocation = storage }
    browser:sign_in(configuration)
    local s = session.open(configuration)
    local sign_in = s.data[1][5]
    assert.equal(22, #sign_in)
    s:synchronize(function(same) assert(same:save()) end)
    assert.equal("session 43", locked)
    assert.is_truthy(storage.records["session:" .. key_of("newest", sign_in)])
    assert.equal(sign_in, s.data[1][5])
  end)

  it("is freed after a storage has failed", function()
    local storage, problem = support.memory(), nil
    storage.lock, storage.unlock = function(...) return shm.new().lock(shm.new(), select(2, ...)) end, function(...)
      return shm.new().unlock(shm.new(), select(2, ...))
    end
    local get = storage.get
    function storage:get(...)
      if problem == "raises" then
        error("it raises", 0)
      elseif problem then
        return nil, problem
      end
      return get(self, ...)
    end
    local configuration = { storage = storage }
    browser:sign_in(configuration)
    local s = session.open(configuration)
    problem = "out of order"
    assert.same({ nil, "unable to synchronize session (out of order)" }, { s:synchronize(error) })
    problem = "raises"
    assert.same({ nil, "unable to synchronize session (it raises)" }, { s:synchronize(error) })
    problem = nil
    assert.equal("ran", s:synchronize(function() return "ran" end, 0))
  end)
end)
