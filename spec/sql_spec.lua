-- Needs a database server: `?storage=postgres&port=…`, and its tables.

local contract = require "spec.contract"
local found = require "spec.found"
local mistakes = require "spec.mistakes"
local rolling = require "spec.rolling"
local session = require "resty.session"
local sessions = require "spec.sessions"
local support = require "spec.support"
local utils = require "resty.session.utils"

local STORAGE = ngx.var.arg_storage
local MYSQL = STORAGE == "mysql"

local OPTIONS = {
  port = tonumber(ngx.var.arg_port), database = MYSQL and "sessions" or "postgres", username = MYSQL and "root" or nil,
  connect_timeout = 2000, read_timeout = 3000, send_timeout = 3000,
}

local PROBLEMS = {
  ["invalid " .. STORAGE .. " port (at most 65535)"] = { port = 70000 },
  ["invalid " .. STORAGE .. " table_name (not a valid table name)"] = { table_name = "sessions; DROP TABLE x" },
  ["invalid " .. STORAGE .. " table_meta (not a valid table name)"] = { table_meta = "a b" },
  ["invalid mysql charset (not a valid character set name)"] = MYSQL and { charset = "latin1; --" } or nil,
  ["invalid postgres ssl_required (it needs ssl)"] = not MYSQL and { ssl_required = true } or nil,
}

-- Options with the storage's name and its alias, in the sections of either name.
local function by_every_name()
  local other = MYSQL and "mariadb" or "postgresql"
  return {
    { storage = STORAGE, [STORAGE] = OPTIONS },
    { storage = other, [STORAGE] = OPTIONS },
    { storage = other, [other] = OPTIONS },
  }
end

describe(STORAGE, function()
  contract(function(more)
    return require("resty.session." .. STORAGE).new(support.with(OPTIONS, more))
  end)
  sessions({ storage = STORAGE, [STORAGE] = OPTIONS })
  rolling({ revocation = STORAGE, [STORAGE] = OPTIONS })

  it("says what to do if the key of a mark is longer than its column", function()
    local storage = require("resty.session." .. STORAGE).new(OPTIONS)
    local key, now = ("subject"):rep(20), ngx.time()
    local ok, err = storage:set("session", key, "1", 60, now)
    if MYSQL then
      assert.is_nil(ok)
      assert.matches("^Data too long for column 'sid'.*; hash_storage_key makes keys of marks fit$", err)
      assert.same({}, { storage:get("session", key, now) })
    else
      assert.same({ true }, { ok, err })
      assert.equal("1", storage:get("session", key, now))
      ok, err = storage:set("session", utils.encode_base64url(utils.rand_bytes(9000)), "1", 60, now)
      assert.is_nil(ok)
      assert.matches("hash_storage_key makes keys of marks shorter$", err)
    end
  end)
  found(by_every_name())
  mistakes(STORAGE, PROBLEMS)
end)

describe(STORAGE .. " in sessions", function()
  local browser

  support.fresh(function(fresh)
    browser = fresh
  end)

  it("keeps whatever a session holds, or says that it cannot", function()
    local odd = { "'", '"', "\\", "\\'; DROP TABLE sessions; --", "%s%d%%", ";--", "\0", "a\0b",
                  "😀", "\n\r\t", "`", "?", "$1" }
    for i, text in ipairs(odd) do
      local options = { storage = STORAGE, [STORAGE] = OPTIONS, store_metadata = true, audience = "a" .. text }
      local s = session.new(options)
      s:set_subject(text)
      s:set("text", text)
      s:set("n" .. text, i)
      assert(s:save())
      browser:next()
      local opened, err, exists = session.open(options)
      assert.is_nil(err)
      assert.is_true(exists)
      assert.same({ text, i, text }, { opened:get("text"), opened:get("n" .. text), opened:get_subject() })
      assert(opened:save())
      browser:next()
      assert.same({ true, nil, true, true }, { session.destroy(options) })
    end
  end)

  it("keeps a megabyte", function()
    local options = { storage = STORAGE, [STORAGE] = OPTIONS, compression_threshold = 0 }
    local s = session.new(options)
    local big = ("0123456789abcdef"):rep(65536)
    s:set("big", big)
    assert(s:save())
    browser:next()
    local opened = assert(session.open(options))
    assert.equal(big, opened:get("big"))
  end)

  it("keeps odd cookie names, or says that it cannot", function()
    local storage = require("resty.session." .. STORAGE).new(OPTIONS)
    local key = ("k"):rep(43)
    for _, name in ipairs { "'", '"', "\\", "';--", "%", "`" } do
      assert.same({ true }, { storage:set(name, key, "v", 60, ngx.time()) })
      assert.equal("v", storage:get(name, key, ngx.time()))
    end
    for _, name in ipairs { MYSQL and "😀" or "a\0b", "\255" } do
      local ok, err = storage:set(name, key, "v", 60, ngx.time())
      assert.is_nil(ok)
      assert.is_string(err)
    end
    if MYSQL then
      local ok, err = storage:set(("n"):rep(256), key, "v", 60, ngx.time())
      assert.is_nil(ok)
      assert.matches("too long", err)
    end
    assert.equal("v", storage:get("'", key, ngx.time()))
  end)
end)
