---
-- Sessions for OpenResty and nginx + Lua.
--
-- This is the shim: it reads the request, waits for storages, keeps the tables of data that
-- programs change in place, and sets headers. All decisions are made in the native module
-- (`resty.session.native`), which knows nothing of nginx. Its acts return rows of values that start
-- with what is to be done next; see `run_act` and `resty.session.outcomes`.
--
-- @module resty.session
-- @license BSD-2-Clause

local native = require "resty.session.native"
local http = require "resty.session.http"
local info_table = require "resty.session.info"
local json = require "resty.session.json"
local metas = require "resty.session.meta"
local notices = require "resty.session.notices"
local outcomes = require "resty.session.outcomes"
local profiles = require "resty.session.profiles"
local properties = require "resty.session.properties"
local revocation = require "resty.session.revocation"
local rivals = require "resty.session.rivals"
local storages = require "resty.session.storages"
local subjects = require "resty.session.subjects"
local synchronize = require "resty.session.synchronize"
local waiting = require "resty.session.waiting"

local respond, time = http.respond, ngx.time
local band = require("bit").band
local encode_part = json.encode_part
local new_entry, resolve = outcomes.new_entry, profiles.resolve

local NEXT = native.NEXT
local OPENED, OPENED_SIGNED, OPENED_ENTRY, TOUCHED = NEXT.OPENED, NEXT.OPENED_SIGNED, NEXT.OPENED_ENTRY, NEXT.TOUCHED
local WAIT, GET, CALL, DERIVE, ASK, GET_MARK = NEXT.WAIT, NEXT.GET, NEXT.CALL, NEXT.DERIVE, NEXT.ASK, NEXT.GET_MARK
local FLAG_FORGET = native.FLAG_FORGET

---@alias resty.session.state "new"|"open"|"closed"
---@class resty.session.instance
---@field state resty.session.state
---@field meta resty.session.meta
---@field cookie_name string
---@field cookie_flags string
---@field remember boolean
---@field data table[] one entry `{ data, audience, subject, sid, sign-in id }` for each audience
---@field data_index integer
---@field info resty.session.info
---@field storage table|false
---@field profile resty.session.profile
---@field remember_meta resty.session.meta|false
---@field forget boolean whether the next save forgets the user
---@field revocation table? the store of marks, of a session that is kept in its cookie
---@field signing_in resty.session.sign_in? the entry whose subject a program has set
---@field hidden string|false|nil the Cookie header that acts are given, if it is not the request's
---@field ended boolean? whether it was destroyed, or an audience logged out
---@field synchronized boolean? whether `synchronize` runs
local metatable = {}
metatable.__index = metatable

local session = {
  -- The version of lua-resty-session that has this API. Programs read it.
  _VERSION = "4.2.0",
  _NATIVE_VERSION = native._VERSION,
  metatable = metatable,
}

--- Sets the defaults of all later sessions. Absent options get their built-in defaults. Only the
--- key stays as it was, or is random at first, if neither `secret` nor `ikm` is given.
---@param configuration table? options
---@raise a string that names what is wrong with an option
function session.init(configuration)
  profiles.init(configuration)
end

-- Acts ------------------------------------------------------------------------------------------------------------

-- Returns the native handle for an act, and why this thread can't wait for the storage, or nil.
local function handle_of(profile)
  http.check()
  if profile.has_rivals then
    rivals.note(profile)
  end
  return storages.handle_of(profile)
end

-- How often acts have waited, or may have. If that is the same after an act as before, no other
-- thread has run meanwhile.
local waits = 0

-- Does what an act needs until it is done, and returns its outcome: `OPENED`, `OPENED_SIGNED`,
-- `OPENED_ENTRY`, `DONE` or `TOUCHED`, and their values. `Next` in the native module tells what the
-- values after `todo` are.
local function run_act(profile, todo, a, b, c, d)
  if todo <= TOUCHED then
    return todo, a, b, c, d
  end
  waits = waits + 1
  if todo == WAIT then
    return run_act(profile, native.resume_ticket(a, waiting.wait(a, b, c)))
  elseif todo == GET then
    return run_act(profile, native.reply(a, profile.storage:get(b, c, d)))
  elseif todo == CALL then
    return run_act(profile, native.reply(a, storages.call(profile.storage, b)))
  elseif todo == DERIVE then
    return run_act(profile, native.derive(a, waiting.prepare()))
  elseif todo == ASK then
    return run_act(profile, native.ask(a, revocation.reach(profile.revocation)))
  elseif todo == GET_MARK then
    return run_act(profile, native.reply(a, profile.revocation:get(b, c, d)))
  end
  return run_act(profile, native.reply(a, revocation.set(profile.revocation, b)))
end

-- Instances ----------------------------------------------------------------------------------------------------------

---@class resty.session.info
---@field session resty.session.instance
---@field data table|false
local info_metatable = {}
info_metatable.__index = info_metatable

local function new_instance(profile, data)
  local self = setmetatable({
    state = "new",
    meta = data and {} or false,
    remember_meta = false,
    cookie_name = profile.cookie_name,
    cookie_flags = profile.cookie_flags,
    remember = profile.remember,
    forget = false,
    data = data or false,
    data_index = 1,
    info = false,
    storage = profile.storage,
    profile = profile,
  }, metatable)
  self.info = setmetatable({ session = self, data = false }, info_metatable)
  if profile.revocation and not profile.storage then
    self.revocation = profile.revocation
  end
  return self
end

-- Raises an error on a closed session.
local function check_not_closed(self, problem)
  if self.state == "closed" then
    error(problem, 0)
  end
end

-- Runs an act that opens the request's session, for an instance. Returns the error, if there is
-- one. `audience` and `remember` are the instance's own, if they differ from the configuration's,
-- and `given` is a Cookie header to open in place of the request's.
local function open(self, act, audience, remember, given)
  local profile, now = self.profile, time()
  local handle, reason = handle_of(profile)
  local cookies = given or http.cookies(profile)
  local sets_cookies = act ~= native.open or self.remember -- `open` sets some only if it opens a remember cookie
  local before = waits
  local done, a, b, c, d = run_act(profile, act(
    handle, now, cookies, sets_cookies and http.unsendable() or nil, reason, audience, remember))
  local err, position
  if done == OPENED then
    err, position = outcomes.apply_opened(self, a, audience or profile.audience, b), c
  elseif done == OPENED_SIGNED then
    err, position = outcomes.apply_opened_signed(self, a, audience or profile.audience, b, c), d
  elseif done == OPENED_ENTRY then
    err, position = outcomes.apply_opened_entry(self, a), b
  else
    err = outcomes.apply(self, now, cookies, c, d) or a
    if respond(b, d and d.warning, waits ~= before) then
      return err
    elseif act == native.start then
      return err or outcomes.OVERTAKEN
    end
    notices.warn(outcomes.OVERTAKEN) -- whether it is open does not hang on that
    return err
  end
  if not err then
    self.meta = metas.read(profile.ikms[1], now, cookies, position)
  end
  return err
end

-- Returns what a method returns: true alone, or nil and the error.
local function result(err)
  if err then
    return nil, err
  end
  return true
end

-- The same. If there is no error, or the act was done all the same, the instance gets a new state.
local function result_and_state(self, state, err, is_done)
  is_done = is_done or not err
  self.state, self.ended = is_done and state or self.state, is_done and state == "closed"
  return result(err)
end

-- Runs an act of the native module on an instance. Returns the error, if there is one, and whether
-- the session was saved all the same, but its cookies cannot be sent any more.
local function perform(self, act, payload, info)
  local profile, meta, now, before = self.profile, self.meta, time(), waits
  local handle, problem = handle_of(profile)
  local done, a, b, c, d = run_act(profile, act(
    handle, now, act ~= native.instance.touch and (self.hidden or http.any_cookies(profile)) or nil,
    http.unsendable(), problem,
    self.state == "open", self.remember, self.forget, meta.value, meta.ikm, meta.known_at, self.remember_meta or nil,
    payload, self.data_index, info))
  if done ~= TOUCHED then
    local err = outcomes.apply(self, now, false, c, d) or a
    if respond(b, d and d.warning, waits ~= before) or err then
      return err
    end
    local saved = c ~= meta.value and c or nil
    return outcomes.overtaken(profile, saved, d), saved ~= nil
  end
  self.meta = metas.saved(meta.ikm, now, b, meta.known_at)
  return not respond(a, nil, waits ~= before) and outcomes.OVERTAKEN or nil
end

-- Runs an act that saves the data, without the info of the audience `leaving`. If the act may turn
-- out not to save (`may_skip`), data that can't be encoded are not an error yet.
local function perform_save(self, act, leaving, may_skip)
  local payload, err = encode_part("data", self.data)
  local info, problem = info_table.encode(self.info.data, leaving)
  return (not may_skip and err) or problem or perform(self, act, payload, info)
end

local function get_remember(self)
  local forgotten = self.forget or band(self.meta.flags or 0, FLAG_FORGET) ~= 0
  return not forgotten and self.remember
end

-- The info store -----------------------------------------------------------------------------------------------------

--- Sets a value in the info store.
---@param key string
---@param value any what JSON can hold
function info_metatable:set(key, value)
  local owner = self.session
  check_not_closed(owner, "unable to set session info on closed session")
  local current = owner.data[owner.data_index]
  local data = owner.storage and (self.data or {})
  if data then
    local audience = info_table.key_of(current[2])
    data[audience] = data[audience] or {}
    data[audience][key] = value
    self.data = data
  else
    current[1]["@" .. key] = value
  end
end

--- Returns a value from the info store.
---@param key string
---@return any value
function info_metatable:get(key)
  local owner = self.session
  check_not_closed(owner, "unable to get session info on closed session")
  local current = owner.data[owner.data_index]
  if not owner.storage then
    return current[1]["@" .. key]
  end
  local data = self.data and self.data[info_table.key_of(current[2])] or {}
  return data[key]
end

--- Saves the info store. With a storage, only the stored record changes: no cookie is sent, and the
--- id stays the same.
---@return true? ok, string? err
function info_metatable:save()
  local owner = self.session
  check_not_closed(owner, "unable to save session info on closed session")
  if owner.state ~= "open" then
    return nil, "unable to save session info on nonexistent session"
  end
  if not owner.storage then
    return owner:save()
  end
  local info, err = info_table.encode(self.data)
  -- The data tell which user's remember record it may go into.
  local payload = get_remember(owner) and not owner.remember_meta and encode_part("data", owner.data) or nil
  return result(err or perform(owner, native.instance.save_info, payload, info))
end

-- The instance's methods ---------------------------------------------------------------------------------------------

--- Replaces the current audience's data.
---@param data table
function metatable:set_data(data)
  check_not_closed(self, "unable to set session data on closed session")
  if type(data) ~= "table" then
    error("invalid session data", 0)
  end
  self.data[self.data_index][1] = data
end

--- Returns the current audience's data: the table itself, which the program may change in place.
---@return table data
function metatable:get_data()
  check_not_closed(self, "unable to set session data on closed session") -- lua-resty-session's text
  return self.data[self.data_index][1]
end

-- In a cookie session, the data hold the info store, too, under keys that start with "@".
local function data_key(self, key)
  if not self.storage and type(key) == "string" and key:byte() == 0x40 then
    return "$" .. key
  end
  return key
end

--- Sets a value in the current audience's data.
---@param key string|number
---@param value any what JSON can hold
function metatable:set(key, value)
  check_not_closed(self, "unable to set session data value on closed session")
  self.data[self.data_index][1][data_key(self, key)] = value
end

--- Returns a value from the current audience's data.
---@param key string|number
---@return any value
function metatable:get(key)
  check_not_closed(self, "unable to get session data value on closed session")
  return self.data[self.data_index][1][data_key(self, key)]
end

--- Renames the current audience. An older entry of that name is dropped. The info keeps belonging
--- to the renamed audience.
---@param audience string|number
function metatable:set_audience(audience)
  check_not_closed(self, "unable to set audience on closed session")
  local current = self.data[self.data_index]
  local former = current[2]
  if audience == former then
    return
  end
  local info = self.info.data
  if info then
    local from, to = info_table.key_of(former), info_table.key_of(audience)
    info[to], info[from] = info[from], nil
  end
  outcomes.retain(self, function(entry) return entry[2] ~= audience end)
  current[2] = audience
end

--- Returns the current audience.
---@return string|number audience
function metatable:get_audience()
  check_not_closed(self, "unable to get audience on closed session")
  return self.data[self.data_index][2]
end

--- Sets the current audience's subject.
---@param subject string|number|nil
function metatable:set_subject(subject)
  check_not_closed(self, "unable to set subject on closed session")
  revocation.set_subject(self, self.data[self.data_index], subject)
end

--- Returns the current audience's subject.
---@return string|number|nil subject
function metatable:get_subject()
  check_not_closed(self, "unable to get subject on closed session")
  return self.data[self.data_index][3] or nil
end

--- Switches the remember cookie on or off. If it is off, the next save forgets the user.
---@param value boolean
function metatable:set_remember(value)
  check_not_closed(self, "unable to set remember on closed session")
  if type(value) ~= "boolean" then
    error("invalid remember value", 0)
  end
  self.forget = not value
  self.remember = value
end

--- Returns whether the user is to be remembered.
---@return boolean
function metatable:get_remember()
  check_not_closed(self, "unable to get remember on closed session")
  return get_remember(self)
end

--- Returns a property: `id`, `nonce`, `audience`, `subject`, `timeout`, `idling-timeout`,
--- `rolling-timeout`, `absolute-timeout`, or a field of `meta`. Timeouts are the seconds left.
---@param name string
---@return any value
function metatable:get_property(name)
  check_not_closed(self, "unable to get session property on closed session")
  return properties.get(self, name)
end

--- Opens the request's session.
---@return true? ok, string? err
function metatable:open()
  return result(open(self, native.open, outcomes.audience_of(self), self.remember and true or false))
end

--- Saves the session under a new id, and the remember cookie if the user is to be remembered.
---@return true? ok, string? err
function metatable:save()
  check_not_closed(self, "unable to save closed session")
  local sign_in = revocation.begin_sign_in(self)
  local err, is_done = perform_save(self, sign_in and native.instance.sign_in or native.instance.save)
  revocation.end_sign_in(self, sign_in, is_done or not err)
  return result_and_state(self, "open", err, is_done)
end

--- Renews the idling timeout, without calling the storage.
---@return true? ok, string? err
function metatable:touch()
  check_not_closed(self, "unable to touch closed session")
  return result(perform(self, native.instance.touch))
end

--- Saves or touches the session if that is due.
---@return true? ok, string? err
function metatable:refresh()
  check_not_closed(self, "unable to refresh closed session")
  return result(perform_save(self, native.instance.refresh, nil, true))
end

--- Logs the current audience out. Logging out the last audience destroys the session.
---@return true? ok, string? err
function metatable:logout()
  check_not_closed(self, "unable to logout closed session")
  return result_and_state(self, "closed", perform_save(self, native.instance.logout, self.data[self.data_index][2]))
end

--- Destroys the session and the record of its remember cookie, and clears both cookies.
---@return true? ok, string? err
function metatable:destroy()
  check_not_closed(self, "unable to destroy closed session")
  -- Data that can't be encoded do not keep a session from being destroyed. The names say what to
  -- end.
  local payload = encode_part("data", self.data) or encode_part("data", outcomes.without_data(self.data))
  return result_and_state(self, "closed", perform(self, native.instance.destroy, payload))
end

--- Closes the instance. The session itself stays valid.
function metatable:close()
  self.state = "closed"
end

--- Calls a function while no other request of the session does: `synchronize(fn, timeout?)`; see
--- `resty.session.synchronize`.
---@function metatable:synchronize
metatable.synchronize = synchronize.method(function(profile, cookies, audience)
  local self = new_instance(profile)
  return self, open(self, native.open, audience, false, cookies)
end)

-- Hides the cookies, and keeps the original header, because a later sign-out must find the remember
-- cookie. Returns that header, or false.
local function hide(self)
  local cookies = http.hide(self.profile.handle, time(), self.meta.value)
  self.hidden = self.hidden or cookies
  return cookies
end

--- Removes the session's cookies and the remember cookie from the request, whether or not the
--- session exists, so that an upstream does not see them.
---@return true? ok, string? err
function metatable:clear_request_cookie()
  check_not_closed(self, "unable to clear session request cookie on closed session")
  if self.state ~= "open" then
    pcall(hide, self) -- in a phase without a request there is nothing to hide
    return nil, "unable to clear session request cookie on nonexistent session"
  end
  return result(not hide(self) and "unable to clear session request cookie")
end

metatable.hide = metatable.clear_request_cookie

--- Sets request and response headers from the properties that the arguments name, one by one or in
--- a table. Without arguments, it sets those of the options `request_headers` and
--- `response_headers`. Returns true, or nil and an error.
---@function metatable:set_headers
metatable.set_headers = properties.header_setter("request/response", true, true)

--- Sets request headers only; see `set_headers`. Removes those whose property has no value; without
--- a session, all of them.
---@function metatable:set_request_headers
metatable.set_request_headers = properties.header_setter("request", true, false)

--- Sets response headers only; see `set_headers`.
---@function metatable:set_response_headers
metatable.set_response_headers = properties.header_setter("response", false, true)

-- The module's functions ---------------------------------------------------------------------------------------------

--- Returns a new session.
---@param configuration table? options; absent ones are as `init` set them
---@return resty.session.instance session
function session.new(configuration)
  local profile = resolve(configuration)
  return new_instance(profile, { new_entry(profile) })
end

-- Opens the request's session. Returns the instance, and the error or nil.
local function open_session(act, configuration)
  local self = new_instance(resolve(configuration))
  local err = open(self, act)
  self.data, self.meta = self.data or { new_entry(self.profile) }, self.meta or {}
  return self, err
end

--- Opens the request's session, or makes a new one.
---@param configuration table?
---@return resty.session.instance session
---@return string? err why it did not open
---@return boolean exists whether it opened
function session.open(configuration)
  local self, err = open_session(native.open, configuration)
  return self, err, self.state == "open"
end

--- Opens the request's session and refreshes it, or makes a new one.
---@param configuration table?
---@return resty.session.instance session
---@return string? err why it did not open, or was not refreshed
---@return boolean exists whether it opened
---@return boolean refreshed whether the refresh succeeded
function session.start(configuration)
  local self, err = open_session(native.start, configuration)
  return self, err, self.state == "open", not err
end

-- Runs an act on the request's session that leaves no instance.
---@return true? ok, string? err, boolean exists, boolean ended
local function end_session(act, configuration)
  local profile = resolve(configuration)
  local handle, problem = handle_of(profile)
  local before = waits
  local _, err, lines, cookie, rest = run_act(profile, act(
    handle, time(), http.cookies(profile), http.unsendable(), problem))
  if not respond(lines, rest and rest.warning, waits ~= before) then
    err = err or outcomes.overtaken(profile, cookie, rest)
  end
  return not err or nil, err, rest and rest.exists or false, not err
end

--- Logs the configured audience out of the request's session.
---@param configuration table?
---@return true? ok, string? err
---@return boolean exists whether the session existed
---@return boolean logged_out whether it was logged out
function session.logout(configuration)
  return end_session(native.logout, configuration)
end

--- Destroys the request's session.
---@param configuration table?
---@return true? ok, string? err
---@return boolean exists whether the session existed
---@return boolean destroyed whether it was destroyed
function session.destroy(configuration)
  return end_session(native.destroy, configuration)
end

revocation.install(session, metatable, { run_act = run_act, handle_of = handle_of })
subjects.install(session, metatable, { run_act = run_act, handle_of = handle_of })

-- For programs' own tests ---------------------------------------------------------------------------------------------

for _, name in ipairs { "log", "var", "header", "req_clear_header", "req_set_header" } do
  session["__set_ngx_" .. name] = http["set_ngx_" .. name]
end

session.init()

return session
