local session = require "resty.session"
local sessions = require "spec.sessions"
local support = require "spec.support"

describe("resty.session", function()
  local browser

  support.fresh(function(fresh)
    browser = fresh
  end)

  local function sign_in(configuration)
    return browser:sign_in(configuration)
  end

  it("has lua-resty-session's functions and fields", function()
    for _, name in ipairs { "init", "new", "open", "start", "logout", "destroy", "__set_ngx_log", "__set_ngx_var",
                            "__set_ngx_header", "__set_ngx_req_clear_header", "__set_ngx_req_set_header" } do
      assert.is_function(session[name], name)
    end
    assert.equal("string", type(session._VERSION))
    assert.equal(session.metatable, getmetatable(session.new()))
  end)

  describe("a new session", function()
    it("has readable fields", function()
      local s = session.new()
      assert.equal("new", s.state)
      assert.same({}, s.meta)
      assert.equal("session", s.cookie_name)
      assert.equal("; Path=/; SameSite=Lax; HttpOnly", s.cookie_flags)
      assert.is_false(s.remember)
      assert.same({ { {}, "default" } }, s.data)
      assert.equal(1, s.data_index)
      assert.is_table(s.info)
    end)

    it("takes data, subject and audience", function()
      local s = session.new({ audience = "shop", subject = "eve" })
      assert.equal("shop", s:get_audience())
      assert.equal("eve", s:get_subject())
      s:set_data({ a = 1 })
      s:get_data().b = 2
      s:set("c", 3)
      s:set_subject("ada")
      assert.same({ a = 1, b = 2, c = 3 }, s:get_data())
      assert.equal(2, s:get("b"))
      assert.equal("ada", s:get_subject())
      assert.is_nil(s:get("absent"))
    end)

    it("has nothing to touch, refresh, log out, destroy or hide", function()
      local s = session.new()
      for method, problem in pairs {
        touch = "unable to touch nonexistent session",
        refresh = "unable to refresh nonexistent session",
        logout = "unable to logout nonexistent session",
        destroy = "unable to destroy nonexistent session",
        clear_request_cookie = "unable to clear session request cookie on nonexistent session",
        hide = "unable to clear session request cookie on nonexistent session",
        set_headers = "unable to set request/response headers on nonexistent session",
        set_request_headers = "unable to set request headers on nonexistent session",
        set_response_headers = "unable to set response headers on nonexistent session",
      } do
        local ok, err = s[method](s)
        assert.is_nil(ok)
        assert.equal(problem, err)
      end
    end)

    it("refuses data that are not a table, and a remember value that is not a boolean", function()
      local s = session.new()
      assert.has_error(function() s:set_data("x") end, "invalid session data")
      assert.has_error(function() s:set_remember("yes") end, "invalid remember value")
    end)
  end)

  describe("saving and opening", function()
    it("restores the data", function()
      sign_in()
      local s, err, exists = session.open()
      assert.is_nil(err)
      assert.is_true(exists)
      assert.equal("open", s.state)
      assert.equal("Ada", s:get("name"))
      assert.equal("ada", s:get_subject())
      assert.same({}, browser:lines())
    end)

    it("returns a usable new session if the request has none", function()
      local s, err, exists = session.open()
      assert.equal("missing session cookie", err)
      assert.is_false(exists)
      assert.equal("new", s.state)
      s:set("a", 1)
      assert.is_true(s:save())
      assert.equal("open", s.state)
    end)

    it("always makes a new id", function()
      local s = sign_in()
      local first = s:get_property("id")
      assert(s:save())
      assert.not_equal(first, s:get_property("id"))
    end)

    it("fills meta", function()
      sign_in()
      local s = session.open()
      local meta = s.meta
      assert.is_near(ngx.time(), meta.timestamp, 1)
      assert.equal(0, meta.flags)
      assert.equal(32, #meta.sid)
      assert.is_near(ngx.time(), meta.creation_time, 1)
      assert.equal(0, meta.rolling_offset)
      assert.equal(0, meta.idling_offset)
      assert.equal(82, #meta.header)
      assert.equal(meta.data_size, #meta.initial_chunk)
      assert.equal(require("resty.session.utils").sha256("spec"), meta.ikm)
      assert.is_nil(meta.nothing_of_the_kind)
    end)

    it("sends each cookie once, and keeps the application's", function()
      browser.header["Set-Cookie"] = { "theme=dark; Path=/", "session2=theirs" }
      local s = session.new()
      assert(s:save())
      assert(s:save())
      assert(s:touch())
      local lines = browser:lines()
      assert.equal(3, #lines)
      assert.equal("theme=dark; Path=/", lines[1])
      assert.equal("session2=theirs", lines[2])
      assert.matches("^session=", lines[3])
    end)

    it("keeps a single cookie that the application set", function()
      browser.header["Set-Cookie"] = "theme=dark"
      assert(session.new():save())
      assert.equal("theme=dark", browser:lines()[1])
      assert.equal(2, #browser:lines())
    end)

    it("keeps two instances with cookies of their own apart", function()
      local a, b = session.new({ cookie_name = "a" }), session.new({ cookie_name = "b" })
      a:set("who", "a")
      b:set("who", "b")
      assert(a:save())
      assert(b:save())
      assert.equal(2, #browser:next())
      assert.equal("a", session.open({ cookie_name = "a" }):get("who"))
      assert.equal("b", session.open({ cookie_name = "b" }):get("who"))
    end)

    it("splits a big value into cookies and puts it together again", function()
      local s = session.new({ compression_threshold = 0 })
      local big = ("0123456789"):rep(1500)
      s:set("big", big)
      assert(s:save())
      assert.equal(5, #browser:next())
      s = session.open({ compression_threshold = 0 })
      assert.equal(big, s:get("big"))
      s:set("big", nil)
      assert(s:save())
      local lines = browser:next()
      assert.equal(5, #lines)
      assert.is_nil(browser.cookies.session2)
      assert.is_nil(browser.cookies.session5)
    end)

    it("refuses data that do not fit, or that JSON can't hold", function()
      local s = session.new({ compression_threshold = 0 })
      s:set("big", ("x"):rep(40000))
      assert.same({ nil, "cookie size limit exceeded" }, { s:save() })
      s:set("big", print)
      local ok, err = s:save()
      assert.is_nil(ok)
      assert.matches("^unable to json encode session data %(", err)
      assert.same({}, browser:lines())
    end)

    it("keeps bytes that are not valid UTF-8", function()
      local s = session.new()
      s:set("bytes", "\255\0\128\"\\/")
      s:set_subject("\254")
      assert(s:save())
      browser:next()
      s = session.open()
      assert.equal("\255\0\128\"\\/", s:get("bytes"))
      assert.equal("\254", s:get_subject())
    end)

    it("binds to the request", function()
      browser = support.browser({ remote_addr = "203.0.113.7", scheme = "https", http_user_agent = "spec" })
      local bound = { bind = { "ip", "scheme", "user-agent" } }
      sign_in(bound)
      assert.is_true((select(3, session.open(bound))))
      assert.is_true((select(3, session.open())), "the cookie says what it is bound to")
      browser.var.remote_addr = "203.0.113.8"
      assert.equal("invalid session message authentication code", (select(2, session.open(bound))))
      assert.equal("invalid session message authentication code", (select(2, session.open())))
    end)
  end)

  describe("closed", function()
    local problems = {
      set_data = { "unable to set session data on closed session", {} },
      get_data = { "unable to set session data on closed session" },
      set = { "unable to set session data value on closed session", "a", 1 },
      get = { "unable to get session data value on closed session", "a" },
      set_audience = { "unable to set audience on closed session", "a" },
      get_audience = { "unable to get audience on closed session" },
      set_subject = { "unable to set subject on closed session", "a" },
      get_subject = { "unable to get subject on closed session" },
      set_remember = { "unable to set remember on closed session", true },
      get_remember = { "unable to get remember on closed session" },
      get_property = { "unable to get session property on closed session", "id" },
      save = { "unable to save closed session" },
      touch = { "unable to touch closed session" },
      refresh = { "unable to refresh closed session" },
      logout = { "unable to logout closed session" },
      destroy = { "unable to destroy closed session" },
      clear_request_cookie = { "unable to clear session request cookie on closed session" },
      hide = { "unable to clear session request cookie on closed session" },
      set_headers = { "unable to set request/response headers on closed session" },
      set_request_headers = { "unable to set request headers on closed session" },
      set_response_headers = { "unable to set response headers on closed session" },
    }

    it("raises from every method but open and close", function()
      local s = session.new()
      s:close()
      s:close()
      assert.equal("closed", s.state)
      for method, arguments in pairs(problems) do
        local ok, err = pcall(s[method], s, arguments[2], arguments[3])
        assert.is_false(ok, method)
        assert.equal("string", type(err))
        assert.equal(arguments[1], err)
      end
      for method, problem in pairs { set = "set", get = "get", save = "save" } do
        local ok, err = pcall(s.info[method], s.info, "a", 1)
        assert.is_false(ok)
        assert.equal("unable to " .. problem .. " session info on closed session", err)
      end
    end)

    it("opens again", function()
      local s = sign_in()
      s:close()
      assert.is_true(s:open())
      assert.equal("Ada", s:get("name"))
    end)

    it("stays closed if it does not open", function()
      local s = sign_in()
      assert(s:destroy())
      browser:next()
      browser.var.cookie_session = ""
      assert.same({ nil, "invalid session header" }, { s:open() })
      assert.equal("closed", s.state)
    end)
  end)

  describe("audiences", function()
    before_each(function() sign_in() end)

    it("share the session", function()
      local shop, err, exists = session.open({ audience = "shop" })
      assert.equal("missing session audience", err)
      assert.is_false(exists)
      assert.equal("new", shop.state)
      assert.is_nil(shop:get("name"))
      assert.equal(2, shop.data_index)
      shop:set("cart", { 1 })
      assert(shop:save())
      browser:next()
      assert.equal("Ada", session.open():get("name"))
      assert.same({ 1 }, session.open({ audience = "shop" }):get("cart"))
    end)

    it("keep the creation time", function()
      local created = session.open().meta.creation_time
      local shop = session.open({ audience = "shop" })
      assert.equal(created, shop.meta.creation_time)
    end)

    it("log out one by one", function()
      local shop = session.open({ audience = "shop" })
      assert(shop:save())
      browser:next()
      assert.same({ true, nil, true, true }, { session.logout() })
      browser:next()
      assert.same({ nil, "missing session audience", false, false }, { session.logout() })
      local s = session.open({ audience = "shop" })
      assert.equal("open", s.state)
      assert.is_true(s:logout())
      assert.equal("closed", s.state)
      assert.matches("Max%-Age=0", browser:next()[1])
      assert.equal("missing session cookie", (select(2, session.open({ audience = "shop" }))))
    end)

    it("log out by the instance too", function()
      local shop = session.open({ audience = "shop" })
      shop:set("cart", 1)
      assert(shop:save())
      browser:next()
      shop = session.open({ audience = "shop" })
      assert.is_true(shop:logout())
      assert.equal("closed", shop.state)
      assert.equal(1, #browser:next())
      assert.equal("Ada", session.open():get("name"))
      assert.equal("missing session audience", (select(2, session.open({ audience = "shop" }))))
    end)

    it("are renamed, and an older one of that name is dropped", function()
      local s = session.open({ audience = "shop" })
      s:set("cart", 1)
      s:set_audience("default")
      assert.equal(1, #s.data)
      assert.equal(1, s.data_index)
      assert.equal(1, s:get("cart"))
      s:set_audience("default")
      assert.equal("default", s:get_audience())
    end)

    it("share one subject if that is enforced", function()
      local s = session.open({ audience = "shop", enforce_same_subject = true })
      s:set_subject("eve")
      local data = s:get_data()
      assert(s:save())
      assert.equal(1, #s.data)
      assert.equal(1, s.data_index)
      assert.equal(data, s:get_data(), "the live table stays")
    end)
  end)

  describe("refreshing", function()
    it("does nothing while the session is fresh", function()
      sign_in()
      local _, err, exists, refreshed = session.start()
      assert.is_nil(err)
      assert.is_true(exists)
      assert.is_true(refreshed)
      assert.same({}, browser:lines())
    end)

    it("returns why there is no session", function()
      local s, err, exists, refreshed = session.start()
      assert.equal("new", s.state)
      assert.same({ "missing session cookie", false, false }, { err, exists, refreshed })
    end)

    it("ignores data that can't be encoded if no save is due", function()
      sign_in()
      local s = session.open()
      s:set("function", print)
      assert.is_true(s:refresh())
      assert.is_nil((s:save()))
    end)

    it("touches when a touch is due", function()
      local s = sign_in()
      local id = s:get_property("id")
      support.wait(1.1)
      s = session.start({ touch_threshold = 0 })
      assert.equal(id, s:get_property("id"))
      assert.is_true(s.meta.idling_offset >= 1)
      assert.equal(1, #browser:next())
    end)
  end)

  describe("properties and headers", function()
    it("are what is left of the timeouts", function()
      sign_in()
      local s = session.open()
      for name, left in pairs {
        ["timeout"] = 900,
        ["idling-timeout"] = 900, ["idling_timeout"] = 900,
        ["rolling-timeout"] = 3600, ["rolling_timeout"] = 3600,
        ["absolute-timeout"] = 86400, ["absolute_timeout"] = 86400,
      } do
        assert.is_near(left, s:get_property(name), 2)
      end
      assert.equal(43, #s:get_property("id"))
      assert.equal(32, #s:get_property("nonce"))
      assert.equal(s.meta.creation_time, s:get_property("creation_time"))
      assert.is_nil(session.open({ idling_timeout = 0 }):get_property("idling-timeout"))
    end)

    it("go to the request and the response", function()
      local lists = { request_headers = { "id", "timeout" }, response_headers = { "audience", "absolute_timeout" } }
      sign_in(lists)
      local s = session.open(lists)
      assert.is_true(s:set_headers())
      assert.equal(s:get_property("id"), browser.request["Session-Id"])
      assert.is_near(900, browser.request["Session-Timeout"], 2)
      assert.is_nil(browser.request["Session-Audience"])
      assert.equal("default", browser.header["Session-Audience"])
      assert.is_near(86400, browser.header["Session-Absolute-Timeout"], 2)
    end)

    it("can be named one by one or in a table, and unknown names are ignored", function()
      sign_in()
      local s = session.open()
      assert.is_true(s:set_request_headers("subject", "no-such-thing"))
      assert.same({ ["Session-Subject"] = "ada" }, browser.request)
      assert.is_true(s:set_response_headers({ "id", "rolling-timeout" }))
      assert.equal(s:get_property("id"), browser.header["Session-Id"])
      assert.is_not_nil(browser.header["Session-Rolling-Timeout"])
    end)

    it("takes the client's own word for nothing", function()
      local s = session.new()
      s:set("signed", "out")
      assert.is_true(s:save())
      browser.request = { ["Session-Subject"] = "eve", ["Session-Id"] = "eve's" }
      assert.is_true(s:set_request_headers("subject", "id"))
      assert.same({ ["Session-Id"] = s:get_property("id") }, browser.request)
    end)
  end)

  describe("hiding", function()
    it("removes the session's cookies from the request and no others", function()
      sign_in({ remember = true, remember_safety = "None" })
      browser.var.http_cookie = "a=1; " .. browser.var.http_cookie .. "; session2=their.s; session22=theirs; b=2"
      local s = session.open({ remember = true, remember_safety = "None" })
      assert.is_true(s:hide())
      assert.equal("a=1; session2=their.s; session22=theirs; b=2", browser.request["Cookie"])
    end)

    it("removes chunks that the session no longer has", function()
      local s = session.new({ compression_threshold = 0 })
      s:set("big", ("x"):rep(9000))
      assert(s:save())
      browser:next()
      s = session.open({ compression_threshold = 0 })
      s:set("big", nil)
      assert(s:save())
      assert.is_true(s:hide())
      assert.is_false(browser.request["Cookie"])
    end)

    it("removes all chunks, and the header if nothing is left", function()
      local s = session.new({ compression_threshold = 0 })
      s:set("big", ("x"):rep(9000))
      assert(s:save())
      browser:next()
      s = session.open({ compression_threshold = 0 })
      assert.is_true(s:clear_request_cookie())
      assert.is_false(browser.request["Cookie"])
    end)
  end)

  describe("remember", function()
    local options = { remember = true, remember_safety = "Low" }

    it("brings a user back without the session's cookie", function()
      sign_in(options)
      assert.is_not_nil(browser.cookies.remember)
      browser.cookies.session, browser.var.cookie_session = nil, nil
      local s, err, exists = session.open(options)
      assert.is_nil(err)
      assert.is_true(exists)
      assert.equal("Ada", s:get("name"))
      local lines = browser:next()
      assert.equal(2, #lines)
      assert.is_true((select(3, session.open())))
    end)

    it("keeps audiences that are opened under another one", function()
      sign_in(options)
      browser.cookies.session = nil
      local api = support.with(options, { audience = "api" })
      local s, err, exists, refreshed = session.start(api)
      assert.same({ "missing session cookie", false, false }, { err, exists, refreshed })
      assert.same({ "new", 2, {} }, { s.state, s.data_index, s.meta })
      assert.same({}, browser:lines())
      s:set("key", 1)
      assert.is_true(s:save())
      assert.equal(2, #browser:next())
      for _ = 1, 2 do
        assert.equal("Ada", session.open(options):get("name"))
        assert.equal(1, session.open(api):get("key"))
        browser.cookies.session = nil
      end
    end)

    it("is known to exist since it was opened or saved, not since a touch", function()
      sign_in(options)
      browser.cookies.session = nil
      local s = session.open(options)
      assert.same({ s.meta.timestamp, s.meta.timestamp }, { s.meta.known_at, s.remember_meta.known_at })
      s.meta.known_at, s.remember_meta.known_at = 5, 6
      assert.is_true(s:touch())
      assert.same({ 5, 6 }, { s.meta.known_at, s.remember_meta.known_at })
      assert.is_near(ngx.time(), s.meta.timestamp, 1)
      assert.is_true(s:save())
      assert.same({ s.meta.timestamp, s.meta.timestamp }, { s.meta.known_at, s.remember_meta.known_at })
    end)

    it("is off if it was not asked for, or if the user does not want it", function()
      sign_in()
      assert.is_nil(browser.cookies.remember)
      local s = session.new(options)
      assert.is_true(s:get_remember())
      s:set_remember(false)
      assert.is_false(s:get_remember())
      assert(s:save())
      assert.equal(1, #browser:next())
      s = session.open(options)
      assert.is_false(s:get_remember())
      s:set_remember(true)
      assert.is_false(s:get_remember(), "the cookie says so still")
      s = session.new()
      s:set_remember(true)
      assert.is_true(s:get_remember())
    end)

    it("is sent once in a response, whatever happens in the request", function()
      for _, leave in ipairs { session.destroy, session.logout } do
        sign_in(options)
        browser.cookies.session, browser.var.cookie_session = nil, nil
        assert.is_true((leave(options)))
        assert.equal(2, #browser:lines())
        local s = session.new(options)
        s:set("name", "Grace")
        assert(s:save())
        assert.equal(2, #browser:next())
        assert.equal("Grace", session.open(options):get("name"))
      end
    end)

    it("ends with the session", function()
      sign_in(options)
      assert.same({ true, nil, true, true }, { session.destroy(options) })
      local lines = browser:next()
      assert.equal(2, #lines)
      assert.same({}, browser.cookies)
    end)
  end)

  describe("info", function()
    it("of a cookie session is kept among the data", function()
      local s = session.new()
      s:set("@seen", "data")
      s.info:set("seen", "info")
      assert.equal("data", s:get("@seen"))
      assert.equal("info", s.info:get("seen"))
      assert.same({ nil, "unable to save session info on nonexistent session" }, { s.info:save() })
      assert(s:save())
      assert.same({ ["$@seen"] = "data", ["@seen"] = "info" }, s:get_data())
      assert.is_true(s.info:save())
    end)
  end)

  it("destroys", function()
    assert.same({ nil, "missing session cookie", false, false }, { session.destroy() })
    local s = sign_in()
    assert.is_true(s:destroy())
    assert.equal("closed", s.state)
    assert.equal("session=; Path=/; SameSite=Lax; HttpOnly; Expires=Thu, 01 Jan 1970 00:00:01 GMT; Max-Age=0",
      browser:next()[1])
    assert.same({}, browser.cookies)
  end)
end)

describe("sessions in cookies", function()
  sessions({ storage = "cookie" })
end)
