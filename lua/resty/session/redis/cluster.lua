---
-- Sessions in a Redis Cluster.
--
-- @module resty.session.redis.cluster
-- @license BSD-2-Clause

local options = require "resty.session.options"
local redis = require "resty.session.redis"

local cluster = {}

--- Makes the storage.
-- @tparam table configuration `nodes`, and the other options of `resty.session.redis`
-- @treturn table
-- @raise a string that names what is wrong with an option
function cluster.new(configuration)
  if type(configuration) ~= "table" or not options.present(configuration.nodes) then
    error("invalid redis nodes (it is missing)", 0)
  end
  return redis.new(configuration)
end

return cluster
