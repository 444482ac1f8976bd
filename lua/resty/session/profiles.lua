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
local rivals = require "resty.session.rivals"
local storages = require "resty.session.storages"

local equals = options.equals
local present = options.present
local visible = options.visible

local NO_SECRET = "no secret is configured: sessions are encrypted with a random key. They end when nginx is reloaded or "
               .. "restarted, and no other server opens them; nor does another worker, unless init_by_lua loads the library"

local GUESSABLE = "can be found by trying, by whoever has a cookie: it has fewer than 16 bytes, or is one byte over and "
               .. "over. Use a random one, such as `openssl rand -base64 32` prints"

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
---@field ikms string[] of the session cookie, as `remember_ikms` of the remember cookie
---@field remember_ikms string[]
---@field request_headers string[]
---@field response_headers string[]
---@field rivals table? profiles whose cookies' names collide with this one's
---@field warnings string[] what the log is to say of the configuration
---@field notices string[]|false what the log is still to say of it

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

-- What the log is to say of a profile when the first session uses it.
local function notices_of(profile)
  local texts = profile.warnings
  texts[#texts + 1] = profile.random_key and NO_SECRET or nil
  texts[#texts + 1] = profile.guessable and "the secret " .. GUESSABLE or nil
  texts[#texts + 1] = profile.guessable_fallbacks and "a secret of the fallbacks " .. GUESSABLE or nil
  return texts[1] and texts or false
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
  profile.notices = notices_of(profile)
  profile.base = base
  profile.configuration = kept
  profile.storage = storage or false
  profile.module = module
  rivals.find(profile, known)
  rivals.find(profile, { defaults }) -- older than those, perhaps
  known[oldest] = profile
  oldest = oldest % KNOWN_PROFILES + 1
  return profile
end

local function used(profile)
  if profile.notices then
    for _, text in ipairs(profile.notices) do
      notices.once(text)
    end
    if ngx.get_phase() ~= "init" then -- in which the workers have not said it yet
      profile.notices = false
    end
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
