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
-- first cookie's value starts, times POSITION_FACTOR, and ends in it.
local lazy_meta = {}

local POSITION_FACTOR = native.POSITION_FACTOR

function lazy_meta.__index(self, name)
  if name == "known_at" then
    return rawget(self, "timestamp")
  end
  local read, position = rawget(self, "read"), rawget(self, "position")
  if read then
    self.read, self.position = nil, nil
    self.value = read:sub(math.floor(position / POSITION_FACTOR), position % POSITION_FACTOR)
  end
  if name == "value" then
    return rawget(self, name)
  end
  local fields = native.header_fields(rawget(self, "value"))
  setmetatable(self, nil)
  self.known_at = rawget(self, "known_at") or self.timestamp
  for field, value in following, fields or {} do
    self[field] = value
  end
  return rawget(self, name)
end

local meta = {}

--- Returns the meta of a cookie that an act has read.
---@param ikm string the key material of its keys
---@param now integer seconds since the epoch
---@param cookies string the request's Cookie header
---@param position integer where the first cookie's value starts and ends in it
---@return resty.session.meta meta
function meta.read(ikm, now, cookies, position)
  return setmetatable({ timestamp = now, ikm = ikm, read = cookies, position = position }, lazy_meta)
end

--- Returns the meta of a cookie that an act has saved.
---@param ikm string the key material of its keys
---@param now integer seconds since the epoch
---@param value string the first cookie's value
---@param known_at integer? when its record was last known to exist, if that is not now
---@return resty.session.meta meta
function meta.saved(ikm, now, value, known_at)
  return setmetatable({ timestamp = now, ikm = ikm, value = value, known_at = known_at }, lazy_meta)
end

return meta
