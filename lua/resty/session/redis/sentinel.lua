---
-- Sessions in the Redis server that Sentinels name.
--
-- @module resty.session.redis.sentinel
-- @license BSD-2-Clause

local options = require "resty.session.options"
local redis = require "resty.session.redis"

local sentinel = {}

--- Makes the storage.
-- @tparam table configuration `sentinels`, and the other options of `resty.session.redis`
-- @treturn table
-- @raise a string that names what is wrong with an option
function sentinel.new(configuration)
  if type(configuration) ~= "table" or not options.present(configuration.sentinels) then
    error("invalid redis sentinels (it is missing)", 0)
  end
  return redis.new(configuration)
end

return sentinel
