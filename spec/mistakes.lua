-- A storage's errors for options that are not valid: `require("spec.mistakes")(storage, problems)`
-- in a `describe`, where `problems` holds the storage's options by the errors that they cause.

local session = require "resty.session"

return function(storage, problems)
  local spec = getfenv(2) -- busted gives its functions to spec files only
  local assert = spec.assert

  spec.it("names what is wrong with an option", function()
    for problem, options in pairs(problems) do
      local ok, err = pcall(session.new, { storage = storage, [storage] = options })
      assert.is_false(ok)
      assert.equal(problem, err)
    end
  end)
end
