---
-- `session:synchronize`: one request of a session at a time.
--
-- A request whose turn has come may carry an older cookie than the one that the request before it
-- has set. So that one leaves the session's cookies in a sealed *note* beside the lock, and the
-- next one opens these.
--
-- @module resty.session.synchronize
-- @license BSD-2-Clause

local native = require "resty.session.native"
local http = require "resty.session.http"
local notices = require "resty.session.notices"
local outcomes = require "resty.session.outcomes"
local shm = require "resty.session.shm"
local turns = require "resty.session.turns"
local utils = require "resty.session.utils"
local waiting = require "resty.session.waiting"

local null, time = ngx.null, ngx.time

local DEFAULT_TIMEOUT = 30 -- seconds
-- Seconds. A request that was sent before the session got a new cookie arrives within this time.
local NOTE_LIFE = 60
local MAX_NOTE_LIFE = 24 * 3600 -- however long a program lets requests wait

local synchronize = {}

-- The store ----------------------------------------------------------------------------------------------------------

local function can_lock(store)
  return type(store) == "table" and store.lock and store.unlock and store.get and store.set
end

-- Returns what holds the locks and the notes of a profile's sessions: their storage, or else their
-- revocation store, or else shared memory; or nil and an error.
local function store_of(profile)
  if profile.lock_store then
    return profile.lock_store
  end
  local store = can_lock(profile.storage) and profile.storage or can_lock(profile.revocation) and profile.revocation
  if not store then
    local ok, made = pcall(shm.new, profile.configuration.shm)
    if not ok then
      return nil, tostring(made) .. "; configure revocation, or add that lua_shared_dict, for the lock"
    end
    store = made
  end
  profile.lock_store = store
  return store
end

local function key_of(purpose, sign_in)
  return utils.encode_base64url(utils.sha256(purpose .. ":" .. sign_in))
end

-- Opening anew -------------------------------------------------------------------------------------------------------

-- Returns an entry's subject as a text, or nil.
local function subject_of(entry)
  local subject = entry and entry[3]
  return subject and subject ~= "" and subject ~= null and tostring(subject) or nil
end

-- Returns whether a session is for others than it was with its former data: an audience has another
-- subject, or has got one, or the current one has lost its.
local function is_for_others(self, data)
  local former = {}
  for _, entry in ipairs(self.data) do
    former[tostring(entry[2])] = subject_of(entry)
  end
  local current = self.data[self.data_index][2]
  for _, entry in ipairs(data) do
    local before, after = former[tostring(entry[2])], subject_of(entry)
    if before ~= after and (after or entry[2] == current) then
      return true
    end
  end
  return false
end

-- What a request needs to know of the session while it is its turn.
---@class resty.session.synchronized
---@field store table
---@field name string of the session's cookie
---@field sign_in string
---@field lock string the lock's key
---@field note string the note's key
---@field note_life integer seconds; longer than a request waits for its turn
---@field turn resty.session.turn
---@field native userdata what the native module knows of the note
---@field lines table<string, boolean> the Set-Cookie lines that the response had before
---@field cookies string the session's cookies that were opened, as a Cookie header
---@field opened string the value of the first one
---@field subject string? the current audience's, as it was opened

local function warn_of_note(warning)
  notices.warn("ignored what another request has noted of a synchronized session: " .. warning)
end

-- Returns the cookies to open, and whether they are those of the note; or nil and an error.
local function newest_cookies(self, synchronized, sealed)
  local handle = self.profile.handle
  local turn, cookies, warning = native.read_note(handle, synchronized.lock, sealed, self.meta.value)
  if not turn then
    return nil, warning
  elseif warning then
    warn_of_note(warning)
  end
  synchronized.native = turn
  if cookies == false then
    return nil, "it was destroyed meanwhile"
  elseif cookies then
    return cookies, true
  end
  return native.own_cookies(handle, self.hidden or http.cookies(self.profile), http.set_cookies()), false
end

-- Gives an instance what another one has opened.
local function take_over(self, fresh, cookies, is_noted)
  if is_noted then
    -- A touch of the older cookie must not reach the browser after the newer cookie.
    http.withdraw_cookies(self.profile.cookie_name)
    -- Later acts look for cookies to clear in the request's header, too.
    local carried = self.hidden or http.any_cookies(self.profile)
    self.hidden = carried and cookies .. "; " .. carried or cookies
    self.remember_meta = false
  end
  self.state, self.meta = fresh.state, fresh.meta
  self.data, self.data_index, self.info.data = fresh.data, fresh.data_index, fresh.info.data
end

-- Opens the newest cookies in an instance of its own. Returns that, the cookies, and whether they
-- are the note's; or nil and an error.
local function open_newest(self, synchronized, open, sealed)
  local cookies, is_noted = newest_cookies(self, synchronized, sealed)
  if not cookies then
    return nil, is_noted
  end
  local fresh, err = open(self.profile, cookies, outcomes.audience_of(self))
  if err then
    return nil, err
  elseif is_noted and is_for_others(self, fresh.data) then
    warn_of_note("the session is for another subject now")
    return open_newest(self, synchronized, open)
  end
  return fresh, cookies, is_noted
end

-- Opens the session anew. Returns an error, or nil.
local function reopen(self, synchronized, open)
  local sealed, err = synchronized.store:get(synchronized.name, synchronized.note, time())
  if err then
    return err
  end
  synchronized.lines = {}
  for _, line in ipairs(http.set_cookies()) do
    synchronized.lines[line] = true
  end
  local fresh, cookies, is_noted = open_newest(self, synchronized, open, sealed)
  if not fresh then
    return cookies
  end
  take_over(self, fresh, cookies, is_noted)
  synchronized.cookies, synchronized.opened = cookies, self.meta.value
  synchronized.subject = subject_of(self.data[self.data_index])
  local entry = self.data[1]
  if type(entry[5]) ~= "string" then
    entry[5] = synchronized.sign_in
    if entry[3] == nil then
      entry[3] = false
    end
  end
end

-- Returns the Set-Cookie lines that the response has got in the turn, or nil if the session ended.
local function new_lines(self, synchronized)
  if self.ended and self.meta.value == synchronized.opened then
    return nil -- although the response may not have been able to clear the cookies any more
  end
  local lines = {}
  for _, line in ipairs(http.set_cookies()) do
    if not synchronized.lines[line] then
      lines[#lines + 1] = line
    end
  end
  return lines
end

-- Leaves a note if the session was saved, touched or ended.
local function leave_note(self, synchronized)
  -- Whoever knows a cookie from before a sign-in must not get the session.
  local is_another = not self.ended and subject_of(self.data[self.data_index]) ~= synchronized.subject
  local sealed, err = native.write_note(
    synchronized.native, synchronized.opened, synchronized.cookies, new_lines(self, synchronized), time(), is_another)
  if sealed and turns.has_lock(synchronized.turn) then
    local ok
    ok, err = synchronized.store:set(synchronized.name, synchronized.note, sealed, synchronized.note_life, time())
    err = not ok and (err or "the storage gives no reason") or nil
  end
  return err
end

-- The method ---------------------------------------------------------------------------------------------------------

local function warn(problem, err)
  notices.warn("unable to " .. problem .. " a synchronized session: " .. tostring(err))
end

local function pack(...)
  return select("#", ...), { ... }
end

-- Ends a turn after `fn`, or after the session could not be opened.
local function finish(self, synchronized)
  if synchronized.opened then
    local called, err = pcall(leave_note, self, synchronized)
    if err then
      warn(called and "note the cookies of" or "note", err)
    end
  end
  local err = turns.finish(synchronized.turn)
  if err then
    warn("free the lock of", err)
  end
end

-- Waits for the session's turn, and opens it anew. Returns what `finish` needs; or nil and an
-- error.
local function begin(self, open, timeout)
  local store, err = store_of(self.profile)
  if not store then
    return nil, err
  end
  local entry = self.data[1] or {}
  local sign_in
  sign_in, err = native.sign_in(self.meta.value, entry[2], entry[3], entry[5])
  if not sign_in then
    return nil, err
  end
  local name, lock = self.profile.cookie_name, key_of("lock", sign_in)
  local turn
  turn, err = turns.take(store, name, lock, timeout)
  if not turn then
    return nil, err
  end
  local synchronized = {
    store = store, name = name, sign_in = sign_in, lock = lock, note = key_of("newest", sign_in),
    note_life = math.min(math.ceil(math.max(NOTE_LIFE, 2 * timeout)), MAX_NOTE_LIFE), turn = turn,
  }
  local called
  called, err = pcall(reopen, self, synchronized, open)
  if called and not err then
    return synchronized
  end
  finish(self, synchronized)
  return nil, tostring(err)
end

local function failure(err)
  return "unable to synchronize session (" .. err .. ")"
end

local function check_arguments(fn, timeout)
  if type(fn) ~= "function" then
    error("invalid synchronize function (function expected, got " .. type(fn) .. ")", 0)
  elseif timeout ~= nil and (type(timeout) ~= "number" or timeout ~= timeout or timeout < 0) then
    local found = timeout ~= timeout and "NaN" or type(timeout) == "number" and tostring(timeout) or type(timeout)
    error("invalid synchronize timeout (number that is not negative expected, got " .. found .. ")", 0)
  end
end

--- Makes the method `synchronize` of instances.
---@param open fun(profile: table, cookies: string, audience: any): resty.session.instance, string?
---  opens a session from a Cookie header; returns a new instance, and the error or nil
---@return fun(self: resty.session.instance, fn: function, timeout: number?): any ... method
function synchronize.method(open)
  -- Opens the session anew, as the request before has left it, and calls a function with it while
  -- no other request of the session does so, on any server. Changes that were not saved are lost.
  --
  -- `fn` gets the session. What it returns is returned, what it raises is raised. `timeout` is how
  -- many seconds to wait for the session's turn at most, 30 by default. Returns nil and an error if
  -- `fn` was not called.
  return function(self, fn, timeout)
    if self.state == "closed" then
      error("unable to synchronize closed session", 0)
    end
    check_arguments(fn, timeout)
    if self.state ~= "open" then
      return nil, "unable to synchronize nonexistent session"
    end
    local err = self.synchronized and "it is synchronized already" or waiting.prepare()
    if err then
      return nil, failure(err)
    end
    self.synchronized = true
    local synchronized, problem = begin(self, open, timeout or DEFAULT_TIMEOUT)
    if not synchronized then
      self.synchronized = nil
      return nil, failure(problem)
    end
    local count, results = pack(pcall(fn, self))
    finish(self, synchronized)
    self.synchronized = nil
    if not results[1] then
      error(results[2], 0)
    end
    return unpack(results, 2, count)
  end
end

return synchronize
