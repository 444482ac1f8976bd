-- Options that protect sessions, and limits: all of it through the shim.

local session = require "resty.session"
local support = require "spec.support"

describe("protection", function()
  local browser

  support.fresh(function(fresh)
    browser = fresh
  end)

  -- The log's warnings that hold a text.
  local function warnings(text)
    local found = 0
    for _, line in ipairs(browser.log) do
      found = found + (table.concat(line, "", 2):find(text, 1, true) and 1 or 0)
    end
    return found
  end

  it("warns once of remember cookies that are like session cookies", function()
    session.new({ remember_safety = "Low", remember = true })
    assert.equal(0, warnings("remember_safety"))
    for i = 1, 3 do
      session.new({ remember_safety = "None", remember = true, cookie_name = "a" .. i })
      session.init({ secret = "spec", remember_safety = "none", cookie_name = "a" .. i })
    end
    assert.equal(1, warnings('remember_safety is "None"'))
  end)

  it("names what is wrong with its options", function()
    for problem, configuration in pairs {
      ["invalid max_data_size (number of bytes over 0 expected)"] = { max_data_size = 0 },
      ["invalid max_data_size (number that is not negative expected, got string)"] = { max_data_size = "1m" },
    } do
      for _, call in ipairs { session.init, session.new, session.destroy } do
        local ok, err = pcall(call, configuration)
        assert.is_false(ok, problem)
        assert.equal(problem, err)
      end
    end
  end)

  it("refuses data that are too large, and says which option to raise", function()
    for storage, limit in pairs { cookie = 1048576, shm = 4194304 } do
      local options = { storage = storage }
      local expected = ("session maximum data size exceeded (max_data_size is %d bytes)"):format(limit)
      local s = session.new(options)
      s:set("much", ("x"):rep(limit))
      assert.same({ nil, expected }, { s:save() })
      assert.same({}, browser:lines())
      s:set("much", ("x"):rep(limit - 100))
      assert.is_true(s:save())
      browser:next()
      assert.is_true((select(3, session.open(options))))
      options.max_data_size = 1000
      assert.same({ "session maximum data size exceeded (max_data_size is 1000 bytes)", false },
        { select(2, session.open(options)) })
      session.destroy(options)
      browser:next()
      assert.same({}, browser.cookies)
    end
    local s = session.new({ storage = "shm", max_data_size = 1000 })
    s.info:set("much", ("x"):rep(1000))
    assert.same({ nil, "session maximum info size exceeded (max_data_size is 1000 bytes)" }, { s:save() })
  end)
end)
