-- Another name of `resty.session.redis.sentinel`.
return require "resty.session.redis.sentinel"
