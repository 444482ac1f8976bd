-- All names of a storage must work: `require("spec.found")(all)` in a `describe`, where `all` holds
-- a session's options for each name.

local session = require "resty.session"
local support = require "spec.support"

return function(all)
  local spec = getfenv(2) -- busted gives its functions to spec files only
  local assert = spec.assert

  spec.describe("in sessions", function()
    local browser

    support.fresh(function(fresh)
      browser = fresh
    end, spec)

    spec.it("work under every name of the storage", function()
      for _, each in ipairs(all) do
        local options = support.with(each, { store_metadata = true })
        local s = session.new(options)
        s:set_subject("ada")
        s:set("name", "Ada")
        assert(s:save())
        browser:next()
        local opened, err, exists = session.open(options)
        assert.is_nil(err)
        assert.is_true(exists)
        assert.equal("Ada", opened:get("name"))
        assert.same({ true, nil, true, true }, { session.destroy(options) })
      end
    end)
  end)
end
