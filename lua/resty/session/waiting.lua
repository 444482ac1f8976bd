---
-- Waiting for storages whose drivers run beside the worker; see `docs/architecture.md`, "The
-- bridge".
--
-- An operation that is submitted gets a ticket, and its request waits for the ticket on a
-- semaphore. Two light threads in each worker serve all requests. The listener reads the doorbell,
-- drains all replies that have arrived, and wakes the requests that wait for them. It wakes the
-- housekeeper last, which therefore runs after them in the same turn of nginx's event loop: it
-- flushes the operations that were submitted, so that many cross at once, and drops replies that
-- were not taken within a turn.
--
-- @module resty.session.waiting
-- @license BSD-2-Clause

local errands = require "resty.session.errands"
local native = require "resty.session.native"
local semaphores = require "ngx.semaphore"

local bridge, storages = native.bridge, native.storages
local get_phase = ngx.get_phase
local exiting = ngx.worker.exiting
local now = ngx.now
local max = math.max
local following = next -- by a name of its own: see docs/architecture.md, "Loops over tables"

-- Phases in which a request cannot wait.
local NO_WAITING = {
  init = true, init_worker = true, exit_worker = true, set = true, header_filter = true, body_filter = true,
  log = true, balancer = true, ssl_session_store = true,
}

-- Milliseconds. nginx logs a read that times out as an error, so the doorbell is read with the
-- longest limit there is.
local DOORBELL_TIMEOUT = 0x7fffffff
-- Seconds. Pending timers fire when the worker exits, and this one is only for that: it is set for
-- ten years ahead.
local EXIT_TIMER_DELAY = 10 * 365 * 24 * 3600
local CONNECT_TIMEOUT = 5000 -- milliseconds
local EXIT_CHECK_INTERVAL = 5 -- seconds; how often the housekeeper looks whether the worker exits
-- Seconds. nginx drops timers when it runs out of them, or of connections: a listener that does not
-- run so long after it was started is started again.
local RESTART_INTERVAL = 1
-- Seconds. How often requests look for their replies themselves while no listener runs.
local POLL_INTERVAL = 0.001
-- Seconds. How often they then drop replies that were not taken: longer than a turn of nginx's
-- event loop takes, since without a listener nothing tells turns apart.
local SWEEP_INTERVAL = 1
local MAX_IDLE_WAITERS = 512

---@class resty.session.waiter
---@field semaphore table
---@field done boolean? whether the reply has arrived
---@field draining boolean? whether it drains replies itself at the moment, and so does not have to be woken

local waiting = {} ---@type table<integer, resty.session.waiter> by ticket
local idle, idle_count = {}, 0 -- waiters to be used again
local flush_due = false -- whether operations were submitted that are not flushed yet
local flush_now = false -- whether the housekeeper is to flush them when it runs next
local listening = false -- whether a listener runs
local generation = 0 -- the number of the listener that was started last; all others end
local start_time -- when that was; nil if another may be started at once
local turns = 0 -- how many turns of nginx's event loop have certainly passed; see `run_clock`
local swept_turns = 0 -- how many had when replies that were not taken were last looked for
local last_sweep = 0 -- when that was, if no listener ran
local has_exit_timer = false -- whether the timer that rings the doorbell when the worker exits is set

-- Returns whether this thread can yield here. It cannot inside a function that C code called: a
-- callback of `string.gsub` or `table.sort`, a module that `require` loads, an error handler, a
-- finalizer.
--
-- LuaJIT's C function `lua_isyieldable` knows, but ngx_lua's `coroutine` table lacks `isyieldable`.
-- So the C function itself is called as if it were a Lua function. Like those, it takes the Lua
-- state, and the number that it returns, 1 or 0, is how many results LuaJIT takes from the stack:
-- the last argument, or none.
local yieldable = coroutine.isyieldable
if not yieldable then
  local NAME, LIBRARY = "lua_isyieldable", "libluajit-5.1.so.2"
  local is_yieldable = package.loadlib("", NAME) or package.loadlib(LIBRARY, NAME)
  assert(is_yieldable, "LuaJIT's function lua_isyieldable cannot be found")
  function yieldable()
    return is_yieldable(true)
  end
end

-- How long this Lua VM lives -----------------------------------------------------------------------------------------

-- `lua_code_cache off` makes a VM for each request. A listener would keep that VM alive after the
-- request, so none is started in it. A VM lives as long as the worker if it was made before the
-- workers were forked or for `init_worker_by_lua`, or if it serves a second request.
local loading_phase, loading_process = get_phase(), ngx.worker.pid()
local resident = loading_phase == "init_worker"
local first_request

local function request_number()
  return ngx.var.connection .. ":" .. (ngx.var.connection_requests or "")
end

local function is_resident()
  if resident then
    return true
  elseif loading_phase == "init" and ngx.worker.pid() ~= loading_process then
    resident = true
  elseif get_phase() ~= "timer" then
    local known, request = pcall(request_number)
    first_request = first_request or known and request
    resident = known and request ~= first_request
  end
  return resident
end

-- The listener and the housekeeper ------------------------------------------------------------------------------------

-- Runs the errands. If one raises, that must end neither the listener nor a request.
local function run_errands()
  local ok, problem = pcall(errands.run)
  if not ok then
    ngx.log(ngx.ERR, "[session] unable to run errands of storages: ", problem)
  end
end

-- Drains the replies that have arrived, and wakes the requests that wait for them. Returns whether
-- there were any.
local function deliver()
  local tickets, has_errands = bridge.drain()
  for i = 1, #tickets do
    local ticket = tickets[i]
    local waiter = waiting[ticket]
    waiting[ticket] = nil
    if waiter then
      waiter.done = true
      if not waiter.draining then
        waiter.semaphore:post(1)
      end
    end
  end
  if has_errands then
    run_errands() -- last: the tickets that were drained are known nowhere else
  end
  return #tickets > 0
end

local function flush()
  bridge.flush()
  flush_due, flush_now = false, false -- only now: if flushing fails, it is tried again
end

-- Drops the replies that were not taken at the last sweep, and still are not, if that was in
-- another turn of nginx's event loop: all threads that are woken in a turn run before it ends.
-- Returns whether there is more to do.
local function sweep()
  local passed = swept_turns ~= turns
  swept_turns = turns
  return bridge.sweep(passed)
end

-- Flushes if that is due, and sweeps. Returns whether there is more to sweep.
local function flush_and_sweep()
  if flush_now then
    flush()
  end
  return sweep()
end

---@class resty.session.helper
---@field thread thread? nil before it is first needed
---@field semaphore table? wakes it

---@class resty.session.helpers Two light threads of the listener
---@field housekeeper resty.session.helper
---@field clock resty.session.helper

-- Wakes a helper if it waits.
local function wake(helper)
  if helper.semaphore:count() < 0 then
    helper.semaphore:post(1)
  end
end

-- Counts turns of nginx's event loop, one each time it is woken, and wakes the housekeeper.
--
-- In a turn, nginx handles events, then timers, and last the threads that were woken. So this
-- thread is woken at the end of a turn, its sleep ends in another, and the housekeeper runs at the
-- end of that. nginx's time would not tell turns apart: `ngx.update_time` changes it at any moment.
local function run_clock(helpers)
  while true do
    if helpers.clock.semaphore:wait(EXIT_CHECK_INTERVAL) then
      ngx.sleep(POLL_INTERVAL)
      turns = turns + 1
      wake(helpers.housekeeper)
    end
  end
end

local function run_housekeeper(helpers)
  while true do
    -- It sweeps only when it was woken, at the end of a turn.
    if helpers.housekeeper.semaphore:wait(EXIT_CHECK_INTERVAL) then
      local ok, result = pcall(flush_and_sweep)
      if not ok then
        ngx.log(ngx.ERR, "[session] unable to flush or sweep storage operations: ", result)
      end
      if result then -- there is more to do, or it has failed: again in another turn
        wake(helpers.clock)
      end
    elseif exiting() then
      bridge.ring() -- in case nginx has dropped the exit timer
    end
  end
end

-- Starts a helper, unless it runs. One that has failed is replaced.
local function ensure(helper, run, helpers)
  if not helper.thread or coroutine.status(helper.thread) == "dead" then
    helper.semaphore = assert(semaphores.new(0))
    helper.thread = ngx.thread.spawn(run, helpers)
  end
end

-- Wakes the housekeeper, which runs after all threads that were woken before.
local function wake_housekeeper(helpers)
  ensure(helpers.clock, run_clock, helpers)
  ensure(helpers.housekeeper, run_housekeeper, helpers)
  wake(helpers.housekeeper)
end

local function connect()
  local host, number, token = bridge.open_doorbell()
  if not host then
    error(number, 0)
  end
  local socket = ngx.socket.tcp()
  socket:settimeouts(CONNECT_TIMEOUT, CONNECT_TIMEOUT, DOORBELL_TIMEOUT)
  local ok, err
  if number then
    ok, err = socket:connect(host, number)
  else
    ok, err = socket:connect(host)
  end
  if ok and token then
    ok, err = socket:send(token)
  end
  if not ok then
    socket:close()
    error(err, 0)
  end
  return socket
end

-- Reads the doorbell until the worker exits and no operation is in flight, or until another
-- listener was started.
local function read_doorbell(helpers, own)
  local socket = connect()
  wake_housekeeper(helpers)
  listening = own == generation
  flush() -- operations that were submitted before
  while own == generation and not (exiting() and bridge.in_flight() == 0) do
    local _, problem = socket:receiveany(64)
    if problem and problem ~= "timeout" then
      error(problem, 0)
    end
    flush_now = flush_due
    if deliver() or flush_now then
      wake_housekeeper(helpers)
    end
  end
  socket:close()
  deliver()
end

-- Wakes all requests that wait, so that they look for their replies themselves while no listener
-- runs.
local function wake_all()
  for _, waiter in following, waiting do
    waiter.semaphore:post(1)
  end
end

-- The listener, which runs in a timer of its own. `own` is its generation.
local function listen(_, own)
  if own ~= generation then
    return -- too late: another was started meanwhile
  end
  start_time = math.huge -- so that no other is started while this one connects
  local helpers = { housekeeper = {}, clock = {} }
  local ok, problem = pcall(read_doorbell, helpers, own)
  for _, helper in following, helpers do
    if helper.thread then
      ngx.thread.kill(helper.thread)
    end
  end
  if own ~= generation then
    return
  end
  listening, start_time = false, nil
  if not ok then
    start_time = now()
    ngx.log(ngx.ERR, "[session] unable to listen for storages: ", problem)
  end
  wake_all()
end

local function ring_at_exit(premature)
  if premature then -- the worker exits
    bridge.ring()
  end
end

-- Returns whether a listener runs. Starts one if none does.
local function is_listening()
  if listening or not is_resident() then
    return listening
  end
  if not start_time or now() - start_time >= RESTART_INTERVAL then
    if not has_exit_timer and not exiting() then
      has_exit_timer = ngx.timer.at(EXIT_TIMER_DELAY, ring_at_exit) and true or false
    end
    start_time, generation = now(), generation + 1
    local ok, err = ngx.timer.at(0, listen, generation)
    if not ok then
      ngx.log(ngx.ERR, "[session] unable to listen for storages: ", err)
    end
  end
  return false
end

-- Waiting -----------------------------------------------------------------------------------------------------------

local function new_waiter()
  if idle_count > 0 then
    local waiter = idle[idle_count]
    idle[idle_count] = nil
    idle_count = idle_count - 1
    return waiter
  end
  return { semaphore = assert(semaphores.new(0)) }
end

-- Waits for a moment, and looks for replies. This is slower than a listener, so it is done only
-- until one runs.
local function poll(waiter)
  flush()
  waiter.semaphore:wait(POLL_INTERVAL)
  if waiter.done or listening then
    return
  end
  waiter.draining = true
  deliver()
  waiter.draining = nil
  if now() - last_sweep >= SWEEP_INTERVAL then
    last_sweep, turns = now(), turns + 1
    sweep()
  end
end

-- Lets the housekeeper flush after nginx has handled the current batch of events.
local function request_flush()
  if not flush_due then
    flush_due = true
    bridge.ring()
  end
end

-- Waits until the reply has arrived or the deadline has passed. Returns an error, or nil.
local function wait_until(waiter, deadline)
  repeat
    if is_listening() then
      request_flush()
      waiter.semaphore:wait(max(deadline - now(), POLL_INTERVAL))
    else
      poll(waiter)
    end
    if waiter.done then
      return
    end
  until now() >= deadline
  return "timeout"
end

-- Waits until the reply has arrived, for about `limit` seconds at most. Returns an error, or nil.
-- Usually the reply is what wakes the waiter first. That case stands outside the loop, so that
-- LuaJIT compiles the caller.
local function wait_in_thread(waiter, limit)
  if is_listening() then
    request_flush()
    local woken = waiter.semaphore:wait(limit)
    if waiter.done then
      return
    elseif not woken then
      return "timeout"
    end
  end
  return wait_until(waiter, now() + limit)
end

-- Returns whether this is a light thread. ngx_lua's error tells, when the thread tries to kill
-- itself.
local function in_light_thread()
  local _, problem = ngx.thread.kill(coroutine.running())
  return problem == "killer not parent"
end

-- When a request ends early, ngx_lua ends the waits of its own threads, but not that of a
-- coroutine, which would be woken when it no longer exists. So a coroutine waits for a light
-- thread, which waits for the reply.
local function wait_in_coroutine(waiter, limit)
  local thread = ngx.thread.spawn(wait_in_thread, waiter, limit)
  local _, err = ngx.thread.wait(thread)
  return err
end

local waiting_module = {}

--- Returns why this thread can't wait for a storage here, or nil if it can.
---@return string? err
function waiting_module.prepare()
  local phase = get_phase()
  if NO_WAITING[phase] then
    return "storages can't be waited for in the " .. phase .. " phase"
  elseif not yieldable() then
    return "storages can't be waited for inside a function that C code calls: a callback of string.gsub or table.sort, "
        .. "a module that require loads, an error handler"
  end
end

--- Waits for the reply to an operation that was submitted.
---@param ticket integer
---@param limit number seconds; only a backstop, because the native side replies in time, if need be with a timeout
---@param in_entry_thread boolean whether nginx itself started this thread, to run a block
---@return string? err if no reply arrived
function waiting_module.wait(ticket, limit, in_entry_thread)
  local waiter = new_waiter()
  waiting[ticket] = waiter
  local err
  if in_entry_thread or in_light_thread() then
    err = wait_in_thread(waiter, limit)
  else
    err = wait_in_coroutine(waiter, limit)
  end
  waiting[ticket] = nil
  if err then
    return err
  end
  waiter.done = nil
  if idle_count < MAX_IDLE_WAITERS then
    idle_count = idle_count + 1
    idle[idle_count] = waiter
  end
end

-- Seconds. A shorter sleep does not let nginx's time pass, or logs a warning.
local SHORTEST_PAUSE = 0.001

-- In a function of its own, because a light thread cannot run a function that is written in C.
local function sleep(seconds)
  ngx.sleep(seconds)
end

--- Sleeps, so that other requests have their turn, if this thread can wait here. In a coroutine, a
--- light thread sleeps: ngx_lua does not end a coroutine's sleep either when its request ends
--- early.
---@param seconds number? a millisecond, if it is left out
function waiting_module.pause(seconds)
  seconds = max(seconds or 0, SHORTEST_PAUSE)
  if waiting_module.prepare() then
    return
  elseif bridge.in_entry_thread() or in_light_thread() then
    sleep(seconds)
  else
    ngx.thread.wait(ngx.thread.spawn(sleep, seconds))
  end
end

--- Submits an operation and waits for its reply.
---@param method string `get`, `set`, `update`, `delete`, `read_metadata`, `lock` or `unlock`
---@param storage userdata a native storage
---@param ... any the method's arguments
---@return any reply nil without an error if the record does not exist, or another holder has the lock
---@return string? err
function waiting_module.run(method, storage, ...)
  local err = waiting_module.prepare()
  if err then
    return nil, err
  end
  local valid, ticket, limit, in_entry_thread = pcall(storages[method], storage, ...)
  if not valid then
    return nil, "invalid argument (" .. tostring(ticket):match("^[^\n]*") .. ")" -- without the stack traceback
  elseif not ticket then
    return nil, limit
  end
  err = waiting_module.wait(ticket, limit, in_entry_thread)
  if err then
    bridge.discard(ticket)
    return nil, err
  end
  return bridge.take(ticket)
end

--- Returns what the bridge of this worker has done: see `counts` in `resty.session.status`.
---@return table<string, integer> counts
function waiting_module.counts()
  return bridge.counts()
end

return waiting_module
