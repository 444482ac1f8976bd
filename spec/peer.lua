-- A stand-in for another library that reads and writes the same cookies and the same marks of
-- revocation, so that tests can play a rolling deployment. It is written from the description of
-- the formats alone, in the simplest way: sessions of one cookie, no bindings, no info store. It
-- shares nothing with this library's sessions except the tools of `resty.session.utils`.
--
-- `peer.new(options)` and the other functions take a session's options. With `version = "4.1.5"`
-- it knows neither revocation nor sids, and takes what stands in an entry as it is.

local cjson = require("cjson").new()
local utils = require "resty.session.utils"

local STORED, DEFLATED = 0x0001, 0x0010
local HEADER_SIZE, TEXT_SIZE, AAD_SIZE, UNAUTHENTICATED_SIZE = 82, 110, 47, 66
local ATTRIBUTES = "; Path=/; SameSite=Lax; HttpOnly"
local MAX_COOKIE_SIZE = 4096
local MAX_MARKS = 1024

-- Tests replace these: the request's variables, the response's headers, the log, the clock and the
-- source of session ids.
local peer = { var = false, header = false, log = ngx.log, time = ngx.time, random = utils.rand_bytes }

local Session = {}
Session.__index = Session

local DEFAULTS = {
  cookie_name = "session", remember_cookie_name = "remember", remember = false, remember_safety = "Medium",
  audience = "default", idling_timeout = 900, rolling_timeout = 3600, absolute_timeout = 86400,
  remember_rolling_timeout = 604800, remember_absolute_timeout = 2592000, stale_ttl = 10,
  revocation_fail_mode = "open", revocation_cache_ttl = 5, version = "4.2.0",
}

-- JSON's null stands for a missing value.
local function present(value)
  return value ~= cjson.null and value or nil
end

-- Returns an entry's subject: of 4.1.5, as it stands there, even if it is null.
local function subject_of(options, entry)
  local subject = entry[3]
  return options.version == "4.1.5" and subject or present(subject)
end

local function sha256_text(bytes)
  return utils.encode_base64url(utils.sha256(bytes))
end

-- Marks --------------------------------------------------------------------------------------------------------------

local cache, cached = {}, 0

-- Returns where a mark stands in the cache.
local function place_of(options, cookie_name, key)
  return tostring(options.revocation) .. ":" .. cookie_name .. ":" .. key
end

local function remember_mark(options, place, mark, err)
  if options.revocation_cache_ttl > 0 and not (err and options.revocation_fail_mode == "open") then
    if cached >= MAX_MARKS then
      cache, cached = {}, 0
    end
    cached = cached + (cache[place] and 0 or 1)
    cache[place] = { mark = mark, err = err, until_time = ngx.now() + options.revocation_cache_ttl }
  end
end

-- Returns the store of the marks; nil if there is no revocation.
local function marks_of(options)
  local store = options.revocation
  if not store or options.storage or options.version == "4.1.5" then
    return nil
  end
  return type(store) == "table" and store or utils.load_storage(store, options)
end

-- Returns the key of a record or of a mark.
local function key_of(options, name)
  return options.hash_storage_key and sha256_text(name) or utils.encode_base64url(name)
end

-- Returns a subject as metadata has it.
local function subject_text(options, subject)
  local text = options.hash_subject and utils.sha256(subject):sub(1, 16) or subject
  return utils.encode_base64url(text)
end

local function read_mark(options, cookie_name, key)
  local place = place_of(options, cookie_name, key)
  local known = cache[place]
  if known and known.until_time > ngx.now() and options.revocation_cache_ttl > 0 then
    return known.mark, known.err
  end
  local mark, err = marks_of(options):get(cookie_name, key, peer.time())
  remember_mark(options, place, mark, err)
  return mark, err
end

-- Returns nil and an error if a mark revokes a session of that creation time.
local function check_mark(options, cookie_name, key, creation_time)
  local mark, err = read_mark(options, cookie_name, key)
  if err then
    if options.revocation_fail_mode == "closed" then
      return nil, "unable to check session revocation (" .. err .. ")"
    end
    peer.log(ngx.WARN, "[session] unable to check session revocation: ", err)
    return true
  end
  if mark == "1" or (tonumber(mark) or -1) >= creation_time then
    return nil, "session revoked"
  end
  return true
end

local function write_mark(options, cookie_name, key, value, ttl)
  local ok, err = marks_of(options):set(cookie_name, key, value, ttl, peer.time())
  if ok then
    remember_mark(options, place_of(options, cookie_name, key), value)
  end
  return ok, err
end

-- Cookies ------------------------------------------------------------------------------------------------------------

local function set_cookie(name, rest)
  local header = peer.header or ngx.header
  local lines = header["Set-Cookie"] or {}
  lines = type(lines) == "table" and lines or { lines }
  local place = #lines + 1
  for i, line in ipairs(lines) do
    place = line:sub(1, #name + 1) == name .. "=" and i or place
  end
  lines[place] = name .. "=" .. rest
  header["Set-Cookie"] = lines
end

-- Returns what differs between a session's cookie and its remember cookie.
local function kind_of(options, is_remember)
  if not is_remember then
    return { name = options.cookie_name, rolling = options.rolling_timeout, absolute = options.absolute_timeout }
  end
  return {
    name = options.remember_cookie_name, rolling = options.remember_rolling_timeout,
    absolute = options.remember_absolute_timeout, safety = options.remember_safety, is_remember = true,
  }
end

-- Returns the seconds that a cookie has left.
local function time_left(kind, meta)
  local now = peer.time()
  local left = 34560000
  if kind.rolling > 0 then
    left = math.min(left, kind.rolling - (now - meta.creation_time - meta.rolling_offset))
  end
  if kind.absolute > 0 then
    left = math.min(left, kind.absolute - (now - meta.creation_time))
  end
  return math.max(left, 1)
end

local function message_authentication_code(ikm, sid, header)
  return utils.hmac_sha256(utils.derive_hmac_sha256_key(ikm, sid), header:sub(1, UNAUTHENTICATED_SIZE)):sub(1, 16)
end

local function bytes_of(header, offset, size)
  return header:sub(offset + 1, offset + size)
end

local function number_of(header, offset, size)
  return utils.bunpack(size, bytes_of(header, offset, size))
end

local function check_times(kind, options, meta)
  local now = peer.time()
  local rolled = meta.creation_time + meta.rolling_offset
  local which = kind.is_remember and "session remember " or "session "
  if kind.absolute > 0 and now - meta.creation_time > kind.absolute then
    return nil, which .. "absolute timeout exceeded"
  elseif kind.rolling > 0 and now - rolled > kind.rolling then
    return nil, which .. "rolling timeout exceeded"
  elseif not kind.is_remember and options.idling_timeout > 0
    and now - rolled - meta.idling_offset > options.idling_timeout then
    return nil, "session idling timeout exceeded"
  end
  return true
end

-- Returns the header's fields, or nil and an error.
local function read_header(self, kind, text)
  if #text < TEXT_SIZE then
    return nil, "invalid session header"
  end
  local header, err = utils.decode_base64url(text:sub(1, TEXT_SIZE))
  if not header then
    return nil, "unable to base64url decode session header (" .. err .. ")"
  end
  local meta = {
    flags = number_of(header, 1, 2), sid = bytes_of(header, 3, 32), creation_time = number_of(header, 35, 5),
    rolling_offset = number_of(header, 40, 4), data_size = number_of(header, 44, 3), tag = bytes_of(header, 47, 16),
    idling_offset = number_of(header, 63, 3), aad = header:sub(1, AAD_SIZE),
  }
  if header:byte() ~= 1 then
    return nil, "invalid session cookie type"
  elseif utils.has_flag(meta.flags, STORED) ~= (self.options.storage ~= nil) then
    return nil, "invalid session flags"
  end
  local ok
  ok, err = check_times(kind, self.options, meta)
  if not ok then
    return nil, err
  elseif message_authentication_code(self.ikm, meta.sid, header) ~= bytes_of(header, 66, HEADER_SIZE - 66) then
    return nil, "invalid session message authentication code"
  end
  return meta
end

local function read_payload(self, kind, meta, text)
  local payload = text:sub(TEXT_SIZE + 1)
  local options = self.options
  if options.storage then
    local record, err = options.storage:get(kind.name, key_of(options, meta.sid), peer.time())
    if not record then
      return nil, "unable to load session" .. (err and " (" .. err .. ")" or "")
    end
    payload = cjson.decode(record)[1]
  end
  if #payload ~= meta.data_size then
    return nil, "invalid session payload"
  end
  local key, _, iv = utils.derive_aes_gcm_256_key_and_iv(self.ikm, meta.sid, kind.safety)
  local data, err = utils.decrypt_aes_256_gcm(key, iv, utils.decode_base64url(payload), meta.aad, meta.tag)
  if not data then
    return nil, "unable to decrypt session data (" .. tostring(err) .. ")"
  end
  return cjson.decode(utils.has_flag(meta.flags, DEFLATED) and utils.inflate(data) or data)
end

local function check_entry(self, entry, creation_time)
  local options, ok, err = self.options, true, nil
  local subject, sid = present(entry[3]), present(entry[4])
  if subject then
    local key = key_of(options, "subject:" .. subject_text(options, subject))
    ok, err = check_mark(options, options.cookie_name, key, creation_time)
  end
  if ok and sid then
    ok, err = check_mark(options, options.cookie_name, key_of(options, "sid:" .. sid), creation_time)
  end
  return ok, err
end

local function check_entries(self, kind, data, creation_time)
  for _, entry in ipairs(data) do
    if kind.is_remember or entry[2] == self.options.audience then
      local ok, err = check_entry(self, entry, creation_time)
      if not ok then
        return nil, err
      end
    end
  end
  return true
end

-- Returns a cookie's fields and its decoded payload, or nil and an error.
local function read_cookie(self, kind)
  local var = peer.var or ngx.var
  local text = var["cookie_" .. kind.name]
  if not text then
    return nil, "missing session cookie"
  end
  local meta, err = read_header(self, kind, text)
  if not meta then
    return nil, err
  end
  local revocation, ok = marks_of(self.options), true
  if revocation then
    ok, err = check_mark(self.options, kind.name, key_of(self.options, meta.sid), meta.creation_time)
    if not ok then
      return nil, err
    end
  end
  local data
  data, err = read_payload(self, kind, meta, text)
  if data and revocation then
    ok, err = check_entries(self, kind, data, meta.creation_time)
  end
  return ok and data and meta, ok and data or err
end

local function metadata_of(self)
  local metadata = { audiences = {}, subjects = {} }
  for _, entry in ipairs(self.data) do
    local subject = subject_of(self.options, entry)
    if subject then
      metadata.audiences[#metadata.audiences + 1] = utils.encode_base64url(entry[2])
      metadata.subjects[#metadata.subjects + 1] = subject_text(self.options, subject)
    end
  end
  return metadata
end

local function store(self, kind, meta, payload, old)
  local options = self.options
  local record, now = cjson.encode({ payload }), peer.time()
  return options.storage:set(kind.name, key_of(options, meta.sid), record, time_left(kind, meta), now,
    old and key_of(options, old.sid), options.stale_ttl, options.store_metadata and metadata_of(self) or nil)
end

-- Returns the fields, the header and the payload of a new cookie for the session's data.
local function seal(self, kind, old)
  local now = peer.time()
  local text, flags = cjson.encode(self.data), self.options.storage and STORED or 0
  local deflated = #text > 1024 and utils.deflate(text) or text
  if #deflated < #text then
    text, flags = deflated, utils.set_flag(flags, DEFLATED)
  end
  local meta = { sid = peer.random(32), creation_time = old and old.creation_time or now, flags = flags }
  meta.rolling_offset, meta.idling_offset = now - meta.creation_time, 0
  local aad = utils.bpack(1, 1) .. utils.bpack(2, flags) .. meta.sid .. utils.bpack(5, meta.creation_time)
    .. utils.bpack(4, meta.rolling_offset) .. utils.bpack(3, utils.base64_size(#text))
  local key, _, iv = utils.derive_aes_gcm_256_key_and_iv(self.ikm, meta.sid, kind.safety)
  local ciphertext, _, tag = utils.encrypt_aes_256_gcm(key, iv, text, aad)
  local header = aad .. tag .. utils.bpack(3, 0)
  header = header .. message_authentication_code(self.ikm, meta.sid, header)
  return meta, utils.encode_base64url(header), utils.encode_base64url(ciphertext)
end

-- Writes a cookie with a new id, which keeps the creation time of the one that it replaces.
local function write_cookie(self, kind, old)
  local meta, value, payload = seal(self, kind, old)
  if self.options.storage then
    local ok, err = store(self, kind, meta, payload, old)
    if not ok then
      return nil, "unable to store session data (" .. tostring(err) .. ")"
    end
  else
    value = value .. payload
    if #kind.name + 1 + #value > MAX_COOKIE_SIZE then
      return nil, "cookie size limit exceeded"
    end
  end
  local expires = ""
  if kind.is_remember then
    expires = ("; Expires=%s; Max-Age=%d"):format(ngx.http_time(meta.creation_time + kind.rolling), kind.rolling)
  end
  set_cookie(kind.name, value .. ATTRIBUTES .. expires)
  return meta
end

-- Sessions -----------------------------------------------------------------------------------------------------------

--- Returns a new session.
function peer.new(options)
  local all = {}
  for name, value in pairs(DEFAULTS) do
    all[name] = value
  end
  for name, value in pairs(options or {}) do
    all[name] = value
  end
  local self = setmetatable({ options = all, ikm = all.ikm or utils.sha256(all.secret), state = "new" }, Session)
  self.data, self.index, self.remember = { { {}, all.audience, all.subject } }, 1, all.remember
  return self
end

-- Takes over what a cookie holds. Returns whether the audience is one of its own.
local function take(self, data)
  self.data = data
  for i, entry in ipairs(data) do
    if entry[2] == self.options.audience then
      self.index = i
      return true
    end
  end
  table.insert(data, { {}, self.options.audience, self.options.subject })
  self.index = #data
  return false
end

function Session:open()
  local meta, data = read_cookie(self, kind_of(self.options))
  if meta then
    self.meta = meta
    if not take(self, data) then
      return nil, "missing session audience"
    end
    self.state = "open"
    return true
  end
  local err = data
  if self.remember then
    local remember_meta, remembered = read_cookie(self, kind_of(self.options, true))
    if remember_meta and take(self, remembered) then
      self.remember_meta = remember_meta
      return self:save()
    end
  end
  return nil, err
end

function Session:save()
  local meta, err = write_cookie(self, kind_of(self.options), self.meta)
  if not meta then
    return nil, err
  end
  self.meta, self.state = meta, "open"
  if self.remember then
    local kind = kind_of(self.options, true)
    self.remember_meta, err = write_cookie(self, kind, self.remember_meta or read_cookie(self, kind) or nil)
    if not self.remember_meta then
      peer.log(ngx.WARN, "[session] ", err)
    end
  end
  return true
end

local function mark_and_clear(self, kind, meta)
  local options = self.options
  if marks_of(options) then
    local ok, err = write_mark(options, kind.name, key_of(options, meta.sid), "1", time_left(kind, meta))
    if not ok and options.revocation_fail_mode == "closed" then
      return nil, "unable to mark session revoked (" .. tostring(err) .. ")"
    elseif not ok then
      peer.log(ngx.WARN, "[session] unable to mark session revoked: ", err)
    end
  elseif options.storage then
    local ok, err = options.storage:delete(kind.name, key_of(options, meta.sid), peer.time(),
      options.store_metadata and metadata_of(self) or nil)
    if not ok then
      return nil, err
    end
  end
  return true
end

local function clear(kind)
  set_cookie(kind.name, ATTRIBUTES .. "; Expires=Thu, 01 Jan 1970 00:00:01 GMT; Max-Age=0")
end

function Session:destroy()
  if self.state ~= "open" then
    return nil, "unable to destroy nonexistent session"
  end
  local kinds = { { kind_of(self.options), self.meta } }
  local remembered = self.remember and (self.remember_meta or read_cookie(self, kind_of(self.options, true)))
  if remembered then
    kinds[2] = { kind_of(self.options, true), remembered }
  end
  for _, each in ipairs(kinds) do
    local ok, err = mark_and_clear(self, each[1], each[2])
    if not ok then
      return nil, err
    end
  end
  for _, each in ipairs(kinds) do
    clear(each[1])
  end
  self.state = "closed"
  return true
end

function Session:logout()
  if #self.data == 1 or self.state ~= "open" then
    return self:destroy()
  end
  table.remove(self.data, self.index)
  local ok, err = self:save()
  self.state = "closed"
  return ok, err
end

function Session:get(key)
  return self.data[self.index][1][key]
end

function Session:set(key, value)
  self.data[self.index][1][key] = value
end

function Session:get_data()
  return self.data[self.index][1]
end

function Session:set_data(data)
  self.data[self.index][1] = data
end

function Session:get_subject()
  return subject_of(self.options, self.data[self.index])
end

function Session:set_subject(subject)
  self.data[self.index][3] = subject
end

function Session:get_sid()
  return present(self.data[self.index][4])
end

function Session:set_sid(sid)
  local entry = self.data[self.index]
  entry[3] = entry[3] or cjson.null
  entry[4] = sid
end

-- Functions ----------------------------------------------------------------------------------------------------------

--- Returns a session, an error and whether the session existed.
function peer.open(options)
  local self = peer.new(options)
  local ok, err = self:open()
  return self, err, ok == true
end

local function leave(method, options)
  local self, err, exists = peer.open(options)
  if not exists then
    return nil, err, false, false
  end
  local ok
  ok, err = self[method](self)
  return ok, err, true, ok == true
end

--- Ends the request's session. Returns ok, an error, and whether it existed and was destroyed.
function peer.destroy(options)
  return leave("destroy", options)
end

--- Ends the request's session for the current audience.
function peer.logout(options)
  return leave("logout", options)
end

local function revoke(prefix, text, ttl, options)
  if not marks_of(options) then
    return nil, "session revocation is not enabled"
  end
  local value = tostring(peer.time())
  local ok, err = write_mark(options, options.cookie_name, key_of(options, prefix .. text), value, ttl)
  if not ok then
    return nil, "unable to revoke session key (" .. tostring(err) .. ")"
  end
  return true
end

--- Revokes the sessions of a subject that were created by now.
function peer.revoke_subject(subject, ttl, options)
  options = peer.new(options).options
  return revoke("subject:", subject_text(options, subject), ttl, options)
end

--- Revokes the sessions of an identity provider's session.
function peer.revoke_sid(sid, ttl, options)
  return revoke("sid:", sid, ttl, peer.new(options).options)
end

--- Takes a browser of `spec.support` for the request and the response.
function peer.connect(browser)
  peer.var, peer.header = browser.var, browser.header
  peer.log = function(...)
    table.insert(browser.log, { ... })
  end
end

--- Goes back to the real request.
function peer.restore()
  peer.var, peer.header, peer.log, peer.time, peer.random = false, false, ngx.log, ngx.time, utils.rand_bytes
end

return peer
