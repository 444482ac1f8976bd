-- What the requests of a visit do: sessions with audiences, long data, info and a remember cookie.

local finish = torture.finish

local visits = {}

-- Data of that number: another length than the one before, and hard to compress, so that cookies
-- have several chunks.
local function data_of(number)
  local parts = {}
  for at = 1, ({ 0, 1, 10, 140, 430 })[number % 5 + 1] do
    parts[at] = ngx.encode_base64(ngx.sha1_bin(number .. ":" .. at))
  end
  return table.concat(parts)
end

local function fill(s, args)
  local number = tonumber(args.counter)
  s:set_subject(args.subject)
  s:set("number", number)
  s:set("data", data_of(number))
end

local function opened(s, exists, err)
  local number = exists and s:get("number")
  return {
    exists = exists or false, err = err, number = number, subject = exists and s:get_subject(),
    whole = exists and s:get("data") == data_of(number), info = exists and s.info:get("number") or nil,
  }
end

local function open(options)
  local s, err, exists = session.open(options)
  return s, opened(s, exists, err)
end

local function on_open(run)
  return torture.on_open(open, run)
end

visits.read = on_open(function() return true end)

function visits.sign_in(args, options)
  local s = session.new(options)
  fill(s, args)
  return finish({}, s:save())
end

-- Signs in to another audience of the session.
function visits.join(args, options)
  local s = session.open(options)
  fill(s, args)
  return finish({}, s:save())
end

visits.write = on_open(function(s, _, args)
  fill(s, args)
  return s:save()
end)

visits.turn = on_open(function(s, _, args)
  return s:synchronize(function(same)
    fill(same, args)
    return same:save()
  end, 5)
end)

visits.count = on_open(function(s, reply)
  return s:synchronize(function(same)
    reply.counted = same:get("number") + 1
    same:set("number", reply.counted)
    same:set("data", data_of(reply.counted))
    return same:save()
  end, 10)
end)

visits.info = on_open(function(s, _, args)
  s.info:set("number", tonumber(args.counter))
  return s.info:save()
end)

visits.forget = on_open(function(s)
  s:set_remember(false)
  return s:save()
end)

function visits.touch(_, options)
  options.touch_threshold = 0
  local s, err, exists, refreshed = session.start(options)
  return finish(opened(s, exists, err), refreshed, err)
end

function visits.log_out(_, options)
  return finish({}, session.logout(options))
end

function visits.sign_out(_, options)
  return finish({}, session.destroy(options))
end

function visits.everywhere(args, options)
  return finish({}, session.revoke_subject(args.subject, 3600, options))
end

function visits.list(args, options)
  local list, err = session.list(args.subject, options)
  local reply = finish({}, list, err)
  for _, one in ipairs(list or {}) do
    reply.listed = reply.listed or one.current
  end
  return reply
end

function torture.visit(args)
  local options = {
    cookie_name = "visit", remember_cookie_name = "visitor", remember = true, remember_safety = "Low",
    audience = args.audience, revocation_cache_ttl = 0, rolling_timeout = 3600, stale_ttl = 30,
    idling_timeout = tonumber(args.idling) or 900,
  }
  if args.option then
    options[args.option] = args.setting or true
  end
  return { visit = visits[args.what](args, options) }
end
