---
-- Warnings that a worker logs once.
--
-- @module resty.session.notices

local log = ngx.log
local worker_pid = ngx.worker.pid

local notices = {}

-- Names of options may come from anywhere: at most so many notices of them.
local MOST = 100

-- By text, the process that gave it: what the master says while it starts, its workers say again.
local given, count = {}, 0

--- Logs a warning, if this worker has not logged it yet.
-- @tparam string text
function notices.once(text)
  local pid = worker_pid()
  if given[text] ~= pid then
    given[text] = pid
    log(ngx.WARN, "[session] ", text)
  end
end

--- Logs several, which speak of names that may come from anywhere: no more than a hundred in all.
-- @tparam[opt] table texts
function notices.each_once(texts)
  for i = 1, #(texts or {}) do
    local is_new = given[texts[i]] == nil
    if not is_new or count < MOST then
      count = is_new and count + 1 or count
      notices.once(texts[i])
    end
  end
end

--- Puts another function in place of `ngx.log`.
-- @tparam function ngx_log
function notices.set_log(ngx_log)
  log = ngx_log
end

return notices
