---
-- Sessions in Redis: one server, or with `sentinels` the one that Sentinels name, or with `nodes` a Cluster.
--
-- @module resty.session.redis
-- @license BSD-2-Clause

local bridged = require "resty.session.bridged"

local redis = {}

--- Makes the storage. Nothing connects before it is needed.
-- @tparam[opt] table configuration the options of `docs/storages.md`
-- @treturn table
-- @raise a string that names what is wrong with an option
function redis.new(configuration)
  return bridged.new("redis", configuration)
end

return redis
