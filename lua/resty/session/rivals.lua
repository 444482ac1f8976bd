---
-- Warns of sessions whose cookies' names collide, so that each overwrites and clears the other's
-- cookies.
--
-- Two profiles whose names collide are rivals. Many sites may share a worker, so they are worth a
-- warning only if one request uses both. Rivals are found when a profile is made, so a request
-- whose profiles have none pays nothing. With rivals, a request pays once for each profile.
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

local USED_KEY = {} -- the key in a request's context of the profiles that it has used
local WEAK = { __mode = "k" }

local SAME = "two sessions of one request use the cookie %q, one of them as its remember cookie: give one of them "
          .. "another name"
local DIGIT = "cookies %q and %q of one request collide, since a digit after a cookie's name makes the name of a "
           .. "chunk: give one of them another name"
local SHARED = "sessions %q and %q of one request share the remember cookie %q: give each a remember_cookie_name of "
            .. "its own"

-- Returns the same text for two names in either order, so that it is logged once.
local function format_sorted(text, name, other, ...)
  return text:format(name < other and name or other, name < other and other or name, ...)
end

-- Returns why two names collide, or nil. The lengths of most names rule it out without a call of
-- the native module.
local function problem_of(name, other)
  if name == other then
    return SAME:format(name)
  elseif abs(#name - #other) == 1 and names_collide(name, other) then
    return format_sorted(DIGIT, name, other)
  end
end

-- Returns why two profiles must not be used in one request, or nil if they may be.
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
    return format_sorted(SHARED, session, other_session, remember)
  end
  return problem or nil
end

--- Finds a new profile's rivals.
---@param profile resty.session.profile
---@param others resty.session.profile[]
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

-- Returns the profiles with rivals that this request has used.
local function used_profiles()
  local context = ngx.ctx
  context[USED_KEY] = context[USED_KEY] or {}
  return context[USED_KEY]
end

-- Returns whether one of a response's Set-Cookie lines sets a session of a profile, under a name
-- that the other profile does not have.
local function sets_session(lines, profile, other)
  for i = 1, #lines do
    local name, value = lines[i]:match("^([^=]+)=([^;]*)")
    local is_own = name == profile.cookie_name or name == profile.remember_cookie_name
    if is_own and name ~= other.cookie_name and name ~= other.remember_cookie_name and native.header_fields(value) then
      return true
    end
  end
  return false
end

--- Notes that a request uses a profile with rivals. Warns, once a worker, if the request uses one
--- of the rivals as well.
---@param profile resty.session.profile
function rivals.note(profile)
  local ok, used = pcall(used_profiles)
  if not ok or used[profile] then
    return -- a phase without a request; or a rival that was used later has found this profile
  end
  used[profile] = true
  local lines = http.set_cookies()
  for rival, problem in following, profile.rivals do
    -- A rival that was used before it had rivals itself is not in the list, but the cookies that it
    -- set show it.
    if used[rival] or sets_session(lines, rival, profile) then
      notices.once(problem)
    end
  end
end

return rivals
