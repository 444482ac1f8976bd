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
-- `place` says where the first cookie's value starts and ends there.
local lazy_meta = {}

local SPAN = 2 ^ 26 -- bytes; longer than any Cookie header

function lazy_meta.__index(meta, name)
  if name == "known_at" then
    return rawget(meta, "timestamp")
  end
  local read, place = rawget(meta, "read"), rawget(meta, "place")
  if read then
    meta.read, meta.place, meta.value = nil, nil, read:sub(math.floor(place / SPAN), place % SPAN)
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

-- `ikm` is the key material that authenticates it. `value` is that of the first cookie, or where it starts in the Cookie
-- header `read`; it ends at `read_to`. `known_at` is when its record was last known to exist, if that is not now.
local function new(ikm, now, value, known_at, read, read_to)
  if read_to then
    return setmetatable({ timestamp = now, ikm = ikm, read = read, place = value * SPAN + read_to }, lazy_meta)
  end
  return setmetatable({ timestamp = now, ikm = ikm, value = value, known_at = known_at }, lazy_meta)
end

return { new = new }
