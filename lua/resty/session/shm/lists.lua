---
-- The lists of sessions in nginx's shared memory, one for each audience and subject.
--
-- An item `key:expiry;` adds a session, and `key;` says that it has ended or was replaced; see
-- `resty.session.utils`. A list's items can be read only by taking them out. So each write takes
-- out a few items, however long the list is, and a reader takes out all, one slice after the other.
-- Both put those back that are of use, at the end.
--
-- An item is of use as long as the session's record exists and was not replaced. The record alone
-- tells, because a list may lack the item which says that a session has ended: a record may be
-- dropped for others in a full zone, or deleted by a program that does not know whose it is. And a
-- record is stored before its item is added, so no live session is forgotten.
--
-- @module resty.session.shm.lists
-- @license BSD-2-Clause

local native = require "resty.session.native"
local utils = require "resty.session.utils"
local waiting = require "resty.session.waiting"

local decode_base64url, bunpack = utils.decode_base64url, utils.bunpack
local meta_get_value = utils.meta_get_value
local huge, max, min = math.huge, math.max, math.min
local time = ngx.time

-- How many items a write checks. It adds two at most, so that at most about half of the items of a
-- list in use are useless.
local TIDY_ITEMS = 4
-- How many items a reader takes out at once, which takes about half a millisecond.
local SLICE = 100
-- Seconds. A list is locked while it is tidied, and so is an entry while it is compared and
-- changed. This never takes long, because a worker does not yield meanwhile. The lock of a worker
-- that was killed expires after this time.
local LOCK_TIME = 0.2
-- Seconds that a slice may take, with the pause after it. Then another reader may begin.
local READ_TIME = 2
local EXPIRY_BYTES = native.EXPIRY_BYTES
-- No other entry's name ends with one of these.
local LOCK_SUFFIX, READER_SUFFIX = "\0", "\0reader"
local ROOM = "\0room" -- the name of an entry that is stored to make room, and is deleted at once
-- The flags of a record that was replaced. It stays valid for a while, but is not listed.
local REPLACED = 1
-- Seconds: the dictionary's unit is a millisecond, and 0 would mean for ever.
local MIN_TTL = 0.001
-- Seconds. A worker warns of a full zone at most once in this time.
local WARNING_INTERVAL = 60

-- A full zone --------------------------------------------------------------------------------------------------------

local warnings = {} -- by zone: when the worker last warned, and what has happened since

--- Counts what a full zone has led to, and logs the counts from time to time.
---@param self resty.session.shm
---@param what "dropping"|"unlisted"
local function count_full_zone(self, what)
  local warning = warnings[self.zone] or { at = -WARNING_INTERVAL, dropping = 0, unlisted = 0 }
  warnings[self.zone] = warning
  warning[what] = warning[what] + 1
  if ngx.now() - warning.at < WARNING_INTERVAL then
    return
  end
  ngx.log(ngx.WARN, "[session] lua_shared_dict ", self.zone, ": the zone is full. Since this worker's last such ",
    "warning, writes that dropped the entries unused longest: ", warning.dropping,
    ", sessions that could not be listed: ", warning.unlisted)
  warnings[self.zone] = { at = ngx.now(), dropping = 0, unlisted = 0 }
end

-- Drops the entries that were unused longest until an entry of this size fits. The dictionary does
-- not do so for the items of a list.
local function make_room(self, size)
  local _, _, forced = self.dict:set(ROOM, ("x"):rep(size), MIN_TTL)
  self.dict:delete(ROOM)
  if forced then
    count_full_zone(self, "dropping")
  end
end

-- Adds an item to the end of a list. Returns the list's length, or nil and an error.
local function add(self, list, item)
  local dict = self.dict
  local length, err = dict:rpush(list, item)
  local size = #list + #item
  for _ = 1, 3 do
    if length or err ~= "no memory" then
      break
    end
    make_room(self, size)
    length, err = dict:rpush(list, item)
    size = size * 4
  end
  return length, err
end

-- Lists --------------------------------------------------------------------------------------------------------------

-- Makes a list live for at least `ttl` seconds more. A list that lives for ever, as some do that
-- lua-resty-session wrote, keeps doing so, unless the item that was just added is its first.
local function extend_ttl(dict, list, ttl, length)
  local left = dict:ttl(list)
  if left and (length == 1 or left > 0 and left < ttl) then
    dict:expire(list, max(ttl, MIN_TTL))
  end
end

-- Returns an item's key and expiry; no expiry if it says that a session has ended. `known` holds
-- the expiries that were decoded before.
local function parse(item, known)
  local colon = item:find(":", 1, true)
  if not colon then
    return item:sub(1, -2)
  end
  local text = item:sub(colon + 1, -2)
  local expiry = known[text]
  if expiry == nil then
    local packed = decode_base64url(text)
    expiry = packed and #packed == EXPIRY_BYTES and bunpack(EXPIRY_BYTES, packed) or false
    known[text] = expiry
  end
  return item:sub(1, colon - 1), expiry or nil
end

-- Returns whether a record exists and was not replaced.
local function is_current(dict, record)
  local value, flags = dict:get(record)
  return value ~= nil and flags ~= REPLACED
end

-- Takes out the first items of a list. Returns the keys, in the order of their items, and by the
-- keys the items and the expiries. Of the items of one key, the one that expires last counts: a
-- write may have moved an older one behind it. An item without an expiry ends those before it.
local function take_out(dict, list, count, now)
  local keys, items, expiries, known = {}, {}, {}, {}
  for _ = 1, count do
    local item = dict:lpop(list)
    if not item then
      break
    end
    local key, expiry = parse(item, known)
    if not expiry then
      items[key] = nil
    elseif expiry > now and not (items[key] and expiries[key] > expiry) then
      if not expiries[key] then
        keys[#keys + 1] = key
      end
      items[key], expiries[key] = item, expiry
    end
  end
  return keys, items, expiries
end

-- Takes out the first items of a list, drops the useless ones, and moves the others to the end, in
-- their order. Returns the sessions of those by their keys, with their expiries. An item must not
-- move behind a later item of the same key which says that the session has ended. But such an item
-- is added only after the record was deleted or marked as replaced. So an item whose record is
-- current may move.
local function turn(self, list, names, count)
  local dict, now, sessions = self.dict, time(), {}
  local keys, items, expiries = take_out(dict, list, count, now)
  local latest, first_length = now, nil
  for i = 1, #keys do
    local key = keys[i]
    local item, record = items[key], names.before .. key .. names.after
    if item and is_current(dict, record) then
      sessions[key], latest = expiries[key], max(latest, expiries[key])
      local length = add(self, list, item)
      first_length = first_length or length
      if not length then
        count_full_zone(self, "unlisted")
      elseif not is_current(dict, record) then
        -- The session has ended meanwhile, and the item that says so may stand before the one that
        -- was moved.
        add(self, list, meta_get_value(key))
      end
    end
  end
  if first_length then
    extend_ttl(dict, list, latest - now, first_length) -- if all items were taken out, it is a new list
  end
  return sessions
end

-- Locks -------------------------------------------------------------------------------------------------------------

-- Adds an entry that locks a list, unless the list is locked, even if the zone is full. Returns
-- true, or nil and an error, which is `exists` if the list is locked.
local function claim(dict, list, entry, seconds)
  local ok, err = dict:safe_add(entry, true, seconds)
  if not ok and err == "no memory" then
    dict:get(list) -- so that it is not the list that was unused longest and makes room for the entry
    ok, err = dict:add(entry, true, seconds)
  end
  return ok or nil, err
end

-- Locks a list or another entry against other workers that would change it. Spins, because this
-- runs in phases that cannot wait, too.
local function lock(dict, list)
  local ok, err = claim(dict, list, list .. LOCK_SUFFIX, LOCK_TIME)
  while err == "exists" do
    ngx.update_time() -- the lock expires by nginx's clock
    ok, err = claim(dict, list, list .. LOCK_SUFFIX, LOCK_TIME)
  end
  return ok, err
end

-- Checks the first few items of a list, unless it is being read or tidied. A shorter list than
-- `least` is left as it is.
local function tidy_some(self, list, names, least)
  local dict = self.dict
  if (dict:llen(list) or 0) < least or dict:get(list .. READER_SUFFIX)
     or not dict:safe_add(list .. LOCK_SUFFIX, true, LOCK_TIME) then
    return
  end
  if not dict:get(list .. READER_SUFFIX) then -- again, because a reader may have begun before the list was locked
    turn(self, list, names, TIDY_ITEMS)
  end
  dict:delete(list .. LOCK_SUFFIX)
end

-- Waits until no other reader moves the items of a list, so that each item is seen once. Returns
-- true; false if there is another, and this thread cannot wait for it; or nil and an error.
local function begin_reading(dict, list)
  local ok, err = claim(dict, list, list .. READER_SUFFIX, READ_TIME)
  while err == "exists" do
    if waiting.prepare() then
      return false
    end
    waiting.pause()
    ngx.update_time() -- the entry expires by nginx's clock
    ok, err = claim(dict, list, list .. READER_SUFFIX, READ_TIME)
  end
  return ok, err
end

-- Reads a list in slices, between which other requests have their turn if this thread can wait.
-- `take` gets the sessions of each slice, and returns nothing. Returns true, or nil and an error.
local function read_slices(self, list, names, slice, take)
  local dict, left, is_long = self.dict, nil, nil
  repeat
    local ok, err = lock(dict, list)
    if not ok then
      return nil, err
    end
    left = left or dict:llen(list) or 0
    is_long = is_long or left > slice
    local sessions = turn(self, list, names, min(slice, left))
    dict:delete(list .. LOCK_SUFFIX)
    left = left - slice
    take(sessions)
    if is_long then -- also after the last slice, because the caller may look at all sessions now
      dict:expire(list .. READER_SUFFIX, READ_TIME)
      waiting.pause()
    end
  until left <= 0
  return true
end

local function is_locked(dict, list)
  return dict:get(list .. LOCK_SUFFIX) ~= nil
end

-- Adds an item to a list which says that a session has ended or was replaced. If another worker is
-- tidying the list, it has taken the items out, and puts them back before this one.
local function add_end(self, list, key)
  if (self.dict:llen(list) or 0) > 0 or is_locked(self.dict, list) then
    add(self, list, meta_get_value(key))
  end
end

local lists = {
  MIN_TTL = MIN_TTL,
  count_full_zone = count_full_zone,
  lock = lock,
  REPLACED = REPLACED,
}

--- Unlocks an entry that `lock` has locked.
---@param dict table
---@param name string
function lists.unlock(dict, name)
  dict:delete(name .. LOCK_SUFFIX)
end

---@class resty.session.shm.names What stands before and after the key in a record's name
---@field before string
---@field after string

--- Adds a session to lists, and says in them that it has replaced another. If there is no room, the
--- session works unlisted.
---@param self resty.session.shm
---@param owners string[] the lists
---@param key string
---@param expiry integer seconds since the epoch
---@param ttl integer seconds for which the lists are kept at least
---@param old_key string?
function lists.add(self, owners, key, expiry, ttl, old_key)
  for _, list in ipairs(owners) do
    local length = add(self, list, meta_get_value(key, expiry))
    if length then
      extend_ttl(self.dict, list, ttl, length)
    else
      count_full_zone(self, "unlisted")
    end
    if old_key then
      add_end(self, list, old_key)
    end
  end
end

--- Checks some items of each list, and drops the useless ones.
---@param self resty.session.shm
---@param owners string[] the lists
---@param names resty.session.shm.names
function lists.tidy(self, owners, names)
  for _, list in ipairs(owners) do
    tidy_some(self, list, names, TIDY_ITEMS + 1)
  end
end

--- Says in lists that a session has ended. A list goes with its last session.
---@param self resty.session.shm
---@param owners string[] the lists
---@param key string
---@param names resty.session.shm.names
function lists.remove(self, owners, key, names)
  for _, list in ipairs(owners) do
    add_end(self, list, key)
    tidy_some(self, list, names, 1)
  end
end

--- Reads the live sessions of a list, slice by slice. Other requests have their turn between two
--- slices, if this thread can wait.
---@param self resty.session.shm
---@param list string
---@param names resty.session.shm.names
---@param take fun(sessions: table<string, integer>) gets those of each slice: their expiries by their keys
---@return true? ok, string? err
function lists.read(self, list, names, take)
  if (self.dict:llen(list) or 0) == 0 and not is_locked(self.dict, list) then
    return true
  end
  local alone, err = begin_reading(self.dict, list)
  if alone then
    local ok
    ok, err = read_slices(self, list, names, SLICE, take)
    self.dict:delete(list .. READER_SUFFIX)
    return ok, err
  elseif alone == false then
    -- All items in one go: they keep their order, so the other reader misses none.
    return read_slices(self, list, names, huge, take)
  end
  return nil, err
end

return lists
