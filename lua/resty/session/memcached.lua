---
-- Sessions in memcached.
--
-- @module resty.session.memcached
-- @license BSD-2-Clause

local bridged = require "resty.session.bridged"

local memcached = {}

--- Makes the storage. Nothing connects before it is needed.
-- @tparam[opt] table configuration the options of `docs/storages.md`
-- @treturn table
-- @raise a string that names what is wrong with an option
function memcached.new(configuration)
  return bridged.new("memcached", configuration)
end

return memcached
