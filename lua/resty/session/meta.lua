---
-- What is known of a cookie that was opened or saved: `session.meta`.
--
-- @module resty.session.meta
-- @license BSD-2-Clause

local native = require "resty.session.native"

local following = next -- by a name of its own: see docs/architecture.md, "Loops over tables"

---@class resty.session.meta What is known of a cookie that was opened or saved
---@field timestamp integer? when it was opened, saved or touched, seconds since the epoch
---@field flags integer?
---@field sid string? raw session id, 32 bytes
---@field creation_time integer? seconds since the epoch
---@field rolling_offset integer? seconds
---@field idling_offset integer? seconds
---@field data_size integer? characters of the payload
---@field ikm string? the initial key material that authenticates it, 32 bytes
---@field header string? raw header, 82 bytes
---@field initial_chunk string? the payload's part in the first cookie

-- Most programs never look at a header's fields: they are read when one first does. Until then a meta has four fields, of
-- which a table of the smallest size that there is has room. `known_at` is when its record was last known to exist; where
-- that is when it was opened or saved, `timestamp` says so. If it was opened, `read` is the request's Cookie header, and
-- `place` says where the first cookie's value starts, times PLACE_FACTOR, and ends there.
local lazy_meta = {}

local PLACE_FACTOR = native.PLACE_FACTOR

function lazy_meta.__index(self, name)
  if name == "known_at" then
    return rawget(self, "timestamp")
  end
  local read, place = rawget(self, "read"), rawget(self, "place")
  if read then
    self.read, self.place, self.value = nil, nil, read:sub(math.floor(place / PLACE_FACTOR), place % PLACE_FACTOR)
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

--- What is known of a cookie that an act read.
---@param ikm string the key material that authenticates it
---@param now integer seconds since the epoch
---@param cookies string the request's Cookie header
---@param place integer where the value of its first cookie starts and ends there
---@return resty.session.meta
function meta.read(ikm, now, cookies, place)
  return setmetatable({ timestamp = now, ikm = ikm, read = cookies, place = place }, lazy_meta)
end

--- What is known of a cookie that an act saved.
---@param ikm string the key material that authenticates it
---@param now integer seconds since the epoch
---@param value string that of its first cookie
---@param known_at integer? when its record was last known to exist, if that is not now
---@return resty.session.meta
function meta.saved(ikm, now, value, known_at)
  return setmetatable({ timestamp = now, ikm = ikm, value = value, known_at = known_at }, lazy_meta)
end

return meta
