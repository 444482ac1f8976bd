---
-- Sessions in Redis: in one server; with `sentinels`, in the server that Sentinels name; with
-- `nodes`, in a Cluster.
--
-- @module resty.session.redis
-- @license BSD-2-Clause

return require("resty.session.bridged").module "redis"
