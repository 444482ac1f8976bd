---
-- The sessions of a subject: listing them, and ending them.
--
-- @module resty.session.subjects
-- @license BSD-2-Clause

local native = require "resty.session.native"
local http = require "resty.session.http"
local info_table = require "resty.session.info"
local json = require "resty.session.json"
local outcomes = require "resty.session.outcomes"
local profiles = require "resty.session.profiles"
local revocation = require "resty.session.revocation"
local waiting = require "resty.session.waiting"

local acts, decode_base64url = native.subjects, native.utils.decode_base64url
local check_ttl, time = revocation.check_ttl, ngx.time

local ID_SIZE = 32 -- bytes
-- How many sessions of a list are made into tables at once. Other requests have their turn between
-- two pieces: a list of thousands would hold them up for several milliseconds.
local PIECE = 100
local MOMENT = 0.05 -- seconds between two looks at the clock

---@class resty.session.listed A session of a subject
---@field id string the key of its record; `revoke_id` takes it
---@field audience string|number the configuration's
---@field expires integer when its record expires: seconds since the epoch
---@field current true? whether the request carries its cookie

local function check_subject(subject)
  local kind = type(subject)
  if kind == "string" and subject ~= "" or kind == "number" and subject - subject == 0 then
    return
  end
  error("invalid subject", 0)
end

local function check_id(id)
  local raw = type(id) == "string" and decode_base64url(id)
  -- What the keys of marks start with would name the mark of a user, not a session.
  if not raw or #raw ~= ID_SIZE or raw:find("^subject:") or raw:find("^sid:") then
    error("invalid session id", 0)
  end
end

-- Makes a list of the native module into an array.
local function array_of(list, audience)
  local sessions = {}
  while acts.take(list, sessions, PIECE, audience) do
    waiting.pause()
  end
  return sessions
end

local subjects = {}

--- Adds the functions to the module `resty.session`, and the methods to its instances.
---@param session table
---@param metatable table
---@param shim resty.session.revocation.shim
function subjects.install(session, metatable, shim)
  local run_act, handle_of = shim.run_act, shim.handle_of
  local run = revocation.runner(shim)

  --- Lists the sessions of a subject in the configured audience, the one that expires last first.
  --- Needs a storage, and `store_metadata`.
  ---@param subject string|number
  ---@param configuration table?
  ---@return resty.session.listed[]? sessions
  ---@return string? err
  ---@raise `invalid subject`
  function session.list(subject, configuration)
    check_subject(subject)
    local profile = profiles.resolve(configuration)
    local list, err = run(acts.list, profile, subject)
    if not list then
      return nil, err
    end
    return array_of(list, profile.audience)
  end

  --- Ends all sessions of a subject in the configured audience, remembered ones included.
  ---@param subject string|number
  ---@param ttl number seconds for which a mark must be kept, where sessions are revoked by marks
  ---@param configuration table?
  ---@return true? ok
  ---@return string? err
  ---@raise `invalid subject`, `invalid revocation ttl`
  function session.revoke_subject(subject, ttl, configuration)
    check_subject(subject)
    check_ttl(ttl)
    return run(acts.revoke, profiles.resolve(configuration), subject, ttl)
  end

  --- Ends one session. If metadata are to stop naming it at once, the option `subject` must say
  --- whose it is.
  ---@param id string as `list` has it, or as `get_property("id")` returns it
  ---@param configuration table?
  ---@return true? ok also if there is no such session
  ---@return string? err
  ---@raise `invalid session id`
  function session.revoke_id(id, configuration)
    check_id(id)
    return run(acts.revoke_id, profiles.resolve(configuration), id)
  end

  -- Saves a session as a new one that no mark written by now revokes: one that was created in a
  -- later second. So audiences of other subjects and of other identity providers' sessions leave
  -- it: marks that have ended those would count no more.
  local function begin_anew(self, marked_at)
    while time() <= marked_at do
      waiting.pause(MOMENT)
    end
    local remembers = self:get_remember()
    self.forget = self.forget or self.remember and not remembers -- `meta` said so until now
    self.remember = remembers
    self.meta, self.remember_meta = {}, false
    local current, info = self.data[self.data_index], self.info.data
    outcomes.retain(self, function(entry)
      local stays = (not entry[3] or entry[3] == current[3]) and (not entry[4] or entry[4] == current[4])
      if info and not stays then
        info[info_table.key_of(entry[2])] = nil
      end
      return stays
    end)
    return self:save()
  end

  --- Ends all other sessions of the current audience's subject, remembered ones included, but not
  --- this browser's own remember cookie. Where only marks can end sessions, as those in cookies,
  --- this one is saved as a new one, which takes up to a second; how many have ended is not known
  --- then.
  ---@return integer|true|nil count how many sessions ended, or true if that is not known
  ---@return string? err
  function metatable:revoke_others()
    if self.state == "closed" then
      error("unable to revoke other sessions of closed session", 0)
    end
    local payload, err = json.encode_part("data", self.data)
    if err then
      return nil, err
    end
    local profile, meta, now = self.profile, self.meta, time()
    local handle, problem = handle_of(profile)
    local unready = profile.revocation and waiting.prepare() -- `begin_anew` waits
    if unready then
      return nil, "unable to revoke other sessions (" .. unready .. ")"
    end
    local _, failure, count = run_act(profile, acts.revoke_others(
      handle, now, self.hidden or http.any_cookies(profile), http.unsendable(), problem,
      self.state == "open", self.remember, self.forget, meta.value, meta.ikm, meta.known_at, self.remember_meta or nil,
      payload, self.data_index))
    if failure then
      return nil, failure
    elseif count == true then
      return begin_anew(self, now)
    end
    return count
  end
end

return subjects
