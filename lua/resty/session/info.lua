---
-- The info store's table, `{ [audience] = { … } }`, and how it is written.
--
-- @module resty.session.info
-- @license BSD-2-Clause

local encode_part = require("resty.session.json").encode_part

local following = next -- by a name of its own: see docs/architecture.md, "Loops over tables"

local info = {}

--- Where an audience's info stands in the table. What is not a name is an error only when it is saved.
-- @param audience
-- @return a key
function info.place(audience)
  local is_name = type(audience) == "string" or type(audience) == "number" and audience == audience
  return is_name and audience or tostring(audience)
end

-- Where an audience's info stands in JSON, whose keys are text: a number is not its text, and cjson would take a table
-- with small numbers for an array.
local function json_key(audience)
  return type(audience) == "string" and audience or "\0" .. tostring(audience)
end

--- Puts decoded info where its audiences have it.
-- @tparam[opt] table decoded
-- @tparam table data one `{ data, audience, subject }` an audience
-- @treturn table|false
function info.by_audience(decoded, data)
  for i = 1, #data do
    local audience = data[i][2]
    if decoded and type(audience) == "number" then
      local key = json_key(audience)
      decoded[audience], decoded[key] = decoded[key], nil
    end
  end
  return decoded or false
end

--- Encodes the table, or what it holds besides one audience.
-- @param own the table
-- @param[opt] without an audience
-- @treturn string|nil JSON; nil if there is nothing to encode
-- @treturn string|nil error
function info.encode(own, without)
  local named = {}
  for audience, values in following, type(own) == "table" and own or named do
    if audience ~= without then
      named[json_key(audience)] = values
    end
  end
  if next(named) == nil then
    return nil
  end
  return encode_part("info", named)
end

return info
