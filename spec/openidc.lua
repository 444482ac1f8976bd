-- A stand-in for lua-resty-openidc 1.8, as far as the recipes in docs/recipes.md call it. A token
-- is signed if its signature is the text "signed".

local session = require "resty.session"
local utils = require "resty.session.utils"

local openidc = {}

function openidc.get_discovery_doc(opts)
  if type(opts.discovery) == "string" then
    opts.discovery = { issuer = "https://id.example", token_endpoint = tonumber(ngx.var.server_port) }
  end
  return opts.discovery
end

-- Returns the claims of a token. Like the original's, it does not look at them, but at `exp`.
function openidc.jwt_verify(token, opts)
  local header, payload, signature = token:match("^([^.]+)%.([^.]+)%.([^.]*)$")
  local decoded = header and utils.decode_json(utils.decode_base64url(header))
  if not decoded then
    return nil, "invalid jwt"
  elseif decoded.alg ~= opts.token_signing_alg_values_expected[1] then
    return nil, "token is signed by unexpected algorithm"
  elseif signature ~= "signed" then
    return nil, "jwt signature verification failed"
  end
  local claims = utils.decode_json(utils.decode_base64url(payload))
  if type(claims.exp) == "number" and claims.exp + 120 < ngx.time() then
    return claims, "JWT expired"
  end
  return claims
end

-- The end of a sign-in at the provider.
function openidc.signed_in(opts, s, id_token, tokens)
  s:set("authenticated", true)
  s:set("id_token", id_token)
  s:set("access_token", tokens.access_token)
  s:set("refresh_token", tokens.refresh_token)
  s:set("access_token_expiration", ngx.time() + tokens.expires_in)
  local err = opts.lifecycle.on_authenticated(s, id_token, tokens)
  if err then
    return nil, err
  end
  return s:save()
end

local function call_token_endpoint(port, refresh_token)
  local socket = ngx.socket.tcp()
  assert(socket:connect("127.0.0.1", port))
  local query = ngx.encode_args({ grant_type = "refresh_token", refresh_token = refresh_token })
  assert(socket:send("GET /token?" .. query .. " HTTP/1.0\r\nHost: id.example\r\n\r\n"))
  local response = assert(socket:receive("*a"))
  socket:close()
  return response:find("^HTTP/1.%d 200") and utils.decode_json(response:match("\r\n\r\n(.*)$")) or nil
end

-- Returns the access token, refreshed if it has expired.
local function access_token(opts, s)
  if s:get("access_token_expiration") <= ngx.time() then
    local tokens = call_token_endpoint(openidc.get_discovery_doc(opts).token_endpoint, s:get("refresh_token"))
    if not tokens then
      return nil
    end
    s:set("access_token", tokens.access_token)
    s:set("refresh_token", tokens.refresh_token)
    s:set("access_token_expiration", ngx.time() + tokens.expires_in)
    local ok, err = s:save()
    if not ok then
      return nil, err
    end
  end
  return s:get("access_token")
end

function openidc.authenticate(opts, target_url, unauth_action, session_or_opts)
  local s = session_or_opts
  if not s or not s.save then
    s = session.start(session_or_opts)
  end
  local token = s:get("authenticated") and access_token(opts, s)
  if token then
    return { id_token = s:get("id_token"), access_token = token }, nil, target_url or ngx.var.request_uri, s
  elseif unauth_action == "deny" then
    return nil, "unauthorized request", target_url, s
  end
  return ngx.redirect("https://id.example/authorize")
end

return openidc
