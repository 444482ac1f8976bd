-- With Debian's cjson, which cannot tell empty arrays from objects, and with OpenResty's, which
-- can.

local cjson = require "cjson.safe"
local json = require "resty.session.json"
local session = require "resty.session"
local support = require "spec.support"
local utils = require "resty.session.utils"

local KEEPS_ARRAYS = cjson.decode_array_with_array_mt ~= nil

describe("JSON", function()
  local browser

  support.fresh(function(fresh)
    browser = fresh
  end)

  -- Returns the text of some JSON after decoding and encoding it.
  local function again(text)
    return (json.encode((assert(json.decode(text)))))
  end

  local INTEGERS = {
    "99999999999999", "100000000000001", "123456789012345", "999999999999999", "1000000000000001", "1234567890123456",
    "9007199254740991", "9007199254740992", "-100000000000001", "-1234567890123456", "-9007199254740992",
  }

  it("keeps the digits of integers", function()
    for _, digits in ipairs(INTEGERS) do
      assert.equal("[" .. digits .. "]", again("[" .. digits .. "]"))
      assert.equal(tonumber(digits), json.decode(json.encode({ n = tonumber(digits) })).n)
      assert.equal('{"a":{"b":[1,' .. digits .. ',"x"]}}', again('{"a":{"b":[1,' .. digits .. ',"x"]}}'))
    end
    assert.equal("1234567890123456", json.encode(1234567890123456))
    assert.equal('{"k":{"1234567890123456":true}}', json.encode({ k = { [1234567890123456] = true } }))
  end)

  it("writes everything else as cjson does", function()
    local plain = require("cjson.safe").new()
    local values = {
      8.2, 0.1, 1 / 3, 0.1 + 0.2, 1e14, 1e15, -1e15, 5e15, 123456789012345.6, 2 ^ 53 + 2, 1e16, 1.5e300, 1e-20,
      -0.5, 0, 12345678901234, "", "1e+14", "e+1", "1.2345678901235e+15", "a/b", "\127\0\1\255", true, false,
      cjson.null, {}, { 1, nil, 3 }, { [6] = 1 }, { x = { y = {} } },
    }
    for _, value in pairs(values) do
      assert.equal(plain.encode(value), json.encode(value))
      assert.equal(plain.encode({ a = value }), json.encode({ a = value }))
      -- Together with an integer whose digits are kept.
      assert.equal('[1234567890123456,' .. plain.encode(value) .. "]", json.encode({ 1234567890123456, value }))
    end
    for _, bad in ipairs { 0 / 0, 1 / 0, print, { [{}] = 1 }, { [1] = 1, [100] = 2 } } do
      local _, expected = plain.encode(bad)
      assert.is_string(expected)
      assert.same({ [2] = expected }, { json.encode(bad) })
      local text, err = json.encode({ 1234567890123456, bad })
      assert.is_nil(text)
      assert.equal(select(2, plain.encode({ 1, bad })), err)
    end
    for _, bad in ipairs { "", "{", "[1", "nul", "[1]]" } do
      assert.same({ plain.decode(bad) }, { json.decode(bad) })
    end
    assert.equal(5, json.decode(5))
    assert.is_nil((json.decode(nil)))
    local nested = ("["):rep(1000) .. ("]"):rep(1000)
    assert.equal(plain.decode(nested) ~= nil, json.decode(nested) ~= nil)
    assert.is_nil((json.decode("[" .. nested .. "]")))
  end)

  it("does not take a string for a number", function()
    local texts = { "1234567890123456", "1.2345678901235e+15", "x:1234567890123456" }
    local decoded = json.decode(json.encode({ 1234567890123456, texts }))
    assert.same({ 1234567890123456, texts }, decoded)
  end)

  it("keeps the kind of empty arrays where cjson can", function()
    local texts = { "[]", "[[]]", "[{}]", '{"a":[]}', '{"a":{}}', '{"a":[[],{},[1,[]]]}', '[1,{"b":[]}]' }
    for _, text in ipairs(texts) do
      assert.equal(KEEPS_ARRAYS and text or (text:gsub("%[%]", "{}")), again(text))
      assert.equal(KEEPS_ARRAYS and text or (text:gsub("%[%]", "{}")), utils.encode_json(utils.decode_json(text)))
    end
    local t = json.decode('{"a":[1,2],"n":1234567890123456}')
    t.a = json.decode("[]")
    assert.equal(KEEPS_ARRAYS and "[]" or "{}", json.encode(t):match('"a":(..)'))
    assert.matches('"n":1234567890123456[,}]', json.encode(t))
  end)

  it("keeps what a program stores under other keys in a decoded array", function()
    for _, text in ipairs { "[]", "[1,2]" } do
      local t = json.decode('{"list":' .. text .. "}")
      t.list.name = "x"
      assert.equal("x", json.decode(json.encode(t)).list.name)
      t.id = 1234567890123456
      assert.equal("x", json.decode(json.encode(t)).list.name)
      t = json.decode('{"list":' .. text .. "}")
      t.list[6] = 6
      assert.equal(6, json.decode(json.encode(t)).list[6])
    end
    assert.equal("x", json.decode(json.encode((function()
      local t = json.decode("[[[]]]", 3)
      t[1][1].name = "x"
      assert.is_nil(getmetatable(t) or getmetatable(t[1]) or getmetatable(t[1][1]))
      return t
    end)()))[1][1].name)
  end)

  it("uses marks only with a cjson that has them", function()
    local asked
    local function decode(more)
      local codec = support.with({ decode = function() return {} end }, more)
      codec.new = function() return support.with(codec) end
      asked = nil
      return (select(2, json.new(codec))("[]"))
    end
    local mt, can = {}, function(on) asked = on end
    assert.same({}, decode())
    assert.same({}, decode({ array_mt = mt, empty_array_mt = mt }))
    assert.same({}, decode({ array_mt = mt, decode_array_with_array_mt = can }))
    assert.is_nil(asked)
    assert.same({}, decode({ array_mt = mt, empty_array_mt = mt, decode_array_with_array_mt = error }))
    assert.same({}, decode({ array_mt = mt, empty_array_mt = mt, decode_array_with_array_mt = can }))
    assert.is_true(asked)
  end)

  it("keeps integers and empty arrays in a session's data and info", function()
    for _, storage in ipairs { "cookie", "shm" } do
      for _, audiences in ipairs { { "a" }, { "b", "a" } } do
        browser = support.browser()
        for _, audience in ipairs(audiences) do
          local s = session.open({ storage = storage, audience = audience })
          s:set_data(json.decode('{"list":[],"object":{},"inner":{"list":[1]},"id":1234567890123456,"n":8.2}'))
          s.info:set("list", json.decode("[]"))
          s.info:set("id", 1234567890123456)
          assert(s:save())
          browser:next()
        end
        local s, err = session.open({ storage = storage, audience = "a" })
        assert.is_nil(err)
        local empty = KEEPS_ARRAYS and "[]" or "{}"
        assert.equal(empty, json.encode(s:get("list")))
        assert.equal("{}", json.encode(s:get("object")))
        assert.equal("[1]", json.encode(s:get("inner").list))
        assert.equal(1234567890123456, s:get("id"))
        assert.equal(8.2, s:get("n"))
        assert.equal(empty, json.encode(s.info:get("list")))
        assert.equal(1234567890123456, s.info:get("id"))
      end
    end
  end)

  it("stores values in data and info that were decoded as arrays", function()
    for _, storage in ipairs { "cookie", "shm" } do
      for _, audiences in ipairs { { "a" }, { "b", "a" } } do
        browser = support.browser()
        for _, audience in ipairs(audiences) do
          local s = session.open({ storage = storage, audience = audience })
          s:set_data(KEEPS_ARRAYS and setmetatable({}, cjson.array_mt) or {})
          assert(s:save())
          browser:next()
        end
        local options = { storage = storage, audience = "a" }
        local s = session.open(options)
        s:set("k", "v")
        s.info:set("i", 1)
        assert(s:save())
        browser:next()
        s = session.open(options)
        assert.equal("v", s:get("k"))
        assert.equal(1, s.info:get("i"))
      end
    end
  end)
end)
