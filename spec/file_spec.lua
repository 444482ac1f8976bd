-- Needs a directory: `?path=…`.

local contract = require "spec.contract"
local mistakes = require "spec.mistakes"
local names = require "spec.names"
local rolling = require "spec.rolling"
local sessions = require "spec.sessions"
local support = require "spec.support"
local utils = require "resty.session.utils"

local FILE = { path = ngx.var.arg_path }

describe("file", function()
  local function make(more)
    return require("resty.session.file").new(support.with(FILE, more))
  end

  contract(make)
  names(make)
  sessions({ storage = "file", file = FILE })
  rolling({ revocation = "file", file = FILE })
  mistakes("file", {
    ['invalid file prefix (it holds "/" or a zero byte)'] = { prefix = "../p" },
    ['invalid file suffix (it holds "/" or a zero byte)'] = { suffix = "a\0b" },
    ["invalid file path (it holds a zero byte)"] = { path = "/tmp\0" },
    ["invalid file path (string expected, got table)"] = { path = {} },
    ["invalid file cleanup_rate (number that is not negative expected, got number)"] = { cleanup_rate = -1 },
  })

  it("never leaves the directory", function()
    local storage = make()
    local now = ngx.time()
    for part, arguments in pairs {
      ["cookie name"] = { "../s", "key" },
      ["key"] = { "s", "/etc/passwd" },
    } do
      local expected = "invalid " .. part .. ' for a file\'s name (it holds "/" or a zero byte)'
      local name, key = arguments[1], arguments[2]
      assert.same({ nil, expected }, { storage:set(name, key, "v", 60, now) })
      assert.same({ nil, expected }, { storage:get(name, key, now) })
      assert.same({ nil, expected }, { storage:delete(name, key, now) })
    end
    local expected = 'invalid subject for a file\'s name (it holds "/" or a zero byte)'
    assert.same({ nil, expected }, { storage:read_metadata("s", "a", "u/../..", now) })
    local key = utils.encode_base64url(utils.rand_bytes(32))
    local metadata = { audiences = { "a" }, subjects = { "u/../.." } }
    assert.same({ nil, expected }, { storage:set("s", key, "v", 60, now, nil, nil, metadata) })
    assert.same({}, { storage:get("s", key, now) })
    expected = 'invalid key for a file\'s name (it holds "/" or a zero byte)'
    assert.same({ nil, expected }, { storage:set("s", key, "v", 60, now, "../old", 10) })
    assert.same({}, { storage:get("s", key, now) })
    expected = "invalid subject for a file's name (the name would have more than 255 bytes)"
    local mark = { storage:set("s", ("k"):rep(254), "1", 60, now) }
    local advice = "; hash_storage_key makes keys of marks shorter)"
    assert.same({ nil, (expected:gsub("subject", "key"):gsub("%)$", advice)) }, mark)
    metadata.subjects[1] = ("u"):rep(252)
    assert.same({ nil, expected }, { storage:set("s", key, "v", 60, now, nil, nil, metadata) })
  end)

  it("refuses a record that would be too large to read", function()
    local ok, err = make():set("s", "key", ("x"):rep(2 ^ 25 + 1), 60, ngx.time())
    assert.is_nil(ok)
    assert.matches("has 33554433 bytes %(at most 33554432 are allowed%)$", err)
  end)
end)
