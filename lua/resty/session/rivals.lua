---
-- Sessions whose cookies' names collide: each overwrites and clears the other's cookies.
--
-- Many sites may share a worker, so only two sessions that are used in the same request are worth a warning. Which
-- names collide is found out when a profile is made, so requests of profiles without rivals pay nothing. With rivals a
-- request pays once a profile.
--
-- @module resty.session.rivals
-- @license BSD-2-Clause

local http = require "resty.session.http"
local native = require "resty.session.native"
local notices = require "resty.session.notices"

local names_collide = native.names_collide
local abs = math.abs
local following = next -- by a name of its own: see docs/architecture.md, "Loops over tables"

local rivals = {}

local KEY = {} -- of the table in a request's context that holds the profiles it used
local WEAK = { __mode = "k" }

local SAME = "two sessions of one request use the cookie %q, one of them as its remember cookie: give one of them "
          .. "another name"
local DIGIT = "cookies %q and %q of one request collide, since a digit after a cookie's name makes the name of a chunk: "
           .. "give one of them another name"
local SHARED = "sessions %q and %q of one request share the remember cookie %q: give each a remember_cookie_name of its own"

-- The same text whichever profile was made first, so that it is logged once.
local function tell(text, name, other, ...)
  return text:format(name < other and name or other, name < other and other or name, ...)
end

-- Why two names collide; nil if they don't. Most have lengths that rule it out, which spares a call of the native module.
local function problem_of(name, other)
  if name == other then
    return SAME:format(name)
  elseif abs(#name - #other) == 1 and names_collide(name, other) then
    return tell(DIGIT, name, other)
  end
end

-- Why two profiles must not be used in one request; nil if they may be.
local function collision(a, b)
  local session, remember = a.cookie_name, a.remember_cookie_name
  local other_session, other_remember = b.cookie_name, b.remember_cookie_name
  if session == other_session and remember == other_remember then
    return nil -- they share a session, and within one session no names collide
  end
  local problem = session ~= other_session and problem_of(session, other_session)
               or remember ~= other_remember and problem_of(remember, other_remember)
               or problem_of(session, other_remember) or problem_of(remember, other_session)
  if not problem and remember == other_remember and (a.remember or b.remember) then
    return tell(SHARED, session, other_session, remember)
  end
  return problem or nil
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

-- Whether one of a response's Set-Cookie lines sets a session of a profile, under a name that another one does not have.
local function is_set(lines, profile, other)
  for i = 1, #lines do
    local name, value = lines[i]:match("^([^=]+)=([^;]*)")
    local is_its = name == profile.cookie_name or name == profile.remember_cookie_name
    if is_its and name ~= other.cookie_name and name ~= other.remember_cookie_name and native.header_fields(value) then
      return true
    end
  end
  return false
end

--- Notes that a request uses a profile with rivals, and warns once a worker if the request uses one of them as well.
-- @tparam table profile
function rivals.note(profile)
  local ok, used = pcall(used_profiles)
  if not ok or used[profile] then
    return -- a phase without a request; or whichever rival was used later has looked for this profile
  end
  used[profile] = true
  local lines = http.set_cookies()
  for rival, problem in following, profile.rivals do
    -- A rival that was used before it had any is known by the cookies that it set.
    if used[rival] or is_set(lines, rival, profile) then
      notices.once(problem)
    end
  end
end

return rivals
