---
-- The storages by name.
--
-- @module resty.session.storages

local options = require "resty.session.options"

local error = error
local pcall = pcall
local require = require
local tostring = tostring
local type = type

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

for name in next, MODULE do
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

--- How a session's acts use a storage on the bridge, which they ask by themselves.
-- @param storage
-- @treturn function|nil `prepare(storage)`, to be called before an act; nil for any other storage
-- @treturn function|nil `wait(ticket, limit)`, to be called for each ticket
function storages.on_bridge(storage)
  local meta = type(storage) == "table" and getmetatable(storage)
  if type(meta) == "table" and meta.__prepare then
    return meta.__prepare, meta.__wait
  end
end

-- Writes a record anew by a storage that is not on the bridge: if it is there, where the storage has a way to do that. A
-- program's own storage has none; nor has one of ours whose `set` a program has replaced.
local function update(storage, ...)
  local meta = getmetatable(storage)
  if type(meta) == "table" and meta.__update and storage.set == meta.set then
    return meta.__update(storage, ...)
  end
  local ok, err = storage:set(...)
  return ok, not ok and err == nil and "the storage gives no reason" or err
end

--- Has a storage that is not on the bridge do what an act needs.
-- @tparam table storage
-- @tparam string method `set`, `get`, `delete`, or `update`
-- @param ... the method's arguments
-- @return what the method answers
function storages.ask(storage, method, ...)
  if method == "update" then
    return update(storage, ...)
  end
  return storage[method](storage, ...)
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
