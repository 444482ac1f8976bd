---
-- Sessions in MySQL or MariaDB.
--
-- @module resty.session.mysql
-- @license BSD-2-Clause

local bridged = require "resty.session.bridged"

local mysql = {}

--- Makes the storage. Nothing connects before it is needed.
-- @tparam[opt] table configuration the options of `docs/storages.md`
-- @treturn table
-- @raise a string that names what is wrong with an option
function mysql.new(configuration)
  return bridged.new("mysql", configuration)
end

return mysql
