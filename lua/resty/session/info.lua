---
-- The info store's table, `{ [audience] = { … } }`, and its JSON.
--
-- @module resty.session.info
-- @license BSD-2-Clause

local encode_part = require("resty.session.json").encode_part

local following = next -- by a name of its own: see docs/architecture.md, "Loops over tables"

local info = {}

--- Returns the table's key for an audience. An audience that is not a valid name becomes an error
--- only when it is saved.
---@param audience any
---@return string|number key
function info.key_of(audience)
  local is_name = type(audience) == "string" or type(audience) == "number" and audience == audience
  return is_name and audience or tostring(audience)
end

-- Returns the key for an audience in JSON, whose keys are strings. It tells the number 5 from the
-- string "5", and keeps cjson from taking a table whose keys are small numbers for an array.
local function json_key(audience)
  return type(audience) == "string" and audience or "\0" .. tostring(audience)
end

--- Changes the JSON keys in decoded info to the table's keys.
---@param decoded table? changed in place
---@param data table[] one entry `{ data, audience, subject }` for each audience
---@return table|false info
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

--- Encodes the table, or all of it except for one audience.
---@param own any the table
---@param without string|number|nil an audience
---@return string? text JSON; nil if there is nothing to encode
---@return string? err
function info.encode(own, without)
  if type(own) ~= "table" then
    return nil
  end
  local named = {}
  for audience, values in following, own do
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
