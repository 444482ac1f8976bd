---
-- Sessions in the Redis server that Sentinels name: `resty.session.redis` with the option
-- `sentinels`.
--
-- @module resty.session.redis.sentinel
-- @license BSD-2-Clause

return require("resty.session.bridged").module_with("redis", "sentinels")
