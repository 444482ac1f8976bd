---
-- Warnings in nginx's log, some of which each worker logs once.
--
-- @module resty.session.notices
-- @license BSD-2-Clause

local log = ngx.log
local worker_pid = ngx.worker.pid

local notices = {}

-- At most this many different warnings about option names, because names may come from anywhere.
local MAX_NAME_WARNINGS = 100

-- By text, the process that logged it last. What the master has logged while it started, its
-- workers log again.
local logged, name_warnings = {}, 0

--- Logs a warning. The text may quote a server, so control characters, which could begin another
--- line, become spaces.
---@param text string
function notices.warn(text)
  log(ngx.WARN, "[session] ", (text:gsub("%c", " ")))
end

--- Logs a warning, if this worker has not logged it yet.
---@param text string
function notices.once(text)
  local pid = worker_pid()
  if logged[text] ~= pid then
    logged[text] = pid
    notices.warn(text)
  end
end

--- Logs warnings about option names, if this worker has not logged them yet; no more than a hundred
--- different ones in all.
---@param texts string[]?
function notices.each_once(texts)
  for i = 1, #(texts or {}) do
    local is_new = logged[texts[i]] == nil
    if not is_new or name_warnings < MAX_NAME_WARNINGS then
      name_warnings = is_new and name_warnings + 1 or name_warnings
      notices.once(texts[i])
    end
  end
end

--- Replaces `ngx.log`.
---@param ngx_log function
function notices.set_log(ngx_log)
  log = ngx_log
end

return notices
