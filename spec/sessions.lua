-- What sessions must do over every storage: `require("spec.sessions")(options, checks_old, quick)`
-- in a `describe`, where `options` are those of a session, with its storage. `checks_old` is as in
-- `spec.contract`; `quick` leaves out the tests that sleep.

local session = require "resty.session"
local support = require "spec.support"
local utils = require "resty.session.utils"

local REMEMBER = { remember = true, remember_safety = "Low" }

local function random(size)
  return utils.encode_base64url(utils.rand_bytes(size))
end

local wait = support.wait

return function(options, checks_old, quick)
  local spec = getfenv(2) -- busted gives its functions to spec files only
  local it, assert = spec.it, spec.assert
  local it_waits = quick and function() end or it
  local stored = options.storage ~= "cookie"
  local browser

  support.fresh(function(fresh)
    browser = fresh
  end, spec)

  local function with(more)
    return support.with(options, more)
  end

  -- Saves a session, and lets the browser take its cookies.
  local function saved(more, values)
    local s = session.new(with(more))
    for key, value in pairs(values or { name = "Ada" }) do
      s:set(key, value)
    end
    s:set_subject("ada")
    assert.same({ true }, { s:save() })
    browser:next()
    return s
  end

  local function opened(more)
    local s, err, exists = session.open(with(more))
    assert.is_nil(err)
    assert.is_true(exists)
    return s
  end

  -- Gives the browser a session cookie that was replaced or cleared.
  local function restore_cookie(cookie)
    browser.cookies.session, browser.var.cookie_session = cookie, cookie
  end

  it("opens what was saved", function()
    local values = { name = "Ada", n = 1.5, yes = true, list = { 1, 2, { deep = "ä\n\0" } }, ["@at"] = "as it is" }
    local s = saved(nil, values)
    assert.equal(stored and 1 or 0, s.meta.flags)
    if stored then
      assert.equal(110, #browser.cookies.session)
    end
    local again = opened()
    for key, value in pairs(values) do
      assert.same(value, again:get(key))
    end
    assert.equal("ada", again:get_subject())
    assert.equal("default", again:get_audience())
    assert.equal(s:get_property("id"), again:get_property("id"))
  end)

  it("opens a large session", function()
    local much = random(10000)
    saved(nil, { much = much, plain = ("x"):rep(50000) })
    assert.equal(much, opened():get("much"))
    assert.equal(("x"):rep(50000), opened():get("plain"))
    assert.is_true(opened():destroy())
    browser:next()
    assert.same({}, browser.cookies)
  end)

  it("lists and opens no session that was never saved", function()
    local s, err, exists = session.open(with())
    assert.equal("new", s.state)
    assert.same({ "missing session cookie", false }, { err, exists })
    assert.same({ nil, "missing session cookie", false, false }, { session.destroy(with()) })
    assert.same({ nil, "missing session cookie", false, false }, { session.logout(with()) })
  end)

  it_waits("saves under a new id, and the old cookie opens for a while; refreshing saves when it is time to", function()
    local first = saved({ stale_ttl = 2 })
    local old = browser.cookies.session
    local s = opened({ stale_ttl = 2 })
    s:set("name", "Grace")
    assert(s:save())
    browser:next()
    local new = browser.cookies.session
    assert.not_equal(first:get_property("id"), s:get_property("id"))
    assert.equal("Grace", opened():get("name"))
    restore_cookie(old)
    assert.equal("Ada", opened():get("name"))

    wait(7.1)
    local _, err = session.open(with())
    assert.equal(stored and "unable to load session" or nil, err)
    restore_cookie(new)
    local refreshed
    s, err, _, refreshed = session.start(with({ rolling_timeout = 8 }))
    assert.is_nil(err)
    assert.is_true(refreshed)
    assert.equal("Grace", s:get("name"))
    browser:next()
    assert.not_equal(new, browser.cookies.session)
    assert.not_equal(opened().meta.sid, first.meta.sid)
    assert.equal(first.meta.creation_time, opened().meta.creation_time)
  end)

  it_waits("touches without a new id", function()
    local id = saved():get_property("id")
    local first = browser.cookies.session
    wait(1.1)
    local s = opened()
    assert.is_true(s:touch())
    browser:next()
    assert.not_equal(first, browser.cookies.session)
    assert.equal(id, opened():get_property("id"))
    wait(1.1)
    s = session.start(with({ touch_threshold = 0 }))
    assert.equal(1, #browser:next())
    assert.equal(id, s:get_property("id"))
    assert.equal("Ada", opened():get("name"))
  end)

  it("does not open what was destroyed", function()
    saved()
    local old = browser.cookies.session
    assert.same({ true, nil, true, true }, { session.destroy(with()) })
    browser:next()
    assert.same({}, browser.cookies)
    assert.equal("missing session cookie", (select(2, session.open(with()))))
    if stored then
      restore_cookie(old)
      assert.equal("unable to load session", (select(2, session.open(with()))))
    end
  end)

  it("logs audiences out one by one", function()
    saved({ audience = "a" })
    for _, audience in ipairs { "b", "c" } do
      local s, err = session.open(with({ audience = audience }))
      assert.equal("missing session audience", err)
      s:set("of", audience)
      assert(s:save())
      browser:next()
    end
    assert.same({ true, nil, true, true }, { session.logout(with({ audience = "a" })) })
    browser:next()
    assert.equal("missing session audience", (select(2, session.open(with({ audience = "a" })))))
    assert.is_true(opened({ audience = "b" }):logout())
    browser:next()
    assert.equal("c", opened({ audience = "c" }):get("of"))
    local last = browser.cookies.session
    assert.same({ true, nil, true, true }, { session.logout(with({ audience = "c" })) })
    browser:next()
    assert.same({}, browser.cookies)
    if stored then
      restore_cookie(last)
      assert.equal("unable to load session", (select(2, session.open(with({ audience = "c" })))))
    end
  end)

  it("brings a remembered user back", function()
    saved(REMEMBER)
    restore_cookie(nil)
    local s = opened(REMEMBER)
    assert.equal("Ada", s:get("name"))
    assert.equal(2, #browser:next())
    assert.equal("Ada", opened():get("name"))
    local remembered = browser.cookies.remember
    assert.same({ true, nil, true, true }, { session.destroy(with(REMEMBER)) })
    browser:next()
    assert.same({}, browser.cookies)
    if stored then
      browser.var.cookie_remember = remembered
      assert.is_false((select(3, session.open(with(REMEMBER)))))
    end
  end)

  it("keeps info", function()
    local s = saved()
    s.info:set("seen", 1)
    assert.same({ true }, { s.info:save() })
    local lines = browser:next()
    assert.equal(stored and 0 or 1, #lines)
    s = opened()
    assert.equal(1, s.info:get("seen"))
    assert.equal("Ada", s:get("name"))
    s.info:set("seen", 2)
    assert(s:save())
    browser:next()
    assert.equal(2, opened().info:get("seen"))
  end)

  if stored then
    it("keeps no info of a session that another request destroyed", function()
      saved()
      local here, there = opened(), opened()
      assert(there:destroy())
      here.info:set("seen", 1)
      assert.same({ nil, "unable to store session info (there is no such session any more)" }, { here.info:save() })
      assert.is_false((select(3, session.open(with()))))
    end)
  end

  it("returns as many values as the API says", function()
    local s = saved(REMEMBER)
    s.info:set("seen", 1)
    for _, method in ipairs { "open", "touch", "refresh", "save", "logout" } do
      assert.equal(1, select("#", s[method](s)), method)
    end
    s = saved()
    s.info:set("seen", 1)
    assert.equal(1, select("#", s.info:save()))
    assert.equal(3, select("#", session.open(with())))
    assert.equal(4, select("#", session.start(with())))
    assert.equal(1, select("#", opened():destroy()))
    saved()
    assert.equal(4, select("#", session.destroy(with())))
  end)

  if stored then
    it("saves no session that another request destroyed, if the storage can tell", function()
      saved(REMEMBER)
      local here, there = opened(REMEMBER), opened(REMEMBER)
      assert(there:destroy())
      browser.header["Set-Cookie"] = nil
      local result = { here:save() }
      if checks_old == false then
        assert.same({ true }, result)
        assert.equal("Ada", (browser:next() and opened():get("name")))
      else
        assert.same({ nil, "unable to store session data (the session was destroyed meanwhile)" }, result)
        assert.same({}, browser:lines())
      end
    end)

    it("saves a session repeatedly, also after another request has replaced it", function()
      saved(REMEMBER)
      local here, there = opened(REMEMBER), opened(REMEMBER)
      for _, s in ipairs { there, here, here } do
        assert.is_true(s:save())
      end
      assert.same({}, browser.log)
    end)
  end

  it("ends all sessions that came from a copied remember cookie, if there is a storage", function()
    local watched = support.with(REMEMBER, { remember_theft = "revoke", stale_ttl = 0 })
    if not stored then
      local ok, err = pcall(session.new, with(watched))
      assert.is_false(ok)
      assert.matches("^invalid remember_theft %(it needs a storage", err)
      return
    end
    saved(watched)
    local copied = browser.cookies.remember
    local function come_back(remember)
      restore_cookie(nil)
      browser.cookies.remember = remember
      local _, err, exists = session.open(with(watched))
      return exists, err, browser:next()
    end
    local exists = come_back(copied)
    assert.is_true(exists)
    local replacement = browser.cookies.remember
    assert.same({}, browser.log)
    local err, lines
    exists, err, lines = come_back(copied)
    assert.same({ false, "missing session cookie" }, { exists, err })
    assert.matches("it was copied, or", browser.log[1][3], 1, true)
    assert.matches("^remember=;.*Max%-Age=0$", lines[1])
    exists, err, lines = come_back(replacement)
    assert.same({ false, "missing session cookie", 1, 0 }, { exists, err, #browser.log, #lines })
  end)

  it("hashes the storage's key", function()
    local hashed = { hash_storage_key = true }
    local id = saved(hashed):get_property("id")
    assert.equal("Ada", opened(hashed):get("name"))
    if stored then
      assert.equal("unable to load session", (select(2, session.open(with()))))
      assert.is_nil((utils.load_storage(options.storage, options):get("session", id, ngx.time())))
    end
    assert(opened(hashed):save())
    browser:next()
    assert.is_true(opened(hashed):destroy())
  end)

  it("drops audiences of other subjects if that is enforced", function()
    saved({ audience = "a" })
    local enforced = { audience = "b", enforce_same_subject = true }
    local s = session.open(with(enforced))
    s:set_subject("eve")
    assert(s:save())
    browser:next()
    assert.equal("eve", opened({ audience = "b" }):get_subject())
    assert.equal("missing session audience", (select(2, session.open(with({ audience = "a" })))))
  end)

  it("lists a subject's sessions", function()
    local subject = random(16)
    local noted = { store_metadata = true, subject = subject }
    local function save()
      local s = session.new(with(noted))
      assert(s:save())
      return s:get_property("id"), s
    end
    local first, one = save()
    local second = save()
    assert(one:save())
    browser:next()
    local third = one:get_property("id")
    if stored then
      local storage = utils.load_storage(options.storage, options)
      local function sessions()
        local audience, owner = utils.encode_base64url("default"), utils.encode_base64url(subject)
        return storage:read_metadata("session", audience, owner, ngx.time())
      end
      local live = sessions()
      assert.is_nil(live[first], "it was replaced")
      assert.is_near(ngx.time() + 3600, live[second], 3)
      assert.is_near(ngx.time() + 3600, live[third], 3)
      assert.is_true(one:destroy())
      live = sessions()
      assert.is_nil(live[third])
      assert.is_number(live[second])
    end
  end)
end
