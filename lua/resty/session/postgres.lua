---
-- Sessions in Postgres.
--
-- @module resty.session.postgres
-- @license BSD-2-Clause

return require("resty.session.bridged").module "postgres"
