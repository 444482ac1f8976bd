-- What the requests of a long run do.

local session = require "resty.session"

local options = {
  cookie = { storage = "cookie", cookie_name = "light", touch_threshold = 0 },
  redis = { storage = "redis", cookie_name = "heavy", touch_threshold = 0, redis = { port = redis_port } },
}

session.init({ secret = "the secret of the long run, which nobody can guess", store_metadata = false })

-- As much as programs keep: the data of a sign-in, and what the user did last.
local ROLES = { "admin", "editor", "author" }

local function fill(s, args)
  s:set_subject(args.name)
  s:set("name", args.name)
  s:set("written", args.written)
  s:set("roles", ROLES)
  s:set("token", ngx.md5(args.written))
end

local function say(s)
  return s:get("name") .. " " .. s:get("written")
end

local acts = {}

function acts.sign_in(args, own)
  local s = session.new(own)
  fill(s, args)
  assert(s:save())
  return say(s)
end

function acts.open(_, own)
  local s, err, exists = session.open(own)
  return exists and say(s) or err
end

function acts.refresh(_, own)
  local s, err, exists, refreshed = session.start(own)
  return exists and refreshed and say(s) or err
end

function acts.save(args, own)
  local s, err, exists = session.open(own)
  if not exists then
    return err
  end
  fill(s, args)
  assert(s:save())
  return say(s)
end

function acts.destroy(_, own)
  local ok, err = session.destroy(own)
  return ok and "ended" or err
end

local function answer(text)
  ngx.header["Content-Length"] = #text
  ngx.print(text)
end

long = {}

function long.act()
  local args = ngx.req.get_uri_args()
  for name, run in pairs(acts) do
    if args[name] then
      return answer(run(args, options[args.storage]))
    end
  end
end

function long.collect()
  collectgarbage()
  collectgarbage()
  answer(tostring(ngx.worker.pid()))
end
