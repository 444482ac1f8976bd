local session = require "resty.session"
local support = require "spec.support"

describe("configuration", function()
  local browser

  support.fresh(function(fresh)
    browser = fresh
  end)

  it("names what is wrong, as a string", function()
    for problem, configuration in pairs {
      ["invalid ikm size"] = { ikm = "12345" },
      ["invalid ikm size in ikm_fallbacks"] = { ikm_fallbacks = { ("0"):rep(32), "12345" } },
      ["invalid bind"] = { bind = { "host" } },
      ["invalid header name"] = { request_headers = { "x" } },
      ["invalid session storage"] = { storage = 1 },
      ["SameParty session cookies cannot use SameSite=Strict"] = { cookie_same_party = true, cookie_same_site = "Strict" },
      ["lua_shared_dict nowhere is missing"] = { storage = "shm", shm = { zone = "nowhere" } },
      ["invalid idling_timeout (number that is not negative expected, got string)"] = { idling_timeout = "15m" },
      ["invalid stale_ttl (number that is not negative expected, got number)"] = { stale_ttl = -1 },
      ["invalid cookie_name (character '=' not allowed)"] = { cookie_name = "a=b" },
      ["invalid cookie_path (character ';' not allowed)"] = { cookie_path = "/; Secure" },
    } do
      for _, call in ipairs { session.init, session.new, session.open, session.start, session.destroy } do
        local ok, err = pcall(call, configuration)
        assert.is_false(ok, problem)
        assert.equal(problem, err)
      end
    end
    assert.has_error(function() session.new("x") end, "invalid configuration (table expected, got string)")
  end)

  it("says which storage's module is not there", function()
    local ok, err = pcall(session.new, { storage = "no.such.module" })
    assert.is_false(ok)
    assert.matches("^unable to load session storage %(", err)
    assert.matches("no.such.module", err, 1, true)
  end)

  it("takes the names of the owner's documentation", function()
    local browser_time = ngx.time()
    local s = session.new({ remember = true, remember_safety = "None", remember_timeout = 1000 })
    assert(s:save())
    local lines = browser:next()
    assert.matches("Max%-Age=1000$", lines[2])
    local expires = ngx.parse_http_time(lines[2]:match("Expires=([^;]+)"))
    assert.is_near(browser_time + 1000, expires, 2)
  end)

  it("is what init set, and init forgets what it set before", function()
    session.init({ secret = "spec", cookie_name = "sid", audience = "shop" })
    assert.equal("sid", session.new().cookie_name)
    assert.equal("shop", session.new():get_audience())
    assert.equal("x", session.new({ cookie_name = "x" }).cookie_name)
    session.init()
    assert.equal("session", session.new().cookie_name)
  end)

  it("keeps the key over an init without one", function()
    assert(session.new():save())
    browser:next()
    session.init()
    assert.is_true((select(3, session.open())))
    session.init({ secret = "other" })
    assert.equal("invalid session message authentication code", (select(2, session.open())))
    session.init({ secret = "other", secret_fallbacks = { "spec" } })
    assert.is_true((select(3, session.open())))
    session.init()
    assert.is_false((select(3, session.open())))
  end)

  it("takes effect when its owner changes it between two calls", function()
    local configuration = { secret = "one", bind = {}, request_headers = { "id" } }
    assert(session.new(configuration):save())
    browser:next()
    assert.is_true((select(3, session.open(configuration))))
    configuration.secret = "two"
    assert.is_false((select(3, session.open(configuration))))
    configuration.secret_fallbacks = { "zero" }
    assert.is_false((select(3, session.open(configuration))))
    configuration.secret_fallbacks[2] = "one"
    local s, _, exists = session.open(configuration)
    assert.is_true(exists)
    assert(s:set_headers())
    assert.is_nil(browser.request["Session-Audience"])
    configuration.request_headers[2] = "audience"
    assert(session.open(configuration):set_headers())
    assert.equal("default", browser.request["Session-Audience"])
    configuration.secret_fallbacks[2] = nil
    assert.is_false((select(3, session.open(configuration))))
    configuration.cookie_name = "other"
    assert.equal("missing session cookie", (select(2, session.open(configuration))))
  end)

  it("is read through a metatable", function()
    local function inheriting(values)
      return setmetatable({}, { __index = values })
    end
    local one = session.new(inheriting({ secret = "one", cookie_name = "one" }))
    local two = session.new(inheriting({ secret = "two", cookie_name = "two" }))
    assert.same({ "one", "two" }, { one.cookie_name, two.cookie_name })
    assert(one:save())
    browser:next()
    assert.is_true((select(3, session.open(inheriting({ secret = "one", cookie_name = "one" })))))
    assert.is_false((select(3, session.open(inheriting({ secret = "two", cookie_name = "one" })))))
    local s = session.new(inheriting({ storage = "shm", shm = inheriting({ prefix = "p" }) }))
    assert.equal("p", s.storage.prefix)
  end)

  it("does not mind more configurations than are kept", function()
    for round = 1, 3 do
      for i = 1, 40 do
        local s = session.new({ cookie_name = "c" .. i })
        assert.equal("c" .. i, s.cookie_name, "round " .. round)
      end
    end
  end)

  it("sets attributes as prefixes and SameSite demand", function()
    local function flags(configuration)
      return session.new(configuration).cookie_flags
    end
    assert.equal("; Path=/; SameSite=Lax; Secure; HttpOnly",
      flags({ cookie_prefix = "__Host-", cookie_path = "/app", cookie_domain = "example.com" }))
    assert.equal("__Host-session", session.new({ cookie_prefix = "__Host-" }).cookie_name)
    assert.equal("; Domain=example.com; Path=/app; SameSite=None; Priority=High; Partitioned; Secure",
      flags({ cookie_domain = "example.com", cookie_path = "/app", cookie_same_site = "None", cookie_priority = "High",
              cookie_partitioned = true, cookie_http_only = false }))
    assert.equal("; Path=/; SameSite=Lax; SameParty; Secure; HttpOnly", flags({ cookie_same_party = true }))
    assert.equal("; Path=/; SameSite=Lax; HttpOnly", flags({ cookie_domain = "localhost" }))
  end)

  it("takes an empty bind for none", function()
    local s = session.new({ bind = {} })
    assert(s:save())
    assert.equal(0, s.meta.flags)
  end)
end)
