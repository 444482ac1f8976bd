---
-- Sessions in files of a directory, which may be on a network share.
--
-- @module resty.session.file
-- @license BSD-2-Clause

return require("resty.session.bridged").module "file"
