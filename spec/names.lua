-- What storages with the options `prefix` and `suffix` must do: `require("spec.names")(make)` in a
-- `describe`, where `make(options)` returns a new storage.

local utils = require "resty.session.utils"

return function(make)
  local spec = getfenv(2) -- busted gives its functions to spec files only
  local it, assert = spec.it, spec.assert

  it("keeps names and prefixes apart", function()
    local storage, other = make(), make({ prefix = "other", suffix = "s" })
    local name, key, now = "names", utils.encode_base64url(utils.rand_bytes(32)), ngx.time()
    assert(storage:set(name, key, "a", 60, now))
    assert(other:set(name, key, "b", 60, now))
    assert(storage:set(name .. "2", key, "c", 60, now))
    assert.equal("a", storage:get(name, key, now))
    assert.equal("b", other:get(name, key, now))
    assert.equal("c", storage:get(name .. "2", key, now))
  end)
end
