---
-- Configurations that are ready for use.
--
-- Programs pass the same configuration, often as a fresh table, on every request; and they may
-- change their table between two calls. So a configuration is looked up by what its table holds. A
-- profile keeps a copy of that, the storage, and the handle that the native module made.
--
-- @module resty.session.profiles
-- @license BSD-2-Clause

local kept = require "resty.session.kept"
local native = require "resty.session.native"
local notices = require "resty.session.notices"
local options = require "resty.session.options"
local rivals = require "resty.session.rivals"
local storages = require "resty.session.storages"

local equals = options.equals
local present = options.present
local visible = options.visible

local NO_SECRET = "no secret is configured: sessions are encrypted with a random key. They end when nginx is reloaded "
               .. "or restarted, and no other server opens them; nor does another worker, unless init_by_lua loads the "
               .. "library"

local GUESSABLE = "can be guessed by anyone who has a cookie: it has fewer than 16 bytes, or is one byte over "
               .. "and over. Use a random one, such as `openssl rand -base64 32` prints"

---@class resty.session.profile
---@field handle userdata the native module's
---@field calling_handle userdata? for acts that call the methods of what is `asked`
---@field storage table|false
---@field revocation table|false the store of marks
---@field module string? the name of the storage's module, if that is not part of this library
---@field asked table? the storage on the bridge that acts use, or the store of marks, if each open asks it
---@field prepare (fun(storage: table): string?)? of that
---@field cookie_name string
---@field remember_cookie_name string
---@field cookie_flags string
---@field remember boolean
---@field audience string|number
---@field subject string|number|nil
---@field ikms string[] the session cookie's initial key material, one for each key
---@field remember_ikms string[] the remember cookie's
---@field request_headers string[]
---@field response_headers string[]
---@field random_key boolean whether no key was configured
---@field guessable boolean whether the configured key can be guessed
---@field guessable_fallbacks boolean whether a key of the fallbacks can be guessed
---@field configuration table a copy of the configuration that the profile was made from
---@field base any what else it was made from, compared by identity
---@field group resty.session.rivals.group the profiles whose cookies have the same names
---@field has_rivals boolean whether there are profiles whose cookies' names collide with those
---@field lock_store table? what holds the locks of `synchronize`, once it is known
---@field warnings string[] the native module's warnings about the configuration
---@field notices string[]|false the warnings that are still to be logged

local profiles = {}

local defaults -- the profile that `init` made

-- The profiles that were made last, and the place of the oldest. A program has a few, and finds
-- them here. `kept` has all of them, for programs with more.
local recent, oldest = {}, 1
local MAX_RECENT = 16

local function add(profile)
  rivals.find(profile)
  kept.add(profile)
  recent[oldest] = profile
  oldest = oldest % MAX_RECENT + 1
end

local function find(configuration, base)
  local profile = recent[MAX_RECENT] and kept.find(configuration, base)
  if profile then
    return profile
  end
  for i = 1, #recent do
    if recent[i].base == base and equals(configuration, recent[i].configuration) then
      return recent[i]
    end
  end
end

-- Logs unknown options. They are not errors, because programs pass tables with options of their
-- own.
local function warn_of_unknown(configuration, module)
  if options.has_unknown(configuration) then
    local names = options.names()
    notices.each_once(native.unknown_options(configuration, module and { module, unpack(names) } or names))
  end
end

-- Returns the warnings to log when the first session uses a profile, or false.
local function notices_of(profile)
  local texts = profile.warnings
  texts[#texts + 1] = profile.random_key and NO_SECRET or nil
  texts[#texts + 1] = profile.guessable and "the secret " .. GUESSABLE or nil
  texts[#texts + 1] = profile.guessable_fallbacks and "a secret of the fallbacks " .. GUESSABLE or nil
  return texts[1] and texts or false
end

-- Makes the profile of a configuration. `base` is what else the profile depends on, and `parent`
-- the profile whose storage it has if the configuration names none.
local function build(configuration, base, make, parent)
  local storage, module = parent and parent.storage, parent and parent.module
  local wanted = present(configuration.storage)
  if wanted ~= nil then
    storage, module = storages.load(wanted, configuration), storages.is_module(wanted) and wanted or nil
  end
  local revocation, marks = parent and parent.revocation or false, present(configuration.revocation)
  if marks ~= nil then
    revocation = storages.load_revocation(marks, configuration)
  end
  local copy = options.copy(configuration)
  local native_storage, prepare = storages.native(storage)
  local native_store, prepare_store = storages.native(revocation)
  local profile, err = make(
    copy, defaults and defaults.handle, storage and true or false, native_storage, storages.number_of(revocation),
    native_store)
  if not profile then
    error(err, 0)
  end
  warn_of_unknown(configuration, module)
  if profile.calling_handle then
    profile.asked, profile.prepare = storage or revocation, prepare or prepare_store
  end
  profile.notices = notices_of(profile)
  profile.base = base
  profile.configuration = copy
  profile.storage = storage or false
  profile.revocation = revocation
  profile.module = module
  add(profile)
  return profile
end

-- Logs a profile's warnings before it is used. Returns the profile.
local function log_notices(profile)
  if profile.notices then
    for _, text in ipairs(profile.notices) do
      notices.once(text)
    end
    if ngx.get_phase() ~= "init" then -- after the init phase, the workers are to log them, too
      profile.notices = false
    end
  end
  return profile
end

--- Returns the profile of a configuration.
---@param configuration table? options; absent ones are as `init` set them
---@return resty.session.profile profile
---@raise a string that names what is wrong with an option
function profiles.resolve(configuration)
  if present(configuration) == nil then
    return log_notices(defaults)
  end
  configuration = visible(configuration)
  return log_notices(find(configuration, defaults) or build(configuration, defaults, native.new, defaults))
end

--- Sets the defaults of all later profiles. Every absent option gets its built-in default, except
--- for the key: if neither `secret` nor `ikm` is given, the key stays as it was, or is random at
--- first.
---@param configuration table? options
---@raise a string that names what is wrong with an option
function profiles.init(configuration)
  configuration = visible(present(configuration) or {})
  local has_key = present(configuration.ikm) ~= nil or present(configuration.secret) ~= nil
  local base = has_key and "init" or defaults and defaults.ikms[1] or "first"
  defaults = find(configuration, base) or build(configuration, base, native.init)
end

return profiles
