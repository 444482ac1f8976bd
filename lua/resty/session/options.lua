---
-- Option tables as programs write them: what they hold, copies of them, and whether they have
-- changed.
--
-- An option that is `ngx.null`, as in a configuration decoded from JSON, counts as absent. A table
-- with a metatable holds its own fields, and what its `__index` returns for the options that are
-- known at that place.
--
-- @module resty.session.options
-- @license BSD-2-Clause

local native = require "resty.session.native"

local getmetatable = getmetatable
local rawequal = rawequal
local rawget = rawget
local type = type
local next = next
local null = ngx.null

-- Keeps older versions of LuaJIT from compiling a function with a loop over a table: see
-- docs/architecture.md, "Loops over tables". Only such functions are passed here, because LuaJIT
-- does not compile the callers of one either.
local function with_loop(f)
  if jit.version:find("beta", 1, true) then
    jit.off(f)
  end
end

local options = {}

-- How many levels of unknown tables are copied and compared. They may contain themselves.
local MAX_DEPTH = 5
-- How many elements are read from an array that has a metatable.
local MAX_ELEMENTS = 1000
-- The key under which the copy of a table whose metatable may hide fields keeps the table itself.
local ORIGIN = {}

-- What a table at some place holds: `names` are the options that its metatable may give, `fields`
-- the shapes of what it holds by name, and `each` the shape of everything else.
---@class resty.session.options.shape
---@field names string[]?
---@field fields table<any, resty.session.options.shape>
---@field each resty.session.options.shape?
---@field list boolean? an array
---@field object boolean? whether such a table with a metatable is an object of the program, compared by identity

local OPAQUE = { fields = {}, object = true } -- compared by identity, whatever it holds
local INNER = { fields = {}, object = true }
INNER.each = INNER
-- The section of a module that is not part of this library.
local FOREIGN = { fields = { [ORIGIN] = OPAQUE }, each = INNER }
local LIST = { fields = {}, each = INNER, list = true }
local NODE = { fields = {}, each = INNER, names = native.storages.NODE_OPTIONS }
local NODES = { fields = {}, each = NODE, list = true }

local SECTION_FIELDS = {}
for _, name in next, native.storages.NODE_LISTS do
  SECTION_FIELDS[name] = NODES
end

-- The shapes of the storages' own options, by each name of a storage.
local SECTIONS = {}
for _, storage in next, native.storages.NAMES do
  SECTIONS[storage] = { fields = SECTION_FIELDS, each = INNER, names = native.storages.OPTIONS[storage] }
end
for alias, storage in next, native.storages.ALIASES do
  SECTIONS[alias] = SECTIONS[storage]
end

-- The shape of a session's configuration.
local SESSION = { fields = {}, each = FOREIGN, names = {} }
for i, name in next, native.OPTIONS do
  SESSION.names[i] = name
  SESSION.fields[name] = LIST
end
for storage, shape in next, SECTIONS do
  SESSION.names[#SESSION.names + 1] = storage
  SESSION.fields[storage] = shape
end
SESSION.fields.storage = OPAQUE
SESSION.fields.revocation = OPAQUE

-- Returns what a table with a metatable holds, as a plain table, or nil for an object.
---@param shape resty.session.options.shape
---@return table?
local function flatten(value, shape)
  if shape.object then
    return nil
  end
  local result = {}
  for k, v in next, value do
    result[k] = v
  end
  if shape.list then
    for i = 1, MAX_ELEMENTS do
      if value[i] == nil then
        break
      end
      result[i] = value[i]
    end
  elseif shape.names then
    for i = 1, #shape.names do
      local name = shape.names[i]
      result[name] = value[name]
    end
  else
    local meta = getmetatable(value)
    local inherited = type(meta) == "table" and rawget(meta, "__index")
    for k, v in next, type(inherited) == "table" and inherited or {} do
      result[k] = result[k] == nil and v or result[k]
    end
    result[ORIGIN] = value
  end
  return result
end
with_loop(flatten)

local function copy(value, shape, depth)
  if type(value) ~= "table" or shape == OPAQUE or depth == 0 then
    return value
  end
  local source = value
  if getmetatable(value) then
    source = flatten(value, shape)
    if not source then
      return value
    end
  end
  local result, fields, each = {}, shape.fields, shape.each
  for k, v in next, source do
    result[k] = copy(v, fields[k] or each, depth - 1)
  end
  return result
end
with_loop(copy)

local function equals(value, kept, shape, depth)
  if type(kept) ~= "table" then
    return false
  elseif shape == OPAQUE or depth == 0 or getmetatable(kept) then -- kept is the program's own table, not a copy
    return rawequal(value, kept)
  end
  if getmetatable(value) then
    value = flatten(value, shape)
    if not value then
      return false
    end
  end
  local fields, each = shape.fields, shape.each
  for k, v in next, value do
    if type(v) == "table" then
      if not equals(v, kept[k], fields[k] or each, depth - 1) then
        return false
      end
    elseif v ~= kept[k] then
      return false
    end
  end
  for k in next, kept do
    if value[k] == nil then
      return false
    end
  end
  return true
end
with_loop(equals)

--- Returns an option's value, or nil if it counts as absent.
---@param value any
---@return any value
function options.present(value)
  if value ~= null then
    return value
  end
end

--- Returns a session's configuration as a table without a metatable that holds all of its options.
---@param configuration table
---@return table visible the same table, if it has no metatable
---@raise a string, if it is not a table
function options.visible(configuration)
  if type(configuration) ~= "table" then
    error("invalid configuration (table expected, got " .. type(configuration) .. ")", 0)
  elseif not getmetatable(configuration) then
    return configuration
  end
  local result = flatten(configuration, SESSION)
  local storage = result.storage
  if type(storage) == "string" and result[storage] == nil then
    result[storage] = configuration[storage]
  end
  return result
end

--- Returns a copy of a session's configuration.
---@param configuration table as `visible` returns it
---@return table copy
function options.copy(configuration)
  return copy(configuration, SESSION, MAX_DEPTH)
end

--- Returns whether a session's configuration holds what a copy holds.
---@param configuration table as `visible` returns it
---@param kept table the copy
---@return boolean
function options.equals(configuration, kept)
  return equals(configuration, kept, SESSION, MAX_DEPTH)
end

--- Returns whether a session's configuration has unknown options.
---@param configuration table as `visible` returns it
---@return boolean
function options.has_unknown(configuration)
  for name in next, configuration do
    if not SESSION.fields[name] then
      return true
    end
  end
  return false
end
with_loop(options.has_unknown)

--- Returns the names that a session's configuration may have, those of the storages' sections
--- included.
---@return string[]
function options.names()
  return SESSION.names
end

--- Returns a copy of a storage's own configuration.
---@param storage string the name of the storage
---@param configuration any a table; any other value is returned as it is
---@return any copy
function options.copy_section(storage, configuration)
  return copy(configuration, SECTIONS[storage], MAX_DEPTH)
end

return options
