---
-- Storages on the bridge: their Lua face.
--
-- @module resty.session.bridged
-- @license BSD-2-Clause

local native = require "resty.session.native"
local notices = require "resty.session.notices"
local options = require "resty.session.options"
local waiting = require "resty.session.waiting"

---@class resty.session.bridged
---@field username string? may be assigned later, as `password`: the next operation uses what is there
---@field password string?
local metatable = {}
metatable.__index = metatable

-- Has the native storage use the credentials as they are now. Answers an error.
local function use_credentials(self)
  if self.username ~= self.used_username or self.password ~= self.used_password then
    self.configuration.username, self.configuration.password = self.username, self.password
    local _, err = self.make(self.configuration, self.native)
    if err then
      return err
    end
    self.used_username, self.used_password = self.username, self.password
  end
end

-- What a session has to do before its acts ask the native storage by themselves. Answers an error.
function metatable.__prepare(self)
  return use_credentials(self) or waiting.prepare()
end

metatable.__wait = waiting.wait

local function run(self, method, ...)
  local err = use_credentials(self)
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
-- @treturn boolean|nil true
-- @treturn string|nil error
function metatable:set(name, key, value, ttl, current_time, old_key, stale_ttl, metadata)
  return run(self, "set", name, key, value, ttl, current_time or ngx.time(), old_key, stale_ttl, metadata)
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

local bridged = {}

--- Makes a storage.
-- @tparam string name the storage's name in the native module
-- @tparam[opt] table configuration
-- @treturn table storage
-- @raise a string that names what is wrong with an option
function bridged.new(name, configuration)
  local make = native.storages[name]
  local own = options.copy_section(name, configuration)
  local handle, err, unknown = make(own)
  if not handle then
    error(err, 0)
  end
  notices.each_once(unknown)
  own = type(own) == "table" and own or {}
  local username, password = options.present(own.username), options.present(own.password)
  return setmetatable({
    prefix = options.present(own.prefix),
    suffix = options.present(own.suffix),
    username = username,
    password = password,
    used_username = username,
    used_password = password,
    configuration = own,
    make = make,
    native = handle,
  }, metatable)
end

return bridged
