-- The options that protect sessions, and limits.

local session = require "resty.session"
local support = require "spec.support"

describe("protection", function()
  local browser

  support.fresh(function(fresh)
    browser = fresh
  end)

  -- Returns the log's warnings that contain a text.
  local function warnings(text)
    local found = 0
    for _, line in ipairs(browser.log) do
      found = found + (table.concat(line, "", 2):find(text, 1, true) and 1 or 0)
    end
    return found
  end

  it("warns once of remember cookies that are like session cookies", function()
    session.new({ remember_safety = "Low", remember = true })
    assert.equal(0, warnings("remember_safety"))
    for i = 1, 3 do
      session.new({ remember_safety = "None", remember = true, cookie_name = "a" .. i })
      session.init({ secret = "spec", remember_safety = "none", cookie_name = "a" .. i })
    end
    assert.equal(1, warnings('remember_safety is "None"'))
  end)

  it("names what is wrong with its options", function()
    for problem, configuration in pairs {
      ["invalid max_data_size (number of bytes over 0 expected)"] = { max_data_size = 0 },
      ["invalid max_data_size (number that is not negative expected, got string)"] = { max_data_size = "1m" },
      ["invalid require_bind (it needs bind, which is empty)"] = { require_bind = true },
      ["invalid require_bind (boolean expected, got string)"] = { require_bind = "ip", bind = { "ip" } },
      ["invalid renew_fallback (boolean expected, got number)"] = { renew_fallback = 1 },
      ['invalid remember_theft ("revoke" expected)'] = { remember_theft = "log", storage = "shm" },
      ["invalid remember_theft (string expected, got boolean)"] = { remember_theft = true, storage = "shm" },
      ['invalid cookie_secure (boolean or "auto" expected, got string)'] = { cookie_secure = "https" },
      ['invalid cookie_secure ("auto" contradicts __Host-, whose cookies are always Secure)'] =
        { cookie_secure = "auto", cookie_prefix = "__Host-" },
      ['invalid cookie_secure ("auto" contradicts __Secure-, whose cookies are always Secure)'] =
        { cookie_secure = "auto", cookie_prefix = "__Secure-" },
      ["invalid trust_forwarded_proto (boolean expected, got string)"] = { trust_forwarded_proto = "yes" },
    } do
      for _, call in ipairs { session.init, session.new, session.destroy } do
        local ok, err = pcall(call, configuration)
        assert.is_false(ok, problem)
        assert.equal(problem, err)
      end
    end
    assert.is_table(session.new({ require_bind = false, remember_theft = false, cookie_secure = false }))
    assert.is_table(session.new({ remember_theft = false, max_data_size = math.huge, trust_forwarded_proto = true }))
  end)

  it("refuses data that are too large, and says which option to raise", function()
    for storage, limit in pairs { cookie = 1048576, shm = 4194304 } do
      local options = { storage = storage }
      local expected = ("session maximum data size exceeded (max_data_size is %d bytes)"):format(limit)
      local s = session.new(options)
      s:set("much", ("x"):rep(limit))
      assert.same({ nil, expected }, { s:save() })
      assert.same({}, browser:lines())
      s:set("much", ("x"):rep(limit - 100))
      assert.is_true(s:save())
      browser:next()
      assert.is_true((select(3, session.open(options))))
      options.max_data_size = 1000
      assert.same({ "session maximum data size exceeded (max_data_size is 1000 bytes)", false },
        { select(2, session.open(options)) })
      session.destroy(options)
      browser:next()
      assert.same({}, browser.cookies)
    end
    local s = session.new({ storage = "shm", max_data_size = 1000 })
    s.info:set("much", ("x"):rep(1000))
    assert.same({ nil, "session maximum info size exceeded (max_data_size is 1000 bytes)" }, { s:save() })
  end)

  describe("cookie_secure", function()
    local AUTO = { cookie_secure = "auto", remember = true, remember_safety = "Low" }

    -- Checks that all Set-Cookie lines of the response are Secure, or that none is.
    local function are_secure(count)
      local secure, lines = 0, browser:next()
      assert.equal(count, #lines)
      for _, line in ipairs(lines) do
        secure = secure + (line:find("; Secure", 1, true) and 1 or 0)
      end
      assert.is_true(secure == 0 or secure == #lines)
      return secure > 0
    end

    it("may follow the request's scheme, for each cookie that is set or cleared", function()
      for _, scheme in ipairs { "http", "https", "http" } do
        local expected = scheme == "https"
        browser.var.scheme = scheme
        local s = session.new(AUTO)
        s:set("much", ngx.encode_base64(require("resty.session.utils").rand_bytes(6000)))
        assert(s:save())
        assert.equal(expected, are_secure(6))
        s = session.open(AUTO)
        assert(s:touch())
        assert.equal(expected, are_secure(1))
        s:set("much", nil)
        assert(s:save())
        assert.equal(expected, are_secure(6))
        browser.cookies.session = nil
        assert.is_true((select(3, session.open(AUTO))))
        assert.equal(expected, are_secure(2))
        assert.is_true(session.destroy(AUTO))
        assert.equal(expected, are_secure(2))
        browser.cookies.session = "junk"
        session.logout(AUTO)
        assert.equal(expected, are_secure(1))
        assert.same({}, browser.cookies)
      end
    end)

    it("follows X-Forwarded-Proto only if it is trusted", function()
      browser.var.scheme, browser.var.http_x_forwarded_proto = "http", "https"
      assert(session.new({ cookie_secure = "auto" }):save())
      assert.is_false(are_secure(1))
      local trusting = { cookie_secure = "auto", trust_forwarded_proto = true }
      assert(session.new(trusting):save())
      assert.is_true(are_secure(1))
      browser.var.http_x_forwarded_proto = "http, https"
      browser.var.scheme = "https"
      assert(session.new(trusting):save())
      assert.is_false(are_secure(1))
      browser.var.http_x_forwarded_proto = nil
      assert(session.new(trusting):save())
      assert.is_true(are_secure(1))
    end)

    it("reads nginx's own variables", function()
      session.__set_ngx_var(ngx.var) -- the request that runs these tests came over HTTP
      for forwarded, expected in pairs { https = true, http = false } do
        ngx.req.set_header("X-Forwarded-Proto", forwarded)
        assert(session.new({ cookie_secure = "auto", trust_forwarded_proto = true }):save())
        assert.equal(expected, are_secure(1))
        assert(session.new({ cookie_secure = "auto" }):save())
        assert.is_false(are_secure(1))
      end
      ngx.req.clear_header("X-Forwarded-Proto")
    end)

    it("is on over any scheme if other attributes demand it", function()
      browser.var.scheme = "http"
      local demanding = { { cookie_same_site = "None" }, { cookie_partitioned = true }, { cookie_same_party = true } }
      for _, more in ipairs(demanding) do
        assert(session.new(support.with({ cookie_secure = "auto" }, more)):save())
        assert.is_true(are_secure(1))
      end
    end)

    it("can be switched to auto and back without signing anybody out", function()
      browser.var.scheme = "https"
      browser:sign_in()
      for _, secure in ipairs { "auto", true, "auto", false, "auto" } do
        local s, err, exists = session.open({ cookie_secure = secure })
        assert.is_nil(err)
        assert.is_true(exists)
        assert(s:save())
        assert.equal(secure ~= false, are_secure(1))
      end
    end)
  end)

  it("requires bindings only if configured", function()
    browser.var.scheme, browser.var.remote_addr = "https", "192.0.2.1"
    browser:sign_in({ bind = { "scheme" } })
    local required = { bind = { "ip", "scheme" }, require_bind = true }
    assert.same({ "session is not bound to ip, as require_bind demands", false }, { select(2, session.open(required)) })
    local s = session.open({ bind = { "ip", "scheme" } })
    assert(s:save())
    browser:next()
    assert.is_true((select(3, session.open(required))))
    assert.is_true((select(3, session.open())))
  end)

  it("renews a session that a former secret opened, if configured", function()
    session.init({ secret = "former" })
    browser:sign_in()
    session.init({ secret = "spec", secret_fallbacks = { "former" } })
    session.start()
    assert.same({}, browser:lines())
    session.start({ renew_fallback = true })
    assert.same({}, browser:lines(), "it was saved a moment ago")
    local renewing = { renew_fallback = true, touch_threshold = 0 }
    local s = session.open(renewing)
    assert.is_true(s:refresh())
    assert.equal(1, #browser:next())
    session.start(renewing)
    assert.same({}, browser:lines())
    assert.is_true((select(3, session.open({ secret_fallbacks = {} }))))
  end)
end)
