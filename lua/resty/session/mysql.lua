---
-- Sessions in MySQL or MariaDB.
--
-- @module resty.session.mysql
-- @license BSD-2-Clause

return require("resty.session.bridged").module "mysql"
