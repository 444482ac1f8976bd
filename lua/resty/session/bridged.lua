---
-- The Lua side of the storages whose drivers run on the bridge.
--
-- @module resty.session.bridged
-- @license BSD-2-Clause

local native = require "resty.session.native"
local notices = require "resty.session.notices"
local options = require "resty.session.options"
local storages = require "resty.session.storages"
local waiting = require "resty.session.waiting"

local following = next -- by a name of its own: see docs/architecture.md, "Loops over tables"

-- The options that are fields of the storage object.
local FIELDS = { "username", "password", "prefix", "suffix" }

-- A storage. Programs may assign its first four fields, and the next operation uses the new values.
---@class resty.session.bridged
---@field username string?
---@field password string|(fun(): string?, string?)|nil
---@field prefix string?
---@field suffix string?
---@field native userdata the native storage
---@field make function the native function that makes it
---@field configuration table the options that the native storage has now
local metatable = {}

-- Remakes the native storage if a program has assigned a field. Returns an error, or nil.
local function use_fields(self)
  local current = self.configuration
  if self.username == current.username and self.password == current.password
     and self.prefix == current.prefix and self.suffix == current.suffix then
    return nil
  end
  local changed = {}
  for name, value in following, current do
    changed[name] = value
  end
  for i = 1, #FIELDS do
    changed[FIELDS[i]] = self[FIELDS[i]]
  end
  local _, err = self.make(changed, self.native)
  if err then
    return err
  end
  self.configuration = changed
end

-- What a session must call before one of its acts uses the native storage. Returns an error, or
-- nil.
function metatable.__prepare(self)
  return use_fields(self) or waiting.prepare()
end

local function run(self, method, ...)
  local err = use_fields(self)
  if err then
    return nil, err
  end
  return waiting.run(method, self.native, ...)
end

--- Stores a record.
---@param name string the cookie's name
---@param key string
---@param value string
---@param ttl number seconds
---@param current_time number? seconds since the epoch
---@param old_key string? the record that this one replaces
---@param stale_ttl number? seconds for which the replaced record stays valid
---@param metadata table? `{ audiences = {…}, subjects = {…} }`
---@param old_must_exist boolean? if the storage can tell that the replaced record is gone, whether to store nothing
---@return true? ok, string? err
function metatable:set(name, key, value, ttl, current_time, old_key, stale_ttl, metadata, old_must_exist)
  current_time = current_time or ngx.time()
  return run(self, "set", name, key, value, ttl, current_time, old_key, stale_ttl, metadata, old_must_exist)
end

-- Replaces a record's value if the record exists, without lengthening its life. Sessions' acts
-- usually call the native storage themselves. Returns true; nil if the record does not exist; or
-- nil and an error.
function metatable:__update(name, key, value, ttl, current_time)
  return run(self, "update", name, key, value, ttl, current_time)
end

--- Reads a record.
---@param name string the cookie's name
---@param key string
---@param current_time number? seconds since the epoch
---@return string? value nil without an error if there is no such record
---@return string? err
function metatable:get(name, key, current_time)
  return run(self, "get", name, key, current_time or ngx.time())
end

--- Deletes a record. Deleting one that does not exist succeeds.
---@param name string the cookie's name
---@param key string
---@param current_time number? seconds since the epoch
---@param metadata table? `{ audiences = {…}, subjects = {…} }`
---@return true? ok, string? err
function metatable:delete(name, key, current_time, metadata)
  return run(self, "delete", name, key, current_time or ngx.time(), metadata)
end

--- Returns the live sessions of a subject.
---@param name string the cookie's name
---@param audience string as in the metadata: base64url
---@param subject string as in the metadata
---@param current_time number? seconds since the epoch
---@return table<string, integer>? sessions `{ key = expiry, … }`
---@return string? err
function metatable:read_metadata(name, audience, subject, current_time)
  return run(self, "read_metadata", name, audience, subject, current_time or ngx.time())
end

--- Takes a lock, or renews it for its holder. It expires by itself.
---@param name string the cookie's name
---@param key string base64url of a hash, so that no record has it
---@param holder string who takes the lock: 1 to 255 visible ASCII characters that nobody else uses
---@param ttl number seconds, also fractions; some storages hold the lock for up to two seconds more
---@param current_time number? seconds since the epoch
---@return boolean? held whether the holder has the lock now; false if another has it
---@return string? err
function metatable:lock(name, key, holder, ttl, current_time)
  local held, err = run(self, "lock", name, key, holder, ttl, current_time or ngx.time())
  if err then
    return nil, err
  end
  return held == true
end

--- Frees a lock if this holder has it.
---@param name string the cookie's name
---@param key string
---@param holder string
---@return true? ok, string? err
function metatable:unlock(name, key, holder)
  return run(self, "unlock", name, key, holder)
end

-- Each storage module has a metatable of its own, because programs replace methods there.
local function new_metatable()
  local own = {} ---@type table<string, any>
  for name, method in following, metatable do
    own[name] = method
  end
  own.__index = own
  storages.keep_originals(own)
  return own
end

local function new_storage(name, meta, configuration)
  local make = native.storages[name]
  if not make then
    error("this build of the library has no storage " .. name .. ": build it with make build FEATURES=" .. name, 0)
  end
  local own = options.copy_section(name, configuration)
  local handle, err, unknown = make(own)
  if not handle then
    error(err, 0)
  end
  notices.each_once(unknown)
  own = type(own) == "table" and own or {}
  local storage = { configuration = own, make = make, native = handle }
  for i = 1, #FIELDS do
    local field = FIELDS[i]
    own[field] = options.present(own[field])
    storage[field] = own[field]
  end
  storages.register(setmetatable(storage, meta))
  return storage
end

-- A storage's module. `new` makes a storage from the options of `docs/storages.md`, which does not
-- connect until it is used. It raises a string that names what is wrong with an option.
---@class resty.session.storage_module
---@field new fun(configuration: table?): resty.session.bridged

local bridged = {}

--- Makes the module of a storage on the bridge.
---@param name string the storage's name in the native module
---@return resty.session.storage_module
function bridged.module(name)
  local meta = new_metatable()
  return {
    new = function(configuration)
      return new_storage(name, meta, configuration)
    end,
  }
end

--- Makes the module of a storage that is another module's with an option that must be given.
---@param name string the other storage's name
---@param required string the option
---@return resty.session.storage_module
function bridged.module_with(name, required)
  local module = require("resty.session." .. name)
  return {
    new = function(configuration)
      if type(configuration) ~= "table" or not options.present(configuration[required]) then
        error("invalid " .. name .. " " .. required .. " (it is missing)", 0)
      end
      return module.new(configuration)
    end,
  }
end

return bridged
