---
-- Sessions whose cookies' names collide: what one sets, the other overwrites and clears.
--
-- Many sites may share a worker, so only two that are used in one request are worth a warning. Which names collide is found
-- out when a profile is made: requests of profiles without rivals pay nothing.
--
-- @module resty.session.rivals
-- @license BSD-2-Clause

local http = require "resty.session.http"
local native = require "resty.session.native"
local notices = require "resty.session.notices"

local following = next -- by a name of its own: see docs/architecture.md, "Loops over tables"

local rivals = {}

local KEY = {} -- of what is noted in a request's context
local WEAK = { __mode = "k" }

local DIGIT = "cookies %q and %q of one request collide, since a digit after a cookie's name makes the name of a chunk: "
           .. "give one of them another name"
local SHARED = "sessions %q and %q of one request share the remember cookie %q: give each a remember_cookie_name of its own"

-- The same text whichever profile was made first, so that it is logged once.
local function tell(text, name, other, ...)
  return text:format(name < other and name or other, name < other and other or name, ...)
end

-- What is wrong with two profiles that are used in one request; nil if nothing is.
local function collision(a, b)
  local session, remember = a.cookie_name, a.remember_cookie_name
  local other_session, other_remember = b.cookie_name, b.remember_cookie_name
  for _, pair in ipairs { { session, other_session, true }, { remember, other_remember, true },
                          { session, other_remember }, { remember, other_session } } do
    local name, other, same_is_fine = pair[1], pair[2], pair[3]
    if native.names_collide(name, other) and not (same_is_fine and name == other) then
      return tell(DIGIT, name, other)
    end
  end
  if session ~= other_session and remember == other_remember and (a.remember or b.remember) then
    return tell(SHARED, session, other_session, remember)
  end
end

--- Finds a new profile's rivals.
-- @tparam table profile
-- @tparam table others profiles
function rivals.find(profile, others)
  for _, other in following, others do
    local problem = collision(profile, other)
    if problem then
      profile.rivals = profile.rivals or setmetatable({}, WEAK)
      other.rivals = other.rivals or setmetatable({}, WEAK)
      profile.rivals[other], other.rivals[profile] = problem, problem
    end
  end
end

-- The profiles with rivals that this request has used.
local function used_profiles()
  local context = ngx.ctx
  context[KEY] = context[KEY] or {}
  return context[KEY]
end

-- Whether the response sets a session of a profile, under a name that another one does not have.
local function is_set(profile, other)
  for _, line in ipairs(http.set_cookies()) do
    local name, value = line:match("^([^=]+)=([^;]*)")
    local is_its = name == profile.cookie_name or name == profile.remember_cookie_name
    if is_its and name ~= other.cookie_name and name ~= other.remember_cookie_name and native.header_fields(value) then
      return true
    end
  end
  return false
end

--- Notes that a request uses a profile with rivals, and warns once a worker if it uses one of them as well.
-- @tparam table profile
function rivals.note(profile)
  local ok, used = pcall(used_profiles)
  if not ok then
    return -- a phase without a request
  end
  used[profile] = true
  for rival, problem in following, profile.rivals do
    -- One that was used before it had a rival is known by the cookies that it set.
    if used[rival] or is_set(rival, profile) then
      notices.once(problem)
    end
  end
end

return rivals
