---
-- Storages on the bridge: their Lua face.
--
-- @module resty.session.bridged
-- @license BSD-2-Clause

local native = require "resty.session.native"
local notices = require "resty.session.notices"
local options = require "resty.session.options"
local storages = require "resty.session.storages"
local waiting = require "resty.session.waiting"

local following = next -- by a name of its own: see docs/architecture.md, "Loops over tables"

---@class resty.session.bridged Its fields may be assigned later: the next operation uses what they hold then
---@field username string?
---@field password string?
---@field prefix string?
---@field suffix string?
local metatable = {}
metatable.__index = metatable

-- Makes the native storage use the fields as they are now. Returns an error, or nil.
local function use_fields(self)
  local used = self.used
  if self.username == used.username and self.password == used.password
     and self.prefix == used.prefix and self.suffix == used.suffix then
    return nil
  end
  local configuration = self.configuration
  configuration.username, configuration.password = self.username, self.password
  configuration.prefix, configuration.suffix = self.prefix, self.suffix
  local _, err = self.make(configuration, self.native)
  if err then
    return err
  end
  used.username, used.password, used.prefix, used.suffix = self.username, self.password, self.prefix, self.suffix
end

-- What a session has to do before its acts ask the native storage by themselves. Returns an error, or nil.
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
-- @tparam string name the cookie's name
-- @tparam string key
-- @tparam string value
-- @tparam number ttl seconds
-- @tparam number current_time seconds since the epoch
-- @tparam[opt] string old_key the record that this one replaces
-- @tparam[opt] number stale_ttl seconds that the replaced one goes on working
-- @tparam[opt] table metadata `{ audiences = {…}, subjects = {…} }`
-- @tparam[opt] boolean old_must_exist stores nothing if the replaced record is gone, where the storage can tell
-- @treturn boolean|nil true
-- @treturn string|nil error
function metatable:set(name, key, value, ttl, current_time, old_key, stale_ttl, metadata, old_must_exist)
  return run(self, "set", name, key, value, ttl, current_time or ngx.time(), old_key, stale_ttl, metadata, old_must_exist)
end

-- Writes a record anew if it is there; it lives no longer than it would have. Sessions' acts ask the native storage by
-- themselves. Answers true; nil where it is not there; or nil and an error.
function metatable:__update(name, key, value, ttl, current_time)
  return run(self, "update", name, key, value, ttl, current_time)
end

--- Reads a record.
-- @tparam string name the cookie's name
-- @tparam string key
-- @tparam[opt] number current_time seconds since the epoch
-- @treturn string|nil value; nil without an error where there is none
-- @treturn string|nil error
function metatable:get(name, key, current_time)
  return run(self, "get", name, key, current_time or ngx.time())
end

--- Deletes a record; one that is not there is no error.
-- @tparam string name the cookie's name
-- @tparam string key
-- @tparam[opt] number current_time seconds since the epoch
-- @tparam[opt] table metadata
-- @treturn boolean|nil true
-- @treturn string|nil error
function metatable:delete(name, key, current_time, metadata)
  return run(self, "delete", name, key, current_time or ngx.time(), metadata)
end

--- The live sessions of a subject.
-- @tparam string name the cookie's name
-- @tparam string audience as in the metadata: base64url
-- @tparam string subject as in the metadata
-- @tparam[opt] number current_time seconds since the epoch
-- @treturn table|nil `{ key = expiry, … }`
-- @treturn string|nil error
function metatable:read_metadata(name, audience, subject, current_time)
  return run(self, "read_metadata", name, audience, subject, current_time or ngx.time())
end

local metatables = {} -- by the native function that makes the storage

-- The metatable of a storage's objects. Each storage has its own, since programs replace methods there.
local function metatable_of(make)
  if not metatables[make] then
    local own = {}
    for name, method in following, metatable do
      own[name] = method
    end
    own.__index = own
    storages.keep_originals(own)
    metatables[make] = own
  end
  return metatables[make]
end

local bridged = {}

--- Makes a storage.
-- @tparam string name the storage's name in the native module
-- @tparam[opt] table configuration
-- @treturn table storage
-- @raise a string that names what is wrong with an option
function bridged.new(name, configuration)
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
  local used = {
    prefix = options.present(own.prefix),
    suffix = options.present(own.suffix),
    username = options.present(own.username),
    password = options.present(own.password),
  }
  local storage = setmetatable({
    prefix = used.prefix,
    suffix = used.suffix,
    username = used.username,
    password = used.password,
    used = used,
    configuration = own,
    make = make,
    native = handle,
  }, metatable_of(make))
  storages.register(storage)
  return storage
end

return bridged
