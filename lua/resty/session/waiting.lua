---
-- Waiting for storages whose drivers run beside the worker; see `docs/architecture.md`, "The bridge".
--
-- An operation that is submitted gets a ticket, and whoever submitted it waits for the ticket on a semaphore. Two light
-- threads a worker serve all of them. The listener reads the doorbell, takes over all replies that have come, and wakes
-- those who wait for them. The housekeeper, which the listener wakes last, runs after them in the same turn of
-- nginx's event loop: it flushes what was submitted, so that many operations cross at once, and drops replies that
-- nobody has taken a turn later.
--
-- @module resty.session.waiting
-- @license BSD-2-Clause

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

-- nginx logs a read that times out as an error: the doorbell is read without a limit that matters, in milliseconds.
local DOORBELL_TIMEOUT = 0x7fffffff
-- Pending timers fire when the worker exits; this one is for nothing else. Seconds: some ten years.
local FAR_OFF = 10 * 365 * 24 * 3600
local CONNECT_TIMEOUT = 5000 -- milliseconds
local EXIT_CHECK_INTERVAL = 5 -- seconds; how often the housekeeper looks whether the worker exits
-- nginx drops timers when it runs out of them, or of connections: a listener that was started and does not run after so
-- many seconds is started again.
local RESTART_INTERVAL = 1
-- How often those who wait look for replies themselves while no listener runs, in seconds.
local POLL_INTERVAL = 0.001
-- How often they drop replies that nobody took, in seconds.
local SWEEP_INTERVAL = 0.1
local MAX_IDLE = 512 -- waiters

---@class resty.session.waiter
---@field semaphore table
---@field done boolean? whether the reply has come
---@field looking boolean? whether it takes replies over itself, and so does not have to be woken

local waiting = {} ---@type table<integer, resty.session.waiter> by ticket
local idle, idle_count = {}, 0 -- waiters to be used again
local flush_due = false -- whether something was submitted that was not flushed
local flush_now = false -- whether the housekeeper is to flush it
local listening = false -- whether a listener runs
local generation = 0 -- the number of the listener that was started last; any other one leaves
local started -- when that was; nil if another may be started at once
local swept = 0 -- when replies that nobody took were last dropped
local exit_timer = false -- whether there is a timer that rings when the worker exits

-- Whether this thread can yield here. It cannot inside a function that C code called: a callback of `string.gsub`
-- or `table.sort`, a module that `require` loads, an error handler, a finalizer.
--
-- `lua_isyieldable` is LuaJIT's own answer, but ngx_lua's `coroutine` table lacks the function that returns it. It is
-- used as a Lua function itself here: it takes the Lua state and returns 1 or 0, by which it says that its
-- last argument is its only result, or that it has none.
local yieldable = coroutine.isyieldable
if not yieldable then
  local is_yieldable = package.loadlib("", "lua_isyieldable") or package.loadlib("libluajit-5.1.so.2", "lua_isyieldable")
  assert(is_yieldable, "LuaJIT's function lua_isyieldable cannot be found")
  function yieldable()
    return is_yieldable(true)
  end
end

-- How long this Lua VM lives --------------------------------------------------------------------------------------------

-- `lua_code_cache off` makes a VM for each request, which must not outlive it: there, no listener is started. The
-- worker's own VM was made before the workers were forked, or for `init_worker_by_lua`, or it serves a second request.
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

-- Takes over the replies that have come, and wakes those who wait for them. Returns whether there were any.
local function deliver()
  local tickets = bridge.drain()
  for i = 1, #tickets do
    local ticket = tickets[i]
    local waiter = waiting[ticket]
    waiting[ticket] = nil
    if waiter then
      waiter.done = true
      if not waiter.looking then
        waiter.semaphore:post(1)
      end
    end
  end
  return #tickets > 0
end

local function flush()
  bridge.flush()
  flush_due, flush_now = false, false -- not before: where it fails, it is tried again
end

-- Drops the replies that nobody took: those that the sweep before found not taken, and that still are not. Never twice at
-- the same time, which nginx reads once a turn of its event loop: everyone who was woken in a turn runs in it. Returns
-- whether there is more to do.
local function sweep()
  if swept == now() then
    return true
  end
  swept = now()
  return bridge.sweep()
end

-- Flushes if it is time to, and sweeps. Returns whether there is more to do soon.
local function do_chores()
  if flush_now then
    flush()
  end
  return sweep()
end

local function keep_house(chores)
  local again = false
  while true do
    local woken = chores:wait(again and POLL_INTERVAL or EXIT_CHECK_INTERVAL)
    local ok, result = pcall(do_chores)
    again = not ok or result
    if not ok then
      ngx.log(ngx.ERR, "[session] unable to ask storages: ", result)
    elseif not woken and not again and exiting() then
      bridge.ring() -- should the far-off timer have been lost
    end
  end
end

---@class resty.session.house What a listener shares with its housekeeper
---@field thread thread
---@field chores table a semaphore that wakes the housekeeper

-- Has the housekeeper run once everyone has who was woken before. One that has failed is replaced.
local function wake_housekeeper(house)
  if not house.thread or coroutine.status(house.thread) == "dead" then
    house.chores = assert(semaphores.new(0))
    house.thread = ngx.thread.spawn(keep_house, house.chores)
  end
  if house.chores:count() < 0 then
    house.chores:post(1)
  end
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

-- Reads the doorbell until the worker exits and nobody waits any more, or another listener was started.
local function read_doorbell(house, own)
  local socket = connect()
  wake_housekeeper(house)
  listening = own == generation
  flush() -- what was submitted before
  while own == generation and not (exiting() and bridge.in_flight() == 0) do
    local _, problem = socket:receiveany(64)
    if problem and problem ~= "timeout" then
      error(problem, 0)
    end
    flush_now = flush_due
    if deliver() or flush_now then
      wake_housekeeper(house)
    end
  end
  socket:close()
  deliver()
end

-- Wakes everyone who waits, so that they look for their replies themselves: no listener runs.
local function wake_all()
  for _, waiter in following, waiting do
    waiter.semaphore:post(1)
  end
end

-- Runs in a timer of its own. `own` is its generation.
local function listen(_, own)
  if own ~= generation then
    return -- it comes late: another was started meanwhile
  end
  started = math.huge -- no other is started while it connects
  local house = {}
  local ok, problem = pcall(read_doorbell, house, own)
  if house.thread then
    ngx.thread.kill(house.thread)
  end
  if own ~= generation then
    return
  end
  listening, started = false, nil
  if not ok then
    started = now()
    ngx.log(ngx.ERR, "[session] unable to listen for storages: ", problem)
  end
  wake_all()
end

local function ring(premature)
  if premature then
    bridge.ring()
  end
end

-- Starts a listener if none runs. Returns whether one runs.
local function is_listening()
  if listening or not is_resident() then
    return listening
  end
  if not started or now() - started >= RESTART_INTERVAL then
    if not exit_timer and not exiting() then
      exit_timer = ngx.timer.at(FAR_OFF, ring) and true or false
    end
    started, generation = now(), generation + 1
    local ok, err = ngx.timer.at(0, listen, generation)
    if not ok then
      ngx.log(ngx.ERR, "[session] unable to listen for storages: ", err)
    end
  end
  return false
end

-- Those who wait ----------------------------------------------------------------------------------------------------

local function new_waiter()
  if idle_count > 0 then
    local waiter = idle[idle_count]
    idle[idle_count] = nil
    idle_count = idle_count - 1
    return waiter
  end
  return { semaphore = assert(semaphores.new(0)) }
end

-- Looks for replies while no listener runs: correct, if slower.
local function look(waiter)
  flush()
  waiter.semaphore:wait(POLL_INTERVAL)
  if waiter.done or listening then
    return
  end
  waiter.looking = true
  deliver()
  waiter.looking = nil
  if now() - swept >= SWEEP_INTERVAL then
    sweep()
  end
end

local function ask_to_flush()
  if not flush_due then
    flush_due = true
    bridge.ring()
  end
end

-- Waits until the reply has come, or the time is `deadline`. Returns an error.
local function wait_until(waiter, deadline)
  repeat
    if is_listening() then
      ask_to_flush()
      waiter.semaphore:wait(max(deadline - now(), POLL_INTERVAL))
    else
      look(waiter)
    end
    if waiter.done then
      return
    end
  until now() >= deadline
  return "timeout"
end

-- Waits until the reply has come, for about `limit` seconds at most. Whatever wakes it, it is only done when the reply is
-- there. Returns an error. Mostly the reply is what comes first: without a loop around that, LuaJIT compiles the caller.
local function wait_here(waiter, limit)
  if is_listening() then
    ask_to_flush()
    local woken = waiter.semaphore:wait(limit)
    if waiter.done then
      return
    elseif not woken then
      return "timeout"
    end
  end
  return wait_until(waiter, now() + limit)
end

-- Whether this is a light thread: what nginx says to one that would kill itself tells.
local function in_light_thread()
  local _, problem = ngx.thread.kill(coroutine.running())
  return problem == "killer not parent"
end

-- ngx_lua ends the waiting of its own threads when a request ends early, but not that of a coroutine, which would be woken
-- when it no longer exists. So a coroutine waits for a light thread, and that waits for the reply.
local function wait_apart(waiter, limit)
  local thread = ngx.thread.spawn(wait_here, waiter, limit)
  local _, err = ngx.thread.wait(thread)
  return err
end

local waiting_module = {}

--- Whether a storage can be waited for here and now.
-- @treturn string|nil why not
function waiting_module.prepare()
  local phase = get_phase()
  if NO_WAITING[phase] then
    return "storages can't be waited for in the " .. phase .. " phase"
  elseif not yieldable() then
    return "storages can't be waited for inside a function that C code calls: a callback of string.gsub or table.sort, "
        .. "a module that require loads, an error handler"
  end
end

--- Waits for what was submitted.
-- @tparam number ticket
-- @tparam number limit seconds; only a backstop: the native side replies in time, with a timeout if need be
-- @tparam boolean in_entry_thread whether nginx itself started this thread, to run a block
-- @treturn string|nil error if no reply came
function waiting_module.wait(ticket, limit, in_entry_thread)
  local waiter = new_waiter()
  waiting[ticket] = waiter
  local err
  if in_entry_thread or in_light_thread() then
    err = wait_here(waiter, limit)
  else
    err = wait_apart(waiter, limit)
  end
  waiting[ticket] = nil
  if err then
    return err
  end
  waiter.done = nil
  if idle_count < MAX_IDLE then
    idle_count = idle_count + 1
    idle[idle_count] = waiter
  end
end

--- Submits an operation and waits for its reply.
-- @tparam string method `get`, `set`, `delete` or `read_metadata`
-- @param storage a native storage
-- @param ... the method's arguments
-- @return the reply; nil without an error if there is none
-- @treturn string|nil error
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
    bridge.forget(ticket)
    return nil, err
  end
  return bridge.take(ticket)
end

--- What the bridge of this worker has done.
-- @treturn table `submitted`, `completed`, `in_flight`: operations; `waiting`: those whose reply was not taken yet;
-- `rings`, `drains`: of the doorbell
function waiting_module.counts()
  return bridge.counts()
end

return waiting_module
