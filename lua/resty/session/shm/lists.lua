---
-- The lists of sessions in nginx's shared memory, one for each audience and subject.
--
-- An item `key:expiry;` adds a session, and `key;` says that it has ended or was replaced; see
-- `resty.session.utils`. The last item of each key counts. A list's items can be read only by taking
-- them out. So a list is tidied in two ways: each write checks a few items, however long the list is,
-- and a reader takes out all items, or a slice of them after the other, and puts back those that are
-- of use.
--
-- @module resty.session.shm.lists
-- @license BSD-2-Clause

local native = require "resty.session.native"
local utils = require "resty.session.utils"
local waiting = require "resty.session.waiting"

local decode_base64url, bunpack = utils.decode_base64url, utils.bunpack
local meta_get_value = utils.meta_get_value
local max, min = math.max, math.min
local time = ngx.time
local following = next -- by a name of its own: see docs/architecture.md, "Loops over tables"

-- How many items a write checks. It adds two at most, so that at most about half of the items of a
-- list in use are useless.
local TIDY_ITEMS = 4
-- How many items a reader takes out at once. Longer lists are read in slices.
local SLICE = 200
-- Seconds. A list is locked while it is tidied, and so is an entry while it is compared and changed.
-- This never takes long, because a worker does not yield meanwhile. The lock of a worker that was
-- killed expires after this time.
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
  ngx.log(ngx.WARN, "[session] lua_shared_dict ", self.zone, ": since this worker's last such warning, writes that ",
    "dropped the entries that were unused longest because the zone is full: ", warning.dropping,
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

-- Adds an item to the end of a list (`rpush`) or to its beginning (`lpush`). Returns the list's
-- length, or nil and an error.
local function add(self, method, list, item)
  local dict = self.dict
  local length, err = dict[method](dict, list, item)
  local size = #list + #item
  for _ = 1, 3 do
    if length or err ~= "no memory" then
      break
    end
    make_room(self, size)
    length, err = dict[method](dict, list, item)
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

-- Takes the first items of a list, drops the useless ones, and moves the others to the end. Notes
-- the sessions of those by their keys, with their expiries. An item must not move behind a later item
-- of the same key which says that the session has ended. But such an item is added only after the
-- record was deleted or marked as replaced. So an item whose record is current may move.
local function turn(self, list, names, count, sessions)
  local dict, now, known = self.dict, time(), {}
  for _ = 1, count do
    local item = dict:lpop(list)
    if not item then
      break
    end
    local key, expiry = parse(item, known)
    local record = names.before .. key .. names.after
    if expiry and expiry > now and is_current(dict, record) then
      sessions[key] = expiry
      add(self, "rpush", list, item)
      if not is_current(dict, record) then
        -- The session has ended meanwhile, and the item that says so may stand before the one that
        -- was moved.
        add(self, "rpush", list, meta_get_value(key))
      end
    end
  end
end

-- Checks the first few items of a list, unless it is being read or tidied.
local function tidy_some(self, list, names)
  local dict = self.dict
  if (dict:llen(list) or 0) <= TIDY_ITEMS or dict:get(list .. READER_SUFFIX)
     or not dict:safe_add(list .. LOCK_SUFFIX, true, LOCK_TIME) then
    return
  end
  turn(self, list, names, TIDY_ITEMS, {})
  dict:delete(list .. LOCK_SUFFIX)
end

-- Locks a list or another entry against other workers that would change it. Spins, because this runs
-- in phases that cannot wait, too.
local function lock(dict, list)
  local ok, err = dict:safe_add(list .. LOCK_SUFFIX, true, LOCK_TIME)
  while not ok and err == "exists" do
    ngx.update_time() -- the lock expires by nginx's clock
    ok, err = dict:safe_add(list .. LOCK_SUFFIX, true, LOCK_TIME)
  end
  if not ok and err == "no memory" then
    dict:get(list) -- so that it is not the list that was unused longest and makes room for the lock
    ok, err = dict:add(list .. LOCK_SUFFIX, true, LOCK_TIME)
  end
  return ok, err
end

-- Takes out the items that a list has now. Returns those of live sessions by their keys, and the
-- sessions' expiries.
local function take_out(dict, list, now)
  local items, sessions, known = {}, {}, {}
  for _ = 1, dict:llen(list) or 0 do
    local item = dict:lpop(list)
    if not item then
      break
    end
    local key, expiry = parse(item, known)
    local is_live = expiry and expiry > now
    items[key], sessions[key] = is_live and item or nil, is_live and expiry or nil
  end
  return items, sessions
end

-- Puts items back before those that others added meanwhile, which are newer.
local function put_back(self, list, items, sessions, now)
  local latest, length, problem = now, nil, nil
  for key, item in following, items do
    local new_length, err = add(self, "lpush", list, item)
    length = length or new_length
    problem = not new_length and err or problem -- the other items are put back all the same
    latest = max(latest, sessions[key])
  end
  if latest > now then
    extend_ttl(self.dict, list, latest - now, length)
  end
  return not problem or nil, problem
end

-- Leaves one item for each live session in a list, and returns the sessions. If the caller's time
-- is in the future, sessions that are live now stay in the list.
local function tidy(self, list, current_time)
  local dict, now = self.dict, min(current_time, time())
  local ok, err = lock(dict, list)
  if not ok then
    return nil, err
  end
  local items, sessions = take_out(dict, list, now)
  ok, err = put_back(self, list, items, sessions, now)
  dict:delete(list .. LOCK_SUFFIX)
  return ok and sessions, err
end

-- Waits until no other reader moves the items of a list. Returns true, or nil and an error.
local function begin_reading(dict, list)
  local ok, err = dict:safe_add(list .. READER_SUFFIX, true, READ_TIME)
  while not ok and err == "exists" do
    waiting.pause()
    ngx.update_time() -- the entry expires by nginx's clock
    ok, err = dict:safe_add(list .. READER_SUFFIX, true, READ_TIME)
  end
  return ok or nil, err
end

-- Reads a long list in slices, between which other requests have their turn if this thread can wait.
-- Meanwhile nobody else moves items, so each is seen once. Returns the live sessions, or nil and an
-- error.
local function read_in_slices(self, list, names)
  local dict, sessions = self.dict, {}
  local reader = list .. READER_SUFFIX
  local ok, err = begin_reading(dict, list)
  for left = ok and dict:llen(list) or 0, 1, -SLICE do
    ok, err = lock(dict, list)
    if not ok then
      break
    end
    turn(self, list, names, min(SLICE, left), sessions)
    dict:delete(list .. LOCK_SUFFIX)
    dict:expire(reader, READ_TIME)
    waiting.pause()
  end
  dict:delete(reader)
  if not ok then
    return nil, err
  end
  return sessions
end

local function is_locked(dict, list)
  return dict:get(list .. LOCK_SUFFIX) ~= nil
end

-- Adds an item to a list which says that a session has ended or was replaced. If another worker is
-- tidying the list, it has taken the items out, and puts them back before this one.
local function add_end(self, list, key)
  if (self.dict:llen(list) or 0) > 0 or is_locked(self.dict, list) then
    add(self, "rpush", list, meta_get_value(key))
  end
end

local lists = {
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
    local length = add(self, "rpush", list, meta_get_value(key, expiry))
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
    tidy_some(self, list, names)
  end
end

--- Says in lists that a session has ended.
---@param self resty.session.shm
---@param owners string[] the lists
---@param key string
---@param names resty.session.shm.names
---@param current_time integer seconds since the epoch
function lists.remove(self, owners, key, names, current_time)
  for _, list in ipairs(owners) do
    add_end(self, list, key)
    if (self.dict:llen(list) or 0) <= TIDY_ITEMS and not is_locked(self.dict, list) then
      tidy(self, list, current_time) -- which deletes the list with its last session
    else
      tidy_some(self, list, names)
    end
  end
end

--- Returns the live sessions of a list by their keys, with their expiries.
---@param self resty.session.shm
---@param list string
---@param names resty.session.shm.names
---@param current_time integer seconds since the epoch
---@return table<string, integer>? sessions
---@return string? err
function lists.read(self, list, names, current_time)
  if (self.dict:llen(list) or 0) > SLICE or self.dict:get(list .. READER_SUFFIX) then
    return read_in_slices(self, list, names)
  end
  return tidy(self, list, current_time)
end

return lists
