---
-- Warns of sessions whose cookies' names collide, so that each overwrites and clears the other's
-- cookies.
--
-- Profiles whose cookies have the same names are a group, and two groups whose names collide are
-- rivals. Many sites may share a worker, so they are worth a warning only if one request uses both.
-- Whether a group has rivals is found when a profile is made, so a request whose profiles have none
-- pays nothing. Otherwise a request pays once for each group.
--
-- @module resty.session.rivals
-- @license BSD-2-Clause

local http = require "resty.session.http"
local native = require "resty.session.native"
local notices = require "resty.session.notices"

local names_collide = native.names_collide
local abs = math.abs
local tostring = tostring
local following = next -- by a name of its own: see docs/architecture.md, "Loops over tables"

local rivals = {}

local USED_KEY = {} -- the key in a request's context of the groups that it has used
local WEAK = { __mode = "k" }
local UNUSED = "\0"

---@class resty.session.rivals.group
---@field cookie_name string
---@field remember_cookie_name string
---@field remember boolean
---@field has_rivals boolean
---@field profiles table<resty.session.profile, true> the profiles of the group, as long as they are in use
---@field namesakes table[] the sets in `namesakes` that it is in: they live as long as a group in them

-- The groups in use, by all that tells them apart, and sets of them by each name of their cookies.
-- The name of a remember cookie that is not used has a NUL behind it: thousands of tenants may have
-- the default name, and do not collide by that.
local groups = setmetatable({}, { __mode = "v" })
local namesakes = setmetatable({}, { __mode = "v" })

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

-- Returns why two groups must not be used in one request, or nil if they may be.
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

local function note_rivals(group)
  group.has_rivals = true
  for profile in following, group.profiles do
    profile.has_rivals = true
  end
end

-- Finds a group's rivals among those that have a cookie of some name. There may be thousands.
local function find_among(group, name)
  for other in following, namesakes[name] or {} do
    if not (group.has_rivals and other.has_rivals) and collision(group, other) then
      note_rivals(group)
      note_rivals(other)
    end
  end
end

-- The same among all that have it, used or not.
local function find_among_all(group, name)
  find_among(group, name)
  find_among(group, name .. UNUSED)
end

-- Finds a new group's rivals. Only names that are equal, or but for a digit at their end, collide.
local function find_rivals(group)
  local session, remember = group.cookie_name, group.remember_cookie_name
  find_among_all(group, session)
  local find = group.remember and find_among_all or find_among
  find(group, remember)
  for _, name in following, { session, remember } do
    if name:find("%d$") then
      find_among_all(group, name:sub(1, -2))
    end
    for digit = 0, 9 do
      find_among_all(group, name .. digit)
    end
  end
end

local function new_group(profile)
  local group = {
    cookie_name = profile.cookie_name, remember_cookie_name = profile.remember_cookie_name, remember = profile.remember,
    has_rivals = false, profiles = setmetatable({}, WEAK), namesakes = {},
  }
  local remember = group.remember_cookie_name .. (group.remember and "" or UNUSED)
  for i, name in following, { group.cookie_name, remember } do
    namesakes[name] = namesakes[name] or setmetatable({}, WEAK)
    namesakes[name][group], group.namesakes[i] = true, namesakes[name]
  end
  return group
end

--- Puts a new profile into its group, and finds out whether it has rivals.
---@param profile resty.session.profile
function rivals.find(profile)
  local key = profile.cookie_name .. "=" .. profile.remember_cookie_name .. "=" .. tostring(profile.remember)
  local group = groups[key]
  if not group then
    group = new_group(profile)
    groups[key] = group
    find_rivals(group)
  end
  group.profiles[profile] = true
  profile.group, profile.has_rivals = group, group.has_rivals
end

-- Returns the groups with rivals that this request has used.
local function used_groups()
  local context = ngx.ctx
  context[USED_KEY] = context[USED_KEY] or {}
  return context[USED_KEY]
end

-- Returns the groups that a request has used before this one. One that had no rivals then is found
-- by the session that it has set, under a name that this group does not have.
local function used_before(used, group)
  local result, lines = {}, http.set_cookies()
  for other in following, used do
    result[other] = true
  end
  for i = 1, #lines do
    local name, value = lines[i]:match("^([^=]+)=([^;]*)")
    local is_own = name == group.cookie_name or name == group.remember_cookie_name
    if name and not is_own and native.header_fields(value) then
      for _, key in following, { name, name .. UNUSED } do
        for other in following, namesakes[key] or {} do
          result[other] = true
        end
      end
    end
  end
  return result
end

--- Notes that a request uses a profile with rivals. Warns, once a worker, if the request uses one
--- of the rivals as well.
---@param profile resty.session.profile
function rivals.note(profile)
  local group = profile.group
  local ok, used = pcall(used_groups)
  if not ok or used[group] then
    return -- a phase without a request; or a rival that was used later has found this group
  end
  local before = used_before(used, group)
  used[group] = true
  for other in following, before do
    local problem = collision(group, other)
    if problem then
      notices.once(problem)
    end
  end
end

return rivals
