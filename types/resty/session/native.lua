---@meta resty.session.native

-- What the native module, built from src/lua/, offers to Lua: for language servers and readers. Lua
-- never loads this file. `spec/native_spec.lua` compares the names in it with those of the module
-- that was built.
--
-- A function that can fail returns nil and a text. One that gets an argument of a wrong type raises
-- a userdata, which only a mistake in lua/ can bring about.

---@class resty.session.native
---@field _VERSION string
---@field OPTIONS string[] the names of the options that are not a storage's own
---@field HEADERS table<string, string> the names of request and response headers by the property that they carry
---@field NEXT resty.session.native.next
---@field POSITION_FACTOR integer a place in a Cookie header is one number: where it starts, times this, plus where it ends
---@field FLAG_FORGET integer the flag of a header whose session forgets the user
---@field MAX_COOKIES integer the most cookies that a session takes
---@field KEY_SIZE integer characters of a record's key
---@field EXPIRY_BYTES integer bytes of an expiry in metadata
local native = {}

-- Configurations ------------------------------------------------------------------------------------------------------

---@class resty.session.native.handle: userdata A configuration, and what it asks on the bridge

---@class resty.session.native.configuration What lua/ needs to know of a configuration
---@field handle resty.session.native.handle to run acts with
---@field calling_handle resty.session.native.handle? runs acts that call methods in Lua, if those of `handle` do not
---@field cookie_name string
---@field remember_cookie_name string
---@field cookie_flags string the attributes of the session's cookie, as text
---@field remember boolean
---@field random_key boolean whether neither a secret nor key material is configured
---@field guessable boolean whether the secret can be guessed
---@field guessable_fallbacks boolean whether a fallback's can
---@field warnings string[] what the log is to say of the configuration
---@field audience string|number
---@field subject string|number|nil
---@field ikms string[] the key material of the session cookie's keys: the first one writes, all of them read
---@field remember_ikms string[] the same for the remember cookie
---@field request_headers string[]
---@field response_headers string[]

---The defaults of all later configurations.
---@param options table? as programs write them
---@param previous resty.session.native.handle? the defaults until now, whose key stays if the options name none
---@param stored boolean whether there is a storage
---@param storage resty.session.native.storage? the storage, if it is on the bridge
---@param number integer? a number that tells the store of marks from others, if there is one
---@param store resty.session.native.storage? the store of marks, if it is on the bridge
---@return resty.session.native.configuration? configuration
---@return string? err
function native.init(options, previous, stored, storage, number, store) end

---The configuration of a session.
---@param options table? as programs write them
---@param defaults resty.session.native.handle for options that are absent
---@param stored boolean whether there is a storage
---@param storage resty.session.native.storage? the storage, if it is on the bridge
---@param number integer? a number that tells the store of marks from others, if there is one
---@param store resty.session.native.storage? the store of marks, if it is on the bridge
---@return resty.session.native.configuration? configuration
---@return string? err
function native.new(options, defaults, stored, storage, number, store) end

---What the log is to say of options that do not exist.
---@param options table
---@param sections string[] the names under which options of storages may stand
---@return string[]? hints nil if all options exist
function native.unknown_options(options, sections) end

-- Acts ----------------------------------------------------------------------------------------------------------------

-- Every act, and every function that goes on with one, returns what to do next and up to four
-- values for that.

---What to do next, and the values that come with it.
---@class resty.session.native.next
---@field OPENED integer a session was opened and nothing else is to be told: `data, audience, subject, position`
---@field OPENED_SIGNED integer the same of an entry with the id of its sign-in: `data, subject, ids, position`
---@field OPENED_ENTRY integer the same, where the only entry holds more than its names: `payload, position`
---@field DONE integer the act is done: `err, lines, cookie, more`; the last is a `resty.session.outcome` or nil
---@field TOUCHED integer the session was touched: `line, cookie`
---@field WAIT integer wait for a ticket, then call `resume_ticket`: `ticket, limit, in_entry_thread`
---@field GET integer call `get` of the program's storage, then `reply`: `task, name, key, current_time`
---@field CALL integer call another method of it, then `reply`: `task, request`; see `resty.session.native.request`
---@field DERIVE integer find out whether this thread can wait for a key, then call `derive`: `task`
---@field ASK integer find out how the store of marks is reached, then call `ask`: `task`
---@field GET_MARK integer call `get` of the program's own store of marks, then `reply`: `task, name, key, current_time`
---@field SET_MARK integer call `set` of it, then `reply`: `task, request`

---What a program's own storage is to do.
---@class resty.session.native.request
---@field method string `set`, `update` or `delete`
---@field name string the cookie's name
---@field key string
---@field value string?
---@field ttl integer? seconds
---@field current_time integer seconds since the epoch
---@field old_key string? of the record that this one replaces
---@field stale_ttl integer? the seconds that the replaced record may still live
---@field metadata resty.session.native.metadata?
---@field old_must_exist boolean? whether the write must fail if the replaced record is not there

---@class resty.session.native.task: userdata An act under way

---@alias resty.session.native.ticket integer names one operation on the bridge, for ever

---What is known of the remember cookie, for acts on instances.
---@class resty.session.native.remember_meta
---@field value string? of its first cookie
---@field ikm string? the key material of its key
---@field known_at integer? when its record was last known to exist, seconds since the epoch

---Opens the request's session.
---@param handle resty.session.native.handle
---@param now integer seconds since the epoch
---@param cookies string? the Cookie header
---@param unsendable string? why the response can't set a cookie, if it can't
---@param problem string? why storages can't be waited for, if they can't
---@param audience any of an instance that is to be opened, if it is not the configured one
---@param remember boolean? of such an instance
---@return integer todo one of `NEXT`
---@return any ... up to four values for that
function native.open(handle, now, cookies, unsendable, problem, audience, remember) end

---Opens the request's session and refreshes it; or makes a new one.
---@param handle resty.session.native.handle
---@param now integer seconds since the epoch
---@param cookies string? the Cookie header
---@param unsendable string? why the response can't set a cookie, if it can't
---@param problem string? why storages can't be waited for, if they can't
---@param audience any of an instance that is to be opened, if it is not the configured one
---@param remember boolean? of such an instance
---@return integer todo one of `NEXT`
---@return any ... up to four values for that
function native.start(handle, now, cookies, unsendable, problem, audience, remember) end

---Opens the request's session and signs its audience out.
---@param handle resty.session.native.handle
---@param now integer seconds since the epoch
---@param cookies string? the Cookie header
---@param unsendable string? why the response can't set a cookie, if it can't
---@param problem string? why storages can't be waited for, if they can't
---@param audience any of an instance that is to be opened, if it is not the configured one
---@param remember boolean? of such an instance
---@return integer todo one of `NEXT`
---@return any ... up to four values for that
function native.logout(handle, now, cookies, unsendable, problem, audience, remember) end

---Opens the request's session and destroys it.
---@param handle resty.session.native.handle
---@param now integer seconds since the epoch
---@param cookies string? the Cookie header
---@param unsendable string? why the response can't set a cookie, if it can't
---@param problem string? why storages can't be waited for, if they can't
---@param audience any of an instance that is to be opened, if it is not the configured one
---@param remember boolean? of such an instance
---@return integer todo one of `NEXT`
---@return any ... up to four values for that
function native.destroy(handle, now, cookies, unsendable, problem, audience, remember) end

---Goes on with an act after its ticket was waited for.
---@param ticket resty.session.native.ticket
---@param err string? why no reply came, if none did
---@return integer todo one of `NEXT`
---@return any ... up to four values for that
function native.resume_ticket(ticket, err) end

---Goes on with what a program's own storage returned.
---@param task resty.session.native.task
---@param value any what the method returned first
---@param err any what it returned second
---@return integer todo one of `NEXT`
---@return any ... up to four values for that
function native.reply(task, value, err) end

---Has the key derived that an act needs.
---@param task resty.session.native.task
---@param problem string? why this thread can't wait for it, if it can't: then it is derived on nginx's own thread
---@return integer todo one of `NEXT`
---@return any ... up to four values for that
function native.derive(task, problem) end

---Goes on with an act that needs the store of marks.
---@param task resty.session.native.task
---@param store resty.session.native.storage? nil if the methods of the store are to be called
---@param problem string? why this thread can't wait for `store`, if it can't
---@return integer todo one of `NEXT`
---@return any ... up to four values for that
function native.ask(task, store, problem) end

---Revokes the sessions that exist now and have a session id of an identity provider.
---@param handle resty.session.native.handle
---@param now integer seconds since the epoch
---@param cookies string? the Cookie header
---@param unsendable string? why the response can't set a cookie, if it can't
---@param problem string? why storages can't be waited for, if they can't
---@param sid string
---@param ttl number seconds for which the mark is kept
---@return integer todo one of `NEXT`
---@return any ... up to four values for that
function native.revoke_sid(handle, now, cookies, unsendable, problem, sid, ttl) end

---Sets the function that reads the request's values that a cookie may be bound to.
---@param read fun(): remote_addr: string?, scheme: string?, user_agent: string?
function native.set_reader(read) end

---Sets the function that reads the request's scheme, for cookies that are Secure by it.
---@param read fun(trusts: boolean): scheme: string?, forwarded_proto: string? the second only if `trusts`
function native.set_scheme_reader(read) end

---The acts on an instance. What they get besides the request: whether the instance is open; what it
---says of remembering; what is known of its cookies; and its data.
---@class resty.session.native.instance
native.instance = {}

---@alias resty.session.native.instance.act fun(handle: resty.session.native.handle, now: integer, cookies: string?, unsendable: string?, problem: string?, open: boolean, remember: boolean, forget: boolean, cookie: string?, ikm: string?, known_at: integer?, remembered: resty.session.native.remember_meta?, payload: string?, index: any, info: string?): integer, any

---Saves the session under a new id.
---@type resty.session.native.instance.act
native.instance.save = nil

---The same, of a session that begins with this save, because it has another subject than before.
---@type resty.session.native.instance.act
native.instance.sign_in = nil

---Notes in the cookie that the session is in use.
---@type resty.session.native.instance.act
native.instance.touch = nil

---Saves or touches the session if that is due.
---@type resty.session.native.instance.act
native.instance.refresh = nil

---Signs the current audience out.
---@type resty.session.native.instance.act
native.instance.logout = nil

---Ends the session.
---@type resty.session.native.instance.act
native.instance.destroy = nil

---Saves the info store, and nothing else, in the session's record.
---@type resty.session.native.instance.act
native.instance.save_info = nil

---The acts on the sessions of a subject. They come to an error, or nil and a value.
---@class resty.session.native.subjects
native.subjects = {}

---A list of sessions, which is taken in pieces.
---@class resty.session.native.list: userdata

---Lists the sessions of a subject in the configured audience. Comes to a `list`.
---@param handle resty.session.native.handle
---@param now integer seconds since the epoch
---@param cookies string? the Cookie header
---@param unsendable nil
---@param problem string? why storages can't be waited for, if they can't
---@param subject string|number
---@return integer todo one of `NEXT`
---@return any ... up to four values for that
function native.subjects.list(handle, now, cookies, unsendable, problem, subject) end

---Ends the sessions of a subject in the configured audience. Comes to true.
---@param handle resty.session.native.handle
---@param now integer seconds since the epoch
---@param cookies string? the Cookie header
---@param unsendable nil
---@param problem string? why storages can't be waited for, if they can't
---@param subject string|number
---@param ttl number seconds for which a mark is kept, if there is one
---@return integer todo one of `NEXT`
---@return any ... up to four values for that
function native.subjects.revoke(handle, now, cookies, unsendable, problem, subject, ttl) end

---Ends a session. Comes to true.
---@param handle resty.session.native.handle
---@param now integer seconds since the epoch
---@param cookies string? the Cookie header
---@param unsendable nil
---@param problem string? why storages can't be waited for, if they can't
---@param id string base64url of 32 bytes
---@return integer todo one of `NEXT`
---@return any ... up to four values for that
function native.subjects.revoke_id(handle, now, cookies, unsendable, problem, id) end

---Ends the other sessions of an instance's subject. Comes to how many those were.
---@type resty.session.native.instance.act
native.subjects.revoke_others = nil

---Appends sessions of a list to an array.
---@param list resty.session.native.list
---@param into resty.session.listed[]
---@param count integer how many at most
---@param audience string|number
---@return boolean more whether the list has more
function native.subjects.take(list, into, count, audience) end

--- The sessions of a storage in Lua, which are added in pieces. `read_metadata` may return it to an
--- act.
---@class resty.session.native.gathered: userdata

---@return resty.session.native.gathered gathered without sessions
function native.subjects.gather() end

--- Adds sessions. Of those with the same key, the one that expires last counts.
---@param gathered resty.session.native.gathered
---@param text string `key:expiry;…`
function native.subjects.add(gathered, text) end

-- Cookies and headers -------------------------------------------------------------------------------------------------

---@class resty.session.native.header
---@field header string raw, 82 bytes
---@field flags integer
---@field sid string raw session id, 32 bytes
---@field creation_time integer seconds since the epoch
---@field rolling_offset integer seconds
---@field data_size integer characters of the payload
---@field idling_offset integer seconds
---@field initial_chunk string the payload's part in the first cookie

---The fields of a cookie's header.
---@param value string of the session's first cookie
---@return resty.session.native.header? header
---@return string? err
function native.header_fields(value) end

---The session's id, or what is left of a timeout.
---@param handle resty.session.native.handle
---@param value string of the session's first cookie
---@param name any `id`, `nonce`, `timeout`, `idling-timeout`, `rolling-timeout`, `absolute-timeout`
---@param timestamp integer the time to reckon with, seconds since the epoch
---@return string|integer|nil property nil for a timeout that is switched off and for any other name
function native.property(handle, value, name, timestamp) end

---A Cookie header without the session's cookies and without the remember cookie's.
---@param handle resty.session.native.handle
---@param now integer seconds since the epoch
---@param cookies string the Cookie header
---@param value string? of the session's first cookie, if it was opened or saved
---@return string cookies
function native.without_cookies(handle, now, cookies, value) end

---Whether sessions of these names would overwrite each other's cookies.
---@param name string
---@param other string
---@return boolean
function native.names_collide(name, other) end

---The Set-Cookie lines of a response with others put among them.
---@param present any a string or an array of strings
---@param lines string|string[]
---@return string[]
function native.merge_cookies(present, lines) end

---The id of the sign-in that a session comes from: the written one, or else the derived one.
---@param value string of the session's first cookie
---@param audience string|number
---@param subject string|number|false|nil
---@param written any what the payload has of it
---@return string? id
---@return string? err
function native.sign_in(value, audience, subject, written) end

---A session's cookies and the remember cookie's, as a browser sends them after a response.
---@param handle resty.session.native.handle
---@param cookies string? the Cookie header that the browser has sent
---@param lines string[] the response's Set-Cookie lines
---@return string cookies a Cookie header
function native.own_cookies(handle, cookies, lines) end

---@class resty.session.native.turn: userdata What a session's note is written from

---Reads the note that the request before has left in the storage.
---@param handle resty.session.native.handle
---@param lock string the lock's key
---@param sealed string? the note
---@param own string the value of the session's first cookie
---@return resty.session.native.turn? turn
---@return string|false|nil cookies a Cookie header if turns replaced the own cookie, false if the session has ended
---@return string? err a warning if there is a turn
function native.read_note(handle, lock, sealed, own) end

---Makes the note for the next request.
---@param turn resty.session.native.turn
---@param opened string the value of the session's first cookie that was opened
---@param cookies string the Cookie header that the turn began with
---@param lines string[]? the Set-Cookie lines that the response got in the turn; nil if the session has ended
---@param now integer seconds since the epoch
---@param is_another boolean whether no cookie from before the turn leads to the session
---@return string? sealed nil without an error if nothing has changed
---@return string? err
function native.write_note(turn, opened, cookies, lines, now, is_another) end

-- The bridge ----------------------------------------------------------------------------------------------------------

---@class resty.session.native.bridge
native.bridge = {}

---@class resty.session.native.counts
---@field submitted integer operations
---@field completed integer operations
---@field in_flight integer operations
---@field waiting integer operations whose reply was not taken yet
---@field rings integer of the doorbell
---@field drains integer of the queue of replies

---Opens the doorbell.
---@return string? host what to connect with; nil if there is an error
---@return integer|string|nil port nil for a Unix socket; or the error
---@return string? token to be sent first; nil for a Unix socket
function native.bridge.open_doorbell() end

---Takes the replies that have come from the queue.
---@return resty.session.native.ticket[] tickets whose replies have come
---@return boolean has_errands whether there are lines or calls to be taken
function native.bridge.drain() end

---Takes the lines for nginx's log.
---@return string[]? lines the name of each line's level, `NOTICE`, `WARN` or `ERR`, and then its text
function native.bridge.take_lines() end

---@class resty.session.native.slot: userdata Where a function of the program leaves its result

---Takes the functions that are to be called.
---@return (function|resty.session.native.slot)[]? calls each function, and then its slot
function native.bridge.take_calls() end

---Takes what a function returned.
---@param slot resty.session.native.slot
---@param problem string? why it failed, if it did
---@param first any the first value that it returned
---@param second any the second one
function native.bridge.supply(slot, problem, first, second) end

---Takes an operation's reply.
---@param ticket resty.session.native.ticket
---@return true|string|table<string, integer>|nil reply nil without an error if there is nothing
---@return string? err
function native.bridge.take(ticket) end

---Nobody waits for the ticket any more.
---@param ticket resty.session.native.ticket
function native.bridge.discard(ticket) end

---Runs what was submitted.
function native.bridge.flush() end

---Returns whether nginx itself started this thread, to run a block.
---@return boolean
function native.bridge.in_entry_thread() end

---Looks for replies that were not taken, and drops those that the last sweep found, too.
---@param passed boolean whether all threads that were woken by the last sweep have run since; otherwise drops none
---@return boolean again whether there must be another sweep
function native.bridge.sweep(passed) end

---Rings the doorbell.
function native.bridge.ring() end

---@return resty.session.native.counts
function native.bridge.counts() end

---@return integer operations in flight
function native.bridge.in_flight() end

---@return resty.session.status.endpoint[] endpoints how each server is doing
function native.bridge.endpoints() end

return native
