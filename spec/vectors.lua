-- Writes the sessions of `crates/testing/vectors/with_sid.json`: with the stand-in of `spec.peer`,
-- under fixed ids and times.
--
-- To write the file anew, print `vectors.json()` in any nginx of the tests.

local cjson = require "cjson"
local peer = require "spec.peer"
local support = require "spec.support"
local utils = require "resty.session.utils"

local START = 1790000000
local SIGN_IN = "c2lnbi1pbi1zaWduLWluIQ"

local vectors = {}

local function plain(sid, subject)
  return function(s)
    s:set_data({ name = "Ada" })
    s:set_subject(subject)
    s:set_sid(sid)
  end
end

-- What each session is written with: its data are set by `fill`, it is saved at START, and again
-- `rolled` seconds later.
vectors.cases = {
  { name = "sid and subject", fill = plain("idp-session-1", "ada") },
  { name = "sid without a subject", fill = plain("idp-session-2") },
  { name = "neither, in all four places", fill = function(s)
    s.data = { { { name = "Ada" }, "default", cjson.null, cjson.null } }
  end },
  { name = "a null subject and nothing behind it", fill = function(s)
    s.data = { { { name = "Ada" }, "default", cjson.null } }
  end },
  { name = "two audiences, a sid in one", configuration = { audience = "shop" }, fill = function(s)
    s.data = { { { cart = { 1, 2 } }, "shop", cjson.null, "idp-session-3" }, { { name = "Ada" }, "default", "ada" } }
  end },
  { name = "a sid, compressed", fill = function(s)
    plain("idp-session-4", "ada")(s)
    s:set_data({ list = ("abc "):rep(500) })
  end },
  { name = "a sid, remembered", configuration = { remember = true }, fill = plain("idp-session-5") },
  { name = "a sid, saved again after 3000 s", rolled = 3000, fill = plain("idp-session-6", "ada") },
  { name = "the id of a sign-in, without subject and sid", fill = function(s)
    s.data = { { { name = "Ada" }, "default", false, cjson.null, SIGN_IN } }
  end },
  { name = "the id of a sign-in, with subject and sid", rolled = 3000, fill = function(s)
    s.data = { { { name = "Ada" }, "default", "ada", "idp-session-7", SIGN_IN } }
  end },
}

local function hex(bytes)
  return (bytes:gsub(".", function(byte)
    return ("%02x"):format(byte:byte())
  end))
end

-- Returns ids that depend only on the case and on how many the case has had.
local function ids_of(case)
  local count = 0
  return function()
    count = count + 1
    return utils.sha256(case.name .. ", " .. count)
  end
end

--- Returns one session as the file holds it.
function vectors.write(case)
  local browser, now = support.browser(), START
  peer.connect(browser)
  peer.time = function()
    return now
  end
  peer.random = ids_of(case)
  local configuration = support.with({ secret = "correct horse battery staple" }, case.configuration)
  local s = peer.new(configuration)
  case.fill(s)
  assert(s:save())
  if case.rolled then
    now = now + case.rolled
    assert(s:save())
  end
  local lines = browser:next()
  peer.restore()
  local meta, value = s.meta, browser.cookies.session
  return {
    name = case.name, configuration = configuration, now = now, data = s.data, set_cookie = lines,
    cookies = browser.cookies, state = s.state,
    header = {
      hex = hex(utils.decode_base64url(value:sub(1, 110))), sid_hex = hex(meta.sid), flags = meta.flags,
      creation_time = meta.creation_time, rolling_offset = meta.rolling_offset, idling_offset = meta.idling_offset,
      data_size = #value - 110,
    },
  }
end

--- Returns the text of the whole file.
function vectors.json()
  local all = {}
  for i, case in ipairs(vectors.cases) do
    all[i] = vectors.write(case)
  end
  return cjson.encode({ source = "spec/vectors.lua", vectors = all })
end

return vectors
