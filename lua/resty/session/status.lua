---
-- How the storages of this worker are doing, for pages that show whether a site is healthy.
--
-- Everything here is of the worker that serves the request: each holds connections of its own.
--
-- @module resty.session.status
-- @license BSD-2-Clause

local bridge = require("resty.session.native").bridge
local waiting = require "resty.session.waiting"

local status = {}

---@class resty.session.status.endpoint A server that storages behind a network are connected to
---@field storage string the storage's name
---@field server string the server, without credentials
---@field state "idle"|"connected"|"failing" nothing is known; it was reached last time; operations fail at once
---@field failing_for number? for how many seconds it has been failing
---@field error string? why it fails
---@field in_flight integer operations that wait for a reply
---@field connections integer open connections
---@field connects integer attempts to connect
---@field reconnects integer connections that were made after the first one
---@field failures integer attempts to connect that failed, and operations that took too long
---@field failed_fast integer operations that failed because the server was known to fail

--- Returns how each server is doing that this worker's storages use, sorted by storage and server.
--- The counts begin when the worker first uses the server.
---@return resty.session.status.endpoint[] endpoints
function status.endpoints()
  return bridge.endpoints()
end

--- Returns what has happened in this worker between Lua and the storages: how many operations were
--- `submitted` and `completed`, how many are `in_flight`, how many are `waiting` for their reply to
--- be taken, and how often the doorbell was rung (`rings`) and the replies were drained (`drains`).
---@return table<string, integer> counts
function status.counts()
  return waiting.counts()
end

return status
