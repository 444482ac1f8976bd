---
-- Revoking sessions by marks: the store of marks, and the functions that write marks.
--
-- @module resty.session.revocation
-- @license BSD-2-Clause

local native = require "resty.session.native"
local http = require "resty.session.http"
local profiles = require "resty.session.profiles"
local storages = require "resty.session.storages"

local time = ngx.time

local revocation = {}

--- Returns what an act needs to reach the store of marks now.
---@param store table
---@return userdata? native its native storage; nil if its methods are to be called
---@return string? problem why this thread can't wait for the native storage
function revocation.reach(store)
  local handle, prepare = storages.native(store)
  if handle and storages.is_original(store) then
    return handle, prepare(store)
  end
end

--- Does what an act needs of the store of marks.
---@param store table
---@param request table the arguments of `set` by their names
---@return true? ok, string? err
function revocation.set(store, request)
  return store:set(request.name, request.key, request.value, request.ttl, request.current_time)
end

---@class resty.session.sign_in An entry whose subject a program has set since it was opened or saved
---@field entry table
---@field subject string|number|false|nil the subject that it had
---@field id string? the id of the sign-in that the entry comes from, while a save begins another one

--- Sets an entry's subject. Another user's sign-in is another one, with an id of its own: the next
--- save gives it one.
---@param self resty.session.instance
---@param entry table
---@param subject string|number|nil
function revocation.set_subject(self, entry, subject)
  local sign_in = self.signing_in
  local was_saved = entry[5] or self.meta and self.meta.value
  if was_saved and not (sign_in and sign_in.entry == entry) then
    self.signing_in = { entry = entry, subject = entry[3] }
  end
  entry[3] = subject
  if subject == nil and entry[5] then
    entry[3] = false -- see `normalize` in outcomes
  end
end

-- Whether an entry is still one of the data: an open replaces them.
local function holds(data, entry)
  for i = 1, #data do
    if data[i] == entry then
      return true
    end
  end
  return false
end

--- Takes the sign-in id from the entry that has another subject than before, before a save.
---@param self resty.session.instance
---@return resty.session.sign_in? sign_in nil if there is no such entry
function revocation.begin_sign_in(self)
  local sign_in = self.signing_in
  local entry = sign_in and sign_in.entry
  if not entry or not entry[3] or entry[3] == sign_in.subject or not holds(self.data, entry) then
    return nil
  end
  sign_in.id, entry[5] = sign_in.id or entry[5], nil
  return sign_in
end

--- Notes that the data were saved, or puts back what `begin_sign_in` took.
---@param self resty.session.instance
---@param sign_in resty.session.sign_in? what that returned
---@param is_saved boolean
function revocation.end_sign_in(self, sign_in, is_saved)
  if is_saved then
    self.signing_in = nil
  elseif sign_in and not sign_in.entry[5] then
    sign_in.entry[5] = sign_in.id
  end
end

---@class resty.session.revocation.shim What this module needs of the shim
---@field run_act function runs an act until it is done, and returns its outcome
---@field handle_of function returns the native handle for an act, and why this thread can't wait for the storage

--- Raises an error if a mark can't be kept for that many seconds.
---@param ttl any
---@raise `invalid revocation ttl`
function revocation.check_ttl(ttl)
  if type(ttl) ~= "number" or not (ttl > 0 and ttl < math.huge) then
    error("invalid revocation ttl", 0)
  end
end

--- Returns a function that runs an act that has no session. It returns the act's value, or nil and
--- an error.
---@param shim resty.session.revocation.shim
---@return fun(act: function, profile: resty.session.profile, argument: any, ttl: number?): any, string? run
function revocation.runner(shim)
  local run_act, handle_of = shim.run_act, shim.handle_of
  return function(act, profile, argument, ttl)
    local handle, problem = handle_of(profile)
    local _, err, value = run_act(profile, act(
      handle, time(), http.any_cookies(profile), nil, problem, argument, ttl))
    if err then
      return nil, err
    end
    return value
  end
end

--- Adds the functions to the module `resty.session`, and the methods to its instances.
---@param session table
---@param metatable table
---@param shim resty.session.revocation.shim
function revocation.install(session, metatable, shim)
  local run = revocation.runner(shim)

  --- Revokes all sessions that exist now and have a session id of an identity provider.
  ---@param sid string as it was given to `set_sid`
  ---@param ttl number seconds for which the mark is kept: as long as a session may live
  ---@param configuration table?
  ---@return true? ok, string? err
  ---@raise `invalid sid`, `invalid revocation ttl`
  function session.revoke_sid(sid, ttl, configuration)
    if type(sid) ~= "string" or sid == "" then
      error("invalid sid", 0)
    end
    revocation.check_ttl(ttl)
    return run(native.revoke_sid, profiles.resolve(configuration), sid, ttl)
  end

  --- Sets the current audience's session id of the identity provider.
  ---@param sid string?
  ---@raise `invalid sid`
  function metatable:set_sid(sid)
    if self.state == "closed" then
      error("unable to set sid on closed session", 0)
    elseif sid ~= nil and type(sid) ~= "string" then
      error("invalid sid", 0)
    end
    self.data[self.data_index][4] = sid
  end

  --- Returns the current audience's session id of the identity provider.
  ---@return string? sid
  function metatable:get_sid()
    if self.state == "closed" then
      error("unable to get sid on closed session", 0)
    end
    return self.data[self.data_index][4] or nil
  end
end

return revocation
