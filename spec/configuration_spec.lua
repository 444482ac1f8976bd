local session = require "resty.session"
local support = require "spec.support"

local OPTIONS = require("resty.session.native").storages.OPTIONS

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
      ["invalid bind (array expected, got table with named fields)"] = { bind = { ip = true } },
      ["invalid bind (element 2: string expected, got boolean)"] = { bind = { "ip", false } },
      ["invalid secret_fallbacks (array expected, got table with named fields)"] = {
        secret_fallbacks = { "a", old = "b" },
      },
      ["invalid request_headers (array expected, got table with named fields)"] = { request_headers = { [0] = "id" } },
      ["invalid secret (it is empty)"] = { secret = "" },
      ["invalid secret_fallbacks (one of them is empty)"] = { secret_fallbacks = { "a", "" } },
      ["invalid remember (boolean expected, got string)"] = { remember = "yes" },
      ["invalid store_metadata (boolean expected, got number)"] = { store_metadata = 1 },
      ['invalid remember_safety ("None", "Low", "Medium", "High" or "Very High" expected)'] = {
        remember_safety = "safe",
      },
      ['invalid cookie_same_site ("Lax", "Strict", "None" or "Default" expected)'] = { cookie_same_site = "Foo" },
      ["invalid idling_timeout (number that is not negative expected, got NaN)"] = { idling_timeout = 0 / 0 },
      ["invalid redis (table expected, got string)"] = { storage = "redis", redis = "127.0.0.1" },
      ["invalid header name"] = { request_headers = { "x" } },
      ["invalid session storage"] = { storage = 1 },
      ["SameParty session cookies cannot use SameSite=Strict"] = {
        cookie_same_party = true, cookie_same_site = "Strict",
      },
      ["lua_shared_dict nowhere is missing"] = { storage = "shm", shm = { zone = "nowhere" } },
      ["invalid idling_timeout (number that is not negative expected, got string)"] = { idling_timeout = "15m" },
      ["invalid max_sessions (whole number over 0 expected)"] = { max_sessions = 0 },
      ["invalid max_sessions (whole number expected)"] = { max_sessions = 1.5 },
      ["invalid max_sessions (it needs a storage: nothing counts the sessions that are kept in cookies)"] = {
        max_sessions = 1, store_metadata = true,
      },
      ["invalid max_sessions (it needs store_metadata = true)"] = { max_sessions = 1, storage = "shm" },
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

  it("says which storage's module is missing", function()
    local ok, err = pcall(session.new, { storage = "no.such.module" })
    assert.is_false(ok)
    assert.matches("^unable to load session storage %(", err)
    assert.matches("no.such.module", err, 1, true)
  end)

  it("takes the names in lua-resty-session's documentation", function()
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

  it("works with more configurations than are kept", function()
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

  it("names the option in every error about a storage's own configuration", function()
    local storages = { memcache = "memcached", mariadb = "mysql", postgresql = "postgres", ["redis-cluster"] = "redis" }
    for storage in pairs(OPTIONS) do
      storages[storage] = storage
    end
    for storage, section in pairs(storages) do
      for _, wrong in ipairs { "127.0.0.1", 6379, true } do
        local ok, err = pcall(session.new, { storage = storage, [section] = wrong })
        assert.is_false(ok)
        assert.equal("invalid " .. section .. " (table expected, got " .. type(wrong) .. ")", err)
        ok, err = pcall(require("resty.session." .. section).new, wrong)
        assert.is_false(ok)
        assert.equal("invalid " .. section .. " (table expected, got " .. type(wrong) .. ")", err)
      end
    end
    assert.has_error(function() session.new({ storage = "mariadb", mariadb = "x" }) end,
                     "invalid mariadb (table expected, got string)")
  end)

  it("checks all options of all storages, including unused ones", function()
    local wrong = coroutine.create(function() end)
    for storage, names in pairs(OPTIONS) do
      local new = require("resty.session." .. storage).new
      for _, name in ipairs(names) do
        local ok, err = pcall(new, { [name] = wrong })
        assert.is_false(ok, name)
        assert.matches("^invalid " .. storage .. " " .. name .. " %(.* expected, got thread%)$", err)
        assert.is_not_nil(new({ [name] = ngx.null }), name)
      end
    end
  end)

  it("takes a function for credentials only", function()
    local taking = { password = true, credentials = true, sentinel_password = true }
    for storage, names in pairs(OPTIONS) do
      local new = require("resty.session." .. storage).new
      for _, name in ipairs(names) do
        local ok, err = pcall(new, { [name] = print })
        if taking[name] then
          assert.is_true(ok, err)
        else
          assert.matches("^invalid " .. storage .. " " .. name .. " %(.* expected, got function%)$", err)
        end
      end
    end
    local redis = require "resty.session.redis"
    assert.is_table(redis.new({ username = "u", password = print }))
    assert.is_table(redis.new({ sentinels = { { host = "a", username = "u", password = print } } }))
    assert.has_error(function() redis.new({ username = "u", credentials = print }) end,
                     "invalid redis credentials (it replaces username and password: do not give these)")
    local storage = redis.new({ credentials = print })
    storage.password = "x"
    local value, err = storage:get("session", "key")
    assert.is_nil(value)
    assert.equal("invalid redis credentials (it replaces username and password: do not give these)", err)
  end)

  it("counts no function of another option as credentials", function()
    local make = require("resty.session.native").storages.redis
    for _ = 1, 101 do
      local _, _, hints = make({ revocation = { set = function() end }, unknown = function() end })
      assert.not_matches("functions have been given", table.concat(hints))
    end
  end)

  it("takes no string for a boolean, and rounds no number of a storage down to 0", function()
    for _, storage in ipairs { "dshm", "memcached", "mysql", "postgres", "redis" } do
      local new = require("resty.session." .. storage).new
      for _, name in ipairs { "ssl", "ssl_verify" } do
        for _, wrong in ipairs { "false", "true", 0, 1 } do
          assert.has_error(function() new({ [name] = wrong }) end,
                           "invalid " .. storage .. " " .. name .. " (boolean expected, got " .. type(wrong) .. ")")
        end
      end
      for problem, options in pairs {
        ["port (whole number expected)"] = { port = 80.5 },
        ["read_timeout (number that is not negative expected, got number)"] = { read_timeout = -1 },
        ["send_timeout (number that is not negative expected, got NaN)"] = { send_timeout = 0 / 0 },
        ["connect_timeout (number that is not negative expected, got string)"] = { connect_timeout = "nan" },
        ["pool_size (number that is not negative expected, got string)"] = { pool_size = "inf" },
      } do
        assert.has_error(function() new(options) end, "invalid " .. storage .. " " .. problem)
      end
      assert.is_table(new({ port = "80", read_timeout = "5", connect_timeout = 0.5, send_timeout = math.huge }))
    end
    assert.has_error(function() require("resty.session.redis").new({ database = 0.5 }) end,
                     "invalid redis database (whole number expected)")
  end)

  it("takes a number as text", function()
    local s = session.new({ idling_timeout = "900", remember = true, remember_safety = "None",
                            remember_rolling_timeout = "1000.5" })
    assert(s:save())
    assert.equal(900, s:get_property("idling-timeout"))
    assert.matches("Max%-Age=1001$", browser:next()[2])
    assert.has_error(function() session.new({ touch_threshold = "" }) end,
                     "invalid touch_threshold (number that is not negative expected, got string)")
  end)

  it("says what to do about a storage that the build leaves out", function()
    local native = require("resty.session.native").storages
    local make, options, loaded = native.redis, native.OPTIONS.redis, package.loaded["resty.session.storages"]
    native.redis, native.OPTIONS.redis, package.loaded["resty.session.storages"] = nil, nil, nil
    local storages = require "resty.session.storages"
    local _, err = pcall(storages.load, "redis", { redis = { host = "127.0.0.1", port = 16379 } })
    native.redis, native.OPTIONS.redis, package.loaded["resty.session.storages"] = make, options, loaded
    assert.equal("this build of the library has no storage redis: build it with make build FEATURES=redis", err)
  end)

  it("reads arrays whole, whatever holes they have", function()
    local s = session.new({ bind = { "ip", nil, "scheme", ngx.null, "user-agent" } })
    assert(s:save())
    assert.equal(0x0700, s.meta.flags)
    assert(session.new({ secret = "former" }):save())
    browser:next()
    assert.is_true((select(3, session.open({ secret_fallbacks = { nil, nil, "former" } }))))
    assert.is_true((select(3, session.open({ secret_fallbacks = { [5] = "former" } }))))
    s = session.open({ secret_fallbacks = { "former" }, request_headers = { nil, "audience" } })
    assert(s:set_request_headers())
    assert.equal("default", browser.request["Session-Audience"])
    for _, option in ipairs { "sentinels", "nodes" } do
      assert.has_error(function()
        require("resty.session.redis").new({ [option] = { { host = "a" }, nil, { port = 5 } } })
      end, "invalid redis " .. option .. " (a host is missing)")
      assert.has_error(function()
        require("resty.session.redis").new({ [option] = { host = "a" } })
      end, "invalid redis " .. option .. " (array expected, got table with named fields)")
    end
  end)

  it("takes null for absent, as JSON has it", function()
    local configuration = {}
    for _, name in ipairs(require("resty.session.native").OPTIONS) do
      configuration[name] = ngx.null
    end
    assert.equal(session.new().cookie_flags, session.new(configuration).cookie_flags)
    assert.equal("default", session.new(configuration):get_audience())
    assert.equal("session", session.new(ngx.null).cookie_name)
    session.init(ngx.null)
    assert(session.new():save())
    browser:next()
    session.init(configuration) -- names no key, so the key stays
    assert.is_true((select(3, session.open())))
    session.init({ storage = "shm", shm = { prefix = "p", suffix = ngx.null } })
    assert.equal("p", session.new({ storage = ngx.null }).storage.prefix)
    assert.is_nil(session.new({ storage = ngx.null }).storage.suffix)
    assert.is_nil(session.new({ storage = "shm", shm = ngx.null }).storage.prefix)
    local nulls = { host = ngx.null, password = ngx.null, username = ngx.null, prefix = ngx.null, ssl = ngx.null,
                    sentinels = { ngx.null, { host = "a", port = ngx.null, ip = ngx.null } } }
    local storage = session.new({ storage = "redis", redis = nulls }).storage
    assert.same({}, { storage.username, storage.password, storage.prefix })
    assert.has_error(function() require("resty.session.redis.cluster").new({ nodes = ngx.null }) end,
                     "invalid redis nodes (it is missing)")
    assert.is_table(session.new({ storage = "mariadb", mariadb = ngx.null, mysql = { table = ngx.null } }).storage)
  end)

  it("takes effect when a nested table with a metatable is changed in place", function()
    local function inheriting(values)
      return setmetatable({}, { __index = values })
    end
    local function computing(values)
      return setmetatable({}, { __index = function(_, name) return values[name] end })
    end
    assert(session.new({ secret = "former" }):save())
    browser:next()
    for _, wrap in ipairs { inheriting, computing } do
      local inherited = {}
      local fallbacks = wrap(inherited)
      local configuration = { secret_fallbacks = fallbacks }
      assert.is_false((select(3, session.open(configuration))))
      inherited[1] = "former"
      assert.is_true((select(3, session.open(configuration))))
      inherited[1] = nil
      assert.is_false((select(3, session.open(configuration))))
      fallbacks[1] = "former"
      assert.is_true((select(3, session.open(configuration))))
      assert.is_true((select(3, session.open(wrap(configuration)))))

      local node, options = { host = "a" }, { prefix = "one" }
      options.sentinels = wrap({ wrap(node) })
      configuration = { storage = "redis", redis = wrap(options) }
      local storage = session.new(configuration).storage
      assert.equal("one", storage.prefix)
      assert.equal(storage, session.new(configuration).storage)
      options.prefix = "two"
      assert.equal("two", session.new(configuration).storage.prefix)
      storage = session.new(configuration).storage
      node.host = "b"
      assert.not_equal(storage, session.new(configuration).storage)
      node.port = "no port"
      assert.has_error(function() session.new(configuration) end,
                       "invalid redis port (number that is not negative expected, got string)")
    end
  end)

  it("compares a module's own configuration by value, but a storage by identity", function()
    package.loaded["spec.module"] = {
      new = function(options) return { options = options, depth = options.storage.depth } end,
    }
    local options = { storage = { depth = 1 } }
    local configuration = { storage = "spec.module", ["spec.module"] = options }
    assert.equal(1, session.new(configuration).storage.depth)
    assert.equal(options, session.new(configuration).storage.options)
    options.storage.depth = 2
    assert.equal(2, session.new(configuration).storage.depth)
    setmetatable(options, { __index = {} })
    options.storage.depth = 3
    assert.equal(3, session.new(configuration).storage.depth)
    assert.equal(session.new(configuration).storage, session.new(configuration).storage)
    local storage = { count = 0 }
    assert.equal(session.new({ storage = storage }).profile, session.new({ storage = storage }).profile)
    local profile = session.new({ storage = storage }).profile
    storage.count = 1
    assert.equal(profile, session.new({ storage = storage }).profile)
    package.loaded["spec.module"] = nil
  end)

  it("says once what an unknown name may mean", function()
    local function told(configuration)
      browser.log = {}
      for _ = 1, 2 do
        session.new(configuration)
        session.new(support.with(configuration, { cookie_name = "other" }))
      end
      local texts = {}
      for i, line in ipairs(browser.log) do
        assert.equal(ngx.WARN, line[1])
        texts[i] = table.concat(line, "", 2)
      end
      return texts
    end
    local former = ": lua-resty-session 3 had it, today it is "
    assert.same({ '[session] unknown option "idle_timeout" is ignored: did you mean "idling_timeout"?' },
                told({ idle_timeout = 5 }))
    assert.same({
      '[session] unknown option "cookie.lifetime" is ignored' .. former .. "rolling_timeout or absolute_timeout",
      '[session] unknown option "cookie.samesite" is ignored' .. former .. "cookie_same_site",
    }, told({ storage = "cookie", cookie = { lifetime = 5, samesite = "Lax" } }))
    assert.same({ '[session] unknown option "name" is ignored' .. former .. "cookie_name" }, told({ name = "x" }))
    assert.same({}, told({ name = "y" }))
    assert.same({ '[session] unknown option "1" is ignored' }, told({ "secret" }))
    assert.same({ '[session] unknown redis option "hots" is ignored: did you mean "host"?' },
                told({ storage = "redis", redis = { hots = "a" } }))
    assert.same({ '[session] unknown redis nodes option "prot" is ignored: did you mean "port"?' },
                told({ storage = "redis", redis = { nodes = { { host = "a", prot = 1 } } } }))
    assert.same({ '[session] unknown shm option "store" is ignored' .. former .. "zone" },
                told({ storage = "shm", shm = { store = "sessions" } }))
    assert.same({}, told({ unheard = ngx.null }))
  end)

  it("does not warn of known names", function()
    package.loaded["spec.module"] = { new = function() return {} end }
    browser.log = {}
    local all = { revocation = false, revocation_fail_mode = "closed", revocation_cache_ttl = 5,
                  revocation_error_cache_ttl = 1, ["spec.module"] = {} }
    for _, name in ipairs { "memcache", "mariadb", "postgresql", "redis-cluster", "redis-sentinel" } do
      all[name] = {}
    end
    for storage, names in pairs(OPTIONS) do
      local options = {}
      for _, name in ipairs(names) do
        options[name] = false
      end
      options.zone = storage == "shm" and "sessions" or nil
      all[storage] = options
    end
    for storage in pairs(OPTIONS) do
      session.new(support.with(all, { storage = storage }))
    end
    session.init(support.with(all, { storage = "spec.module", secret = "spec" }))
    session.new({ ["spec.module"] = {} })
    assert.same({}, browser.log)
    package.loaded["spec.module"] = nil
  end)

  it("takes a store of marks, and nothing else, for revocation", function()
    local store = { get = print, set = print }
    for _, revocation in ipairs { store, "shm", "redis", setmetatable({}, { __index = store }) } do
      local s = session.new({ revocation = revocation, redis = {} })
      assert.is_table(s.revocation)
      assert.is_nil(session.new({ revocation = revocation, redis = {}, storage = support.memory() }).revocation)
    end
    assert.equal(store, session.new({ revocation = store }).revocation)
    for _, revocation in ipairs { true, 5, {}, { get = print }, { set = print }, "cookie" } do
      for _, call in ipairs { session.init, session.new, session.open } do
        assert.has_error(function() call({ revocation = revocation }) end, "invalid session revocation")
      end
    end
    assert.is_nil(session.new({ revocation = false, revocation_fail_mode = "closed" }).revocation)
    assert.is_nil(session.new({ revocation = ngx.null }).revocation)
    assert.error_matches(function() session.new({ revocation = "no.such.module" }) end,
                         "^unable to load session revocation storage %(")
    assert.has_error(function() session.new({ revocation = "redis", redis = 5 }) end,
                     "invalid redis (table expected, got number)")
    for _, mode in ipairs { "shut", true, {} } do
      assert.has_error(function() session.new({ revocation_fail_mode = mode }) end, "invalid revocation fail mode")
    end
  end)

  -- Calls a function with a freshly loaded library, and with the log's lines.
  local function with_new_library(test)
    local loaded = {}
    for name, module in pairs(package.loaded) do
      if name:find("^resty%.session") and name ~= "resty.session.native" then
        loaded[name], package.loaded[name] = module, nil
      end
    end
    local other, log = require "resty.session", {}
    other.__set_ngx_log(function(_, ...) table.insert(log, table.concat({ ... })) end)
    local ok, problem = pcall(test, other, log)
    for name, module in pairs(loaded) do
      package.loaded[name] = module
    end
    assert(ok, problem)
  end

  it("warns once that no secret is configured, when a session is first used", function()
    with_new_library(function(other, log)
      other.init({ cookie_name = "x" })
      other.new({ secret = "a secret of many bytes" })
      assert.same({}, log)
      for _ = 1, 3 do
        other.new()
        other.open({ cookie_name = "y" })
        other.destroy()
      end
      assert.equal(1, #log)
      assert.matches("^%[session%] no secret is configured: ", log[1])
    end)
    browser.log = {}
    session.new()
    assert.same({}, browser.log)
  end)

  it("says once of a secret, and of the fallbacks, that they can be guessed", function()
    local strong = "sixteen bytes 16"
    for name, configuration in pairs { key = { secret = "fifteen bytes 5" }, ikm = { ikm = ("i"):rep(32) },
                                       number = { secret = 1234567890 }, repeated = { secret = ("s"):rep(40) },
                                       fallbacks = { secret = strong, secret_fallbacks = { strong, "short" } },
                                       ikms = { secret = strong, ikm_fallbacks = { ("i"):rep(32) } } } do
      local text = configuration.secret == strong and "a secret of the fallbacks" or "the secret"
      for _, as_default in ipairs { true, false } do
        with_new_library(function(other, log)
          local own = nil
          if as_default then
            other.init(configuration)
          else
            other.init({ secret = strong })
            own = configuration
          end
          assert.same({}, log, name)
          for _ = 1, 3 do
            other.new(own)
            other.open(support.with(own or {}, { cookie_name = "y" }))
            other.destroy(own)
          end
          assert.equal(1, #log, name)
          assert.matches("^%[session%] " .. text .. " can be guessed", log[1])
          for _, secret in ipairs { "fifteen", "iii", "123456", "sss", "short" } do
            assert.is_nil(log[1]:find(secret, 1, true))
          end
          other.open({ secret = strong, secret_fallbacks = { strong } })
          assert.equal(1, #log)
        end)
      end
    end
    with_new_library(function(other, log)
      other.init({ secret = strong, secret_fallbacks = { strong } })
      other.open()
      assert.same({}, log)
    end)
  end)

  it("refuses key material that anybody knows", function()
    local zeros, nothing = ("\0"):rep(32), require("resty.session.utils").sha256("")
    for problem, options in pairs {
      ["invalid ikm (all bytes are zero)"] = { ikm = zeros },
      ["invalid ikm (the SHA-256 of an empty secret)"] = { ikm = nothing },
      ["invalid ikm_fallbacks (one of them: all bytes are zero)"] = { ikm_fallbacks = { ("i"):rep(32), zeros } },
      ["invalid ikm_fallbacks (one of them: the SHA-256 of an empty secret)"] = { ikm_fallbacks = { nothing } },
    } do
      for _, call in ipairs { session.init, session.new, session.open, session.start, session.destroy } do
        assert.has_error(function() call(options) end, problem)
      end
    end
  end)

  it("keeps numbers that name an audience or a subject", function()
    local memory = support.memory()
    local numbers = { audience = 5, subject = 1234567890123, store_metadata = true }
    for _, storage in ipairs { false, memory } do
      local configuration = support.with(numbers, { storage = storage })
      browser.cookies.session = nil
      local s = session.new(configuration)
      s:set("a", 1)
      s.info:set("b", 2)
      assert(s:save())
      browser:next()
      local exists
      s, _, exists = session.open(configuration)
      assert.is_true(exists)
      assert.same({ 5, 1234567890123, 1, 2 }, { s:get_audience(), s:get_subject(), s:get("a"), s.info:get("b") })
      assert.is_true(s:open())
      assert(s.info:save())
      browser:next()
      assert.equal(2, session.open(configuration).info:get("b"))
      -- The string of the same digits is another audience.
      s, _, exists = session.open(support.with(configuration, { audience = "5" }))
      assert.is_false(exists)
      s.info:set("b", 3)
      assert(s:save())
      browser:next()
      assert.equal("5", s:get_audience())
      assert.equal(3, session.open(support.with(configuration, { audience = "5" })).info:get("b"))
      s = session.open(configuration)
      assert.same({ 5, 2, 2 }, { s:get_audience(), #s.data, s.info:get("b") })
      s:set_audience("5")
      assert.equal(1, #s.data)
      assert(s:save())
      browser:next()
      assert.equal("missing session audience", (select(2, session.open(configuration))))
      -- And another subject.
      s = session.open(support.with(configuration, { audience = "other", subject = "1234567890123",
                                                     enforce_same_subject = true }))
      s.info:set("b", 4)
      assert(s:save())
      browser:next()
      s = session.open(support.with(configuration, { audience = "other" }))
      assert.same({ "other", 1, 4 }, { s:get_audience(), #s.data, s.info:get("b") })
    end
    local metadata = memory.calls[1][9]
    assert.same({ "NQ" }, metadata.audiences)
    assert.same({ ngx.encode_base64("1234567890123", true) }, metadata.subjects)
  end)
end)
