-- Switching `separate_keys` and `seal_info` on and off, while servers at neighbouring stages serve
-- the same browser.

local cjson = require "cjson.safe"
local session = require "resty.session"
local sessions = require "spec.sessions"
local support = require "spec.support"
local utils = require "resty.session.utils"

local STAGES = { false, "accept", true, "only", true, "accept", false }

describe("stages", function()
  local browser

  support.fresh(function(fresh)
    browser = fresh
  end)

  local function opened(options)
    local s, err, exists = session.open(options)
    assert.is_nil(err)
    assert.is_true(exists)
    assert.equal("Ada", s:get("name"))
    return s
  end

  -- Does what programs do with a session on one server, which must find the info that the previous
  -- server wrote.
  local function visit(options, seen)
    local s = opened(options)
    assert.equal(seen, s.info:get("seen"))
    s.info:set("seen", seen + 1)
    assert.is_true(s.info:save())
    browser:next()
    assert.is_true(s:touch())
    browser:next()
    s = opened(options)
    assert.equal(seen + 1, s.info:get("seen"))
    assert.is_true(s:save())
    browser:next()
    browser.cookies.session = nil
    assert.is_true(opened(options):touch())
    browser:next()
    assert.same({}, browser.log)
    return seen + 1
  end

  local storages = { cookie = "cookie", shm = "shm", table = support.memory() }

  for name, storage in pairs(storages) do
    it("sign nobody out while they are switched on and off again, over " .. name, function()
      local seen = 0
      local s = session.new({ storage = storage, remember = true, remember_safety = "Low" })
      s:set("name", "Ada")
      s.info:set("seen", seen)
      assert.is_true(s:save())
      browser:next()
      for i = 2, #STAGES do
        for _, stage in ipairs { STAGES[i - 1] or false, STAGES[i], STAGES[i - 1] } do
          seen = visit({
            storage = storage, remember = true, remember_safety = "Low",
            separate_keys = stage, seal_info = stage, key_context = stage and "acme",
          }, seen)
        end
      end
    end)
  end

  it("show in meta.ikm the key material that utils can derive keys from", function()
    local keys = {}
    for _, stage in ipairs { false, "only" } do
      local options = { remember = true, remember_safety = "Low", separate_keys = stage }
      local s = browser:sign_in(options)
      local header = s.meta.header
      assert.equal(s.meta.ikm, opened(options).meta.ikm)
      local mac = utils.hmac_sha256(utils.derive_hmac_sha256_key(s.meta.ikm, s.meta.sid), header:sub(1, 66))
      assert.equal(header:sub(67), mac:sub(1, 16))
      keys[#keys + 1] = s.meta.ikm
      keys[#keys + 1] = s.remember_meta.ikm
    end
    assert.equal(utils.sha256("spec"), keys[1])
    assert.equal(keys[1], keys[2])
    assert.is_true(keys[3] ~= keys[1] and keys[4] ~= keys[1] and keys[3] ~= keys[4])
  end)

  it("keep a cookie from opening under another name", function()
    local options = { remember = true, remember_safety = "None", separate_keys = true }
    browser:sign_in(options)
    local value = browser.cookies.session
    browser.var.http_cookie = "remember=" .. value
    assert.equal("missing session cookie", (select(2, session.open(options))))
    browser.var.http_cookie = "admin=" .. value
    assert.equal("invalid session message authentication code",
      (select(2, session.open({ separate_keys = true, cookie_name = "admin" }))))
  end)

  it("keep info secret from someone who can read the storage", function()
    local memory = support.memory()
    local s = session.new({ storage = memory, seal_info = true })
    s.info:set("code", "271828")
    assert.is_true(s:save())
    s.info:set("code", "314159")
    assert.is_true(s.info:save())
    browser:next()
    local _, record = next(memory.records)
    local text = utils.decode_base64url(cjson.decode(record)[2])
    local info = cjson.decode(text)
    local name, sealed = next(info)
    assert.equal("\0sealed", name)
    assert.is_nil(next(info, name))
    assert.equal("text", (next(sealed)))
    assert.equal("314159", session.open({ storage = memory, seal_info = "only" }).info:get("code"))
  end)

  it("sign nobody out if a server that does not know of sealed info saves it", function()
    local memory = support.memory()
    local s = session.new({ storage = memory, seal_info = true })
    s.info:set("code", "271828")
    assert.is_true(s:save())
    browser:next()
    local plain, _, exists = session.open({ storage = memory })
    assert.is_true(exists)
    assert.is_nil(plain.info:get("code"))
    plain.info:set("seen", 1)
    assert.is_true(plain.info:save())
    assert.equal("271828", session.open({ storage = memory, seal_info = true }).info:get("code"))
    assert.is_true(plain:save())
    browser:next()
    assert.same({}, browser.log)
    s, _, exists = session.open({ storage = memory, seal_info = true })
    assert.is_true(exists)
    assert.is_nil(s.info:get("code"))
    assert.equal(1, s.info:get("seen"))
    assert.equal("unable to decrypt session info (authentication tag mismatch)", browser.log[1][3])
    assert.is_true(s:save())
    browser:next()
    assert.equal(1, session.open({ storage = memory, seal_info = "only" }).info:get("seen"))
  end)

  it("have names, and other values are errors", function()
    for _, name in ipairs { "separate_keys", "seal_info" } do
      for _, value in ipairs { "yes", "true", 1, {} } do
        local ok, err = pcall(session.new, { [name] = value })
        assert.is_false(ok)
        assert.equal("invalid " .. name .. ' (true, false, "accept" or "only" expected)', err)
      end
    end
    local ok, err = pcall(session.new, { key_context = "acme" })
    assert.is_false(ok)
    assert.equal("invalid key_context (it has no effect without separate_keys)", err)
  end)
end)

describe("with separate keys and sealed info", function()
  for _, storage in ipairs { "cookie", "shm" } do
    describe("over " .. storage, function()
      sessions({ storage = storage, separate_keys = "only", seal_info = "only", key_context = "acme" }, nil, true)
    end)
  end
end)
