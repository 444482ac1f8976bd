---
-- The request and the response, as sessions use them. Programs' own tests may replace nginx's
-- objects by tables.
--
-- @module resty.session.http
-- @license BSD-2-Clause

local native = require "resty.session.native"
local notices = require "resty.session.notices"

local request = ngx.req or {} -- stream blocks have none
local clear_request_header, set_request_header = request.clear_header, request.set_header
local header, var = ngx.header, ngx.var
local get_phase = ngx.get_phase
local following = next -- by a name of its own: see docs/architecture.md, "Loops over tables"

-- Phases that have no request.
local WITHOUT_REQUEST = { init = true, init_worker = true, timer = true, exit_worker = true }

local http = {}

-- A table that a program put in place of nginx's variables may hold cookies under their names,
-- without a Cookie header.
local var_is_replaced, header_is_replaced = false, false

-- Returns the cookies that are fields of a program's table, as a Cookie header; nil if there are
-- none.
local function cookies_in_table()
  local cookies = {}
  for name, value in following, var do
    if type(name) == "string" and name:sub(1, 7) == "cookie_" and type(value) == "string" then
      cookies[#cookies + 1] = name:sub(8) .. "=" .. value
    end
  end
  return cookies[1] and table.concat(cookies, "; ")
end

-- Returns a profile's cookies that a program's table returns by their names, as a Cookie header, or
-- nil if the table has none of them.
local function cookies_by_name(profile)
  local cookies = {}
  for _, name in ipairs { profile.cookie_name, profile.remember_cookie_name } do
    for number = 1, native.MAX_COOKIES do
      local cookie = number == 1 and name or name .. number
      local value = var["cookie_" .. cookie]
      if value then
        cookies[#cookies + 1] = cookie .. "=" .. value
      end
    end
  end
  return cookies[1] and table.concat(cookies, "; ")
end

--- Returns the request's Cookie header.
---@param profile resty.session.profile
---@return string? cookies
---@raise a string in a phase that has no request
function http.cookies(profile)
  if var_is_replaced then
    return cookies_in_table() or var.http_cookie or cookies_by_name(profile)
  end
  -- No pcall here: LuaJIT does not compile the code inside one.
  local phase = get_phase()
  if WITHOUT_REQUEST[phase] then
    error("sessions need a request: there is none in the " .. phase .. " phase", 0)
  end
  return var.http_cookie
end

--- Returns the request's Cookie header, or nil in a phase that has no request.
---@param profile resty.session.profile
---@return string? cookies
function http.any_cookies(profile)
  local ok, cookies = pcall(http.cookies, profile)
  return ok and cookies or nil
end

--- Raises an error in a stream block, where sessions can't work.
---@raise a string
function http.check()
  if not header then
    error("sessions need nginx's http subsystem: a stream block has no cookies, it can only use storages", 0)
  end
end

local function headers_sent()
  return ngx.headers_sent
end

local function own_set_cookies()
  return header["Set-Cookie"]
end

--- Returns why the response can't set a cookie any more, or nil if it can.
---@return string? reason
function http.unsendable()
  if header_is_replaced then
    return nil
  end
  local ok, sent = pcall(headers_sent)
  if not ok then
    return "this phase has no response that could set a cookie"
  end
  return sent and "the response header was sent already" or nil
end

--- Sets cookies, and logs a warning.
---@param lines string|string[]|nil Set-Cookie lines, one or an array
---@param warning string?
---@param has_waited boolean whether other threads have run since `unsendable` was asked
---@return boolean sent false if another thread has sent the response header, so that the cookies are lost
function http.respond(lines, warning, has_waited)
  if warning then
    notices.warn(warning)
  end
  if not lines then
    return true
  elseif has_waited and http.unsendable() then
    return false
  end
  local present = header["Set-Cookie"]
  header["Set-Cookie"] = present and native.merge_cookies(present, lines) or lines
  return true
end

--- Takes a session's cookies, all chunks, from the response's Set-Cookie lines.
---@param name string of the session's first cookie
function http.withdraw_cookies(name)
  local kept = {}
  for _, line in ipairs(http.set_cookies()) do
    local of_line = line:match("^[^=]*")
    if of_line ~= name and of_line:gsub("[2-9]$", "") ~= name then
      kept[#kept + 1] = line
    end
  end
  header["Set-Cookie"] = kept[1] and kept or nil
end

--- Returns the response's Set-Cookie lines.
---@return string[] lines
function http.set_cookies()
  local ok, lines = pcall(own_set_cookies)
  return ok and (type(lines) == "table" and lines or { lines }) or {}
end

--- Removes a session's cookies and the remember cookie from the request's Cookie header.
---@param handle userdata the session's configuration
---@param now integer seconds since the epoch
---@param value string? the value of the session's first cookie, if it was opened or saved
---@return string|false cookies the old header, or false if there was none
function http.hide(handle, now, value)
  local cookies = var.http_cookie
  if not cookies or cookies == "" then
    return false
  end
  local rest = native.without_cookies(handle, now, cookies, value)
  if rest == "" then
    clear_request_header("Cookie")
  else
    set_request_header("Cookie", rest)
  end
  return cookies
end

--- Sets a request header, or removes it.
---@param name string
---@param value any nil removes it
function http.set_request_header(name, value)
  set_request_header(name, value)
end

--- Sets a response header.
---@param name string
---@param value any nil removes it
function http.set_response_header(name, value)
  header[name] = value
end

-- The native module calls this to read the values that a cookie may be bound to.
native.set_reader(function()
  return var.remote_addr, var.scheme, var.http_user_agent
end)

-- And this if the request's scheme decides whether cookies are Secure. `trusted` says whether
-- X-Forwarded-Proto counts.
native.set_scheme_reader(function(trusted)
  return var.scheme, trusted and var.http_x_forwarded_proto or nil
end)

-- For programs' own tests --------------------------------------------------------------------------------------------

--- Replaces `ngx.log`.
---@function http.set_ngx_log
---@param ngx_log function
http.set_ngx_log = notices.set_log

--- Replaces `ngx.var`.
---@param ngx_var table
function http.set_ngx_var(ngx_var)
  var, var_is_replaced = ngx_var, ngx_var ~= ngx.var and type(ngx_var) == "table"
end

--- Replaces `ngx.header`.
---@param ngx_header table
function http.set_ngx_header(ngx_header)
  header, header_is_replaced = ngx_header, ngx_header ~= ngx.header
end

--- Replaces `ngx.req.clear_header`.
---@param clear_header function
function http.set_ngx_req_clear_header(clear_header)
  clear_request_header = clear_header
end

--- Replaces `ngx.req.set_header`.
---@param set_header function
function http.set_ngx_req_set_header(set_header)
  set_request_header = set_header
end

return http
