---
-- What the thread of the storages' drivers needs Lua for: it can neither write to nginx's log nor
-- call the functions that programs have given as options.
--
-- @module resty.session.errands
-- @license BSD-2-Clause

local bridge = require("resty.session.native").bridge

local log = ngx.log
local now = ngx.now
local pcall = pcall
local timer_at = ngx.timer.at
local tostring = tostring
local type = type

-- Seconds. A call that takes longer has probably ended without a result, by `ngx.exit` for example.
local CALL_LIMIT = 10

local running = setmetatable({}, { __mode = "k" }) ---@type table<userdata, number> by slot, when the call began

-- What an error says, in its first line. An error may be a table whose `__tostring` raises, or
-- returns no string.
local function describe(problem)
  local ok, text = pcall(tostring, problem)
  return ok and type(text) == "string" and text:match("^[^\n]*") or "the function raised an error without a message"
end

-- Calls a function that returns credentials, unless a call is under way, and leaves the result in
-- its slot. The function may wait, because this runs in a timer of its own.
local function call(_, fn, slot)
  local since = running[slot]
  if since and now() - since < CALL_LIMIT then
    return
  end
  running[slot] = now()
  local ok, first, second = pcall(fn)
  running[slot] = nil
  if ok then
    bridge.supply(slot, nil, first, second)
  else
    bridge.supply(slot, describe(first))
  end
end

local function write_lines()
  local lines = bridge.take_lines() or {}
  for i = 1, #lines, 2 do
    log(ngx[lines[i]], "[session] ", lines[i + 1])
  end
end

local function start_calls()
  local calls = bridge.take_calls() or {}
  for i = 1, #calls, 2 do
    local fn, slot = calls[i], calls[i + 1]
    local ok, err = timer_at(0, call, fn, slot)
    if not ok then
      bridge.supply(slot, "unable to start a timer: " .. tostring(err))
    end
  end
end

local errands = {}

--- Writes the lines that wait for nginx's log, and has functions called that are to be called. Does
--- not wait.
function errands.run()
  write_lines()
  start_calls()
end

return errands
