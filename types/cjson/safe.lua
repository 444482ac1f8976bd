---@meta cjson.safe

-- The cjson that nginx' Lua brings, as far as it is used here.

---@class cjson.safe
---@field array_mt table
---@field empty_array_mt table
---@field null lightuserdata
local cjson = {}

---@return cjson.safe
function cjson.new() end

---@param value any
---@return string? text
---@return string? err
function cjson.encode(value) end

---@param text string
---@return any value nil if there is an error
---@return string? err
function cjson.decode(text) end

return cjson
