---
-- Turns: requests that want the same lock get it one after the other, on all servers.
--
-- The lock is a storage's, and expires by itself. A light thread renews it while the turn lasts, so
-- the lock of a request that was aborted, or of a worker that was killed, is free a few seconds
-- later.
--
-- In one worker, the requests that wait for a lock stand in a line, and only the first asks the
-- storage. Each has a *place* that expires. A request that was aborted does not renew its place, so
-- those behind it pass it. The line saves operations of the storage, and makes the turn's end known
-- at once: the lock alone decides whose turn it is.
--
-- @module resty.session.turns
-- @license BSD-2-Clause

local semaphores = require "ngx.semaphore"
local notices = require "resty.session.notices"
local utils = require "resty.session.utils"

local now, sleep = ngx.now, ngx.sleep
local following = next -- by a name of its own: see docs/architecture.md, "Loops over tables"
local max, min, random = math.max, math.min, math.random
local spawn, wait, kill = ngx.thread.spawn, ngx.thread.wait, ngx.thread.kill

-- All in seconds.
local LOCK_LIFE = 5 -- how long a lock lives that is not renewed
local RENEWAL_INTERVAL = 1.5
local RETRY_INTERVAL = 0.5 -- after a renewal that failed
-- A turn is dropped if its coroutine has yielded to the program, and was not resumed for so many
-- renewals.
local MAX_SUSPENDED = 4
local MIN_PAUSE, MAX_PAUSE = 0.005, 0.05 -- between two tries of the first in the line; they grow
local PAUSE_GROWTH = 1.5
local PLACE_LIFE = 0.3 -- how long the place of a request lives that waits for others
local PLACE_RENEWAL_INTERVAL = 0.1
-- A semaphore does not wait at all for less, so nginx's clock would stand still, and a sleep logs a
-- warning.
local MIN_WAIT = 0.001
local MIN_LINES = 64
-- After a worker's requests have had the lock one after the other for RUN, the next one pauses for
-- longer than any other worker or server does between two tries.
local RUN, GAP = 0.1, 0.08

---@class resty.session.turns.place
---@field semaphore table wakes the request that waits
---@field expires number seconds, as `ngx.now` returns them

---@class resty.session.turns.line
---@field name string
---@field front integer the number of the first place
---@field last integer the number of the last place
---@field places table<integer, resty.session.turns.place> by number
---@field run_start number? since when this worker's requests have had the lock one after the other

---@class resty.session.turn
---@field store table
---@field name string
---@field key string
---@field holder string
---@field line resty.session.turns.line
---@field number integer its place's
---@field place resty.session.turns.place
---@field thread thread? renews the lock
---@field asking boolean? whether that thread waits for the storage at the moment
---@field over boolean? whether the turn is over
---@field lost boolean? whether the lock was lost
---@field owner thread the coroutine that the turn runs in

local turns = {}

-- The lines of one storage. A request that ends in its turn leaves its line behind.
---@class resty.session.turns.lines
---@field by_name table<string, resty.session.turns.line> by the lock's name and key
---@field count integer how many there are
---@field limit integer how many there may be until those are dropped in which nobody stands

local lines_of = setmetatable({}, { __mode = "k" }) ---@type table<table, resty.session.turns.lines> by storage

-- Drops the lines in which nobody stands.
local function drop_empty(lines)
  lines.count = 0
  for name, line in following, lines.by_name do
    local is_used = false
    for _, place in following, line.places do
      is_used = is_used or place.expires > now()
    end
    lines.by_name[name] = is_used and line or nil
    lines.count = lines.count + (is_used and 1 or 0)
  end
  lines.limit = max(MIN_LINES, 2 * lines.count)
end

local function line_of(store, name)
  local lines = lines_of[store] or { by_name = {}, count = 0, limit = MIN_LINES }
  lines_of[store] = lines
  local line = lines.by_name[name]
  if not line then
    if lines.count >= lines.limit then
      drop_empty(lines)
    end
    line = { name = name, front = 1, last = 0, places = {} }
    lines.by_name[name] = line
    lines.count = lines.count + 1
  end
  return line
end

-- Returns a turn whose request stands at the end of its line.
local function stand_in_line(store, name, key)
  local line = line_of(store, name .. "\0" .. key)
  local place = { semaphore = assert(semaphores.new(0)), expires = now() + PLACE_LIFE }
  line.last = line.last + 1
  line.places[line.last] = place
  return {
    store = store, name = name, key = key, holder = utils.encode_base64url(utils.rand_bytes(16)),
    line = line, number = line.last, place = place, owner = coroutine.running(),
  }
end

-- Returns whether all places before this one were left or have expired.
local function is_first(turn)
  local line = turn.line
  while line.front < turn.number do
    local place = line.places[line.front]
    if place and place.expires > now() then
      return false
    end
    line.places[line.front] = nil
    line.front = line.front + 1
  end
  return true
end

-- Leaves the line, and wakes the next request in it.
local function leave_line(turn)
  local line = turn.line
  line.places[turn.number] = nil
  for number = line.front, line.last do
    local place = line.places[number]
    if place then
      place.semaphore:post(1)
      return
    end
  end
  local lines = lines_of[turn.store]
  if lines.by_name[line.name] == line then
    lines.by_name[line.name] = nil
    lines.count = lines.count - 1
  end
end

-- Asks the storage for the lock, or to renew it. Returns true; false if another request has it; or
-- nil and an error.
local function ask(turn)
  turn.asking = true
  local asked = now() -- the lock's time may begin so early, however late the reply is
  local called, ok, err = pcall(turn.store.lock, turn.store, turn.name, turn.key, turn.holder, LOCK_LIFE)
  turn.asking = false
  if not called then
    return nil, tostring(ok)
  elseif ok then
    turn.place.expires = asked + LOCK_LIFE
    if turn.place.expires <= now() then
      return nil, "the lock's time was over when the storage replied"
    end
    return true
  elseif ok == false and err == nil then
    return false
  end
  return nil, tostring(err or "the storage gives no reason")
end

-- Asks for the lock as the first in the line.
local function try(turn)
  turn.place.expires = now() + LOCK_LIFE
  local ok, err = ask(turn)
  turn.line.run_start = ok and (turn.line.run_start or now()) or nil
  return ok, err
end

-- Waits until it is the request's turn. Returns true, or nil and an error.
local function wait_for_turn(turn, deadline)
  local line, place, pause = turn.line, turn.place, MIN_PAUSE
  while true do
    local left = deadline - now()
    place.expires = now() + PLACE_LIFE
    if not is_first(turn) then
      if left <= 0 then
        return nil, "timeout"
      end
      place.semaphore:wait(max(MIN_WAIT, min(PLACE_RENEWAL_INTERVAL, left)))
    elseif line.run_start and now() - line.run_start > RUN then
      line.run_start = nil
      sleep(max(MIN_WAIT, min(GAP, left)))
    else
      local ok, err = try(turn)
      left = deadline - now()
      if ok ~= false or left <= 0 then
        return ok or nil, err or "timeout"
      end
      place.expires = now() + PLACE_LIFE
      sleep(max(MIN_WAIT, min(pause * (0.5 + random()), left)))
      pause = min(pause * PAUSE_GROWTH, MAX_PAUSE)
    end
  end
end

-- Takes the lock. The first try needs no light thread; waiting does, because ngx_lua does not end
-- the waiting of a coroutine whose request ends early.
local function acquire(turn, deadline)
  local line = turn.line
  if is_first(turn) and not (line.run_start and now() - line.run_start > RUN) then
    local ok, err = try(turn)
    if ok ~= false then
      return ok, err
    end
  end
  if deadline <= now() then
    return nil, "timeout"
  end
  local finished, ok, err = wait(spawn(wait_for_turn, turn, deadline))
  if not finished then
    return nil, tostring(ok)
  end
  return ok, err
end

-- Renews the lock. Returns whether that succeeded, and otherwise a warning; `lost` is set if
-- another request may have the lock.
local function renew_once(turn)
  local ok, err = ask(turn)
  if not ok then
    turn.lost = ok == false or turn.place.expires <= now()
    err = err or "another request has it"
    return false, (turn.lost and "the lock of a synchronized session was lost: "
                   or "unable to renew the lock of a synchronized session: ") .. err
  end
  return true
end

-- Renews the lock until the turn is over, or lost. A coroutine that the program never resumes must
-- not keep it, nor its request.
local function renew(turn)
  local pause, suspended, told = RENEWAL_INTERVAL, 0, false
  while not turn.lost do
    sleep(pause)
    suspended = coroutine.status(turn.owner) == "suspended" and suspended + 1 or 0
    local ok, warning
    if turn.over then
      return
    elseif coroutine.status(turn.owner) == "dead" then -- its thread was killed
      turn.lost = true
      return
    elseif suspended >= MAX_SUSPENDED then
      turn.lost = true
      warning = "a synchronized session loses its lock: its coroutine was not resumed"
    else
      ok, warning = renew_once(turn)
    end
    if turn.over then
      return -- `finish` waits for this
    end
    if warning and (turn.lost or not told) then
      notices.warn(warning)
    end
    told, pause = warning ~= nil, ok and RENEWAL_INTERVAL or RETRY_INTERVAL
  end
end

--- Returns whether a turn still has its lock, as far as the worker knows. It may have stood still
--- for longer than the lock lives.
---@param turn resty.session.turn
---@return boolean
function turns.has_lock(turn)
  ngx.update_time()
  return not turn.lost and turn.place.expires > now()
end

--- Waits for a turn.
---@param store table a storage with `lock` and `unlock`
---@param name string
---@param key string
---@param timeout number seconds to wait at most
---@return resty.session.turn? turn to be ended by `finish`
---@return string? err
function turns.take(store, name, key, timeout)
  local turn = stand_in_line(store, name, key)
  local ok, err = acquire(turn, now() + timeout)
  if not ok then
    leave_line(turn)
    return nil, err
  end
  turn.thread = spawn(renew, turn)
  return turn
end

--- Ends a turn: frees the lock, and lets the next request in.
---@param turn resty.session.turn
---@return string? err why the lock may not be free before it expires
function turns.finish(turn)
  turn.over = true
  if turn.asking then
    wait(turn.thread) -- a renewal must not reach the storage after the lock was freed
  else
    kill(turn.thread)
  end
  local called, ok, err = pcall(turn.store.unlock, turn.store, turn.name, turn.key, turn.holder)
  leave_line(turn)
  return not (called and ok) and tostring(called and err or ok) or nil
end

return turns
