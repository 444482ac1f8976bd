---
-- Waiting for storages whose drivers run beside the worker; see `docs/architecture.md`, "The bridge".
--
-- An operation that is submitted gets a ticket. Who submitted it waits for the ticket on a semaphore; one light thread a
-- worker reads the doorbell, takes the answers over in one call, and posts their semaphores. Another flushes what was
-- submitted. It is woken by the doorbell, too: so nginx first deals with all that came in meanwhile, and many operations
-- cross at once.
--
-- @module resty.session.waiting
-- @license BSD-2-Clause

local native = require "resty.session.native"
local semaphores = require "ngx.semaphore"

local bridge, storages = native.bridge, native.storages
local get_phase = ngx.get_phase
local exiting = ngx.worker.exiting

-- Phases in which a request cannot wait.
local NO_WAITING = {
  init = true, init_worker = true, exit_worker = true, set = true, header_filter = true, body_filter = true,
  log = true, balancer = true, ssl_session_store = true,
}

-- nginx logs a read that times out as an error: the doorbell is read without a limit that matters, in milliseconds.
local PATIENCE = 0x7fffffff
-- Pending timers fire when the worker exits; this one is for nothing else. Seconds: some ten years.
local FAR_OFF = 10 * 365 * 24 * 3600
local CONNECT_TIMEOUT = 5000 -- milliseconds
local FLUSH_PATIENCE = 5 -- seconds; then it looks whether the worker exits
-- nginx drops timers when it runs out of them, or of connections: a listener that was started and has not come by then, in
-- seconds, is started again.
local START_PATIENCE = 1

local waiting = {} -- by ticket: who waits, { semaphore =, done =, err = }
local idle, idle_count = {}, 0 -- waiters to be used again
local submitted = assert(semaphores.new(0)) -- wakes the flusher
local flush_due = false
local resident -- whether this Lua VM lives as long as the worker
local listening = false -- or the time when the listener was started, or true once it runs
local hung_for_exit = false

local MAX_IDLE = 512
-- How often a VM looks for answers that must not outlive its request (`lua_code_cache off`), in seconds.
local POLL_INTERVAL = 0.001

local function deliver()
  local tickets = bridge.drain()
  for i = 1, #tickets do
    local ticket = tickets[i]
    local waiter = waiting[ticket]
    waiting[ticket] = nil
    -- A request that was aborted while it waited has left its ticket behind: its answer is nobody's.
    if not waiter or resident and waiter.semaphore:count() >= 0 then
      bridge.forget(ticket)
    else
      waiter.done = true
      waiter.semaphore:post(1)
    end
  end
end

local function connect()
  local host, number, token = bridge.open_doorbell()
  if not host then
    return nil, number
  end
  local socket = ngx.socket.tcp()
  socket:settimeouts(CONNECT_TIMEOUT, CONNECT_TIMEOUT, PATIENCE)
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
    return nil, err
  end
  return socket
end

local function fail_all(err)
  bridge.discard() -- what failed must not be done later
  for ticket, waiter in pairs(waiting) do
    waiting[ticket] = nil
    waiter.done, waiter.err = true, err
    waiter.semaphore:post(1)
  end
end

local function flush_for_ever()
  while true do
    local woken = submitted:wait(FLUSH_PATIENCE)
    if flush_due then
      flush_due = false
      bridge.flush()
    elseif not woken and exiting() then
      bridge.ring() -- should the far-off timer have been lost
    end
  end
end

-- The flusher runs when what nginx found to do together with the doorbell is done.
local function wake_flusher()
  if flush_due then
    submitted:post(1)
  end
end

-- Reads the doorbell until the worker exits and nobody waits any more.
local function read_doorbell(socket)
  while not (exiting() and bridge.in_flight() == 0) do
    local _, problem = socket:receiveany(64)
    deliver()
    wake_flusher()
    if problem and problem ~= "timeout" then
      return problem
    end
  end
end

local listen

function listen()
  if listening == true then
    return -- one that came late, when another was started already
  end
  listening = true
  local socket, err = connect()
  if socket then
    local flusher = ngx.thread.spawn(flush_for_ever)
    wake_flusher() -- for what was submitted before
    local _, problem = pcall(read_doorbell, socket)
    err = problem
    ngx.thread.kill(flusher)
    socket:close()
    deliver()
  end
  listening = false
  if err then
    ngx.log(ngx.ERR, "[session] unable to listen for storages: ", err)
    fail_all("unable to listen for storages (" .. tostring(err) .. ")")
  elseif next(waiting) then
    -- Somebody came just now.
    listening = ngx.timer.at(0, listen) and ngx.now() or false
  end
end

local function ring(premature)
  if premature then
    bridge.ring()
  end
end

local function start_listening()
  if not hung_for_exit and not exiting() then
    hung_for_exit = ngx.timer.at(FAR_OFF, ring) and true or false
  end
  local ok, err = ngx.timer.at(0, listen)
  if not ok then
    return nil, "unable to listen for storages (" .. tostring(err) .. ")"
  end
  listening = ngx.now()
  return true
end

local function is_listening()
  return listening == true or listening and ngx.now() - listening < START_PATIENCE
end

local function new_waiter()
  if idle_count > 0 then
    local waiter = idle[idle_count]
    idle[idle_count] = nil
    idle_count = idle_count - 1
    return waiter
  end
  return { semaphore = assert(semaphores.new(0)) }
end

-- Waits without a listener: correct, if slower.
local function poll(waiter, limit)
  local deadline = ngx.now() + limit
  while not waiter.done do
    if ngx.now() > deadline then
      return nil, "timeout"
    end
    ngx.sleep(POLL_INTERVAL)
    deliver()
  end
  return true
end

local waiting_module = {}

--- Whether a storage can be waited for here and now.
-- @treturn string|nil why not
function waiting_module.prepare()
  local phase = get_phase()
  if NO_WAITING[phase] then
    return "storages can't be waited for in the " .. phase .. " phase"
  end
  if resident == nil then
    resident = bridge.claim()
  end
  if resident and not is_listening() then
    local _, err = start_listening()
    return err
  end
end

--- Waits for what was submitted.
-- @tparam number ticket
-- @tparam number limit seconds; only a backstop: the native side answers in time, with a timeout if need be
-- @treturn string|nil error where no answer came
function waiting_module.wait(ticket, limit)
  local waiter = new_waiter()
  waiting[ticket] = waiter
  local ok, err
  if resident then
    if not is_listening() then
      start_listening() -- a listener that ended with the worker's last answer, before its act asked for more
    end
    if not flush_due then
      flush_due = true
      bridge.ring()
    end
    ok, err = waiter.semaphore:wait(limit)
  else
    bridge.flush()
    ok, err = poll(waiter, limit)
  end
  if not ok then
    waiting[ticket] = nil
    return err
  end
  err = waiter.err
  waiter.done, waiter.err = nil, nil
  -- Posted once and waited for once: it may be used again. One that an aborted request left goes with the request.
  if resident and idle_count < MAX_IDLE then
    idle_count = idle_count + 1
    idle[idle_count] = waiter
  end
  return err
end

--- Submits an operation and waits for its answer.
-- @tparam string method `get`, `set`, `delete` or `read_metadata`
-- @param storage a native storage
-- @param ... the method's arguments
-- @return the answer; nil without an error where there is none
-- @treturn string|nil error
function waiting_module.run(method, storage, ...)
  local err = waiting_module.prepare()
  if err then
    return nil, err
  end
  local valid, ticket, limit = pcall(storages[method], storage, ...)
  if not valid then
    return nil, "invalid argument (" .. tostring(ticket):match("^[^\n]*") .. ")" -- without the stack traceback
  elseif not ticket then
    return nil, limit
  end
  err = waiting_module.wait(ticket, limit)
  if err then
    bridge.forget(ticket)
    return nil, err
  end
  return bridge.take(ticket)
end

--- What the bridge of this worker has done.
-- @treturn table `submitted`, `completed`, `in_flight`: operations; `waiting`: those whose answer was not taken yet;
-- `rings`, `drains`: of the doorbell
function waiting_module.counts()
  return bridge.counts()
end

return waiting_module
