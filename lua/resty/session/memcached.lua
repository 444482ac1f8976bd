---
-- Sessions in memcached.
--
-- @module resty.session.memcached
-- @license BSD-2-Clause

return require("resty.session.bridged").module "memcached"
