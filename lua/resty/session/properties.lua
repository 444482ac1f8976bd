---
-- The properties of a session, and the headers that carry them.
--
-- @module resty.session.properties
-- @license BSD-2-Clause

local native = require "resty.session.native"
local http = require "resty.session.http"

local HEADERS = native.HEADERS
local ENTRY_INDEX = { audience = 2, subject = 3 } -- their positions in an entry of the data

local properties = {}

--- Returns a property of a session: see `get_property` in `resty.session`.
---@param self resty.session.instance
---@param name string
---@return any value
function properties.get(self, name)
  local current, meta = self.data[self.data_index], self.meta
  if ENTRY_INDEX[name] then
    return current[ENTRY_INDEX[name]] or nil
  end
  local value = meta.value and native.property(self.profile.handle, meta.value, name, meta.timestamp)
  return value or meta[name]
end

local function set_property_headers(self, set, names)
  for i = 1, #names do
    local header_name = HEADERS[names[i]]
    local value = header_name and self.state == "open" and properties.get(self, names[i])
    -- A client's own header must not pass for the session's.
    if value or header_name and set == http.set_request_header then
      set(header_name, value or nil)
    end
  end
end

--- Returns a method that sets headers from the properties that its arguments name, one by one or in
--- a table; without arguments, from the configured properties.
---@param kind string what errors call the headers
---@param to_request boolean
---@param to_response boolean
---@return fun(self: resty.session.instance, ...: string|string[]): true?, string?
function properties.header_setter(kind, to_request, to_response)
  return function(self, ...)
    if self.state == "closed" then
      error("unable to set " .. kind .. " headers on closed session", 0)
    end
    local names = type((...)) == "table" and (...) or select("#", ...) > 0 and { ... }
    if to_request then
      set_property_headers(self, http.set_request_header, names or self.profile.request_headers)
    end
    if to_response then
      set_property_headers(self, http.set_response_header, names or self.profile.response_headers)
    end
    if self.state ~= "open" then
      return nil, "unable to set " .. kind .. " headers on nonexistent session"
    end
    return true
  end
end

return properties
