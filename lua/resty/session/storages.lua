---
-- The storages by name, and which of their methods an act calls.
--
-- @module resty.session.storages
-- @license BSD-2-Clause

local native = require("resty.session.native").storages
-- Loaded together with the first session, because it learns from the phase how long this Lua VM
-- lives.
local waiting = require "resty.session.waiting"
local options = require "resty.session.options"

local error = error
local getmetatable = getmetatable
local pcall = pcall
local rawget = rawget
local require = require
local tostring = tostring
local type = type
local following = next -- by a name of its own: see docs/architecture.md, "Loops over tables"

-- By each name of a storage, the section of the configuration that holds its options; an alias also
-- has a section of its own name, which comes first.
local SECTIONS = {}
for _, name in following, native.NAMES do
  SECTIONS[name] = name
end
for alias, name in following, native.ALIASES do
  SECTIONS[alias] = name
end

-- The modules that are not named after their section.
local MODULES = {
  ["redis-cluster"] = "resty.session.redis.cluster",
  ["redis-sentinel"] = "resty.session.redis.sentinel",
}

local function module_of(name)
  return MODULES[name] or SECTIONS[name] and "resty.session." .. SECTIONS[name] or name
end

local storages = {}

--- Returns whether the option `storage` names a module that is not part of this library.
---@param storage any
---@return boolean
function storages.is_module(storage)
  return type(storage) == "string" and storage ~= "cookie" and not SECTIONS[storage]
end

-- Returns a storage's own part of a session's configuration, or nil, and the name of the option
-- that holds it.
local function section_of(name, configuration)
  local own, section = options.present(configuration[name]), SECTIONS[name]
  if own == nil and section then
    return options.present(configuration[section]), section
  end
  return own, name
end

--- Returns the options of one of this library's storages in a session's configuration.
---@param storage any the option `storage`
---@param configuration table
---@return table? section nil if it is missing, or if the storage is not one of this library's
function storages.own_section(storage, configuration)
  if SECTIONS[storage] then
    local section = section_of(storage, configuration)
    return type(section) == "table" and section or nil
  end
end

-- By the metatable of a storage of this library: its methods as they were before a program replaced
-- any.
local originals = setmetatable({}, { __mode = "k" }) ---@type table<table, table<string, function>>
-- By a storage on the bridge: its metatable.
local on_bridge = setmetatable({}, { __mode = "k" }) ---@type table<table, table>

--- Keeps the methods of a storage of this library, so that a method that a program replaces later
--- is noticed.
---@param meta table the metatable of the storage's objects
function storages.keep_originals(meta)
  originals[meta] = { get = meta.get, set = meta.set, delete = meta.delete, read_metadata = meta.read_metadata }
end

--- Registers a storage on the bridge: sessions' acts may call its native storage directly.
---@param storage resty.session.bridged
function storages.register(storage)
  on_bridge[storage] = getmetatable(storage)
end

--- Returns what a session's acts need to call a storage's native storage directly.
---@param storage any
---@return userdata? native the native storage; nil if the storage is not on the bridge
---@return function? prepare `prepare(storage)`, to be called before an act
function storages.native(storage)
  local meta = on_bridge[storage]
  if meta then
    return storage.native, meta.__prepare
  end
end

-- Returns the original methods of a storage, and its metatable, if that still belongs to this
-- library and is its own `__index`.
local function originals_of(storage)
  local meta = getmetatable(storage)
  local original = originals[meta]
  if original and rawget(meta, "__index") == meta then
    return original, meta
  end
end

--- Returns whether all methods that acts call are this library's. They are not if a program has
--- replaced one in the object or in the metatable, or has replaced the metatable.
---@param storage table
---@return boolean
function storages.is_original(storage)
  local original = originals_of(storage)
  return original ~= nil
     and storage.get == original.get and storage.set == original.set and storage.delete == original.delete
end

local is_original = storages.is_original

--- Returns the native handle to run an act with. An act calls the native storage directly, unless a
--- program has replaced a method of the storage: then it calls the storage's methods.
---@param profile resty.session.profile
---@return userdata handle
---@return string? err why this thread can't wait for the native storage
function storages.handle_of(profile)
  local asked = profile.asked
  if not asked then
    return profile.handle
  elseif is_original(asked) then
    return profile.handle, profile.prepare(asked)
  end
  return profile.calling_handle
end

-- Replaces a record's value. A storage of this library does so only if the record exists. Others
-- have no method for that, and neither has one whose `set` a program has replaced: there, `set`
-- stores the record.
local function update(storage, request)
  local name, key, value = request.name, request.key, request.value
  local ttl, current_time = request.ttl, request.current_time
  local original, meta = originals_of(storage)
  if original and storage.set == original.set then
    return meta.__update(storage, name, key, value, ttl, current_time)
  end
  local ok, err = storage:set(name, key, value, ttl, current_time)
  return ok, not ok and err == nil and "the storage gives no reason" or err
end

-- Stores a record. Only the original `set` of this library gets `old_must_exist`: nothing may be
-- stored if the replaced record is gone.
local function set(storage, request)
  local name, key, value = request.name, request.key, request.value
  local ttl, current_time = request.ttl, request.current_time
  local old_key, stale_ttl, metadata = request.old_key, request.stale_ttl, request.metadata
  local original = request.old_must_exist and originals_of(storage)
  if original and storage.set == original.set then
    return storage:set(name, key, value, ttl, current_time, old_key, stale_ttl, metadata, true)
  end
  return storage:set(name, key, value, ttl, current_time, old_key, stale_ttl, metadata)
end

-- How many records are deleted before other requests have their turn: a storage in Lua, such as
-- shm, may do its work without ever waiting.
local DELETES_AT_ONCE = 16

-- Deletes records one by one, up to the first failure.
local function delete_each(storage, requests)
  if #requests > DELETES_AT_ONCE then
    waiting.pause() -- making so many requests has taken a while, too
  end
  for i = 1, #requests do
    local request = requests[i]
    local ok, err = storage:delete(request.name, request.key, request.current_time, request.metadata)
    if not ok then
      return ok, err
    end
    if i % DELETES_AT_ONCE == 0 then
      waiting.pause()
    end
  end
  return true
end

-- Lists the sessions of an owner, if the storage can. Returns them in a table, or as the original
-- `read_metadata` of shared memory gathers them for acts.
local function read_metadata(storage, request)
  if not storage.read_metadata then
    return nil, "the storage has no method read_metadata"
  end
  local name, audience, subject, current_time = request.name, request.audience, request.subject, request.current_time
  local original, meta = originals_of(storage)
  if original and meta.__gather and storage.read_metadata == original.read_metadata then
    return meta.__gather(storage, name, audience, subject, current_time)
  end
  return storage:read_metadata(name, audience, subject, current_time)
end

--- Calls the storage method that an act needs, other than `get`.
---@param storage table
---@param request table its `method`, which is `set`, `delete`, `delete_each`, `read_metadata` or `update`, and the
--- method's arguments by their names; for `delete_each`, an array of requests
---@return any ... what the method returns
function storages.call(storage, request)
  if request.method == "update" then
    return update(storage, request)
  elseif request.method == "set" then
    return set(storage, request)
  elseif request.method == "delete_each" then
    return delete_each(storage, request)
  elseif request.method == "read_metadata" then
    return read_metadata(storage, request)
  end
  return storage:delete(request.name, request.key, request.current_time, request.metadata)
end

-- Makes the storage of a name. `what` is what it is for.
local function load(name, configuration, what)
  local own, option = section_of(name, configuration)
  if SECTIONS[name] and own and type(own) ~= "table" then
    error("invalid " .. option .. " (table expected, got " .. type(own) .. ")", 0)
  end
  local function fail(cause)
    error("unable to load session " .. what .. " (" .. tostring(cause) .. ")", 0)
  end
  local ok, module = pcall(require, module_of(name))
  if not ok then
    fail(module)
  elseif type(module) ~= "table" or not module.new then
    fail('module "' .. name .. '" has no function new')
  end
  local loaded, err = module.new(own)
  return loaded or fail(err)
end

--- Loads the storage that the option `storage` says.
---@param storage any false, a name, or a storage itself
---@param configuration table the session's
---@return table? storage nil if the session is kept in its cookie
---@raise a string that names what is wrong
function storages.load(storage, configuration)
  if storage == false or storage == "cookie" then
    return nil
  elseif type(storage) == "table" then
    return storage
  elseif type(storage) ~= "string" then
    error("invalid session storage", 0)
  end
  return load(storage, options.present(configuration) or {}, "storage")
end

-- The stores of marks that were made last, with the name and the section that each was made of, and
-- the place of the oldest.
local recent, oldest = {}, 1
local MAX_RECENT = 16

-- Returns a store of that name and of an equal section, so that what is known of its marks counts
-- for all configurations that name it.
local function load_once(name, configuration)
  local own = section_of(name, configuration)
  local made_of = { storage = name, [name] = own }
  for i = 1, #recent do
    if options.equals(made_of, recent[i].made_of) then
      return recent[i].store
    end
  end
  local store = load(name, configuration, "revocation storage")
  recent[oldest] = { made_of = options.copy(made_of), store = store }
  oldest = oldest % MAX_RECENT + 1
  return store
end

--- Loads the store of marks that the option `revocation` says.
---@param revocation any false, a storage's name, or a table with the methods `set` and `get`
---@param configuration table the session's
---@return table|false store false if sessions are not revoked by marks
---@raise a string that names what is wrong
function storages.load_revocation(revocation, configuration)
  if revocation == false then
    return false
  end
  local store = revocation
  if type(revocation) == "string" and revocation ~= "cookie" then
    store = load_once(revocation, options.present(configuration) or {})
  end
  if type(store) ~= "table" or not store.set or not store.get then
    error("invalid session revocation", 0)
  end
  return store
end

local numbers = setmetatable({}, { __mode = "k" }) ---@type table<table, integer> by store of marks
local last_number = 0

--- Returns a number that tells a store of marks from others, or nil without a store.
---@param store table|false
---@return integer? number
function storages.number_of(store)
  if store and not numbers[store] then
    last_number = last_number + 1
    numbers[store] = last_number
  end
  return store and numbers[store] or nil
end

return storages
