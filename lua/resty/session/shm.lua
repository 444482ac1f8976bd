---
-- Sessions in nginx's shared memory: all workers of one nginx see them, and they live until nginx
-- restarts.
--
-- A record is an entry whose time to live is the session's. Metadata is a list of items for each
-- audience and subject: `key:expiry;` adds a session, and `key;` says that it has ended or was
-- replaced; see `resty.session.utils`. The last item of each key counts. A list's items can be read
-- only by taking them out. So a list is tidied in two ways: each write checks a few items, however
-- long the list is, and a reader takes out all items and puts back those that are of use.
--
-- A lock is an entry whose value is its holder. It is looked at and changed under a second entry that
-- only one worker can add, so that a holder that comes back late never renews the lock of another.
--
-- @module resty.session.shm
-- @license BSD-2-Clause

local native = require "resty.session.native"
local notices = require "resty.session.notices"
local options = require "resty.session.options"
local storages = require "resty.session.storages"
local utils = require "resty.session.utils"

local decode_base64url, bunpack = utils.decode_base64url, utils.bunpack
local get_name, meta_get_value = utils.get_name, utils.meta_get_value
local floor, max, min = math.floor, math.max, math.min
local time = ngx.time
local following = next -- by a name of its own: see docs/architecture.md, "Loops over tables"

-- How many items a write checks. It adds two at most, so that at most about half of the items of a
-- list in use are useless.
local TIDY_ITEMS = 4
-- Seconds. A list is locked while it is tidied, and so is an entry while it is compared and changed.
-- This never takes long, because a worker does not yield meanwhile. The lock of a worker that was
-- killed expires after this time.
local LOCK_TIME = 0.2
local DESTROYED = native.storages.GONE
local EXPIRY_BYTES = native.EXPIRY_BYTES
local LOCK_SUFFIX = "\0" -- no other entry's name ends with it
local ROOM = "\0room" -- the name of an entry that is stored to make room, and is deleted at once
-- The flags of a record that was replaced. It stays valid for a while, but is not listed.
local REPLACED = 1
-- The latest expiry that fits into the bytes of an item.
local MAX_EXPIRY = 2 ^ (8 * EXPIRY_BYTES) - 1
-- Seconds: the dictionary's unit is a millisecond, and 0 would mean for ever.
local MIN_TTL = 0.001
-- The longest name of a lock's holder.
local MAX_HOLDER = native.storages.MAX_HOLDER
-- Seconds. A worker warns of a full zone at most once in this time.
local WARNING_INTERVAL = 60

---@class resty.session.shm
---@field prefix string?
---@field suffix string?
---@field zone string
---@field dict table `ngx.shared[zone]`
local metatable = {}
metatable.__index = metatable

-- Arguments ----------------------------------------------------------------------------------------------------------

local function invalid(what, expected, value)
  return "invalid argument (" .. what .. ": " .. expected .. " expected, got "
         .. (type(value) == "number" and tostring(value) or type(value)) .. ")"
end

-- Returns a number of seconds without its fraction, or nil and an error.
local function seconds(what, value)
  local number = tonumber(value)
  if not number or number < 0 or number ~= number or number == math.huge then
    return nil, invalid(what, "number that is not negative", value)
  end
  return min(floor(number), MAX_EXPIRY)
end

-- Returns a number of seconds for which a lock is held, or nil and an error.
local function lock_time(value)
  local number = tonumber(value)
  if not number or number < 0 or number ~= number or number == math.huge then
    return nil, invalid("ttl", "number that is not negative", value)
  end
  return max(min(number, MAX_EXPIRY), MIN_TTL)
end

local function is_text(value)
  return type(value) == "string" or type(value) == "number"
end

-- Returns what is wrong with the name of a lock's holder, or nil.
local function problem_of_holder(holder)
  if type(holder) ~= "string" or not holder:find("^[!-~]+$") or #holder > MAX_HOLDER then
    return invalid("holder", "1 to " .. MAX_HOLDER .. " visible ASCII characters", holder)
  end
end

-- Returns what is wrong with the arguments that name a record, or nil.
local function problem_of_name(name, key)
  if not is_text(name) then
    return invalid("name", "string", name)
  elseif not is_text(key) then
    return invalid("key", "string", key)
  end
end

-- Returns the names of the lists of the owners in the metadata, or nil and an error.
local function lists_of(self, name, metadata)
  local lists = {}
  if type(metadata) ~= "table" then
    return lists
  end
  local audiences, subjects = metadata.audiences, metadata.subjects
  if type(audiences) ~= "table" or type(subjects) ~= "table" then
    return nil, invalid("metadata", "{ audiences = {...}, subjects = {...} }", metadata)
  end
  for i = 1, min(#audiences, #subjects) do
    if not is_text(audiences[i]) or not is_text(subjects[i]) then
      return nil, invalid("metadata", "string", is_text(audiences[i]) and subjects[i] or audiences[i])
    end
    lists[i] = get_name(self, name, audiences[i], subjects[i])
  end
  return lists
end

-- A full zone --------------------------------------------------------------------------------------------------------

local warnings = {} -- by zone: when the worker last warned, and what has happened since

-- Counts what a full zone has led to, `dropping` or `unlisted`, and logs the counts from time to
-- time.
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

-- Checks the first few items of a list, drops the useless ones, and moves the others to the end. An
-- item must not move behind a later item of the same key which says that the session has ended. But
-- such an item is added only after the record was deleted or marked as replaced. So an item whose
-- record is current may move.
local function tidy_some(self, list, before, after)
  local dict, now, known = self.dict, time(), {}
  if (dict:llen(list) or 0) <= TIDY_ITEMS or not dict:safe_add(list .. LOCK_SUFFIX, true, LOCK_TIME) then
    return
  end
  for _ = 1, TIDY_ITEMS do
    local item = dict:lpop(list)
    if not item then
      break
    end
    local key, expiry = parse(item, known)
    local record = before .. key .. after
    if expiry and expiry > now and is_current(dict, record) then
      add(self, "rpush", list, item)
      if not is_current(dict, record) then
        -- The session has ended meanwhile, and the item that says so may stand before the one that
        -- was moved.
        add(self, "rpush", list, meta_get_value(key))
      end
    end
  end
  dict:delete(list .. LOCK_SUFFIX)
end

-- Locks a list or another entry against other workers that would change it. Spins, because this runs in phases that
-- cannot wait, too.
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

-- Adds a session to lists, and says in them that it has replaced another. If there is no room, the
-- session works unlisted.
local function add_to_lists(self, lists, key, expiry, ttl, old_key)
  for _, list in ipairs(lists) do
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

-- Returns what stands before and after the key in a record's name.
local function name_affixes(self, name)
  return (self.prefix and self.prefix .. ":" or "") .. name .. ":", self.suffix and ":" .. self.suffix or ""
end

-- Marks a record as replaced, and shortens its life to `stale_ttl` if it would live longer. Returns
-- whether it existed.
local function replace(self, record, stale_ttl)
  local dict = self.dict
  local value = dict:get(record)
  local left = dict:ttl(record)
  if value == nil or not left then
    return false
  elseif stale_ttl < 1 then
    dict:delete(record)
    return true
  end
  local ttl = max(left > 0 and min(left, stale_ttl) or stale_ttl, MIN_TTL)
  local _, err = dict:replace(record, value, ttl, REPLACED)
  return err ~= "not found"
end

-- The storage --------------------------------------------------------------------------------------------------------

-- Returns the times of a save in whole seconds: the time to live, the current time, and how long
-- the replaced record stays valid; or nil and an error.
local function times_of(ttl, current_time, stale_ttl)
  local err
  ttl, err = seconds("ttl", ttl)
  if ttl then
    current_time, err = seconds("current_time", current_time or time())
  end
  if ttl and current_time then
    stale_ttl, err = seconds("stale_ttl", stale_ttl or 0)
  end
  if err then
    return nil, err
  end
  return max(ttl, 1), current_time, stale_ttl
end

--- Stores a record. In a full zone, this drops the entries that were unused longest.
---@param name string the cookie's name
---@param key string
---@param value string
---@param ttl number whole seconds; 0 counts as 1
---@param current_time number? seconds since the epoch
---@param old_key string? the record that this one replaces
---@param stale_ttl number? seconds for which the replaced record stays valid; 0 by default
---@param metadata table? `{ audiences = {…}, subjects = {…} }`
---@param old_must_exist boolean? whether to store nothing if the replaced record is gone
---@return true? ok, string? err
function metatable:set(name, key, value, ttl, current_time, old_key, stale_ttl, metadata, old_must_exist)
  local err = problem_of_name(name, key) or not is_text(value) and invalid("value", "string", value)
              or old_key ~= nil and not is_text(old_key) and invalid("old_key", "string", old_key)
  local lists
  if not err then
    ttl, current_time, stale_ttl = times_of(ttl, current_time, stale_ttl)
    lists, err = lists_of(self, name, metadata)
    err = not ttl and current_time or err
  end
  if err then
    return nil, err
  end
  old_key = old_key ~= "" and old_key ~= key and old_key or nil
  local before, after = name_affixes(self, name)
  if old_must_exist and old_key and self.dict:get(before .. old_key .. after) == nil then
    return nil, DESTROYED
  end
  local ok, problem, forced = self.dict:set(before .. key .. after, tostring(value), ttl)
  if not ok then
    return nil, problem
  elseif forced then
    count_full_zone(self, "dropping")
  end
  -- After the new record is stored, and before the lists say that the old one is replaced: see
  -- tidy_some.
  if old_key and not replace(self, before .. old_key .. after, stale_ttl) and old_must_exist then
    self.dict:delete(before .. key .. after)
    return nil, DESTROYED
  end
  add_to_lists(self, lists, key, min(current_time + ttl, MAX_EXPIRY), ttl, old_key)
  for _, list in ipairs(lists) do
    tidy_some(self, list, before, after)
  end
  return true
end

-- Replaces a record's value if the record exists, without lengthening its life. Returns true; nil
-- if the record does not exist; or nil and an error.
function metatable:__update(name, key, value, ttl)
  local err = problem_of_name(name, key) or not is_text(value) and invalid("value", "string", value)
  if not err then
    ttl, err = seconds("ttl", ttl)
  end
  if err then
    return nil, err
  end
  local dict, record = self.dict, get_name(self, name, key)
  local _, flags = dict:get(record)
  local left = dict:ttl(record)
  ttl = max(ttl, 1)
  if left and left > 0 then
    ttl = max(min(left, ttl), MIN_TTL)
  end
  local ok, problem, forced = dict:replace(record, tostring(value), ttl, flags or 0)
  if forced then
    count_full_zone(self, "dropping")
  end
  return ok or nil, problem ~= "not found" and problem or nil
end

--- Reads a record.
---@param name string the cookie's name
---@param key string
---@return string? value nil without an error if there is no such record
---@return string? err
function metatable:get(name, key)
  local err = problem_of_name(name, key)
  if err then
    return nil, err
  end
  local value, problem = self.dict:get(get_name(self, name, key))
  if value == nil then
    return nil, problem
  end
  return value
end

--- Deletes a record. Deleting one that does not exist succeeds.
---@param name string the cookie's name
---@param key string
---@param current_time number? seconds since the epoch
---@param metadata table? `{ audiences = {…}, subjects = {…} }`
---@return true? ok, string? err
function metatable:delete(name, key, current_time, metadata)
  local err, lists = problem_of_name(name, key), nil
  if not err then
    current_time, err = seconds("current_time", current_time or time())
  end
  if not err then
    lists, err = lists_of(self, name, metadata)
  end
  if err then
    return nil, err
  end
  local before, after = name_affixes(self, name)
  self.dict:delete(before .. key .. after)
  for _, list in ipairs(lists) do
    add_end(self, list, key)
    if (self.dict:llen(list) or 0) <= TIDY_ITEMS and not is_locked(self.dict, list) then
      tidy(self, list, current_time) -- which deletes the list with its last session
    else
      tidy_some(self, list, before, after)
    end
  end
  return true
end

--- Returns the live sessions of a subject. This takes the worker a millisecond or two for each
--- thousand sessions.
---@param name string the cookie's name
---@param audience string as in the metadata: base64url
---@param subject string as in the metadata
---@param current_time number? seconds since the epoch
---@return table<string, integer>? sessions `{ key = expiry, … }`
---@return string? err
function metatable:read_metadata(name, audience, subject, current_time)
  local err = not is_text(name) and invalid("name", "string", name)
              or not is_text(audience) and invalid("audience", "string", audience)
              or not is_text(subject) and invalid("subject", "string", subject)
  if not err then
    current_time, err = seconds("current_time", current_time or time())
  end
  if err then
    return nil, err
  end
  local sessions
  sessions, err = tidy(self, get_name(self, name, audience, subject), current_time)
  if not sessions then
    return nil, err
  end
  for key, expiry in following, sessions do
    if expiry <= current_time then
      sessions[key] = nil
    end
  end
  return sessions
end

--- Takes a lock, or renews it for its holder. It expires by itself. In a full zone, this drops the
--- entries that were unused longest, and a lock may be dropped for other entries likewise.
---@param name string the cookie's name
---@param key string base64url of a hash, so that no record has it
---@param holder string who takes the lock: 1 to 255 visible ASCII characters that nobody else uses
---@param ttl number seconds, also fractions
---@param current_time number? seconds since the epoch; not needed
---@return boolean? held whether the holder has the lock now; false if another has it
---@return string? err
function metatable:lock(name, key, holder, ttl, current_time)
  local err = problem_of_name(name, key) or problem_of_holder(holder)
  if not err then
    ttl, err = lock_time(ttl)
  end
  if not err then
    current_time, err = seconds("current_time", current_time or time())
  end
  if err or not current_time then
    return nil, err
  end
  local dict, record = self.dict, get_name(self, name, key)
  ngx.update_time() -- entries expire by nginx's clock, which may have stood still for a while
  local ok, problem, forced = lock(dict, record)
  if not ok then
    return nil, problem
  end
  local held_by = dict:get(record)
  local is_free = held_by == nil or held_by == holder
  if is_free then
    ok, problem, forced = dict:set(record, holder, ttl)
  end
  dict:delete(record .. LOCK_SUFFIX)
  if not ok then
    return nil, problem
  elseif forced then
    count_full_zone(self, "dropping")
  end
  return is_free
end

--- Frees a lock if this holder has it.
---@param name string the cookie's name
---@param key string
---@param holder string
---@return true? ok, string? err
function metatable:unlock(name, key, holder)
  local err = problem_of_name(name, key) or problem_of_holder(holder)
  if err then
    return nil, err
  end
  local dict, record = self.dict, get_name(self, name, key)
  ngx.update_time()
  local ok, problem = lock(dict, record)
  if not ok then
    return nil, problem
  end
  if dict:get(record) == holder then
    dict:delete(record)
  end
  dict:delete(record .. LOCK_SUFFIX)
  return true
end

storages.keep_originals(metatable)

local shm = {}

--- Makes the storage.
---@param configuration table? `zone` (default `sessions`), `prefix`, `suffix`
---@return resty.session.shm storage
---@raise `lua_shared_dict <zone> is missing`, or a string that names what is wrong with an option
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
  return setmetatable({ prefix = own.prefix, suffix = own.suffix, zone = own.zone, dict = dict }, metatable)
end

return shm
