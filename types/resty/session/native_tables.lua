---@meta
--
-- The rest of the native module: storages on the bridge, and what `resty.session.utils` needs. See
-- native.lua.

local native = {} ---@type resty.session.native

-- Storages on the bridge ----------------------------------------------------------------------------------------------

---@class resty.session.native.storages
---@field NAMES string[] the names of all storages, also of those that this build leaves out
---@field OPTIONS table<string, string[]> the names of each storage's options
---@field ALIASES table<string, string> other names of storages
---@field NODE_OPTIONS string[] the names of the options of a server in a list
---@field NODE_LISTS string[] the names of the options that are such lists
---@field MAX_HOLDER integer the longest name of a lock's holder, in characters
---@field GONE string the error of a write whose replaced record must be there and is not
native.storages = {}

---@class resty.session.native.storage: userdata A storage by its options

---@class resty.session.native.metadata Whose a session is: parallel arrays
---@field audiences string[]
---@field subjects string[]

---@class resty.session.native.shm
---@field zone string
---@field prefix string?
---@field suffix string?

---Makes a storage.
---@alias resty.session.native.maker fun(configuration: any, handle: resty.session.native.storage?): resty.session.native.storage?, string?, string[]?

---@type resty.session.native.maker
native.storages.dshm = nil

---@type resty.session.native.maker
native.storages.file = nil

---@type resty.session.native.maker
native.storages.memcached = nil

---@type resty.session.native.maker
native.storages.mysql = nil

---@type resty.session.native.maker
native.storages.postgres = nil

---@type resty.session.native.maker
native.storages.redis = nil

---The options of nginx's shared memory, which is used from Lua alone.
---@param configuration any a table, or what counts as absent
---@return resty.session.native.shm? options
---@return string? err
---@return string[]? hints what to say of options that do not exist
function native.storages.shm(configuration) end

---Submits the reading of a record.
---@param storage resty.session.native.storage
---@param name string the cookie's name
---@param key string
---@param current_time integer seconds since the epoch
---@return resty.session.native.ticket? ticket
---@return number|string limit the most seconds to wait; or the error
---@return boolean in_entry_thread whether nginx itself started this thread
function native.storages.get(storage, name, key, current_time) end

---Submits the writing of a record.
---@param storage resty.session.native.storage
---@param name string the cookie's name
---@param key string
---@param value string
---@param ttl integer seconds
---@param current_time integer seconds since the epoch
---@param old_key string? of the record that this one replaces
---@param stale_ttl integer? the seconds that the replaced record may still live
---@param metadata resty.session.native.metadata? whose the session is
---@param old_must_exist boolean? whether the write fails if the replaced record is not there
---@return resty.session.native.ticket? ticket
---@return number|string limit the most seconds to wait; or the error
---@return boolean in_entry_thread whether nginx itself started this thread
function native.storages.set(storage, name, key, value, ttl, current_time, old_key, stale_ttl, metadata, old_must_exist) end

---Submits the writing of a record if it is there; it lives no longer than it would have.
---@param storage resty.session.native.storage
---@param name string the cookie's name
---@param key string
---@param value string
---@param ttl integer seconds
---@param current_time integer seconds since the epoch
---@return resty.session.native.ticket? ticket
---@return number|string limit the most seconds to wait; or the error
---@return boolean in_entry_thread whether nginx itself started this thread
function native.storages.update(storage, name, key, value, ttl, current_time) end

---Submits the deletion of a record.
---@param storage resty.session.native.storage
---@param name string the cookie's name
---@param key string
---@param current_time integer seconds since the epoch
---@param metadata resty.session.native.metadata? whose the session was
---@return resty.session.native.ticket? ticket
---@return number|string limit the most seconds to wait; or the error
---@return boolean in_entry_thread whether nginx itself started this thread
function native.storages.delete(storage, name, key, current_time, metadata) end

---Submits the reading of an owner's sessions.
---@param storage resty.session.native.storage
---@param name string the cookie's name
---@param audience string base64url
---@param subject string base64url
---@param current_time integer seconds since the epoch
---@return resty.session.native.ticket? ticket
---@return number|string limit the most seconds to wait; or the error
---@return boolean in_entry_thread whether nginx itself started this thread
function native.storages.read_metadata(storage, name, audience, subject, current_time) end

---Submits the taking or renewing of a lock. The reply is true if the holder has it now, or nil if
---another has it.
---@param storage resty.session.native.storage
---@param name string the cookie's name
---@param key string
---@param holder string 1 to `MAX_HOLDER` visible ASCII characters
---@param ttl number seconds, also fractions
---@param current_time integer seconds since the epoch
---@return resty.session.native.ticket? ticket
---@return number|string limit the most seconds to wait; or the error
---@return boolean in_entry_thread whether nginx itself started this thread
function native.storages.lock(storage, name, key, holder, ttl, current_time) end

---Submits the freeing of a lock, which stays if another holder has it.
---@param storage resty.session.native.storage
---@param name string the cookie's name
---@param key string
---@param holder string
---@return resty.session.native.ticket? ticket
---@return number|string limit the most seconds to wait; or the error
---@return boolean in_entry_thread whether nginx itself started this thread
function native.storages.unlock(storage, name, key, holder) end

-- Encodings and cryptography, for resty.session.utils -----------------------------------------------------------------

---@class resty.session.native.utils
native.utils = {}

---Packs an unsigned little-endian integer.
---@param size integer bytes, 1 to 8
---@param number number
---@return string? bytes
---@return string? err
function native.utils.bpack(size, number) end

---Unpacks an unsigned little-endian integer.
---@param size integer bytes, 1 to 8
---@param bytes string
---@return number? number
---@return string? err
function native.utils.bunpack(size, bytes) end

---@param bytes string
---@return string text without padding
function native.utils.encode_base64url(bytes) end

---@param text string without padding
---@return string? bytes
---@return string? err
function native.utils.decode_base64url(text) end

---@param size integer bytes
---@return integer characters that they take as base64url
function native.utils.base64_size(size) end

---Compresses, without a zlib header.
---@param data string
---@return string? deflated
---@return string? err
function native.utils.deflate(data) end

---Decompresses 16 MiB at most.
---@param data string
---@return string? inflated
---@return string? err
function native.utils.inflate(data) end

---Random bytes from the operating system.
---@param size integer 16 MiB at most
---@return string? bytes
---@return string? err
function native.utils.rand_bytes(size) end

---@param data string
---@return string hash 32 bytes
function native.utils.sha256(data) end

---@param key string
---@param message string
---@return string code 32 bytes
function native.utils.hmac_sha256(key, message) end

---@param ikm string initial key material
---@param nonce string
---@param usage string what the key is for
---@param size integer? bytes, 44 by default
---@return string? key
---@return string? err
function native.utils.derive_hkdf_sha256(ikm, nonce, usage, size) end

---@param password string
---@param salt string
---@param usage string what the key is for
---@param size integer? bytes, 44 by default
---@param iterations integer? 10,000 by default
---@return string? key
---@return string? err
function native.utils.derive_pbkdf2_hmac_sha256(password, salt, usage, size, iterations) end

---Derives a key by HKDF, or by PBKDF2 if a safety other than `None` is given.
---@param ikm string initial key material
---@param nonce string
---@param safety any `None`, `Low`, `Medium`, `High` or `Very High`
---@return string? key 32 bytes
---@return string? err
---@return string? iv 12 bytes
function native.utils.derive_aes_gcm_256_key_and_iv(ikm, nonce, safety) end

---@param key string 32 bytes
---@param iv string 12 bytes
---@param plaintext string
---@param aad string additional data, authenticated only
---@return string? ciphertext
---@return string? err
---@return string? tag 16 bytes
function native.utils.encrypt_aes_256_gcm(key, iv, plaintext, aad) end

---@param key string 32 bytes
---@param iv string 12 bytes
---@param ciphertext string
---@param aad string additional data, authenticated only
---@param tag string 16 bytes
---@return string? plaintext
---@return string? err
function native.utils.decrypt_aes_256_gcm(key, iv, ciphertext, aad, tag) end

return native
