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

-- Most programs never look at a header's fields: they are read when one first does.
local lazy_meta = {}

function lazy_meta.__index(meta, name)
  local read = rawget(meta, "read")
  if read then
    meta.read, meta.value = nil, read:sub(meta.read_from, meta.read_to)
  end
  if name == "value" then
    return rawget(meta, name)
  end
  local fields = native.header_fields(rawget(meta, "value"))
  setmetatable(meta, nil)
  for field, value in following, fields or {} do
    meta[field] = value
  end
  return rawget(meta, name)
end

-- `ikm` is the key material that authenticates it. `value` is that of the first cookie, or where it starts in the Cookie
-- header `read`; it ends at `read_to`. `known_at` is when its record was last known to exist: when it was opened or saved.
local function new(ikm, now, value, known_at, read, read_to)
  return setmetatable({
    timestamp = now,
    known_at = known_at or now,
    ikm = ikm,
    value = not read_to and value or nil,
    read = read_to and read,
    read_from = read_to and value,
    read_to = read_to,
  }, lazy_meta)
end

return { new = new }
