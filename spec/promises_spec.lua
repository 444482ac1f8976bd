-- What callers rely on: how many values they get, that every session that was saved opens, and
-- which cookies count.

local session = require "resty.session"
local support = require "spec.support"

describe("resty.session", function()
  local browser

  support.fresh(function(fresh)
    browser = fresh
  end)

  local function sign_in(configuration)
    return browser:sign_in(configuration)
  end

  describe("the number of returned values", function()
    local remembered = { remember = true, remember_safety = "None", request_headers = { "id" } }

    local function counts(expected, s, methods)
      for _, method in ipairs(methods) do
        assert.equal(expected, select("#", s[method](s)), method)
      end
    end

    it("is one where a method succeeds, and two where it fails", function()
      local s = sign_in(remembered)
      counts(1, s, { "open", "save", "touch", "refresh", "set_headers", "set_request_headers", "set_response_headers",
                     "clear_request_cookie", "hide", "logout" })
      browser:next()
      s = session.new()
      counts(2, s, { "open", "touch", "refresh", "set_headers", "set_request_headers", "set_response_headers",
                     "clear_request_cookie", "hide", "logout", "destroy" })
      counts(2, s.info, { "save" })
      s:set("function", print)
      counts(2, s, { "save" })
      s = sign_in(remembered)
      counts(1, s.info, { "save" })
      counts(1, s, { "destroy" })
    end)

    it("is one for getters, even without a value", function()
      local s = session.new()
      counts(1, s, { "get_subject", "get_audience", "get_remember", "get_data", "get", "get_property" })
      assert.equal(1, select("#", s:get("absent")))
      assert.equal(1, select("#", s:get_property("absent")))
      assert.equal(1, select("#", s.info:get("absent")))
    end)

    it("is the same for the module's functions, whatever happens", function()
      local function all()
        for name, expected in pairs { init = 0, new = 1, open = 3, start = 4 } do
          assert.equal(expected, select("#", session[name]({ secret = "spec" })), name)
        end
        for _, name in ipairs { "logout", "destroy" } do
          assert.equal(4, select("#", session[name]()), name)
        end
      end
      all()
      sign_in()
      all()
      browser:next()
      browser.cookies.session = "junk"
      all()
    end)
  end)

  describe("what is saved", function()
    local function broken(change, stored)
      local s = session.new({ storage = stored and "shm" or "cookie" })
      s:set("name", "Ada")
      change(s)
      return s
    end

    it("is an error that says what is wrong, where it would not open", function()
      local outline = "invalid session data (an array of { data, audience, subject } expected)"
      local no_audience = "invalid session data (the audience must be a string or a number)"
      local no_table = "invalid session data (an audience's data must be a table)"
      local no_index = "invalid session data (there is no audience at data_index)"
      local no_info = "invalid session info (a table of tables expected)"
      for i, case in ipairs {
        { outline, function(s) s.data.name = "x" end },
        { outline, function(s) s.data = "x" end },
        { outline, function(s) s.data = nil end },
        { outline, function(s) s.data[2] = "x" end },
        { no_table, function(s) s.data[1][1] = "x" end },
        { no_table, function(s) s.data[2] = { 5, "other" } end },
        { no_index, function(s) s.data_index = 2 end },
        { no_index, function(s) s.data_index = "first" end },
        { no_index, function(s) s.data_index = nil end },
        { no_audience, function(s) s:set_audience(nil) end },
        { no_audience, function(s) s:set_audience({}) end },
        { no_audience, function(s) s:set_audience(true) end },
        { "invalid session data (the audience must not be there twice)", function(s)
          s.data = { { {}, "default" }, { {}, "default" } }
          s.data_index = 2
        end },
        { no_info, function(s) s.info.data = { default = "x" } end, true },
        { "unable to json encode session data", function(s) s:set_subject(print) end },
        { "unable to json encode session data", function(s) s:set("nan", 0 / 0) end },
        { "unable to json encode session data", function(s) s:set("sparse", { [1000] = 1 }) end },
        { "unable to json encode session info", function(s) s.info:set("function", print) end, true },
      } do
        local s = broken(case[2], case[3])
        local ok, err = s:save()
        assert.is_nil(ok, i)
        assert.equal(case[1], err:sub(1, #case[1]), i)
        assert.same({}, browser:lines())
        assert.equal("new", s.state)
      end
    end)

    it("opens again, whatever else a program puts into it", function()
      local deep = {}
      for _ = 1, 900 do
        deep = { deep }
      end
      for i, case in ipairs {
        { "a\0b", "\0" }, { "\255\254", "\128" }, { '"', "\\" }, { "", "" }, { "a\n\1\127", "😀" },
        { "default", { a = "table" } }, { "default", true }, { "default", 5 }, { "default", nil }, { 5, "five" },
      } do
        for _, storage in ipairs { "cookie", "shm" } do
          browser = support.browser()
          local options = { storage = storage, audience = case[1] }
          local s = session.new(options)
          s:set_audience(case[1])
          s:set_subject(case[2])
          s:set_data({ "an", "array", deep = "\0\255" })
          s.info:set("seen", i)
          assert.is_true(s:save())
          browser:next()
          local opened, err, exists = session.open(options)
          assert.is_nil(err, i)
          assert.is_true(exists)
          assert.same(case[2], opened:get_subject())
          assert.equal(i, opened.info:get("seen"))
          assert.equal("\0\255", opened:get("deep"))
          assert.is_true(opened:save())
        end
      end
      local s = session.new()
      s:set("deep", deep)
      assert.is_true(s:save())
      browser:next()
      assert.same(deep, session.open():get("deep"))
    end)

    it("can be destroyed, and another session's meta is not changed", function()
      local s = sign_in({ storage = "shm", store_metadata = true })
      s.data.name = "x"
      assert.is_true(s:destroy())
      session.new().meta.seen = true
      assert.is_nil(session.new().meta.seen)
      assert.is_nil((session.open().meta.seen))
    end)
  end)

  describe("the request's cookies", function()
    it("may be given by name alone, in a program's own tests", function()
      sign_in()
      local value = browser.cookies.session
      session.__set_ngx_var({ cookie_session = value })
      assert.equal("Ada", session.open():get("name"))
      session.__set_ngx_var({ cookie_session = value, cookie_theme = "dark", http_cookie = "theme=dark" })
      assert.equal("Ada", session.open():get("name"))
      session.__set_ngx_var({ http_cookie = "theme=dark; session=" .. value })
      assert.equal("Ada", session.open():get("name"))
      session.__set_ngx_var(setmetatable({}, { __index = function(_, name)
        return name == "cookie_session" and value or nil
      end }))
      assert.equal("Ada", session.open():get("name"))
      session.__set_ngx_var({ cookie_theme = "dark" })
      assert.equal("missing session cookie", (select(2, session.open())))
    end)

    it("may be several of one name, and all of them are hidden and cleared", function()
      local options = { remember = true, remember_safety = "None" }
      sign_in(options)
      local session_, remember = browser.cookies.session, browser.cookies.remember
      local cookies = "session=foreign; session=%s; remember=foreign; remember=%s; a=1; session3=AA; x=1,session=%s"
      browser.var.http_cookie = cookies:format(session_, remember, session_)
      local s, err, exists = session.open(options)
      assert.is_nil(err)
      assert.is_true(exists)
      assert.equal(session_, s.meta.value)
      assert.is_true(s:hide())
      assert.equal("a=1; x=1", browser.request.Cookie)
      assert.is_true(s:destroy())
      assert.equal(3, #browser:lines())
    end)

    it("are cleared if a sign-out can't open them", function()
      sign_in()
      assert.same({ nil, "invalid session message authentication code", false, false },
        { session.destroy({ secret = "another" }) })
      assert.matches("^session=;", browser:next()[1])
      assert.same({}, browser.cookies)
    end)
  end)
end)
