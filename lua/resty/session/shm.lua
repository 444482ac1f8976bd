---
-- Sessions in nginx's shared memory: all workers of one nginx see them, and they live until nginx
-- restarts.
--
-- A record is an entry whose time to live is the session's. Metadata is a list of items for each
-- audience and subject; see `resty.session.shm.lists`.
--
-- A lock is an entry whose value is its holder. It is looked at and changed under a second entry
-- that only one worker can add, so that a holder that comes back late never renews the lock of
-- another.
--
-- @module resty.session.shm
-- @license BSD-2-Clause

local native = require "resty.session.native"
local lists = require "resty.session.shm.lists"
local notices = require "resty.session.notices"
local options = require "resty.session.options"
local storages = require "resty.session.storages"
local utils = require "resty.session.utils"

local get_name = utils.get_name
local concat = table.concat
local floor, max, min = math.floor, math.max, math.min
local time = ngx.time
local following = next -- by a name of its own: see docs/architecture.md, "Loops over tables"

local DESTROYED = native.storages.GONE
local EXPIRY_BYTES = native.EXPIRY_BYTES
-- The latest expiry that fits into the bytes of an item.
local MAX_EXPIRY = 2 ^ (8 * EXPIRY_BYTES) - 1
local MIN_TTL = lists.MIN_TTL
-- The longest name of a lock's holder.
local MAX_HOLDER = native.storages.MAX_HOLDER

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

-- Returns a number that is not negative, as far as an item's bytes can hold it, or nil and an
-- error.
local function not_negative(what, value)
  local number = tonumber(value)
  if not number or number < 0 or number ~= number or number == math.huge then
    return nil, invalid(what, "number that is not negative", value)
  end
  return min(number, MAX_EXPIRY)
end

-- Returns a number of seconds without its fraction, or nil and an error.
local function seconds(what, value)
  local number, err = not_negative(what, value)
  return number and floor(number), err
end

-- Returns a number of seconds for which a lock is held, or nil and an error.
local function lock_time(value)
  local number, err = not_negative("ttl", value)
  return number and max(number, MIN_TTL), err
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
  local owners = {}
  if type(metadata) ~= "table" then
    return owners
  end
  local audiences, subjects = metadata.audiences, metadata.subjects
  if type(audiences) ~= "table" or type(subjects) ~= "table" then
    return nil, invalid("metadata", "{ audiences = {...}, subjects = {...} }", metadata)
  end
  for i = 1, min(#audiences, #subjects) do
    if not is_text(audiences[i]) or not is_text(subjects[i]) then
      return nil, invalid("metadata", "string", is_text(audiences[i]) and subjects[i] or audiences[i])
    end
    owners[i] = get_name(self, name, audiences[i], subjects[i])
  end
  return owners
end

-- Records ------------------------------------------------------------------------------------------------------------

-- Returns what stands before and after the key in a record's name.
---@return resty.session.shm.names
local function names_of(self, name)
  local before = (self.prefix and self.prefix .. ":" or "") .. name .. ":"
  return { before = before, after = self.suffix and ":" .. self.suffix or "" }
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
  local _, err = dict:replace(record, value, ttl, lists.REPLACED)
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
  local owners
  if not err then
    ttl, current_time, stale_ttl = times_of(ttl, current_time, stale_ttl)
    owners, err = lists_of(self, name, metadata)
    err = not ttl and current_time or err
  end
  if err then
    return nil, err
  end
  old_key = old_key ~= "" and old_key ~= key and old_key or nil
  local names = names_of(self, name)
  local record, old_record = names.before .. key .. names.after, old_key and names.before .. old_key .. names.after
  if old_must_exist and old_key and self.dict:get(old_record) == nil then
    return nil, DESTROYED
  end
  local ok, problem, forced = self.dict:set(record, tostring(value), ttl)
  if not ok then
    return nil, problem
  elseif forced then
    lists.count_full_zone(self, "dropping")
  end
  -- After the new record is stored, and before the lists say that the old one is replaced: see
  -- `turn` in resty.session.shm.lists.
  if old_key and not replace(self, old_record, stale_ttl) and old_must_exist then
    self.dict:delete(record)
    return nil, DESTROYED
  end
  lists.add(self, owners, key, min(current_time + ttl, MAX_EXPIRY), ttl, old_key)
  lists.tidy(self, owners, names)
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
    lists.count_full_zone(self, "dropping")
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
  local err = problem_of_name(name, key) or select(2, seconds("current_time", current_time or time()))
  local owners
  if not err then
    owners, err = lists_of(self, name, metadata)
  end
  if err then
    return nil, err
  end
  local names = names_of(self, name)
  self.dict:delete(names.before .. key .. names.after)
  lists.remove(self, owners, key, names)
  return true
end

-- Reads a subject's sessions, and gives the live ones to `take`, slice by slice. Returns true, or
-- nil and an error.
local function read(self, name, audience, subject, current_time, take)
  local err = not is_text(name) and invalid("name", "string", name)
              or not is_text(audience) and invalid("audience", "string", audience)
              or not is_text(subject) and invalid("subject", "string", subject)
  if not err then
    current_time, err = seconds("current_time", current_time or time())
  end
  if err then
    return nil, err
  end
  return lists.read(self, get_name(self, name, audience, subject), names_of(self, name), function(sessions)
    for key, expiry in following, sessions do
      if expiry <= current_time then
        sessions[key] = nil
      end
    end
    take(sessions)
  end)
end

--- Returns the live sessions of a subject: those whose records exist and were not replaced. Other
--- requests have their turn between the slices of a long list, if this thread can wait; otherwise
--- it takes the worker some five milliseconds for each thousand sessions.
---@param name string the cookie's name
---@param audience string as in the metadata: base64url
---@param subject string as in the metadata
---@param current_time number? seconds since the epoch
---@return table<string, integer>? sessions `{ key = expiry, … }`
---@return string? err
function metatable:read_metadata(name, audience, subject, current_time)
  local all = {}
  local ok, err = read(self, name, audience, subject, current_time, function(sessions)
    for key, expiry in following, sessions do
      all[key] = max(all[key] or 0, expiry)
    end
  end)
  return ok and all, err
end

-- As `read_metadata`, but returns the sessions outside Lua's memory, as acts take them: a table of
-- thousands would hold up other requests when it grows, and when the garbage collector looks at it.
function metatable:__gather(name, audience, subject, current_time)
  local gathered, items = native.subjects.gather(), {}
  local ok, err = read(self, name, audience, subject, current_time, function(sessions)
    local count = 0
    for key, expiry in following, sessions do
      count = count + 1
      items[count] = key .. ":" .. expiry
    end
    native.subjects.add(gathered, concat(items, ";", 1, count))
  end)
  return ok and gathered, err
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
  local ok, problem, forced = lists.lock(dict, record)
  if not ok then
    return nil, problem
  end
  local held_by = dict:get(record)
  local is_free = held_by == nil or held_by == holder
  if is_free then
    ok, problem, forced = dict:set(record, holder, ttl)
  end
  lists.unlock(dict, record)
  if not ok then
    return nil, problem
  elseif forced then
    lists.count_full_zone(self, "dropping")
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
  local ok, problem = lists.lock(dict, record)
  if not ok then
    return nil, problem
  end
  if dict:get(record) == holder then
    dict:delete(record)
  end
  lists.unlock(dict, record)
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
