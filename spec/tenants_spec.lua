local session = require "resty.session"
local support = require "spec.support"

describe("tenants", function()
  support.fresh(function() end)

  it("finds the profiles of many tenants again", function()
    local function profiles_of(count, options)
      local found = {}
      for number = 1, count do
        local configuration = options(number)
        found[number] = session.new(configuration).profile
      end
      return found
    end
    local kinds = {
      function(number) return { secret = "secret", cookie_name = "tenant-" .. number } end,
      function(number) return { secret = "a secret of tenant " .. number } end,
      function(number) return { ikm = ("%032d"):format(number) } end,
      function(number) return { secret = "secret", storage = "shm", shm = { prefix = "tenant-" .. number } } end,
      function(number) return { secret = "secret", storage = "mariadb", mysql = { database = "t" .. number } } end,
      function(number) return setmetatable({ audience = number }, { __index = { secret = "secret" } }) end,
    }
    local before = {}
    for kind, options in ipairs(kinds) do
      before[kind] = profiles_of(100, options)
    end
    for kind, options in ipairs(kinds) do
      for number, profile in ipairs(profiles_of(100, options)) do
        assert.equal(before[kind][number], profile)
        for other = 1, number - 1 do
          assert.not_equal(before[kind][other], profile)
        end
      end
    end
    -- Options that no key tells apart are compared all the same.
    local function similar(number)
      return { secret = "secret", cookie_name = "similar", rolling_timeout = number }
    end
    for number, profile in ipairs(profiles_of(16, similar)) do
      assert.equal(profile, session.new(similar(number)).profile)
    end
    for number, profile in ipairs(profiles_of(40, similar)) do
      assert.equal(number, profile.configuration.rolling_timeout)
    end
    -- The defaults belong to a profile.
    local profile = session.new(kinds[1](1)).profile
    session.init({ secret = "other" })
    assert.not_equal(profile, session.new(kinds[1](1)).profile)
  end)

  it("keeps the profiles of tenants beside many that no key tells apart", function()
    local profile = session.new({ secret = "secret", cookie_name = "quiet" }).profile
    for number = 1, 4100 do
      session.new({ secret = "secret", cookie_path = "/" .. number })
    end
    assert.equal(profile, session.new({ secret = "secret", cookie_name = "quiet" }).profile)
  end)

  it("forgets the profiles that nobody uses", function()
    local gone = setmetatable({}, { __mode = "v" })
    for number = 1, 4100 do
      local profile = session.new({ secret = "secret", cookie_name = "gone-" .. number }).profile
      if number <= 50 then
        gone[number] = profile
      end
    end
    collectgarbage()
    collectgarbage()
    assert.is_nil(next(gone))
  end)
end)
