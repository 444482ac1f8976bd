---
-- Sessions for OpenResty and nginx + Lua.
--
-- This is the shim: it reads the request, waits for storages, keeps the data's live tables, and sets headers. What is
-- decided is decided in the native module (`resty.session.native`), which knows nothing of nginx. Its acts answer a row of
-- values that starts with a task where a storage has to be asked first; see `carry` and `take_over`.
--
-- @module resty.session
-- @license BSD-2-Clause

local native = require "resty.session.native"
local http = require "resty.session.http"
local info_table = require "resty.session.info"
local profiles = require "resty.session.profiles"
local rivals = require "resty.session.rivals"
local storages = require "resty.session.storages"
local json = require "resty.session.json"
local waiting = require "resty.session.waiting"

local respond, time = http.respond, ngx.time
local band = require("bit").band
local encode_part, decode_part = json.encode_part, json.decode_part
local resolve = profiles.resolve
local new_meta = require("resty.session.meta").new

local HEADERS = native.HEADERS
local FLAG_FORGET = native.FLAG_FORGET
local ENTRY_INDEX = { audience = 2, subject = 3 } -- where they stand in an entry of the data

---@alias resty.session.state "new"|"open"|"closed"

---@class resty.session.info
---@field session resty.session.instance
---@field data table|false

---@class resty.session.instance
---@field state resty.session.state
---@field meta resty.session.meta
---@field cookie_name string
---@field cookie_flags string
---@field remember boolean
---@field data table[] one `{ data, audience, subject }` an audience
---@field data_index integer
---@field info resty.session.info
---@field storage table|false
local metatable = {}
metatable.__index = metatable

local session = {
  -- The version of lua-resty-session whose API this is: programs look at it.
  _VERSION = "4.1.5",
  _NATIVE_VERSION = native._VERSION,
  metatable = metatable,
}

--- Sets the defaults of all later sessions. Every option that is absent gets its built-in default; only the key stays what
-- it was, or is random, where neither `secret` nor `ikm` is given.
-- @function session.init
-- @tparam[opt] table configuration options
-- @raise a string that names what is wrong with an option
---@type fun(configuration: table?)
session.init = profiles.init

-- Acts ------------------------------------------------------------------------------------------------------------

-- The native handle to run an act with, and why the storage can't be waited for, if it can't.
local function handle_of(profile)
  http.check()
  if profile.rivals then
    rivals.note(profile)
  end
  return storages.handle_of(profile)
end

-- Does what the native task needs, until the act is done. A number is the ticket of what was submitted already: an operation
-- of a storage on the bridge, or the derivation of a key. `derive` asks whether this thread can wait for a derivation.
local function carry(profile, task, ...)
  if not task then
    return ...
  elseif type(task) == "number" then
    return carry(profile, native.go_on(task, waiting.wait(task, ...)))
  elseif (...) == "derive" then
    return carry(profile, native.derive(task, waiting.prepare()))
  end
  return carry(profile, native.resume(task, storages.call(profile.storage, ...)))
end

-- Instances ----------------------------------------------------------------------------------------------------------

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
  return self
end

local function new_entry(profile)
  return { {}, profile.audience, profile.subject }
end

local function live(self, problem)
  if self.state == "closed" then
    error(problem, 0)
  end
end

-- Takes over the data of a session that was opened. Without an index the current audience is added to them. Where the index
-- is an audience's name, they are that one's alone.
local function take_data(self, data, index, subject, info)
  local current, found = self.data and self.data[self.data_index], index ~= nil
  self.state = found and "open" or "new"
  if type(index) == "string" then
    data, index = { { data, index, subject } }, 1
  elseif not found then
    index = #data + 1
    data[index] = current or new_entry(self.profile)
  end
  info = info_table.by_audience(info, data)
  if info then -- of an audience that the session did not have, only this instance's own counts
    local audience, own = info_table.place(data[index][2]), self.info.data
    info[audience] = found and info[audience] or own and own[audience] or nil
    self.info.data = info
  end
  self.data, self.data_index = data, index
end

-- Takes over what an act came to. Returns the error, if there is one. `opens` is the Cookie header that was given to an act
-- which opens, true if there is none, and false for other acts.
local function take_over(self, now, opens, err, _, lines, warning, key, value, value_end, payload, index, subject, info,
                         remembered, known_at)
  if payload then
    local data, problem = decode_part("data", payload, type(index) == "string" and 1 or 3)
    if info and not problem then
      info, problem = decode_part("info", info, 2)
    end
    if problem then
      respond(lines, warning)
      return problem
    elseif opens then
      take_data(self, data, index, subject, info)
    elseif index then -- some audiences were dropped: the current one's data stay the program's own table
      data[index] = self.data[self.data_index]
      self.data, self.data_index, self.info.data = data, index, info_table.by_audience(info, data)
    end
  end
  respond(lines, warning)
  if key and value then
    self.meta = new_meta(self.profile.ikms[key], now, value, known_at, opens, value_end)
  end
  if remembered then
    self.remember_meta = new_meta(self.profile.remember_ikms[remembered.key], now, remembered.value, remembered.known_at)
  end
  return err
end

-- What a method returns: true alone, or nil and the error.
local function result(err)
  if err then
    return nil, err
  end
  return true
end

local function becomes(self, state, err)
  self.state = not err and state or self.state
  return result(err)
end

-- Runs an act of the native module on an instance. Returns the error, if there is one.
local function perform(self, act, payload, info)
  local meta, now = self.meta, time()
  local handle, problem = handle_of(self.profile)
  return take_over(self, now, false, carry(self.profile, act(
    handle, now, act ~= native.instance.touch and (self.hidden or http.any_cookies(self.profile)) or nil,
    http.unsendable(), problem,
    self.state == "open", self.remember, self.forget, meta.value, meta.ikm, meta.known_at, self.remember_meta or nil,
    payload, self.data_index, info)))
end

-- Runs an act that saves the data; where it may not have to (`perhaps`), data that can't be encoded are no error yet.
local function perform_save(self, act, leaving, perhaps)
  local payload, err = encode_part("data", self.data)
  local info, problem = info_table.encode(self.info.data, leaving)
  return (not perhaps and err) or problem or perform(self, act, payload, info)
end

local function get_remember(self)
  local forgotten = self.forget or band(self.meta.flags or 0, FLAG_FORGET) ~= 0
  return not forgotten and self.remember
end

-- The info store -----------------------------------------------------------------------------------------------------

--- Sets a value of the info store.
-- @tparam string key
-- @param value anything that JSON can hold
function info_metatable:set(key, value)
  local owner = self.session
  live(owner, "unable to set session info on closed session")
  local current = owner.data[owner.data_index]
  local data = owner.storage and (self.data or {})
  if data then
    local place = info_table.place(current[2])
    data[place] = data[place] or {}
    data[place][key] = value
    self.data = data
  else
    current[1]["@" .. key] = value
  end
end

--- Gets a value of the info store.
-- @tparam string key
-- @return the value, or nil
function info_metatable:get(key)
  local owner = self.session
  live(owner, "unable to get session info on closed session")
  local current = owner.data[owner.data_index]
  if not owner.storage then
    return current[1]["@" .. key]
  end
  local data = self.data and self.data[info_table.place(current[2])] or {}
  return data[key]
end

--- Saves the info store. With a storage only the stored record changes: no cookie is sent, the id stays.
-- @treturn boolean|nil true
-- @treturn string error
function info_metatable:save()
  local owner = self.session
  live(owner, "unable to save session info on closed session")
  if owner.state ~= "open" then
    return nil, "unable to save session info on nonexistent session"
  end
  if not owner.storage then
    return owner:save()
  end
  local info, err = info_table.encode(self.data)
  -- The data say whose remember record it may go into.
  local payload = get_remember(owner) and not owner.remember_meta and encode_part("data", owner.data) or nil
  return result(err or perform(owner, native.instance.save_info, payload, info))
end

-- The instance's methods ---------------------------------------------------------------------------------------------

--- Replaces the current audience's data.
-- @tparam table data
function metatable:set_data(data)
  live(self, "unable to set session data on closed session")
  if type(data) ~= "table" then
    error("invalid session data", 0)
  end
  self.data[self.data_index][1] = data
end

--- The current audience's data: a live table.
-- @treturn table
function metatable:get_data()
  live(self, "unable to set session data on closed session")
  return self.data[self.data_index][1]
end

-- In a cookie session "@" marks the info store's keys among the data's.
local function data_key(self, key)
  if not self.storage and type(key) == "string" and key:byte() == 0x40 then
    return "$" .. key
  end
  return key
end

--- Sets a value of the current audience's data.
-- @param key
-- @param value anything that JSON can hold
function metatable:set(key, value)
  live(self, "unable to set session data value on closed session")
  self.data[self.data_index][1][data_key(self, key)] = value
end

--- Gets a value of the current audience's data.
-- @param key
-- @return the value, or nil
function metatable:get(key)
  live(self, "unable to get session data value on closed session")
  return self.data[self.data_index][1][data_key(self, key)]
end

--- Renames the current audience. An older entry of that name is dropped, and info moves along.
-- @tparam string audience
function metatable:set_audience(audience)
  live(self, "unable to set audience on closed session")
  local data, index = self.data, self.data_index
  local former = data[index][2]
  if audience == former then
    return
  end
  local info = self.info.data
  if info then
    local from, to = info_table.place(former), info_table.place(audience)
    info[to], info[from] = info[from], nil
  end
  for i = #data, 1, -1 do
    if i ~= index and data[i][2] == audience then
      table.remove(data, i)
      if i < index then
        index = index - 1
      end
    end
  end
  data[index][2] = audience
  self.data_index = index
end

--- The current audience.
-- @treturn string
function metatable:get_audience()
  live(self, "unable to get audience on closed session")
  return self.data[self.data_index][2]
end

--- Sets the current audience's subject.
-- @tparam string subject
function metatable:set_subject(subject)
  live(self, "unable to set subject on closed session")
  self.data[self.data_index][3] = subject
end

--- The current audience's subject.
-- @treturn string|nil
function metatable:get_subject()
  live(self, "unable to get subject on closed session")
  return self.data[self.data_index][3]
end

--- Switches the remember cookie of this session on or off. Off, the next save forgets the user.
-- @tparam boolean value
function metatable:set_remember(value)
  live(self, "unable to set remember on closed session")
  if type(value) ~= "boolean" then
    error("invalid remember value", 0)
  end
  self.forget = not value
  self.remember = value
end

--- Whether the user is to be remembered.
-- @treturn boolean
function metatable:get_remember()
  live(self, "unable to get remember on closed session")
  return get_remember(self)
end

local function get_property(self, name)
  local current, meta = self.data[self.data_index], self.meta
  if ENTRY_INDEX[name] then
    return current[ENTRY_INDEX[name]]
  end
  local value = meta.value and native.property(self.profile.handle, meta.value, name, meta.timestamp)
  return value or meta[name]
end

--- A property: `id`, `nonce`, `audience`, `subject`, `timeout`, `idling-timeout`, `rolling-timeout`, `absolute-timeout`,
-- or a field of `meta`. Timeouts are what is left of them, in seconds.
-- @tparam string name
-- @return its value, or nil
function metatable:get_property(name)
  live(self, "unable to get session property on closed session")
  return get_property(self, name)
end

--- Opens the request's session.
-- @treturn boolean|nil true
-- @treturn string error
function metatable:open()
  local profile, now, audience = self.profile, time(), self.data[self.data_index][2]
  local handle, problem = handle_of(profile)
  local cookies = http.cookies(profile)
  local unsendable = self.remember and http.unsendable() or nil -- only opening by a remember cookie sets cookies
  return result(take_over(self, now, cookies or true, carry(profile, native.instance.open(
    handle, now, cookies, unsendable, problem, audience, self.remember))))
end

--- Saves the session under a new id, and the remember cookie where there is one to be.
-- @treturn boolean|nil true
-- @treturn string error
function metatable:save()
  live(self, "unable to save closed session")
  return becomes(self, "open", perform_save(self, native.instance.save))
end

--- Renews the idling timeout; no storage is asked.
-- @treturn boolean|nil true
-- @treturn string error
function metatable:touch()
  live(self, "unable to touch closed session")
  return result(perform(self, native.instance.touch))
end

--- Saves or touches the session where it is time to.
-- @treturn boolean|nil true
-- @treturn string error
function metatable:refresh()
  live(self, "unable to refresh closed session")
  return result(perform_save(self, native.instance.refresh, nil, true))
end

--- Logs the current audience out: the last one takes the whole session along.
-- @treturn boolean|nil true
-- @treturn string error
function metatable:logout()
  live(self, "unable to logout closed session")
  return becomes(self, "closed", perform_save(self, native.instance.logout, self.data[self.data_index][2]))
end

--- Destroys the session and what the request's remember cookie stands for, and clears the cookies of both.
-- @treturn boolean|nil true
-- @treturn string error
function metatable:destroy()
  live(self, "unable to destroy closed session")
  -- The data say whose metadata go; a session whose data can't be encoded is destroyed all the same.
  return becomes(self, "closed", perform(self, native.instance.destroy, (encode_part("data", self.data))))
end

--- Closes the instance; the session itself lives on.
function metatable:close()
  self.state = "closed"
end

-- Hides the cookies, and keeps the header as it was: a later sign-out must find the remember cookie. Returns it, or false.
local function hide(self)
  local cookies = http.hide(self.profile.handle, time(), self.meta.value)
  self.hidden = self.hidden or cookies
  return cookies
end

--- Removes the session's cookies and the remember cookie from the request, whether or not the session exists, so that an
-- upstream does not see them.
-- @treturn boolean|nil true
-- @treturn string error
function metatable:clear_request_cookie()
  live(self, "unable to clear session request cookie on closed session")
  if self.state ~= "open" then
    pcall(hide, self) -- in phases without a request there is nothing to hide
    return nil, "unable to clear session request cookie on nonexistent session"
  end
  return result(not hide(self) and "unable to clear session request cookie")
end

metatable.hide = metatable.clear_request_cookie

local function set_property_headers(self, set, names)
  for i = 1, #names do
    local header_name = HEADERS[names[i]]
    local value = header_name and self.state == "open" and get_property(self, names[i])
    if value or header_name and set == http.set_request_header then -- a client's own header must not pass for the session's
      set(header_name, value or nil)
    end
  end
end

-- A method that sets headers from properties: those it is given the names of, or a table of names, else the configured.
local function header_setter(kind, to_request, to_response)
  return function(self, ...)
    live(self, "unable to set " .. kind .. " headers on closed session")
    local names = type((...)) == "table" and (...) or select("#", ...) > 0 and { ... }
    if to_request then
      set_property_headers(self, http.set_request_header, names or self.profile.request_headers)
    end
    if to_response then
      set_property_headers(self, http.set_response_header, names or self.profile.response_headers)
    end
    if self.state ~= "open" then
      return nil, "unable to set " .. kind .. " headers on nonexistent session"
    end
    return true
  end
end

--- Sets request and response headers from properties.
-- @function metatable:set_headers
-- @param[opt] ... property names, or one table of them; without, the configured `request_headers` and `response_headers`
-- @treturn boolean|nil true
-- @treturn string error
metatable.set_headers = header_setter("request/response", true, true)

--- Sets request headers only; see `set_headers`. One without a value is removed, and where there is no session, all are.
-- @function metatable:set_request_headers
metatable.set_request_headers = header_setter("request", true, false)

--- Sets response headers only; see `set_headers`.
-- @function metatable:set_response_headers
metatable.set_response_headers = header_setter("response", false, true)

-- The module's functions ---------------------------------------------------------------------------------------------

--- A new session.
-- @tparam[opt] table configuration options; absent ones are as `init` set them
-- @treturn table session
---@param configuration table?
---@return resty.session.instance
function session.new(configuration)
  local profile = resolve(configuration)
  return new_instance(profile, { new_entry(profile) })
end

-- Opens the request's session by a native function. Returns the instance, and the error, if there is one.
local function on_request(act, configuration)
  local profile, now = resolve(configuration), time()
  local handle, problem = handle_of(profile)
  local self, cookies = new_instance(profile), http.cookies(profile)
  local unsendable = (act ~= native.open or profile.remember) and http.unsendable() or nil -- see metatable:open
  local err = take_over(self, now, cookies or true, carry(profile, act(handle, now, cookies, unsendable, problem)))
  self.data, self.meta = self.data or { new_entry(profile) }, self.meta or {}
  return self, err
end

--- Opens the request's session, or makes a new one.
-- @tparam[opt] table configuration
-- @treturn table session
-- @treturn string|nil why there is none
-- @treturn boolean whether it exists
---@param configuration table?
---@return resty.session.instance session, string? err, boolean exists
function session.open(configuration)
  local self, err = on_request(native.open, configuration)
  return self, err, self.state == "open"
end

--- Opens the request's session and refreshes it, or makes a new one.
-- @tparam[opt] table configuration
-- @treturn table session
-- @treturn string|nil error
-- @treturn boolean whether it exists
-- @treturn boolean whether the refresh succeeded
---@param configuration table?
---@return resty.session.instance session, string? err, boolean exists, boolean refreshed
function session.start(configuration)
  local self, err = on_request(native.start, configuration)
  return self, err, self.state == "open", not err
end

-- What an act on the request's session that leaves no instance came to, as the API has it.
local function finish(err, exists, lines, warning)
  respond(lines, warning)
  return not err or nil, err, exists or false, not err
end

local function end_session(act, configuration)
  local profile = resolve(configuration)
  local handle, problem = handle_of(profile)
  return finish(carry(profile, act(handle, time(), http.cookies(profile), http.unsendable(), problem)))
end

--- Logs the configured audience out of the request's session.
-- @tparam[opt] table configuration
-- @treturn boolean|nil true
-- @treturn string|nil error
-- @treturn boolean whether the session existed
-- @treturn boolean whether it was logged out
---@param configuration table?
---@return true? ok, string? err, boolean exists, boolean logged_out
function session.logout(configuration)
  return end_session(native.logout, configuration)
end

--- Destroys the request's session.
-- @tparam[opt] table configuration
-- @treturn boolean|nil true
-- @treturn string|nil error
-- @treturn boolean whether the session existed
-- @treturn boolean whether it was destroyed
---@param configuration table?
---@return true? ok, string? err, boolean exists, boolean destroyed
function session.destroy(configuration)
  return end_session(native.destroy, configuration)
end

-- Seams for programs' own tests ---------------------------------------------------------------------------------------

for _, seam in ipairs { "log", "var", "header", "req_clear_header", "req_set_header" } do
  session["__set_ngx_" .. seam] = http["set_ngx_" .. seam]
end

session.init()

return session
