---
-- Option tables, as programs write them: what they hold, copies of it, and whether it has changed.
--
-- An option that is `ngx.null`, as in a configuration decoded from JSON, counts as absent. A table with a metatable
-- holds its own fields, and what its `__index` gives for the options that are known at that place.
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

-- Keeps older versions of LuaJIT from compiling a function with a loop over a table: see docs/architecture.md, "Loops over
-- tables". No more than those, because a function that calls one of them is not compiled either.
local function with_loop(f)
  if jit.version:find("beta", 1, true) then
    jit.off(f)
  end
end

local options = {}

-- How deep tables are looked into that are not known, which may hold themselves.
local DEPTH = 5
-- How many elements a metatable may give to an array.
local LONGEST = 1000
-- Where the copy of a table whose metatable may hide something keeps the table itself.
local ORIGIN = {}

-- What a table at some place holds: `names` are the options that its metatable may give, `fields` what it holds by name, and
-- `each` what it holds elsewhere.
---@class resty.session.options.shape
---@field names string[]?
---@field fields table<any, resty.session.options.shape>
---@field each resty.session.options.shape?
---@field list boolean? an array
---@field object boolean? with a metatable it is an object of the program, and not looked into

local OPAQUE = { fields = {}, object = true } -- compared by identity, whatever it holds
local INNER = { fields = {}, object = true }
INNER.each = INNER
-- The section of a module that is not ours.
local FOREIGN = { fields = { [ORIGIN] = OPAQUE }, each = INNER }
local LIST = { fields = {}, each = INNER, list = true }
local NODE = { fields = {}, each = INNER, names = { "host", "ip", "port" } }
local NODES = { fields = {}, each = NODE, list = true }

--- The shapes of the storages' own options, by the storage's name.
local SECTIONS = {}
for storage, names in next, native.storages.OPTIONS do
  SECTIONS[storage] = { fields = { nodes = NODES, sentinels = NODES }, each = INNER, names = names }
end

--- The shape of a session's configuration. `name_section` adds the sections of storages.
local SESSION = { fields = {}, each = FOREIGN, names = {} }
for i, name in next, native.OPTIONS do
  SESSION.names[i] = name
  SESSION.fields[name] = LIST
end
SESSION.fields.storage = OPAQUE
SESSION.fields.revocation = OPAQUE

--- Says that a session's configuration may hold a storage's options under a name.
-- @tparam string name
-- @tparam string storage the name of the storage's own options
function options.name_section(name, storage)
  SESSION.names[#SESSION.names + 1] = name
  SESSION.fields[name] = SECTIONS[storage]
end

-- What a table with a metatable holds, as a plain table; nil for an object.
local function flatten(value, shape)
  if shape.object then
    return nil
  end
  local result = {}
  for k, v in next, value do
    result[k] = v
  end
  if shape.list then
    for i = 1, LONGEST do
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
  elseif shape == OPAQUE or depth == 0 or getmetatable(kept) then -- no copy
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

--- What counts of an option's value.
-- @param value
-- @return the value; nil if it counts as absent
function options.present(value)
  if value ~= null then
    return value
  end
end

--- A session's configuration as a table that shows all that it holds.
-- @tparam table configuration
-- @treturn table the same, if it has no metatable
-- @raise a string, if it is not a table
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

--- A copy of a session's configuration.
-- @tparam table configuration as `visible` answers it
-- @treturn table
function options.copy(configuration)
  return copy(configuration, SESSION, DEPTH)
end

--- Whether a session's configuration holds what a copy holds.
-- @tparam table configuration as `visible` answers it
-- @tparam table kept
-- @treturn boolean
function options.equals(configuration, kept)
  return equals(configuration, kept, SESSION, DEPTH)
end

--- Whether a session's configuration has unknown options.
-- @tparam table configuration as `visible` answers it
-- @treturn boolean
function options.has_unknown(configuration)
  for name in next, configuration do
    if not SESSION.fields[name] then
      return true
    end
  end
  return false
end
with_loop(options.has_unknown)

--- The names under which a session's configuration may hold options, the sections of storages included.
-- @treturn table array of strings
function options.names()
  return SESSION.names
end

--- A copy of a storage's own configuration.
-- @tparam string storage the name of its options
-- @param configuration a table; anything else is returned as it is
function options.copy_section(storage, configuration)
  return copy(configuration, SECTIONS[storage], DEPTH)
end

return options
