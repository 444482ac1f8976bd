---
-- Sessions in files of a directory, which may be a network share.
--
-- @module resty.session.file
-- @license BSD-2-Clause

local bridged = require "resty.session.bridged"

local file = {}

--- Makes the storage. The directory is not looked at before it is needed.
-- @tparam[opt] table configuration the options of `docs/storages.md`
-- @treturn table
-- @raise a string that names what is wrong with an option
function file.new(configuration)
  return bridged.new("file", configuration)
end

return file
