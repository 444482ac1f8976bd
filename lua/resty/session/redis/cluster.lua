---
-- Sessions in a Redis Cluster: `resty.session.redis` with the option `nodes`.
--
-- @module resty.session.redis.cluster
-- @license BSD-2-Clause

return require("resty.session.bridged").module_with("redis", "nodes")
