-- What specs share: a browser that takes the place of the request and the response.

local session = require "resty.session"
local utils = require "resty.session.utils"

local support = {}

local Browser = {}
Browser.__index = Browser

-- Returns the request's variables. The Cookie header and the cookies are the browser's, or what a
-- test assigns.
local function variables(cookies)
  return setmetatable({}, {
    __index = function(_, name)
      if name ~= "http_cookie" then
        return cookies[name:match("^cookie_(.*)")]
      end
      local list = {}
      for cookie, value in pairs(cookies) do
        table.insert(list, cookie .. "=" .. value)
      end
      table.sort(list)
      return #list > 0 and table.concat(list, "; ") or nil
    end,
    __newindex = function(var, name, value)
      local cookie = name:match("^cookie_(.*)")
      if cookie then
        cookies[cookie] = value
      else
        rawset(var, name, value)
      end
    end,
  })
end

-- Returns a browser without cookies, and connects the library with it: the library reads `var` and
-- sets `header`.
function support.browser(request)
  local cookies = {}
  local self = { cookies = cookies, var = variables(cookies), header = {}, request = {}, log = {} }
  setmetatable(self, Browser)
  for name, value in pairs(request or {}) do
    self.var[name] = value
  end
  session.__set_ngx_var(self.var)
  session.__set_ngx_header(self.header)
  session.__set_ngx_log(function(...)
    if not tostring((select(3, ...))):find("can be guessed", 1, true) then -- most specs' secrets are short
      table.insert(self.log, { ... })
    end
  end)
  session.__set_ngx_req_set_header(function(name, value) self.request[name] = value end)
  session.__set_ngx_req_clear_header(function(name) self.request[name] = false end)
  return self
end

function support.restore()
  session.__set_ngx_var(ngx.var)
  session.__set_ngx_header(ngx.header)
  session.__set_ngx_log(ngx.log)
  session.__set_ngx_req_set_header(ngx.req.set_header)
  session.__set_ngx_req_clear_header(ngx.req.clear_header)
  session.init()
end

-- For use in a `describe`: before each test, resets the library's defaults, sets a secret, and
-- passes a new browser to `take`. `spec` holds busted's functions if the caller's environment does
-- not.
function support.fresh(take, spec)
  spec = spec or getfenv(2)
  spec.before_each(function()
    session.init({ secret = "spec" })
    take(support.browser())
  end)
  spec.teardown(support.restore)
end

-- Returns a new key of a record.
function support.key()
  return utils.encode_base64url(utils.rand_bytes(32))
end

-- Sleeps, and lets nginx read the clock.
function support.wait(seconds)
  ngx.sleep(seconds)
  ngx.update_time()
end

-- Returns options with more of them added.
function support.with(options, more)
  local all = {}
  for _, each in ipairs { options, more or {} } do
    for name, value in pairs(each) do
      all[name] = value
    end
  end
  return all
end

-- Returns the response's Set-Cookie lines.
function Browser:lines()
  local lines = self.header["Set-Cookie"]
  if type(lines) == "string" then
    return { lines }
  end
  return lines or {}
end

-- Takes the response's cookies, and begins the next request. Returns the Set-Cookie lines.
function Browser:next()
  local lines = self:lines()
  for _, line in ipairs(lines) do
    local name, value = line:match("^([^=]+)=([^;]*)")
    if line:find("Max-Age=0", 1, true) then
      value = nil
    end
    self.cookies[name] = value
  end
  self.var.http_cookie = nil
  for name in pairs(self.header) do
    self.header[name] = nil
  end
  return lines
end

-- Saves Ada's session, and begins the next request. Returns the session.
function Browser:sign_in(configuration)
  local s = session.new(configuration)
  s:set("name", "Ada")
  s:set_subject("ada")
  assert(s:save())
  self:next()
  return s
end

-- Returns a storage in a table, which yields before it returns, and keeps the arguments of all
-- calls.
function support.memory()
  local storage = { records = {}, calls = {} }
  function storage:set(name, key, value, ttl, current_time, old_key, stale_ttl, metadata)
    ngx.sleep(0)
    table.insert(self.calls, { "set", name, key, value, ttl, current_time, old_key, stale_ttl, metadata })
    if self.broken then
      return nil, self.broken
    end
    self.records[name .. ":" .. key] = value
    return true
  end
  function storage:get(name, key, current_time)
    ngx.sleep(0)
    table.insert(self.calls, { "get", name, key, current_time })
    if self.broken then
      return nil, self.broken
    end
    return self.records[name .. ":" .. key]
  end
  function storage:delete(name, key, current_time, metadata)
    ngx.sleep(0)
    table.insert(self.calls, { "delete", name, key, current_time, metadata })
    if self.broken then
      return nil, self.broken
    end
    self.records[name .. ":" .. key] = nil
    return true
  end
  return storage
end

return support
