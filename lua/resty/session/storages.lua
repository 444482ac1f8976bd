---
-- The storages by name.
--
-- @module resty.session.storages

-- Loaded with the first session: it learns from the phase how long this Lua VM lives.
require "resty.session.waiting"
local options = require "resty.session.options"

local error = error
local getmetatable = getmetatable
local pcall = pcall
local rawget = rawget
local require = require
local tostring = tostring
local type = type
local following = next -- by a name of its own: see docs/architecture.md, "Loops over tables"

-- The option that holds a storage's configuration, where it is not of the storage's own name.
local OPTION = {
  memcache = "memcached",
  mariadb = "mysql",
  postgresql = "postgres",
  ["redis-cluster"] = "redis",
  ["redis-sentinel"] = "redis",
}

local MODULE = {
  dshm = "resty.session.dshm",
  file = "resty.session.file",
  mariadb = "resty.session.mysql",
  memcache = "resty.session.memcached",
  memcached = "resty.session.memcached",
  mysql = "resty.session.mysql",
  postgres = "resty.session.postgres",
  postgresql = "resty.session.postgres",
  redis = "resty.session.redis",
  ["redis-cluster"] = "resty.session.redis.cluster",
  ["redis-sentinel"] = "resty.session.redis.sentinel",
  shm = "resty.session.shm",
}

for name in following, MODULE do
  options.name_section(name, OPTION[name] or name)
end

local storages = {}

--- Whether what the option `storage` says is a module that is not ours.
-- @param storage
-- @treturn boolean
function storages.is_module(storage)
  return type(storage) == "string" and storage ~= "cookie" and not MODULE[storage]
end

--- The part of a session's configuration that is a storage's own.
-- @tparam string name the storage's name
-- @tparam table configuration the session's
-- @return its configuration, or nil
-- @treturn string the option that holds it
function storages.configuration(name, configuration)
  local own = options.present(configuration[name])
  if own == nil and OPTION[name] then
    return options.present(configuration[OPTION[name]]), OPTION[name]
  end
  return own, name
end

-- The metatables of our own storages, each with its methods as they were made: a program may replace them.
local originals = setmetatable({}, { __mode = "k" })
-- The storages on the bridge, each with its metatable.
local on_bridge = setmetatable({}, { __mode = "k" })

--- Notes the methods of a storage of ours, so that a method that a program replaces later is noticed.
-- @tparam table meta the metatable of the storage's objects
function storages.keep_originals(meta)
  originals[meta] = { get = meta.get, set = meta.set, delete = meta.delete }
end

--- Notes that a storage is on the bridge: sessions' acts may ask its native storage by themselves.
-- @tparam table storage
function storages.register(storage)
  on_bridge[storage] = getmetatable(storage)
end

--- How a session's acts can ask a storage's native storage by themselves.
-- @param storage
-- @return the native storage; nil for a storage that is not on the bridge
-- @treturn function|nil `prepare(storage)`, to be called before an act
function storages.native(storage)
  local meta = on_bridge[storage]
  if meta then
    return storage.native, meta.__prepare
  end
end

-- The original methods of a storage whose metatable still is one of ours and looks methods up in itself.
local function originals_of(storage)
  local meta = getmetatable(storage)
  local original = originals[meta]
  if original and rawget(meta, "__index") == meta then
    return original, meta
  end
end

-- Whether a storage of ours has all the methods that acts call as they were made. It does not when a program has replaced
-- one in the object or in the metatable, or has replaced the metatable.
local function is_original(storage)
  local original = originals_of(storage)
  return original ~= nil
     and storage.get == original.get and storage.set == original.set and storage.delete == original.delete
end

--- The native handle to run an act with. An act asks a native storage by itself, unless the program has replaced a method of
-- the storage's object: then the act calls the object's methods.
-- @tparam table profile of a configuration: `storage`, `handle`, and where the storage is on the bridge `calling_handle`
-- and `prepare`
-- @return the handle
-- @treturn string|nil why the native storage can't be waited for
function storages.handle_of(profile)
  local storage = profile.storage
  if not profile.prepare then
    return profile.handle
  elseif is_original(storage) then
    return profile.handle, profile.prepare(storage)
  end
  return profile.calling_handle
end

-- Writes a record anew by a storage that is not asked natively: if it is there, where the storage has a way to do that. A
-- program's own storage has none; nor has one of ours whose `set` a program has replaced.
local function update(storage, request)
  local name, key, value, ttl, current_time = request.name, request.key, request.value, request.ttl, request.current_time
  local original, meta = originals_of(storage)
  if original and storage.set == original.set then
    return meta.__update(storage, name, key, value, ttl, current_time)
  end
  local ok, err = storage:set(name, key, value, ttl, current_time)
  return ok, not ok and err == nil and "the storage gives no reason" or err
end

-- Stores a record. Only a storage of ours, whose `set` is its own, is told that nothing may be stored if the record that it
-- replaces is gone.
local function set(storage, request)
  local name, key, value, ttl, current_time = request.name, request.key, request.value, request.ttl, request.current_time
  local old_key, stale_ttl, metadata = request.old_key, request.stale_ttl, request.metadata
  local original = request.old_must_exist and originals_of(storage)
  if original and storage.set == original.set then
    return storage:set(name, key, value, ttl, current_time, old_key, stale_ttl, metadata, true)
  end
  return storage:set(name, key, value, ttl, current_time, old_key, stale_ttl, metadata)
end

--- Calls the method of a storage that an act needs, other than `get`.
---@param storage table
---@param request table its `method`, which is `set`, `delete` or `update`, and the method's arguments by their names
---@return any result what the method returns
---@return any err
function storages.ask(storage, request)
  if request.method == "update" then
    return update(storage, request)
  elseif request.method == "set" then
    return set(storage, request)
  end
  return storage:delete(request.name, request.key, request.current_time, request.metadata)
end

--- Loads what the option `storage` says.
-- @param storage false, a name, or a storage itself
-- @tparam table configuration the session's
-- @treturn table|nil the storage; nil where the session is kept in its cookie
-- @raise a string that names what is wrong
function storages.load(storage, configuration)
  if storage == false or storage == "cookie" then
    return nil
  end
  if type(storage) == "table" then
    return storage
  end
  if type(storage) ~= "string" then
    error("invalid session storage", 0)
  end
  local own, option = storages.configuration(storage, options.present(configuration) or {})
  if MODULE[storage] and own and type(own) ~= "table" then
    error("invalid " .. option .. " (table expected, got " .. type(own) .. ")", 0)
  end
  local ok, module = pcall(require, MODULE[storage] or storage)
  if not ok then
    error("unable to load session storage (" .. tostring(module) .. ")", 0)
  end
  if type(module) ~= "table" or not module.new then
    error('unable to load session storage (module "' .. storage .. '" has no function new)', 0)
  end
  local loaded, err = module.new(own)
  if not loaded then
    error("unable to load session storage (" .. tostring(err) .. ")", 0)
  end
  return loaded
end

return storages
