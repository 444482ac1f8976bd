---
-- The request and the response, as sessions use them. Programs' own tests put tables in place of nginx's.
--
-- @module resty.session.http
-- @license BSD-2-Clause

local native = require "resty.session.native"
local notices = require "resty.session.notices"

local request = ngx.req or {} -- stream blocks have none
local clear_request_header, set_request_header = request.clear_header, request.set_header
local header, var = ngx.header, ngx.var
local log, get_phase = ngx.log, ngx.get_phase
local following = next -- by a name of its own: see docs/architecture.md, "Loops over tables"

-- Phases that have no request.
local WITHOUT_REQUEST = { init = true, init_worker = true, timer = true, exit_worker = true }

local http = {}

-- Where `var` is a table that a program put in place of nginx's variables, it may hold cookies by their names alone.
local var_is_replaced, header_is_replaced = false, false

-- The cookies that a program's table holds by their names, as a Cookie header; nil if it holds none.
local function held_cookies()
  local cookies = {}
  for name, value in following, var do
    if type(name) == "string" and name:sub(1, 7) == "cookie_" and type(value) == "string" then
      cookies[#cookies + 1] = name:sub(8) .. "=" .. value
    end
  end
  return cookies[1] and table.concat(cookies, "; ")
end

-- The cookies of a profile that a program's table gives when it is asked for them by their names.
local function given_cookies(profile)
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
-- @tparam table profile
-- @treturn string|nil
-- @raise a string in a phase that has no request
function http.cookies(profile)
  if var_is_replaced then
    return held_cookies() or var.http_cookie or given_cookies(profile)
  end
  -- Not by pcall: LuaJIT does not compile what is hot inside one.
  local phase = get_phase()
  if WITHOUT_REQUEST[phase] then
    error("sessions need a request: there is none in the " .. phase .. " phase", 0)
  end
  return var.http_cookie
end

--- Returns the request's Cookie header, or nil in a phase that has no request.
-- @tparam table profile
-- @treturn string|nil
function http.any_cookies(profile)
  local ok, cookies = pcall(http.cookies, profile)
  return ok and cookies or nil
end

--- Raises an error in a stream block, where there can be no session.
-- @raise a string
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

--- Why the response can't set a cookie any more, if it can't.
-- @treturn string|nil
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
-- @tparam string|table|nil lines Set-Cookie lines, one or an array
-- @tparam string|nil warning
function http.respond(lines, warning)
  if lines then
    local present = header["Set-Cookie"]
    header["Set-Cookie"] = present and native.merge_cookies(present, lines) or lines
  end
  if warning then
    log(ngx.WARN, "[session] ", warning)
  end
end

--- Returns the response's Set-Cookie lines.
-- @treturn table an array of strings
function http.set_cookies()
  local ok, lines = pcall(own_set_cookies)
  return ok and (type(lines) == "table" and lines or { lines }) or {}
end

--- Removes a session's cookies and the remember cookie from the request's Cookie header.
-- @tparam userdata handle the session's configuration
-- @tparam integer now
-- @tparam[opt] string value that of the session's first cookie, if it was opened or saved
-- @treturn string|false the old header, if there was one
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
-- @tparam string name
-- @param value nil removes it
function http.set_request_header(name, value)
  set_request_header(name, value)
end

--- Sets a response header.
-- @tparam string name
-- @param value
function http.set_response_header(name, value)
  header[name] = value
end

-- What the native module reads of the request by itself: the values that a cookie may be bound to.
native.set_reader(function()
  return var.remote_addr, var.scheme, var.http_user_agent
end)

-- What it reads if cookies are Secure by the request's scheme. `trusts`: whether X-Forwarded-Proto counts.
native.set_scheme_reader(function(trusts)
  return var.scheme, trusts and var.http_x_forwarded_proto or nil
end)

-- Seams for programs' own tests.

function http.set_ngx_log(ngx_log)
  log = ngx_log
  notices.set_log(ngx_log)
end

function http.set_ngx_var(ngx_var)
  var, var_is_replaced = ngx_var, ngx_var ~= ngx.var and type(ngx_var) == "table"
end

function http.set_ngx_header(ngx_header)
  header, header_is_replaced = ngx_header, ngx_header ~= ngx.header
end

function http.set_ngx_req_clear_header(clear_header) clear_request_header = clear_header end
function http.set_ngx_req_set_header(set_header) set_request_header = set_header end

return http
