-- Which of the request's cookies belong to the session: those that are read, hidden and cleared,
-- and colliding names.

local session = require "resty.session"
local support = require "spec.support"

describe("the request's cookies", function()
  local browser
  local REMEMBER = { remember = true, remember_safety = "None" }

  support.fresh(function(fresh)
    browser = fresh
  end)

  local function with(more)
    return support.with(REMEMBER, more)
  end

  -- Returns what an upstream would see of a header after hiding, and what `hide` returned.
  local function hidden(s, cookies)
    browser.var.http_cookie = cookies
    local result = { s:hide() }
    return browser.request["Cookie"], result
  end

  describe("are hidden", function()
    local MISSING = { nil, "unable to clear session request cookie on nonexistent session" }

    it("where the session does not open, too", function()
      browser:sign_in(REMEMBER)
      local remember, own = browser.cookies.remember, browser.cookies.session
      browser:sign_in({ secret = "another" })
      for i, value in ipairs { browser.cookies.session, own:sub(1, -2), "junk", "" } do
        local cookies = "a=1; session=" .. value .. "; session3=AAAA; remember=" .. remember .. "; remember2=AAAA; b=2"
        browser.var.http_cookie = cookies
        for _, s in ipairs { session.open(), session.open({ secret = "others" }), session.new(REMEMBER) } do
          assert.equal("new", s.state)
          browser.request = {}
          local rest, result = hidden(s, cookies)
          assert.equal("a=1; b=2", rest, i)
          assert.same(MISSING, result)
        end
      end
      local rest = hidden(session.new(), "session=x; remember2=AAAA; remember=")
      assert.is_false(rest, "nothing is left")
      browser.request = {}
      rest = hidden(session.new(), "a=1; session2=their.s; session22=x; remembered=x; Remember=x")
      assert.equal("a=1; session2=their.s; session22=x; remembered=x; Remember=x", rest)
    end)

    it("whatever remember says", function()
      for _, forgotten in ipairs { false, true } do
        browser:sign_in(REMEMBER)
        local cookies = browser.var.http_cookie
        for _, options in ipairs { REMEMBER, { remember = false } } do
          browser.var.http_cookie = cookies
          local s = session.open(options)
          assert.equal("open", s.state)
          if forgotten then
            s:set_remember(false)
          end
          local rest, result = hidden(s, "a=1; " .. cookies)
          assert.same({ "a=1", { true } }, { rest, result })
        end
      end
    end)

    it("by the names of the session's own options", function()
      local names = with({ cookie_prefix = "__Host-", cookie_name = "sid", remember_cookie_name = "rid" })
      browser:sign_in(names)
      local cookies = browser.var.http_cookie
      assert.equal("__Host-rid", cookies:match("^[^=]+"))
      local s = session.open(names)
      local rest = hidden(s, "session=x; " .. cookies .. "; sid=y; __Host-sid2=AAAA; __Host-rid9=AAAA; remember=z")
      assert.equal("session=x; sid=y; remember=z", rest)
    end)

    it("under every name that nginx would find them by", function()
      browser:sign_in(REMEMBER)
      local own, remember, cookies = browser.cookies.session, browser.cookies.remember, browser.var.http_cookie
      local s = session.open(REMEMBER)
      local rest = hidden(s, table.concat({
        "SESSION=" .. own, "a=b,session=" .. own .. ",c=d", cookies, "Session=" .. own, "REMEMBER=" .. remember,
        "e=f, Remember=" .. remember, "Session2=AAAA", "g=h,remember2=AAAA", "SESSION=spring", "session = " .. own,
      }, "; "))
      assert.equal("a=b,c=d; e=f; g=h; SESSION=spring", rest)
    end)

    it("and what a later sign-out needs is kept", function()
      for _, storage in ipairs { "cookie", "shm" } do
        for _, leave in ipairs { "destroy", "logout", "save" } do
          browser:sign_in(with({ storage = storage }))
          local s = session.open(with({ storage = storage }))
          assert.is_true(s:hide())
          browser.var.http_cookie = "a=1"
          s:set_remember(false)
          assert.is_true(s[leave](s))
          browser:next()
          assert.is_nil(browser.cookies.remember, leave)
          browser.cookies.session = nil
        end
      end
    end)

    it("unless the phase has no request", function()
      local s = session.new()
      browser.var.http_cookie = nil
      session.__set_ngx_var(setmetatable({}, { __index = function() error("no request") end }))
      assert.same(MISSING, { s:hide() })
    end)
  end)

  describe("in a program's table of variables", function()
    it("are found by their names, without a Cookie header", function()
      local s = session.new(with({ compression_threshold = 0 }))
      s:set("big", ("x"):rep(5000))
      assert(s:save())
      browser:next()
      local cookies = browser.cookies
      assert.is_string(cookies.session2)
      local held = {}
      for name, value in pairs(cookies) do
        held["cookie_" .. name] = value
      end
      for _, var in ipairs { held, setmetatable({}, { __index = held }) } do
        session.__set_ngx_var(var)
        assert.equal("x", session.open(REMEMBER):get("big"):sub(1, 1))
        held.cookie_session, held.cookie_kept = nil, held.cookie_session
        assert.equal("x", session.open(REMEMBER):get("big"):sub(1, 1), "by the remember cookie")
        browser.header["Set-Cookie"] = nil
        held.cookie_session, held.cookie_kept = held.cookie_kept, nil
        assert.same({ true, nil, true, true }, { session.destroy() })
        local lines = browser:lines()
        assert.equal(4, #lines, "both, with their chunks")
        browser.header["Set-Cookie"] = nil
      end
    end)
  end)

  describe("do not give a session's info away", function()
    -- Signs a user in, puts another user's remember cookie into the browser, and saves info.
    -- Returns that other user's record.
    local function record_of(other, own, act)
      local storage = support.memory()
      local options = with({ storage = storage })
      local function sign_in(subject)
        local s = session.new(options)
        s:set_subject(subject)
        assert(s:save())
        browser:next()
        return s.remember_meta
      end
      local meta, planted = sign_in(other), browser.cookies.remember
      browser.cookies.session, browser.cookies.remember = nil, nil
      sign_in(own)
      browser.cookies.remember = planted
      local s = session.open(options)
      if act then
        act(s)
      end
      s.info:set("code", "123456")
      assert.is_true(s.info:save())
      browser:next()
      return storage.records["remember:" .. require("resty.session.utils").encode_base64url(meta.sid)], options
    end

    it("if the remember cookie is another user's", function()
      for _, case in ipairs { { "eve", "ada" }, { 1, "1" }, { nil, "ada" }, { "eve", nil }, { nil, nil } } do
        assert.matches('^%["[^"]*"%]$', (record_of(case[1], case[2])))
      end
      local function renamed(s) s:set_audience("other") end
      local function changed(s) s:set_subject("eve") end
      local function broken(s) s:set("no", print) end
      assert.matches('^%["[^"]*"%]$', (record_of("ada", "ada", renamed)), "the cookie lacks the audience")
      assert.matches('^%["[^"]*"%]$', (record_of("ada", "ada", changed)), "it is no longer the same user")
      assert.matches('^%["[^"]*"%]$', (record_of("ada", "ada", broken)), "nothing tells whose it is")
    end)

    it("but the user's own remember cookie gets it", function()
      local record, options = record_of("ada", "ada")
      assert.matches('^%["[^"]*","[^"]*"%]$', record)
      browser.cookies.session = nil
      local s = session.open(options)
      assert.equal("123456", s.info:get("code"))
      s.info:set("code", "654321")
      assert.is_true(s.info:save())
      browser:next()
      browser.cookies.session = nil
      assert.equal("654321", session.open(options).info:get("code"))
    end)
  end)

  describe("whose names collide", function()
    local function warnings()
      local texts = {}
      for _, line in ipairs(browser.log) do
        table.insert(texts, line[3])
      end
      return texts
    end

    -- Returns the warnings that a request causes. Each name is used in one test only, because a
    -- worker warns once.
    local function of_request(act)
      browser.log = {}
      for key in pairs(ngx.ctx) do
        ngx.ctx[key] = nil
      end
      session.__set_ngx_log(function(...) table.insert(browser.log, { ... }) end)
      act()
      browser:next()
      return warnings()
    end

    local function save(options)
      local s = session.new(options)
      assert(s:save())
      return s
    end

    local function collide(name, other)
      return ('cookies "%s" and "%s" of one request collide, since a digit after a cookie\'s name makes the name of a '
        .. "chunk: give one of them another name"):format(name, other)
    end

    it("are an error within one session", function()
      for _, names in ipairs {
        { "sid", "sid" }, { "sid", "sid2" }, { "sid9", "sid" }, { "remember" }, { "remember3" },
      } do
        local options = { cookie_name = names[1], remember_cookie_name = names[2] }
        for _, make in ipairs { session.new, session.open, session.start, session.destroy, session.init } do
          local ok, err = pcall(make, options)
          assert.is_false(ok)
          assert.matches("^invalid remember_cookie_name %(", err)
        end
      end
      session.new({ cookie_name = "sid", remember_cookie_name = "sid1" })
    end)

    it("are one warning between two sessions of a request", function()
      local a, b = { cookie_name = "warned" }, { cookie_name = "warned2" }
      assert.same({ collide("warned", "warned2") }, of_request(function()
        save(a)
        save(b)
      end))
      assert.same({}, of_request(function()
        save(a)
        save(b)
      end))
      -- This holds also if the first is made before the second is known, and acts after it.
      assert.same({ collide("later", "later9") }, of_request(function()
        local s = session.new({ cookie_name = "later" })
        session.open({ cookie_name = "later9" })
        assert(s:save())
      end))
      assert.same({ collide("opened", "opened3") }, of_request(function()
        session.open({ cookie_name = "opened3" })
        for _ = 1, 2 do
          session.open({ cookie_name = "opened" })
          session.open({ cookie_name = "opened3" })
        end
      end))
      assert.same({ collide("mixed", "mixed4") }, of_request(function()
        save({ cookie_name = "mixed" })
        save(with({ cookie_name = "x", remember_cookie_name = "mixed4" }))
      end))
      local problem = 'two sessions of one request use the cookie "both", one of them as its remember cookie: '
                   .. "give one of them another name"
      assert.same({ problem }, of_request(function()
        save({ cookie_name = "both" })
        save(with({ cookie_name = "x", remember_cookie_name = "both" }))
      end))
    end)

    it("are one warning however many sessions were made between the two", function()
      of_request(function() session.new({ cookie_name = "long-ago" }) end)
      of_request(function() session.new({ cookie_name = "long-ago2" }) end)
      for number = 1, 40 do
        of_request(function() session.new({ cookie_name = "between-" .. number }) end)
      end
      assert.same({ collide("long-ago", "long-ago2") }, of_request(function()
        save({ cookie_name = "long-ago" })
        save({ cookie_name = "long-ago2" })
      end))
    end)

    it("are looked for once for each session of a request", function()
      local reads = 0
      session.__set_ngx_header(setmetatable({}, { __index = function(_, name)
        reads = reads + (name == "Set-Cookie" and 1 or 0)
      end }))
      for number = 1, 5 do
        session.new(with({ cookie_name = "tenant-" .. number }))
      end
      assert.same({}, of_request(function()
        for _ = 1, 10 do
          session.open(with({ cookie_name = "tenant-1" }))
        end
      end))
      assert.equal(1, reads)
    end)

    it("are no problem between requests, or between programs that share a session", function()
      local a, b = { cookie_name = "apart" }, { cookie_name = "apart2" }
      for _ = 1, 2 do
        assert.same({}, of_request(function() save(a) end))
        assert.same({}, of_request(function() save(b) end))
      end
      assert.same({}, of_request(function()
        save({ cookie_name = "shared", audience = "a" })
        save(with({ cookie_name = "shared", audience = "b" }))
        save({ cookie_name = "shared1", remember_cookie_name = "r1" })
        save({ cookie_name = "Shared", remember_cookie_name = "r2" })
      end))
      -- A session's own chunks collide with nothing.
      assert.same({}, of_request(function() session.new({ cookie_name = "large2" }) end))
      assert.same({}, of_request(function()
        local s = session.new({ cookie_name = "large", compression_threshold = 0 })
        s:set("big", ("x"):rep(5000))
        assert(s:save())
        assert(s:save())
      end))
    end)

    it("cause a warning if two sessions share a remember cookie", function()
      assert.same({ 'sessions "one" and "two" of one request share the remember cookie "remember": give each a '
        .. "remember_cookie_name of its own" }, of_request(function()
        save({ cookie_name = "two" })
        save(with({ cookie_name = "one" }))
        save({ cookie_name = "two" })
      end))
      assert.same({}, of_request(function()
        save(with({ cookie_name = "three", remember_cookie_name = "three-remembered" }))
        save({ cookie_name = "four" })
      end))
    end)
  end)
end)
