-- "Your devices": who has signed in with which browser. Each sign-in gets a random name, which its
-- session carries as its `sid` for as long as it lives; the session's id changes with every save.
--
-- What the names stand for is kept in a shared dictionary, so only one nginx knows it. A site with
-- several servers keeps it in a database.

local session = require "resty.session"
local utils = require "resty.session.utils"

local REMEMBERED = 30 * 24 * 3600 -- how long a remembered browser stays signed in at most, in seconds

local devices = {}

-- What comes first counts: most browsers also carry the names of others.
local BROWSERS = {
  { "Edg[A-Za-z]*/", "Edge" }, { "OPR/", "Opera" }, { "Firefox/", "Firefox" }, { "FxiOS/", "Firefox" },
  { "CriOS/", "Chrome" }, { "Chrome/", "Chrome" }, { "Safari/", "Safari" }, { "^curl/", "curl" },
}
local SYSTEMS = {
  { "Android", "Android" }, { "iPhone", "iPhone" }, { "iPad", "iPad" }, { "Windows", "Windows" },
  { "Mac OS X", "macOS" }, { "CrOS", "ChromeOS" }, { "Linux", "Linux" },
}

local function first_match(text, patterns)
  for _, pattern in ipairs(patterns) do
    if text:find(pattern[1]) then
      return pattern[2]
    end
  end
end

-- Returns a short name for the browser with that User-Agent header.
local function browser_name(user_agent)
  local browser = first_match(user_agent, BROWSERS) or "A browser"
  local system = first_match(user_agent, SYSTEMS)
  return system and browser .. " on " .. system or browser
end

-- Returns the start of the keys of a user's devices in a shop. A user's name may hold any
-- character.
local function prefix(shop, user)
  return shop .. " " .. utils.encode_base64url(user) .. " "
end

local function prefix_of(s)
  return prefix(s:get_audience(), s:get_subject())
end

-- Notes the device of a session that was opened or saved, and the session's present id.
function devices.note(s)
  if not s:get_sid() then
    return -- signed in before there was this page
  end
  local device = { id = s:get_property("id"), browser = s:get("browser"), since = s:get("signed in at") }
  device.remembered = s:get_remember()
  local ttl = device.remembered and REMEMBERED or s:get_property("timeout") or 0
  ngx.shared.devices:set(prefix_of(s) .. s:get_sid(), utils.encode_json(device), math.max(1, ttl))
end

-- Forgets the device of a session that is about to end, in a shop, or in all that the session has.
function devices.forget(s, shop)
  for _, entry in ipairs(s.data) do
    local _, audience, user, name = unpack(entry, 1, 4)
    if audience == (shop or audience) and user and name then
      ngx.shared.devices:delete(prefix(audience, user) .. name)
    end
  end
end

-- Gives a session whose user is about to change a device of its own.
function devices.begin(s)
  devices.forget(s, s:get_audience())
  s:set_sid(utils.encode_base64url(utils.rand_bytes(16)))
  s:set("browser", browser_name(ngx.var.http_user_agent or ""))
  s:set("signed in at", ngx.http_time(ngx.time()))
end

-- Returns the ids of the user's sessions as a set, or nil if only the browsers know the sessions.
local function stored_ids(s, options)
  if not s.storage then
    return nil
  end
  local ids = {}
  for _, stored in ipairs(assert(session.list(s:get_subject(), options))) do
    ids[stored.id] = true
  end
  return ids
end

-- Returns the devices of the session's user: `{ { name, id, browser, since, remembered, current },
-- … }`, this one first.
function devices.list(s, options)
  local ids, start, found = stored_ids(s, options), prefix_of(s), {}
  for _, key in ipairs(ngx.shared.devices:get_keys(0)) do
    local value = key:sub(1, #start) == start and ngx.shared.devices:get(key)
    local device = value and utils.decode_json(value)
    if device and (not ids or ids[device.id] or device.remembered) then
      device.name = key:sub(#start + 1)
      device.current = device.name == s:get_sid()
      found[#found + 1] = device
    end
  end
  table.sort(found, function(a, b)
    return a.current and not b.current or a.current == b.current and a.name < b.name
  end)
  return found
end

-- Signs a device out: ends its session, and everything that carries its name, such as the remember
-- cookie and copies of both.
local function sign_out(s, device, options)
  local ok, err = session.revoke_sid(device.name, REMEMBERED, options)
  if ok and s.storage then
    -- The storage deletes it now, and no longer lists it.
    ok, err = session.revoke_id(device.id, options)
  end
  if ok then
    ngx.shared.devices:delete(prefix_of(s) .. device.name)
  end
  return ok, err
end

-- Signs one of the user's other devices out. Returns true, or nil and an error.
function devices.sign_out(s, name, options)
  for _, device in ipairs(devices.list(s, options)) do
    if device.name == name and not device.current then
      return sign_out(s, device, options)
    end
  end
  return nil, "This device is not signed in."
end

-- Signs all of the user's other devices out. Returns true, or nil and an error.
function devices.sign_out_others(s, options)
  for _, device in ipairs(devices.list(s, options)) do
    if not device.current then
      local ok, err = sign_out(s, device, options)
      if not ok then
        return nil, err
      end
    end
  end
  -- Also ends sessions whose devices nobody has noted.
  local count, err = s:revoke_others()
  return count and true, err
end

return devices
