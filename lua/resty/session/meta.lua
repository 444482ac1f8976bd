---
-- `session.meta`: the header's fields, and more, of a cookie that was opened or saved.
--
-- @module resty.session.meta
-- @license BSD-2-Clause

local native = require "resty.session.native"

local following = next -- by a name of its own: see docs/architecture.md, "Loops over tables"

---@class resty.session.meta
---@field timestamp integer? when it was opened, saved or touched: seconds since the epoch
---@field flags integer?
---@field sid string? raw session id, 32 bytes
---@field creation_time integer? seconds since the epoch
---@field rolling_offset integer? seconds
---@field idling_offset integer? seconds
---@field data_size integer? characters of the payload
---@field ikm string? the initial key material of its keys, 32 bytes
---@field header string? raw header, 82 bytes
---@field initial_chunk string? the payload's part in the first cookie
---@field value string? the first cookie's value
---@field known_at integer? when its record was last known to exist

-- Most programs never use a header's fields, so they are decoded only when a program first does.
-- Until then, a meta has four fields at most, which fit into a Lua table of the smallest size.
-- `known_at` is when its record was last known to exist; it is left out if that is the `timestamp`.
-- If the cookie was opened, `read` is the request's Cookie header, and `position` tells where the
-- first cookie's value starts and ends in it.
local lazy_meta = {}

-- A position is the start times this, plus the end. In bytes, and more than any Cookie header has.
local POSITION_FACTOR = 2 ^ 26

function lazy_meta.__index(meta, name)
  if name == "known_at" then
    return rawget(meta, "timestamp")
  end
  local read, position = rawget(meta, "read"), rawget(meta, "position")
  if read then
    meta.read, meta.position = nil, nil
    meta.value = read:sub(math.floor(position / POSITION_FACTOR), position % POSITION_FACTOR)
  end
  if name == "value" then
    return rawget(meta, name)
  end
  local fields = native.header_fields(rawget(meta, "value"))
  setmetatable(meta, nil)
  meta.known_at = rawget(meta, "known_at") or meta.timestamp
  for field, value in following, fields or {} do
    meta[field] = value
  end
  return rawget(meta, name)
end

--- Returns a meta.
---@param ikm string the key material of its keys
---@param now integer seconds since the epoch
---@param value string|integer the first cookie's value, or where it starts in the Cookie header `read`
---@param known_at integer? when its record was last known to exist, if that is not now
---@param read string? the Cookie header
---@param read_to integer? where the value ends in it
---@return resty.session.meta meta
local function new(ikm, now, value, known_at, read, read_to)
  if read_to then
    local position = value * POSITION_FACTOR + read_to
    return setmetatable({ timestamp = now, ikm = ikm, read = read, position = position }, lazy_meta)
  end
  return setmetatable({ timestamp = now, ikm = ikm, value = value, known_at = known_at }, lazy_meta)
end

return { new = new }
