---
-- Sessions in ngx-distributed-shm, a memory that several servers share.
--
-- @module resty.session.dshm
-- @license BSD-2-Clause

local bridged = require "resty.session.bridged"

local dshm = {}

--- Makes the storage. Nothing connects before it is needed.
-- @tparam[opt] table configuration the options of `docs/storages.md`
-- @treturn table
-- @raise a string that names what is wrong with an option
function dshm.new(configuration)
  return bridged.new("dshm", configuration)
end

return dshm
