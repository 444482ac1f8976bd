---
-- Sessions in nginx's shared memory: the workers of one nginx see them, and they live until nginx restarts.
--
-- A record is an entry whose time to live is the session's. Metadata is a list of `key:expiry;` items an audience and
-- subject; see `resty.session.utils`.
--
-- @module resty.session.shm
-- @license BSD-2-Clause

local native = require "resty.session.native"
local notices = require "resty.session.notices"
local options = require "resty.session.options"
local utils = require "resty.session.utils"

local get_name = utils.get_name
local meta_get_value = utils.meta_get_value

-- How many lists one in this many writes tidies up: a list in use is short anyway.
local TIDY_ONE_IN = 10
-- A list that is tidied is locked. Nobody waits between locking and unlocking, so it is never for long; a lock that a
-- worker left behind when it was killed is gone after so many seconds.
local LOCK_TIME = 0.2
local LOCK_SUFFIX = "\0" -- no name of an entry ends with it

---@class resty.session.shm
---@field prefix string?
---@field suffix string?
---@field dict table
local metatable = {}
metatable.__index = metatable

-- Locks a list against other workers that would tidy it up. Phases that cannot wait do this too, so it spins.
local function lock(dict, list)
  local ok, err = dict:add(list .. LOCK_SUFFIX, true, LOCK_TIME)
  while not ok and err == "exists" do
    ngx.update_time() -- by which the lock runs out
    ok, err = dict:add(list .. LOCK_SUFFIX, true, LOCK_TIME)
  end
  return ok, err
end

-- Takes out the items that a list has now.
local function take_out(dict, list)
  local count, err = dict:llen(list)
  if not count then
    return nil, err
  end
  local items = {}
  for i = 1, count do
    local item = dict:lpop(list)
    if not item then
      break
    end
    items[i] = item
  end
  return table.concat(items)
end

-- Lets a list live for `ttl` seconds more at least.
local function prolong(dict, list, ttl)
  if (dict:ttl(list) or 0) < ttl then
    dict:expire(list, ttl)
  end
end

-- Puts sessions back before the items that others pushed meanwhile, which are newer.
local function put_back(dict, list, sessions, current_time)
  local last_expiry, problem = current_time, nil
  for key, expiry in pairs(sessions) do
    local ok, err = dict:lpush(list, meta_get_value(key, expiry))
    problem = not ok and err or problem -- the others are put back all the same
    last_expiry = math.max(last_expiry, expiry)
  end
  if last_expiry > current_time then
    prolong(dict, list, last_expiry - current_time)
  end
  return not problem or nil, problem
end

-- Leaves one item a live session in a list, and answers the sessions. Who looks ahead, with a later time, takes none away.
local function tidy(dict, list, current_time)
  current_time = math.min(current_time, ngx.time())
  local ok, err = lock(dict, list)
  if not ok then
    return nil, err
  end
  local items, sessions
  items, err = take_out(dict, list)
  if items then
    sessions, err = utils.meta_get_latest(items, current_time)
  end
  if sessions then
    ok, err = put_back(dict, list, sessions, current_time)
  end
  dict:delete(list .. LOCK_SUFFIX)
  return ok and sessions, err
end

-- Pushes an item; the list lives for `ttl` seconds more at least, if any.
local function push(dict, list, item, ttl)
  local ok, err = dict:rpush(list, item)
  if not ok then
    return nil, utils.errmsg(err, "unable to update metadata")
  end
  if ttl then
    prolong(dict, list, ttl)
  end
  return true
end

-- Lets an entry expire soon, if it would live longer. A time to live of 0 would be for ever.
local function shorten(dict, name, stale_ttl)
  local left = dict:ttl(name)
  if left and stale_ttl < 1 then
    dict:delete(name)
  elseif left and left > stale_ttl then
    dict:expire(name, stale_ttl)
  end
end

local function warn_of(forced)
  if forced then
    ngx.log(ngx.WARN, "[session] shared memory zone is full: the least recently used session was dropped")
  end
end

local function add_metadata(self, name, key, expiry, current_time, old_key, metadata)
  for i, audience in ipairs(metadata.audiences) do
    local list = get_name(self, name, audience, metadata.subjects[i])
    local ok, err = push(self.dict, list, meta_get_value(key, expiry), expiry - current_time)
    if ok and old_key then
      ok, err = push(self.dict, list, meta_get_value(old_key))
    end
    if not ok then
      return nil, err
    end
    if math.random(TIDY_ONE_IN) == 1 then
      tidy(self.dict, list, current_time)
    end
  end
  return true
end

--- Stores a record.
-- @tparam string name the cookie's name
-- @tparam string key
-- @tparam string value
-- @tparam number ttl seconds
-- @tparam number current_time seconds since the epoch
-- @tparam[opt] string old_key the record that this one replaces
-- @tparam[opt] number stale_ttl seconds that the replaced one goes on working
-- @tparam[opt] table metadata `{ audiences = {…}, subjects = {…} }`
-- @treturn boolean|nil true
-- @treturn string|nil error
function metatable:set(name, key, value, ttl, current_time, old_key, stale_ttl, metadata)
  local dict = self.dict
  local ok, err, forced = dict:set(get_name(self, name, key), value, ttl)
  if not ok then
    return nil, err
  end
  warn_of(forced)
  if metadata then
    ok, err = add_metadata(self, name, key, current_time + ttl, current_time, old_key, metadata)
    if not ok then
      return nil, err
    end
  end
  if old_key then -- the last: where something fails, it must go on working
    shorten(dict, get_name(self, name, old_key), stale_ttl)
  end
  return true
end

-- Writes a record anew if it is there; it lives no longer than it would have. Answers true; nil where it is not there; or
-- nil and an error.
function metatable:__update(name, key, value, ttl)
  local dict, entry = self.dict, get_name(self, name, key)
  local left = dict:ttl(entry)
  if left and left > 0 then
    ttl = math.min(left, ttl)
  end
  local ok, err, forced = dict:replace(entry, value, ttl)
  warn_of(forced)
  return ok or nil, err ~= "not found" and err or nil
end

--- Reads a record.
-- @tparam string name the cookie's name
-- @tparam string key
-- @treturn string|nil value; nil without an error where there is none
-- @treturn string|nil error
function metatable:get(name, key)
  local value, err = self.dict:get(get_name(self, name, key))
  if value == nil then
    return nil, err
  end
  return value
end

--- Deletes a record; one that is not there is no error.
-- @tparam string name the cookie's name
-- @tparam string key
-- @tparam number current_time seconds since the epoch
-- @tparam[opt] table metadata
-- @treturn boolean|nil true
-- @treturn string|nil error
function metatable:delete(name, key, current_time, metadata)
  self.dict:delete(get_name(self, name, key))
  if not metadata then
    return true
  end
  for i, audience in ipairs(metadata.audiences) do
    local list = get_name(self, name, audience, metadata.subjects[i])
    local ok, err = push(self.dict, list, meta_get_value(key))
    if not ok then
      return nil, err
    end
    tidy(self.dict, list, current_time)
  end
  return true
end

--- The live sessions of a subject.
-- @tparam string name the cookie's name
-- @tparam string audience as in the metadata: base64url
-- @tparam string subject as in the metadata
-- @tparam number current_time seconds since the epoch
-- @treturn table|nil `{ key = expiry, … }`
-- @treturn string|nil error
function metatable:read_metadata(name, audience, subject, current_time)
  local sessions, err = tidy(self.dict, get_name(self, name, audience, subject), current_time)
  if not sessions then
    return nil, err
  end
  for key, expiry in pairs(sessions) do
    if expiry <= current_time then
      sessions[key] = nil
    end
  end
  return sessions
end

local shm = {}

--- Makes the storage.
-- @tparam[opt] table configuration `zone` (default `sessions`), `prefix`, `suffix`
-- @treturn table
-- @raise `lua_shared_dict <zone> is missing`, or a string that names what is wrong with an option
function shm.new(configuration)
  local own, err, unknown = native.storages.shm(options.copy_section("shm", configuration))
  if not own then
    error(err, 0)
  end
  local dict = ngx.shared[own.zone]
  if not dict then
    error("lua_shared_dict " .. own.zone .. " is missing", 0)
  end
  notices.each_once(unknown)
  return setmetatable({ prefix = own.prefix, suffix = own.suffix, dict = dict }, metatable)
end

return shm
