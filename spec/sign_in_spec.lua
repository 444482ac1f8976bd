-- The id of the sign-in that a session comes from, as a program's calls change it.

local session = require "resty.session"
local support = require "spec.support"

describe("a sign-in", function()
  local browser, options

  before_each(function()
    browser = support.browser()
    options = { secret = "sign-in", revocation = support.memory(), revocation_cache_ttl = 0 }
    session.init(options)
  end)
  after_each(support.restore)

  local function sign_in(subject)
    local s = session.new()
    s:set_subject(subject)
    assert.is_true(s:save())
    browser:next()
    return s, browser.cookies.session
  end

  local function save(s)
    assert.is_true(s:save())
    browser:next()
  end

  -- Whether a cookie opens, in a browser of its own.
  local function opens(cookie)
    local own = browser.cookies.session
    browser.cookies.session = cookie
    local _, _, exists = session.open()
    browser.cookies.session = own
    return exists
  end

  it("is known to an instance after a save and after an open", function()
    local s = sign_in("ada")
    local id = s.data[1][5]
    assert.equal(22, #id)
    save(s)
    assert.equal(id, s.data[1][5])
    assert.equal(id, session.open().data[1][5])
    assert.equal("ada", session.open():get_subject())
  end)

  it("has false for a missing subject, after an open too", function()
    local s = sign_in(nil)
    for _ = 1, 2 do
      assert.is_false(s.data[1][3])
      assert.is_nil(s:get_subject())
      assert.is_nil(s:get_property("subject"))
      assert.is_nil(s:get_sid())
      s = session.open()
      save(s)
    end
    s:set_subject("ada")
    s:set_subject(nil)
    assert.is_false(s.data[1][3])
  end)

  it("is another one for another user", function()
    local s, anonymous = sign_in(nil)
    local first = s.data[1][5]
    s:set_subject("ada")
    assert.equal(first, s.data[1][5])
    save(s)
    local second = s.data[1][5]
    assert.not_equal(first, second)
    s:set_subject("ada")
    save(s)
    assert.equal(second, s.data[1][5])
    assert.is_true(s:destroy())
    assert.is_true(opens(anonymous), "a planted cookie neither ends with the session nor ends it")
  end)

  it("is later than a mark from before it, although the session is older", function()
    local s = sign_in(nil)
    ngx.update_time()
    local created = s:get_property("creation_time")
    support.wait(1.1)
    assert.is_true(session.revoke_subject("ada", 60))
    support.wait(1.1)
    s = session.open()
    s:set_subject("ada")
    save(s)
    local signed_in
    s, signed_in = session.open(), s:get_property("creation_time")
    assert.equal("ada", s:get_subject())
    assert.is_true(signed_in >= created + 2)
    save(s)
    assert.equal(signed_in, s:get_property("creation_time"), "a save goes on with it")
    s.data[2] = { {}, "other", "bob" }
    save(s)
    s = session.open({ audience = "other" })
    assert.equal("bob", s:get_subject())
    s:set_subject("carol")
    support.wait(1.1)
    save(s)
    assert.equal(signed_in, s:get_property("creation_time"), "the other audience is as old as it was")
  end)

  it("goes on if the subject is the same in the end, or the data are another session's", function()
    for name, change in pairs {
      ["there and back"] = function(s) s:set_subject("bob") s:set_subject("ada") end,
      ["cleared and set"] = function(s) s:set_subject(nil) s:set_subject("ada") end,
      ["opened anew"] = function(s) s:set_subject("bob") assert(s:open()) end,
    } do
      local s = sign_in("ada")
      local created, id = s:get_property("creation_time"), s.data[1][5]
      support.wait(1.1)
      change(s)
      save(s)
      assert.same({ "ada", created, id }, { s:get_subject(), s:get_property("creation_time"), s.data[1][5] }, name)
    end
  end)

  it("of another subject leaves a session that begins anew without its others", function()
    local s = sign_in("ada")
    s.data[2], s.data[3] = { {}, "blog", "bob" }, { {}, "shop", "ada" }
    s.data[4], s.data[5] = { {}, "wiki", "ada", "another-sid" }, { { cart = 1 }, "guest" }
    save(s)
    assert.is_true(session.revoke_subject("bob", 60))
    assert.is_nil((select(2, session.open())))
    assert.is_true(s:revoke_others())
    browser:next()
    assert.equal("ada", session.open({ audience = "shop" }):get_subject())
    assert.equal(1, session.open({ audience = "guest" }):get("cart"))
    for _, audience in ipairs { "blog", "wiki" } do
      local _, err, exists = session.open({ audience = audience })
      assert.same({ "missing session audience", false }, { err, exists })
    end
  end)

  it("keeps its id if the save fails", function()
    local s = sign_in("ada")
    local id = s.data[1][5]
    s:set_subject("bob")
    s:set("function", print)
    assert.is_nil(s:save())
    assert.equal(id, s.data[1][5])
    s:set("function", nil)
    s:set("large", ("x"):rep(2 ^ 20)) -- this save fails in the native module
    assert.is_nil(s:save())
    assert.equal(id, s.data[1][5])
    s:set("large", nil)
    save(s)
    assert.not_equal(id, s.data[1][5])
  end)

  it("counts also if its audience was not in the session, and the others' users leave", function()
    local other = support.with(options, { audience = "shop", enforce_same_subject = true })
    local s = sign_in("ada")
    local created = s:get_property("creation_time")
    support.wait(1.1)
    s = session.open(other)
    s:set_subject("bob")
    save(s)
    assert.same({ "bob", "shop" }, { s:get_subject(), s:get_audience() })
    assert.is_true(s:get_property("creation_time") > created)
  end)

  it("ends with a session whose data can't be encoded, or whose subject was taken away", function()
    for _, change in ipairs { function(s) s:set("function", print) end, function(s) s:set_subject(nil) end } do
      local s, older = sign_in("ada")
      save(s)
      change(s)
      assert.is_true(s:destroy())
      assert.is_false(opens(older))
    end
  end)

  it("begins anew for the only session that is left", function()
    session.init(support.with(options, { remember = true, remember_safety = "Low" }))
    local _, other = sign_in("ada")
    browser.cookies.session, browser.cookies.remember = nil, nil
    local s = sign_in("ada")
    s:set_remember(false)
    save(s)
    s = session.open()
    assert.is_false(s:get_remember())
    assert.is_true(s:revoke_others())
    browser:next()
    assert.is_false(s:get_remember())
    assert.is_nil(browser.cookies.remember)
    assert.is_false(opens(other))
    assert.is_true(opens(browser.cookies.session))
  end)
end)
