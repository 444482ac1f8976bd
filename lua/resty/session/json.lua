---
-- JSON for sessions: cjson with its defaults, as in lua-resty-session. But integers keep all of
-- their digits, and empty arrays stay arrays if this cjson can tell them from objects.
--
-- @module resty.session.json
-- @license BSD-2-Clause

local native = require("resty.session.native").utils

local getmetatable, setmetatable = getmetatable, setmetatable
local next, type = next, type
local following = next -- by a name of its own: see docs/architecture.md, "Loops over tables"

-- A double holds every integer up to this one exactly.
local LARGEST_INTEGER = 2 ^ 53
-- cjson writes 14 digits. Integers with more digits get one of two exponents.
local SMALLEST_WITH_EXPONENT = 1e14
local EXPONENT, NUMBER_WITH_EXPONENT = "e+1", "%de%+1[45]"

local json = {}

-- Returns whether cjson would write a value, if it is an integer, without some of its digits.
local function loses_digits(value)
  local size = type(value) == "number" and (value < 0 and -value or value) or 0
  return size > SMALLEST_WITH_EXPONENT and size <= LARGEST_INTEGER and size % 1 == 0
     and tonumber(("%.14g"):format(value)) ~= value
end

-- Returns a copy for cjson in which a string stands for each integer that would lose digits: a
-- prefix and the digits. `metatables` holds those that cjson knows.
local function with_digits_as_text(value, prefix, metatables)
  if type(value) ~= "table" then
    return loses_digits(value) and prefix .. ("%.0f"):format(value) or value
  end
  local copy = {}
  for k, v in following, value do
    copy[loses_digits(k) and ("%.0f"):format(k) or k] = with_digits_as_text(v, prefix, metatables)
  end
  local meta = getmetatable(value)
  return metatables[meta] and setmetatable(copy, meta) or copy
end

-- Removes cjson's mark from all arrays except for empty ones, and from the outermost `levels` of
-- tables. The mark is a metatable under which cjson writes only the array part: what a program
-- stores under other keys would be lost.
local function mark_empty(value, levels, array_mt, empty_array_mt)
  if getmetatable(value) == array_mt then
    setmetatable(value, levels <= 0 and next(value) == nil and empty_array_mt or nil)
  end
  for _, inner in following, value do
    if type(inner) == "table" then
      mark_empty(inner, levels - 1, array_mt, empty_array_mt)
    end
  end
end

-- Returns whether a table has a key that is not a position in an array.
local function has_other_keys(value)
  local count = #value
  for key in following, value do
    if type(key) ~= "number" or key < 1 or key > count or key % 1 ~= 0 then
      return true
    end
  end
  return false
end

-- Removes the mark from tables that have other keys by now: cjson would write `[]`. Returns whether
-- there were any.
local function unmark_filled(value, empty_array_mt)
  local found = false
  if getmetatable(value) == empty_array_mt and has_other_keys(value) then
    setmetatable(value, nil)
    found = true
  end
  for _, inner in following, value do
    found = type(inner) == "table" and unmark_filled(inner, empty_array_mt) or found
  end
  return found
end

-- Returns a random string that a text does not contain.
local function absent_from(text)
  local absent
  repeat
    absent = native.encode_base64url(native.rand_bytes(16)):gsub("%W", "") .. ":"
  until not text:find(absent, 1, true)
  return absent
end

-- Returns an instance of cjson that marks arrays when it decodes, or nil if this cjson can't do
-- that.
local function new_marking_codec(cjson)
  if cjson.array_mt and cjson.empty_array_mt and cjson.decode_array_with_array_mt then
    local codec = cjson.new()
    return pcall(codec.decode_array_with_array_mt, true) and codec or nil
  end
end

--- Makes an encoder and a decoder. Both return a value, or nil and an error. The decoder does not
--- mark the outermost `levels` of tables as arrays.
---@param cjson table `cjson.safe`
---@return fun(value: any): string?, string? encode
---@return fun(text: string, levels: integer?): any, string? decode
function json.new(cjson)
  local codec, arrays = cjson.new(), new_marking_codec(cjson)
  local array_mt, empty_array_mt = cjson.array_mt, cjson.empty_array_mt
  local metatables = arrays and { [array_mt] = true, [empty_array_mt] = true } or {}

  local function encode(value)
    local text, err = codec.encode(value)
    if not text then
      return nil, err
    end
    if arrays and type(value) == "table" and text:find("[]", 1, true) and unmark_filled(value, empty_array_mt) then
      text = codec.encode(value)
    end
    if not text:find(EXPONENT, 1, true) or not text:find(NUMBER_WITH_EXPONENT) then
      return text
    end
    local prefix = absent_from(text)
    local marked = codec.encode(with_digits_as_text(value, prefix, metatables))
    return marked and marked:gsub('"' .. prefix .. '(%-?%d+)"', "%1") or text
  end

  local function decode(text, levels)
    if not arrays or type(text) ~= "string" or not text:find("[]", 1, true) then
      return codec.decode(text)
    end
    local value, err = arrays.decode(text)
    if type(value) == "table" then
      mark_empty(value, levels or 0, array_mt, empty_array_mt)
    end
    return value, err
  end

  return encode, decode
end

json.encode, json.decode = json.new(require "cjson.safe")

local function part(result, cause, direction, what)
  if result == nil then
    return nil, "unable to json " .. direction .. " session " .. what .. " (" .. tostring(cause) .. ")"
  end
  return result
end

--- Encodes a part of a session.
---@param what string the part: `data` or `info`
---@param value any
---@return string? text
---@return string? err names the part
function json.encode_part(what, value)
  local text, err = json.encode(value)
  return part(text, err, "encode", what)
end

--- Decodes a part of a session.
---@param what string the part: `data` or `info`
---@param text string
---@param levels integer see `new`: so many belong to the session, the others hold what a program stored
---@return any value
---@return string? err names the part
function json.decode_part(what, text, levels)
  local value, err = json.decode(text, levels)
  return part(value, err, "decode", what)
end

return json
