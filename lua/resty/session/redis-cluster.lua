-- Another name of `resty.session.redis.cluster`.
return require "resty.session.redis.cluster"
