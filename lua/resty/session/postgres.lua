---
-- Sessions in Postgres.
--
-- @module resty.session.postgres
-- @license BSD-2-Clause

local bridged = require "resty.session.bridged"

local postgres = {}

--- Makes the storage. Nothing connects before it is needed.
-- @tparam[opt] table configuration the options of `docs/storages.md`
-- @treturn table
-- @raise a string that names what is wrong with an option
function postgres.new(configuration)
  return bridged.new("postgres", configuration)
end

return postgres
