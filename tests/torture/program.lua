-- What the requests of the torture do, in each way that programs do it.

local cjson = require "cjson"
local semaphores = require "ngx.semaphore"
local session = require "resty.session"
local utils = require "resty.session.utils"
local waiting = require "resty.session.waiting"

torture = {}

local acts = {}

-- What a request has seen of a session.
local function seen(s, exists, err)
  if not exists then
    return { exists = false, err = err }
  end
  return {
    exists = true, subject = s:get_subject(), who = s:get("who"), device = s:get("device"), sign = s:get("sign"),
    counter = s:get("counter"),
  }
end

local function open()
  local s, err, exists = session.open()
  return s, seen(s, exists, err)
end

function torture.finish(reply, ok, err)
  reply.ok, reply.err = ok and true or false, err
  return reply
end

local finish = torture.finish

-- An act on a session that exists. `how` opens it and returns it with a reply; `run` returns what
-- the session's method returned.
function torture.on_open(how, run)
  return function(args, options)
    local s, reply = how(options)
    return reply.exists and finish(reply, run(s, reply, args)) or reply
  end
end

local function on_open(run)
  return torture.on_open(open, run)
end

-- Text that makes a record longer than one packet, now and then.
local function padding(args)
  local size = tonumber(args.size) or 0
  return size > 0 and string.rep(args.device, size) or nil
end

function acts.sign_in(args)
  local s = session.new()
  s:set_subject(args.user)
  s:set("who", args.user)
  s:set("device", tonumber(args.device))
  s:set("sign", tonumber(args.sign))
  s:set("counter", tonumber(args.counter))
  return finish({}, s:save())
end

function acts.read()
  local _, reply = open()
  return reply
end

acts.write = on_open(function(s, _, args)
  s:set("counter", tonumber(args.counter))
  s:set("padding", padding(args))
  return s:save()
end)

function acts.roll()
  local s, err, exists, refreshed = session.start()
  local reply = seen(s, exists, err)
  if exists then
    finish(reply, refreshed, err)
  end
  return reply
end

acts.synchronize = on_open(function(s, reply, args)
  return s:synchronize(function(same)
    reply.before, reply.whose = same:get("counter"), same:get_subject()
    same:set("counter", tonumber(args.counter))
    return same:save()
  end, 1)
end)

acts.info = on_open(function(s, reply, args)
  reply.info = s.info:get("who")
  s.info:set("who", args.user .. "/" .. args.device)
  return s.info:save()
end)

local function leave(how)
  local ok, err, existed = how()
  return finish({ exists = existed }, ok, err)
end

function acts.sign_out()
  return leave(session.destroy)
end

function acts.log_out()
  return leave(session.logout)
end

function acts.everywhere(args)
  return finish({}, session.revoke_subject(args.user, 60))
end

acts.others = on_open(function(s)
  return s:revoke_others()
end)

function acts.list(args)
  local sessions, err = session.list(args.user)
  return finish({ count = sessions and #sessions }, sessions, err)
end

-- Stores a value, reads it, takes a lock, and deletes the value.
local function store(premature, value, reply, done)
  if premature then
    return
  end
  local storage, key = torture.storage, utils.encode_base64url(utils.sha256(value))
  local ok, err = storage:set("torture", key, value, 60)
  if ok then
    reply.value, err = storage:get("torture", key)
    reply.read = not err
  end
  if ok and not err then
    reply.held, err = storage:lock("torture", utils.encode_base64url(utils.sha256("lock" .. key)), value, 2)
  end
  if ok and not err then
    ok, err = storage:delete("torture", key)
  end
  finish(reply, ok and not err, err)
  done:post(1)
end

-- In a timer, which outlives its request. It shares no local variables with it: if a request is
-- aborted, ngx_lua uses the stack for another that a closure still refers to.
function acts.store(args)
  local reply, done = {}, semaphores.new(0)
  assert(ngx.timer.at(0, store, args.value, reply, done))
  -- In a light thread, since ngx_lua does not end a coroutine's wait when its request is aborted.
  local _, in_time = ngx.thread.wait(ngx.thread.spawn(function(semaphore) return semaphore:wait(15) end, done))
  return in_time and reply or { err = "raised: the timer is late" }
end

-- What a browser does at another site: visit.lua.
function acts.visit(args)
  return torture.visit(args)
end

local function act(args)
  local ok, reply = pcall(acts[args.act], args)
  return ok and reply or { err = "raised: " .. tostring(reply) }
end

local ways = {}

ways.plain = act

function ways.coroutine(args)
  return coroutine.wrap(function() return coroutine.wrap(act)(args) end)()
end

function ways.thread(args)
  local _, reply = ngx.thread.wait(ngx.thread.spawn(act, args))
  return reply
end

-- Two threads, of which one only reads, and a coroutine in the other.
function ways.both(args)
  local other = ngx.thread.spawn(function() return act({ act = "read" }) end)
  local _, reply = ngx.thread.wait(ngx.thread.spawn(ways.coroutine, args))
  local _, beside = ngx.thread.wait(other)
  reply.beside = beside.exists and beside.subject or nil
  return reply
end

local function answer(reply, number)
  reply.number, reply.pid, reply.version = number, ngx.worker.pid(), torture.version
  local text = cjson.encode(reply)
  ngx.header.content_length = #text
  ngx.print(text)
end

-- The native module that this worker runs, where there are two versions.
local path = package.searchpath("resty.session.native", package.cpath)
torture.version = path and path:find("/before/", 1, true) and "before" or "this"

-- /on/act and /off/act, and what /subrequest sends to them.
function torture.run()
  local args = ngx.req.get_uri_args()
  answer(ways[args.way](args), tonumber(args.number))
end

function torture.subrequest()
  local args = ngx.req.get_uri_args()
  local number = args.number
  args.way = "plain"
  local response = ngx.location.capture("/inner", { args = args })
  ngx.status = response.status
  ngx.header["Set-Cookie"] = response.header["Set-Cookie"]
  local ok, reply = pcall(cjson.decode, response.body)
  answer(ok and reply or { err = "raised: the subrequest's reply is cut: " .. response.status }, tonumber(number))
end

-- What is left in this worker.
function torture.counts()
  collectgarbage()
  collectgarbage()
  local counts = waiting.counts()
  counts.lua = collectgarbage("count")
  answer(counts)
end
