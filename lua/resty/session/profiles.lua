---
-- Configurations as they are used.
--
-- Programs pass the same configuration, often as a fresh table, on every request; and they may change their table between
-- two calls. So a configuration is found by what its table holds: a profile keeps a copy of that, the storage, and the
-- handle that the native module made.
--
-- @module resty.session.profiles
-- @license BSD-2-Clause

local native = require "resty.session.native"
local notices = require "resty.session.notices"
local options = require "resty.session.options"
local storages = require "resty.session.storages"

local equals = options.equals
local present = options.present
local visible = options.visible

local NO_SECRET = "no secret is configured: sessions are encrypted with a random key. They end when nginx is reloaded or "
               .. "restarted, and no other server opens them; nor does another worker, unless init_by_lua loads the library"

---@class resty.session.profile
---@field handle userdata the native module's
---@field calling_handle userdata? that of acts which call the methods of a storage on the bridge
---@field storage table|false
---@field module string? the storage's name, where it is not one of ours
---@field prepare function? of a storage on the bridge
---@field cookie_name string
---@field remember_cookie_name string
---@field cookie_flags string
---@field remember boolean
---@field audience string|number
---@field subject string|number|nil
---@field ikms string[]
---@field request_headers string[]
---@field response_headers string[]
---@field random_key boolean whether the log is still to say that there is no secret

local profiles = {}

local defaults -- the profile that `init` made

-- Profiles made lately.
local known, oldest = {}, 1
local KNOWN_PROFILES = 16

local function find(configuration, base)
  for i = 1, #known do
    if known[i].base == base and equals(configuration, known[i].configuration) then
      return known[i]
    end
  end
end

-- Programs pass whole tables through, so an unknown option is not an error.
local function tell_unknown(configuration, module)
  if options.has_unknown(configuration) then
    local names = options.names()
    notices.each_once(native.unknown_options(configuration, module and { module, unpack(names) } or names))
  end
end

-- Makes a profile: what the shim needs to know of a configuration. `base` is what else it depends on.
local function build(configuration, base, make, parent)
  local storage, module = parent and parent.storage, parent and parent.module
  local wanted = present(configuration.storage)
  if wanted ~= nil then
    storage, module = storages.load(wanted, configuration), storages.is_module(wanted) and wanted or nil
  end
  local kept = options.copy(configuration)
  local native_storage, prepare = storages.native(storage)
  local profile, err = make(kept, defaults and defaults.handle, storage and true or false, native_storage)
  if not profile then
    error(err, 0)
  end
  tell_unknown(configuration, module)
  profile.prepare = prepare
  profile.base = base
  profile.configuration = kept
  profile.storage = storage or false
  profile.module = module
  known[oldest] = profile
  oldest = oldest % KNOWN_PROFILES + 1
  return profile
end

-- The first session with a random key makes the log say so.
local function used(profile)
  if profile.random_key then
    notices.once(NO_SECRET)
    profile.random_key = ngx.get_phase() == "init" -- the workers have not said it yet
  end
  return profile
end

--- The profile of a configuration.
-- @tparam[opt] table configuration options; absent ones are as `init` set them
-- @treturn table profile
-- @raise a string that names what is wrong with an option
function profiles.resolve(configuration)
  if present(configuration) == nil then
    return used(defaults)
  end
  configuration = visible(configuration)
  return used(find(configuration, defaults) or build(configuration, defaults, native.new, defaults))
end

--- Sets the defaults of all later profiles. Every option that is absent gets its built-in default; only the key stays what
-- it was, or is random, where neither `secret` nor `ikm` is given.
-- @tparam[opt] table configuration options
-- @raise a string that names what is wrong with an option
function profiles.init(configuration)
  configuration = visible(present(configuration) or {})
  local has_key = present(configuration.ikm) ~= nil or present(configuration.secret) ~= nil
  local base = has_key and "init" or defaults and defaults.ikms[1] or "first"
  defaults = find(configuration, base) or build(configuration, base, native.init)
end

return profiles
