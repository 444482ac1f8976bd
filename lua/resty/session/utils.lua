---
-- Tools for storages and programs: encodings, cryptography, and the text of metadata.
--
-- Functions that can fail return `nil, err`.
--
-- @module resty.session.utils
-- @license BSD-2-Clause

local storages = require "resty.session.storages"
local json = require "resty.session.json"
local bit = require "bit"

local following = next -- by a name of its own: see docs/architecture.md, "Loops over tables"

-- The native module raises userdata for arguments of a wrong type. These functions raise strings
-- instead.
local native, checked = require "resty.session.native", {}
for name, native_function in following, native.utils do
  checked[name] = function(...)
    local ok, value, err, more = pcall(native_function, ...)
    if not ok then
      error("bad argument to " .. name .. ": " .. tostring(value), 2)
    end
    return value, err, more
  end
end

local KEY_SIZE = native.KEY_SIZE
local EXPIRY_BYTES = native.EXPIRY_BYTES
local EXPIRY_SIZE = checked.base64_size(EXPIRY_BYTES)

-- The integers that `bpack` makes are unsigned and little-endian. base64url has no padding, and its
-- decoding is strict. Inflating more than 16 MiB is an error. Derived keys have 44 bytes by
-- default, and PBKDF2 runs 10,000 rounds. `derive_aes_gcm_256_key_and_iv` returns key, err, iv, and
-- `encrypt_aes_256_gcm` returns ciphertext, err, tag.
---@alias resty.session.utils.pbkdf2
---| fun(password: string, salt: string, usage: string, size: integer?, rounds: integer?): string?, string?
---@class resty.session.utils
---@field bpack fun(size: integer, number: integer): string?, string? returns `size` bytes
---@field bunpack fun(size: integer, bytes: string): integer?, string?
---@field encode_json fun(value: any): string?, string?
---@field decode_json fun(text: string): any, string?
---@field encode_base64url fun(bytes: string): string?, string?
---@field decode_base64url fun(text: string): string?, string?
---@field base64_size fun(size: integer): integer returns how many characters `size` bytes take
---@field deflate fun(bytes: string): string?, string? compresses without a zlib header
---@field inflate fun(bytes: string): string?, string?
---@field rand_bytes fun(size: integer): string?, string?
---@field sha256 fun(bytes: string): string?, string?
---@field hmac_sha256 fun(key: string, message: string): string?, string?
---@field derive_hkdf_sha256 fun(ikm: string, nonce: string, usage: string, size: integer?): string?, string?
---@field derive_pbkdf2_hmac_sha256 resty.session.utils.pbkdf2
---@field derive_aes_gcm_256_key_and_iv fun(ikm: string, nonce: string, safety: string?): string?, string?, string?
---@field encrypt_aes_256_gcm fun(key: string, iv: string, text: string, aad: string): string?, string?, string?
---@field decrypt_aes_256_gcm fun(key: string, iv: string, text: string, aad: string, tag: string): string?, string?
---@field table_new fun(array_size: integer, hash_size: integer): table
---@field set_flag fun(flags: integer, flag: integer): integer
local utils = {
  bpack = checked.bpack,
  bunpack = checked.bunpack,
  encode_json = json.encode,
  decode_json = json.decode,
  encode_base64url = checked.encode_base64url,
  decode_base64url = checked.decode_base64url,
  base64_size = checked.base64_size,
  deflate = checked.deflate,
  inflate = checked.inflate,
  rand_bytes = checked.rand_bytes,
  sha256 = checked.sha256,
  hmac_sha256 = checked.hmac_sha256,
  derive_hkdf_sha256 = checked.derive_hkdf_sha256,
  derive_pbkdf2_hmac_sha256 = checked.derive_pbkdf2_hmac_sha256,
  derive_aes_gcm_256_key_and_iv = checked.derive_aes_gcm_256_key_and_iv,
  encrypt_aes_256_gcm = checked.encrypt_aes_256_gcm,
  decrypt_aes_256_gcm = checked.decrypt_aes_256_gcm,
  table_new = require "table.new",
  set_flag = bit.bor,
}

--- Derives the key that authenticates a session's header.
---@param ikm string initial key material
---@param nonce string raw session id
---@return string? key 32 bytes
---@return string? err
function utils.derive_hmac_sha256_key(ikm, nonce)
  return checked.derive_hkdf_sha256(ikm, nonce, "authentication", 32)
end

--- Returns whether the cryptography runs in OpenSSL's FIPS mode. It never does, because it is not
--- OpenSSL's.
---@return boolean is_fips_mode false
function utils.is_fips_mode()
  return false
end

--- Returns a text without the white space around it.
---@param text string?
---@return string trimmed empty for nil
function utils.trim(text)
  return text and text:match("^%s*(.-)%s*$") or ""
end

--- Returns whether a table is empty.
---@param t table
---@return boolean
function utils.table_is_empty(t)
  return next(t) == nil
end

--- Returns flags without some of them.
---@param flags integer
---@param flag integer the flags to remove
---@return integer flags
function utils.unset_flag(flags, flag)
  return bit.band(flags, bit.bnot(flag))
end

--- Returns whether any of some flags is set.
---@param flags integer
---@param flag integer the flags to look for
---@return boolean
function utils.has_flag(flags, flag)
  return bit.band(flags, flag) ~= 0
end

--- Makes a storage.
---@param name string the storage's name
---@param configuration table? a session's configuration, which holds the storage's under its name
---@return table? storage nil for "cookie"
---@raise a string that names what is wrong
function utils.load_storage(name, configuration)
  return storages.load(name, configuration or {})
end

--- Returns an error's text with its cause.
---@param err any the cause
---@param msg string? what failed, a format
---@param ... any the format's arguments
---@return string text `msg (err)`
function utils.errmsg(err, msg, ...)
  if not msg then
    return err or "unknown error"
  end
  if select("#", ...) > 0 then
    msg = msg:format(...)
  end
  return err and msg .. " (" .. tostring(err) .. ")" or msg
end

--- Returns the name of a record, or of metadata.
---@param storage table its fields `prefix` and `suffix` are parts of the name
---@param name string the cookie's name
---@param key string the session's key, or an audience
---@param subject string?
---@return string full_name the present parts, joined by ":"
function utils.get_name(storage, name, key, subject)
  local parts, count = {}, 0
  local function add(part)
    if part then
      count = count + 1
      parts[count] = part
    end
  end
  add(storage.prefix)
  add(name)
  add(key)
  add(subject)
  add(storage.suffix)
  return table.concat(parts, ":")
end

--- Returns one item of the text of metadata: `key:expiry;`, or `key;`, which deletes the key.
---@param key string 43 characters
---@param exp integer? seconds since the epoch; absent or 0 deletes
---@return string item
function utils.meta_get_value(key, exp)
  if not exp or exp == 0 then
    return key .. ";"
  end
  return key .. ":" .. checked.encode_base64url(checked.bpack(EXPIRY_BYTES, exp)) .. ";"
end

--- Returns the item at a position in the text of metadata.
---@param text string
---@param index integer where the item starts
---@return string? key, string? err
---@return integer? exp its expiry; nil if the item deletes the key
---@return integer? next_index where the next item starts
function utils.meta_get_next(text, index)
  local key, separator = text:sub(index, index + KEY_SIZE - 1), text:sub(index + KEY_SIZE, index + KEY_SIZE)
  index = index + KEY_SIZE + 1
  if separator ~= ":" then
    return key, nil, nil, index
  end
  local packed, err = checked.decode_base64url(text:sub(index, index + EXPIRY_SIZE - 1))
  if not packed then
    return nil, err
  end
  local exp
  exp, err = checked.bunpack(EXPIRY_BYTES, packed)
  if not exp then
    return nil, err
  end
  return key, nil, exp, index + EXPIRY_SIZE + 1
end

--- Returns the live sessions in the text of metadata. The last item of each key counts.
---@param text string
---@param current_time number seconds since the epoch
---@return table<string, integer>? sessions `{ key = expiry, … }`
---@return string? err
function utils.meta_get_latest(text, current_time)
  local latest, index = {}, 1
  while index <= #text do
    local key, err, exp, after = utils.meta_get_next(text, index)
    if not key then
      return nil, err
    end
    latest[key] = exp and exp > current_time and exp or nil
    index = after
  end
  return latest
end

return utils
