---
-- What acts come to, applied to instances and to the response.
--
-- `Finished` in the native module writes what is read here.
--
-- @module resty.session.outcomes
-- @license BSD-2-Clause

local info_table = require "resty.session.info"
local json = require "resty.session.json"
local metas = require "resty.session.meta"

local null = ngx.null
local sub = string.sub
local decode_part = json.decode_part

local outcomes = {}

---@class resty.session.outcome What acts seldom come to
---@field exists boolean? whether the session exists, or existed
---@field warning string? to be logged
---@field key integer? the index of the key that authenticates the cookie, if it is not the first
---@field known_at integer? when the session's record was last known to exist, if that is not now
---@field position integer? where the session's first cookie stands in the Cookie header, if the act read it
---@field payload string? JSON: the data of all audiences, if the act opened a session or changed the entries
---@field index integer? the current audience's index in them
---@field info string? JSON
---@field remembered { value: string, key: integer, known_at: integer }? the remember cookie's meta

--- Returns a new entry of the data, for the configured audience.
---@param profile resty.session.profile
---@return table entry `{ data, audience, subject }`
function outcomes.new_entry(profile)
  return { {}, profile.audience, profile.subject }
end

--- Returns the audience that an instance opens: false if a program has removed it, since nil would
--- mean the configured one.
---@param self resty.session.instance
---@return string|number|false audience
function outcomes.audience_of(self)
  local audience = self.data[self.data_index][2]
  return audience ~= nil and audience
end

--- Removes other audiences' entries from an instance's data.
---@param self resty.session.instance
---@param stays fun(entry: table): boolean whether one stays
function outcomes.retain(self, stays)
  local data, current = self.data, self.data[self.data_index]
  for i = #data, 1, -1 do
    if data[i] ~= current and not stays(data[i]) then
      table.remove(data, i)
      self.data_index = i < self.data_index and self.data_index - 1 or self.data_index
    end
  end
end

--- Returns the entries of data with nothing but their names.
---@param data table[]
---@return table[] entries
function outcomes.without_data(data)
  local entries = {}
  for i = 1, #data do
    local entry = data[i]
    entries[i] = { {}, entry[2], entry[3] or false, entry[4], entry[5] }
  end
  return entries
end

--- Applies a session that was opened, if there is nothing else to apply.
---@param self resty.session.instance
---@param data string JSON: the data of its only audience
---@param audience string
---@param subject string?
---@return string? err
function outcomes.apply_opened(self, data, audience, subject)
  local decoded, err = decode_part("data", data, 1)
  if err then
    return err
  end
  self.state, self.data, self.data_index = "open", { { decoded, audience, subject } }, 1
end

local SIGN_IN_SIZE = 22 -- characters

--- Applies a session that was opened, whose only entry also holds the id of its sign-in.
---@param self resty.session.instance
---@param data string JSON: the data of its only audience
---@param audience string
---@param subject string?
---@param ids string the id of the sign-in, and right behind it the identity provider's session id, if there is one
---@return string? err
function outcomes.apply_opened_signed(self, data, audience, subject, ids)
  local decoded, err = decode_part("data", data, 1)
  if err then
    return err
  end
  local sid
  if #ids > SIGN_IN_SIZE then
    sid, ids = sub(ids, SIGN_IN_SIZE + 1), sub(ids, 1, SIGN_IN_SIZE)
  end
  -- Without a subject it is false: see `normalize`.
  self.state, self.data, self.data_index = "open", { { decoded, audience, subject or false, sid, ids } }, 1
end

-- Replaces the nulls and falses that stand for a missing subject or sid in an entry. Where more
-- follows the subject, it stays false: cjson would write null, which lua-resty-session 4.1 takes
-- for a subject.
local function normalize(entry)
  if not entry[3] or entry[3] == null then
    entry[3] = nil
    if entry[5] then
      entry[3] = false
    end
  end
  if not entry[4] or entry[4] == null then
    entry[4] = nil
  end
end

-- Sets the instance's data to those of the session that was opened. Without an index, the current
-- audience is added to them.
local function set_opened_data(self, data, index, info)
  local current, found = self.data and self.data[self.data_index], index ~= nil
  for i = 1, #data do
    normalize(data[i])
  end
  self.state = found and "open" or "new"
  if not found then
    index = #data + 1
    data[index] = current or outcomes.new_entry(self.profile)
  end
  info = info_table.by_audience(info, data)
  if info then -- an audience that the session did not have gets only the info that this instance has
    local key, own = info_table.key_of(data[index][2]), self.info.data
    info[key] = found and info[key] or own and own[key] or nil
    self.info.data = info
  end
  self.data, self.data_index = data, index
end

--- Applies a session that was opened, whose only entry holds more than its names.
---@param self resty.session.instance
---@param payload string JSON
---@return string? err
function outcomes.apply_opened_entry(self, payload)
  local data, err = decode_part("data", payload, 3)
  if err then
    return err
  end
  set_opened_data(self, data, 1)
end

-- Decodes the data and the info of an outcome. Returns them, or two nils and an error.
local function decode(outcome)
  local data, err = decode_part("data", outcome.payload, 3)
  local info
  if outcome.info and not err then
    info, err = decode_part("info", outcome.info, 2)
  end
  if err then
    return nil, nil, err
  end
  return data, info
end

-- Applies the data of an outcome. `opens` tells whether the act was one that opens. Returns an
-- error, or nil.
local function apply_data(self, opens, outcome)
  local index = outcome.index
  local data, info, err = decode(outcome)
  if err then
    return err
  elseif opens then
    set_opened_data(self, data, index, info)
  elseif index then -- the entries have changed; the current audience's data stay the program's own table
    local own = self.data[self.data_index]
    own[3], own[5] = own[3] or data[index][3], data[index][5]
    data[index] = own
    for i = 1, #data do
      normalize(data[i])
    end
    self.data, self.data_index, self.info.data = data, index, info_table.by_audience(info, data)
  end
end

-- Applies the rarer things. `cookies` is the Cookie header that an act which opens was given; it is
-- false for other acts. Returns an error, or nil.
local function apply_rest(self, now, cookies, outcome)
  local err = outcome.payload and apply_data(self, cookies ~= false, outcome)
  if err then
    return err
  end
  local profile, remembered = self.profile, outcome.remembered
  if outcome.position and cookies then
    self.meta = metas.read(profile.ikms[outcome.key or 1], now, cookies, outcome.position)
  end
  if remembered then
    local ikm = profile.remember_ikms[remembered.key]
    self.remember_meta = metas.saved(ikm, now, remembered.value, remembered.known_at)
  end
end

--- The error of an act during which another thread has sent the response header.
outcomes.OVERTAKEN = "unable to set the session's cookies (the response header was sent meanwhile)"

--- Returns the error of an act whose cookies cannot be set any more; nil if it has ended the
--- session all the same, because its record is deleted or it is marked.
---@param profile resty.session.profile
---@param cookie string? the value of the session's first cookie, if the act saved it
---@param rest resty.session.outcome?
---@return string? err
function outcomes.overtaken(profile, cookie, rest)
  local is_ended = not cookie and (profile.storage or profile.revocation) and not (rest and rest.warning)
  return not is_ended and outcomes.OVERTAKEN or nil
end

--- Applies the outcome of an act to an instance, except for the act's own error.
---@param self resty.session.instance
---@param now integer when the act was started: seconds since the epoch
---@param cookies string|false|nil the Cookie header that an act which opens was given; false for other acts
---@param cookie string? the value of the session's first cookie, if the act saved it
---@param rest resty.session.outcome?
---@return string? err
function outcomes.apply(self, now, cookies, cookie, rest)
  local err = rest and apply_rest(self, now, cookies, rest)
  if cookie and not err then
    self.meta = metas.saved(self.profile.ikms[rest and rest.key or 1], now, cookie, rest and rest.known_at)
  end
  return err or nil
end

return outcomes
