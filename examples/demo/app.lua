-- A small web application: two shops of one site, Books and Music. They share a session, but each
-- signs in by itself. Plain HTML forms; every change is a POST that redirects to the page it came
-- from.

local devices = require "devices"
local session = require "resty.session"
local utils = require "resty.session.utils"

local SHOPS = { books = "Books", music = "Music" }
local BIG_VALUE_SIZE = 9000 -- random bytes: as base64url they take three cookies

local app = {}

-- Once, in the master.
function app.init()
  local storage, secret = os.getenv("STORAGE"), os.getenv("SECRET")
  storage = storage ~= "" and storage or "cookie"
  session.init({
    -- A real site gives all its servers one secret. Without one, the key is random, and sessions
    -- end when nginx does.
    secret = secret ~= "" and secret or nil,
    storage = storage,
    -- Where it is noted which devices were signed out. It is asked for each request, so that they
    -- are out at their next one.
    revocation = storage == "cookie" and "shm" or storage,
    revocation_cache_ttl = 0,
    redis = { port = tonumber(os.getenv("REDIS_PORT")), prefix = "demo" },
    file = { path = os.getenv("FILES") },
    memcached = { port = tonumber(os.getenv("MEMCACHED_PORT")), prefix = "demo" },
    audience = "books",
    store_metadata = true,
  })
end

local function escape(text)
  local entities = { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ['"'] = "&quot;", ["'"] = "&#39;" }
  return (tostring(text):gsub("[&<>\"']", entities))
end

-- Fills `{name}` in a template; values are escaped unless their name starts with `html_`.
local function fill(template, values)
  return (template:gsub("{([%w_]+)}", function(name)
    local value = values[name]
    if value == nil then
      return ""
    end
    return name:find("^html_") and value or escape(value)
  end))
end

local PAGE = [[
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}: resty.session demo</title>
<style>
  body { font: 16px/1.5 system-ui, sans-serif; max-width: 44rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
  nav a { margin-right: 1rem; } nav a[aria-current] { font-weight: bold; }
  table { border-collapse: collapse; width: 100%; }
  th, td { text-align: left; padding: .25rem .5rem; border-bottom: 1px solid #ddd; }
  th { width: 12rem; font-weight: normal; color: #555; }
  td { font-family: ui-monospace, monospace; overflow-wrap: anywhere; }
  form { margin: .5rem 0; } form.inline { display: inline-block; margin-right: .5rem; }
  input, button { font: inherit; padding: .25rem .6rem; } .problem { color: #a00; }
</style>
</head>
<body>
<nav>{html_nav}</nav>
<h1>{title}</h1>
{html_problem}
{html_body}
<script>
  // Timeouts count down; what is left was measured by the server.
  const cells = [...document.querySelectorAll("[data-seconds]")].map(cell => [cell, Number(cell.dataset.seconds)]);
  const loaded = Date.now();
  const show = () => {
    for (const [cell, seconds] of cells) {
      const left = Math.max(0, seconds - Math.floor((Date.now() - loaded) / 1000));
      const parts = [left / 3600, left / 60 % 60, left % 60];
      cell.textContent = parts.map(part => String(Math.floor(part)).padStart(2, "0")).join(":");
    }
  };
  show();
  setInterval(show, 250);
</script>
</body>
</html>
]]

local SIGN_IN = [[
<p>You are not signed in here. <small>({reason})</small></p>
<form method="post" action="/{shop}/sign-in">
  <p><label>Name <input name="name" required autofocus autocomplete="username"></label></p>
  <p><label><input type="checkbox" name="remember" value="yes"> Remember me</label></p>
  <button id="sign-in">Sign in</button>
</form>
]]

local SIGNED_IN = [[
<p>You are <strong id="who">{subject}</strong>.</p>
<table>
  <tr><th>Session id</th><td id="id">{id}</td></tr>
  <tr><th>Audience</th><td id="audience">{audience}</td></tr>
  <tr><th>Nearest timeout</th><td id="timeout" data-seconds="{timeout}"></td></tr>
  <tr><th>Idling timeout</th><td id="idling" data-seconds="{idling}"></td></tr>
  <tr><th>Rolling timeout</th><td id="rolling" data-seconds="{rolling}"></td></tr>
  <tr><th>Absolute timeout</th><td id="absolute" data-seconds="{absolute}"></td></tr>
  <tr><th>Remember me</th><td id="remember">{remember}</td></tr>
  <tr><th>Stored in</th><td id="storage">{storage}</td></tr>
  <tr><th>Cookies in this request</th><td id="cookies">{cookies}</td></tr>
</table>
<h2>Your data</h2>
<table id="data">{html_data}</table>
<form method="post" action="/{shop}/set">
  <input name="key" placeholder="name" aria-label="name" required>
  <input name="value" placeholder="value (empty removes)" aria-label="value">
  <button id="set">Change</button>
</form>
<form class="inline" method="post" action="/{shop}/big"><button id="big">Store a big value</button></form>
<h2>Your devices</h2>
<table id="devices">{html_devices}</table>
<form method="post" action="/{shop}/sign-out-others">
  <button id="sign-out-others">Sign out all others</button>
</form>
<h2>Leave</h2>
<form class="inline" method="post" action="/{shop}/sign-out"><button id="sign-out">Sign out here</button></form>
<form class="inline" method="post" action="/{shop}/destroy">
  <button id="destroy">Sign out everywhere in this browser</button>
</form>
]]

-- Sessions come back from a remember cookie; whether one is made is the user's choice when signing
-- in.
local function options(shop)
  return { audience = shop, remember = true }
end

local function nav(current)
  local links = {}
  for _, shop in ipairs { "books", "music" } do
    local mark = shop == current and ' aria-current="page"' or ""
    links[#links + 1] = ('<a href="/%s"%s>%s</a>'):format(shop, mark, SHOPS[shop])
  end
  return table.concat(links)
end

local function render(shop, body, problem)
  ngx.header["Content-Type"] = "text/html; charset=utf-8"
  ngx.header["Cache-Control"] = "no-store"
  ngx.print(fill(PAGE, {
    title = SHOPS[shop],
    html_nav = nav(shop),
    html_problem = problem and '<p class="problem">' .. escape(problem) .. "</p>",
    html_body = body,
  }))
end

local function data_rows(s)
  local keys = {}
  for key in pairs(s:get_data()) do
    keys[#keys + 1] = key
  end
  table.sort(keys)
  local rows = {}
  for i, key in ipairs(keys) do
    local value = tostring(s:get(key))
    if #value > 60 then
      value = value:sub(1, 40) .. "… (" .. #value .. " characters)"
    end
    rows[i] = "<tr><th>" .. escape(key) .. "</th><td>" .. escape(value) .. "</td></tr>"
  end
  return table.concat(rows)
end

local DEVICE = [[
<tr><th>{browser}</th><td>since {since}</td><td>
  <form class="inline" method="post" action="/{shop}/sign-out-device">
    <input type="hidden" name="device" value="{name}"><button aria-label="Sign out {browser}">Sign out</button>
  </form>
</td></tr>
]]

local THIS_DEVICE = [[
<tr><th>{browser}</th><td>since {since}</td><td>this one</td></tr>
]]

local function device_rows(shop, s)
  local rows = {}
  for i, device in ipairs(devices.list(s, options(shop))) do
    device.shop = shop
    rows[i] = fill(device.current and THIS_DEVICE or DEVICE, device)
  end
  return table.concat(rows)
end

local function request_cookies()
  local found = {}
  for pair in (ngx.var.http_cookie or ""):gmatch("[^; ]+") do
    local name, value = pair:match("^(.-)=(.*)$")
    found[#found + 1] = ("%s (%d bytes)"):format(name or pair, #(value or ""))
  end
  return table.concat(found, ", ")
end

local function show(shop)
  local s, err, exists = session.start(options(shop))
  if not exists then
    return render(shop, fill(SIGN_IN, { shop = shop, reason = err }))
  end
  devices.note(s) -- it may have a new id
  render(shop, fill(SIGNED_IN, {
    shop = shop,
    subject = s:get_subject(),
    id = s:get_property("id"),
    audience = s:get_audience(),
    timeout = s:get_property("timeout"),
    idling = s:get_property("idling-timeout"),
    rolling = s:get_property("rolling-timeout"),
    absolute = s:get_property("absolute-timeout"),
    remember = s:get_remember() and "yes" or "no",
    storage = os.getenv("STORAGE") or "cookie",
    cookies = request_cookies(),
    html_data = data_rows(s),
    html_devices = device_rows(shop, s),
  }), err)
end

-- Returns a field of a form, or empty text, because a form may hold anything.
local function field(form, name)
  return type(form[name]) == "string" and form[name] or ""
end

-- What a POST does, by the last part of its path. Each function returns true, or nil and an error.
local ACTIONS = {}

ACTIONS["sign-in"] = function(shop, form)
  local name = utils.trim(field(form, "name"))
  if name == "" then
    return nil, "Please give a name."
  end
  local s = session.open(options(shop))
  if s:get_subject() ~= name then
    s:set_data({}) -- the data of another user
  end
  devices.begin(s)
  s:set_subject(name)
  -- Both shops share the remember cookie: a choice that the user made in the other shop stays.
  s:set_remember(form.remember == "yes" or ngx.var.cookie_remember ~= nil)
  return s:save()
end

-- Calls `act` with the shop's session, and returns what it returns; nil and an error without a
-- session.
local function with_session(shop, act)
  local s, err, exists = session.start(options(shop))
  if not exists then
    return nil, err
  end
  return act(s)
end

function ACTIONS.set(shop, form)
  return with_session(shop, function(s)
    local value = field(form, "value")
    s:set(field(form, "key"), value ~= "" and value or nil)
    return s:save()
  end)
end

function ACTIONS.big(shop)
  return with_session(shop, function(s)
    s:set("big value", utils.encode_base64url(utils.rand_bytes(BIG_VALUE_SIZE)))
    return s:save()
  end)
end

ACTIONS["sign-out"] = function(shop)
  local s, _, exists = session.open(options(shop))
  if not exists then
    return session.logout(options(shop)) -- clears what does not open
  end
  devices.forget(s, shop)
  return s:logout()
end

function ACTIONS.destroy(shop)
  local s, _, exists = session.open(options(shop))
  if not exists then
    return session.destroy(options(shop))
  end
  devices.forget(s)
  return s:destroy()
end

ACTIONS["sign-out-device"] = function(shop, form)
  return with_session(shop, function(s)
    return devices.sign_out(s, field(form, "device"), options(shop))
  end)
end

ACTIONS["sign-out-others"] = function(shop)
  return with_session(shop, function(s)
    return devices.sign_out_others(s, options(shop))
  end)
end

-- Responds to `/{shop}` and `/{shop}/{action}`.
function app.respond()
  local shop, action = ngx.var.uri:match("^/([^/]+)/?([^/]*)$")
  if not SHOPS[shop] then
    return ngx.redirect("/books", 303)
  end
  if ngx.req.get_method() ~= "POST" then
    return show(shop)
  end
  ngx.req.read_body()
  local form = ngx.req.get_post_args() or {}
  local act = ACTIONS[action]
  if not act then
    return ngx.exit(404)
  end
  local ok, err = act(shop, form)
  if not ok then
    ngx.status = 400
    return render(shop, fill('<p><a href="/{shop}">Back</a></p>', { shop = shop }), err)
  end
  return ngx.redirect("/" .. shop, 303)
end

return app
