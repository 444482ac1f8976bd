-- What only shared memory must do: long lists, a full zone, and lists that lua-resty-session wrote.

local shm = require "resty.session.shm"
local support = require "spec.support"
local utils = require "resty.session.utils"

local NAME = "shm"
local dict = ngx.shared.sessions
local real_log, real_now = ngx.log, ngx.now

local key = support.key

local function owner(subject)
  return { audiences = { "YQ" }, subjects = { subject } }
end

local function list_of(subject)
  return NAME .. ":YQ:" .. subject
end

describe("shared memory", function()
  -- Readers of a list take turns that end after a while, so that a tool that slows nginx down makes
  -- them overlap.
  local timed = (tonumber(ngx.var.arg_slowness) or 1) == 1 and it or function() end
  local storage, log

  before_each(function()
    dict:flush_all()
    dict:flush_expired()
    storage = shm.new()
    log = {}
    ngx.log = function(...) log[#log + 1] = table.concat({ select(2, ...) }) end -- luacheck: ignore
  end)

  after_each(function()
    ngx.log = real_log -- luacheck: ignore
    dict:flush_all()
    dict:flush_expired()
  end)

  -- Saves a session, which may replace another. Returns its key.
  local function save(subject, old_key, value, stale_ttl)
    local k = key()
    local metadata = owner(subject)
    assert.same({ true }, { storage:set(NAME, k, value or "v", 60, ngx.time(), old_key, stale_ttl or 10, metadata) })
    return k
  end

  local function sessions(subject)
    return storage:read_metadata(NAME, "YQ", subject, ngx.time())
  end

  -- Counts the calls of the dictionary's methods that a function makes.
  local function calls_of(act)
    local count = 0
    storage.dict = setmetatable({}, { __index = function(_, method)
      return function(_, ...)
        count = count + 1
        return dict[method](dict, ...)
      end
    end })
    act()
    storage.dict = dict
    return count
  end

  it("takes no longer to write if a subject has thousands of sessions", function()
    local few, many = save("few"), {}
    for _ = 1, 10 do
      few = save("few", few)
    end
    for i = 1, 2000 do
      many[i] = save("many")
    end
    local bound = 60
    for i = 1, 50 do
      assert.is_true(calls_of(function() few = save("few", few) end) <= bound)
      assert.is_true(calls_of(function() many[i] = save("many", many[i]) end) <= bound)
    end
    for i = 51, 60 do
      assert.is_true(calls_of(function() assert(storage:delete(NAME, many[i], ngx.time(), owner("many"))) end) <= bound)
      many[i] = nil
    end
    local expected, listed = 0, sessions("many")
    for _, k in pairs(many) do
      expected = expected + 1
      assert.is_number(listed[k])
    end
    assert.equal(1990, expected)
    local count = 0
    for _ in pairs(listed) do
      count = count + 1
    end
    assert.equal(expected, count)
  end)

  it("keeps lists short, with exactly the live sessions, whatever happens", function()
    math.randomseed(7)
    local live, order, saves = {}, {}, 0
    for _ = 1, 3000 do
      local at = math.random(40)
      local former = order[at]
      if former and math.random(4) == 1 then
        assert(storage:delete(NAME, former, ngx.time(), owner("ada")))
        live[former], order[at] = nil, nil
      else
        -- Some stale_ttl are longer than the record's own life. Even so, a replaced record is not
        -- listed.
        order[at] = save("ada", former, nil, math.random(3) == 1 and 100 or 10)
        saves = saves + 1
        live[order[at]] = true
        if former then
          live[former] = nil
        end
      end
      assert.is_true((dict:llen(list_of("ada")) or 0) <= 130)
      if math.random(50) == 1 then
        local listed = {}
        for k in pairs(sessions("ada")) do
          listed[k] = true
        end
        assert.same(live, listed)
      end
    end
    assert.is_true(saves > 2000)
  end)

  it("deletes a list with its last session", function()
    local k = save("ada")
    assert.is_near(60, dict:ttl(list_of("ada")), 2)
    assert(storage:delete(NAME, k, ngx.time(), owner("ada")))
    assert.equal(0, dict:llen(list_of("ada")))
    assert(storage:delete(NAME, k, ngx.time(), owner("ada")))
    assert.equal(0, dict:llen(list_of("ada")))
  end)

  it("takes every session with metadata in a full zone, and lists nearly all that are there", function()
    for _, size in ipairs { 300, 1500 } do
      for _, subjects in ipairs { 1, 10, 1000 } do
        local current, value = {}, ("x"):rep(size)
        for i = 1, 3000 do
          local user = i % 1500
          local former = current[user]
          local subject = "s" .. user % subjects
          current[user] = { save(subject, former and former[1], value), subject }
        end
        local there, unlisted, listed = 0, 0, {}
        for _, one in pairs(current) do
          if dict:ttl(NAME .. ":" .. one[1]) then
            there = there + 1
            listed[one[2]] = listed[one[2]] or sessions(one[2])
            unlisted = unlisted + (listed[one[2]][one[1]] and 0 or 1)
          end
        end
        -- A list is an entry like any other: it may be dropped before the sessions in it.
        assert.is_true(there > 200 and unlisted <= there / 50, there .. " are there, " .. unlisted .. " unlisted")
        dict:flush_all()
        dict:flush_expired()
      end
    end
    assert.equal(1, #log)
    assert.matches("lua_shared_dict sessions: the zone is full%.", log[1])
    assert.matches("longest: 1, sessions that could not be listed: 0$", log[1])
  end)

  it("saves a session that it can't list, and says so", function()
    local offset = 5000
    ngx.now = function() return real_now() + offset end -- luacheck: ignore
    storage.dict = setmetatable({ rpush = function() return nil, "no memory" end }, { __index = function(_, method)
      return function(_, ...) return dict[method](dict, ...) end
    end })
    local k = save("ada")
    ngx.now = real_now -- luacheck: ignore
    storage.dict = dict
    assert.equal("v", storage:get(NAME, k))
    assert.same({}, sessions("ada"))
    assert.matches("sessions that could not be listed: [1-9]%d*$", log[1])
  end)

  it("warns again after a while, with a count", function()
    local offset = 10000
    ngx.now = function() return real_now() + offset end -- luacheck: ignore
    local full = ("x"):rep(1500)
    for _ = 1, 1000 do
      save("ada", nil, full)
    end
    assert.equal(1, #log)
    offset = 10061
    save("ada", nil, full)
    save("ada", nil, full)
    ngx.now = real_now -- luacheck: ignore
    assert.equal(2, #log)
    assert.is_true(tonumber(log[2]:match("longest: (%d+)")) > 100)
  end)

  it("reads what lua-resty-session wrote, and writes what it reads", function()
    local now = ngx.time()
    local a, b, c, gone = key(), key(), key(), key()
    for _, k in ipairs { a, b, c } do
      dict:set(NAME .. ":" .. k, "v", 60)
    end
    local later = now + 60
    for _, item in ipairs { { gone, now - 1 }, { a, later }, { b, later }, { a, now + 70 }, { b }, { c, later } } do
      dict:rpush(list_of("ada"), utils.meta_get_value(item[1], item[2]))
    end
    assert.same({ [a] = now + 70, [c] = now + 60 }, sessions("ada"))
    local d = save("ada", c)
    local items = {}
    for i = 1, dict:llen(list_of("ada")) do
      items[i] = dict:lpop(list_of("ada"))
    end
    assert.same({ [a] = now + 70, [d] = now + 60 }, utils.meta_get_latest(table.concat(items), now))
  end)

  it("reads the time of every item as it was written", function()
    local expected, now = {}, ngx.time()
    for i = 0, 39 do
      for _, expiry in ipairs { 2 ^ i, 2 ^ i - 1, 2 ^ 40 - 1 - 2 ^ i, now + 2 ^ i } do
        local k = key()
        dict:set(NAME .. ":" .. k, "v", 60)
        dict:rpush(list_of("ada"), utils.meta_get_value(k, expiry))
        expected[k] = expiry > now and expiry < 2 ^ 40 and expiry or nil
      end
    end
    assert.same(expected, sessions("ada"))
  end)

  -- Returns the keys of sessions, sorted.
  local function keys_of(listed)
    local keys = {}
    for k in pairs(listed) do
      keys[#keys + 1] = k
    end
    table.sort(keys)
    return keys
  end

  it("lists no session whose record is gone, and forgets it, in short lists and in long ones", function()
    for _, count in ipairs { 3, 20, 350 } do
      local expected, subject = {}, "s" .. count
      for i = 1, count do
        local k = save(subject)
        if i % 2 == 0 then
          assert(storage:delete(NAME, k, ngx.time()))
        else
          expected[k] = true
        end
      end
      assert.same(keys_of(expected), keys_of(sessions(subject)))
      assert.equal(#keys_of(expected), dict:llen(list_of(subject)))
    end
  end)

  it("keeps one item, and the session, if one key is stored again and again", function()
    local k, now = key(), ngx.time()
    for i = 1, 50 do
      assert(storage:set(NAME, k, "v", 60 + i, now, nil, nil, owner("ada")))
      assert.is_true(dict:llen(list_of("ada")) <= 8)
    end
    assert.same({ [k] = now + 110 }, sessions("ada"))
    assert.equal(1, dict:llen(list_of("ada")))
    dict:rpush(list_of("ada"), utils.meta_get_value(k, now - 1)) -- as if it had been moved behind the other
    assert.same({ [k] = now + 110 }, sessions("ada"))
    assert.is_near(110, dict:ttl(list_of("ada")), 2)
  end)

  timed("reads a list at once where it can't wait for another reader, who misses nothing", function()
    local expected = {}
    for _ = 1, 350 do
      expected[save("many")] = true
    end
    expected = keys_of(expected)
    local start, in_thread, in_callback = real_now(), nil, nil
    local thread = ngx.thread.spawn(function() in_thread = sessions("many") end)
    assert.is_nil(in_thread)
    local _ = ("x"):gsub("x", function() in_callback = sessions("many") end)
    assert.is_nil(in_thread)
    ngx.update_time()
    assert.is_true(real_now() - start < 1)
    assert(ngx.thread.wait(thread))
    assert.same(expected, keys_of(in_callback))
    assert.same(expected, keys_of(in_thread))
  end)

  timed("lists what stays while others are saved and deleted between the slices", function()
    local staying, passing = {}, {}
    for i = 1, 450 do
      local k = save("many")
      if i % 3 == 0 then
        passing[#passing + 1] = k
      else
        staying[k] = true
      end
    end
    local listed, second
    local first = ngx.thread.spawn(function() listed = sessions("many") end)
    local other = ngx.thread.spawn(function() second = sessions("many") end)
    for i, k in ipairs(passing) do
      if i % 2 == 0 then
        passing[i] = save("many", k)
      else
        assert(storage:delete(NAME, k, ngx.time(), owner("many")))
      end
      if i % 30 == 0 then
        ngx.sleep(0.001)
      end
    end
    assert(ngx.thread.wait(first))
    assert(ngx.thread.wait(other))
    for k in pairs(staying) do
      assert.is_number(listed[k])
      assert.is_number(second[k])
    end
    for i, k in ipairs(passing) do
      staying[k] = i % 2 == 0 or nil
    end
    assert.same(keys_of(staying), keys_of(sessions("many")))
  end)

  it("does not shorten a list's life", function()
    dict:rpush(list_of("ever"), utils.meta_get_value(key(), ngx.time() + 1000))
    save("ever")
    assert.equal(0, dict:ttl(list_of("ever")))
    dict:rpush(list_of("longer"), utils.meta_get_value(key(), ngx.time() + 1000))
    dict:expire(list_of("longer"), 1000)
    save("longer")
    assert.is_near(1000, dict:ttl(list_of("longer")), 2)
  end)

  it("ignores items that are not valid", function()
    for _, item in ipairs { "", ";", ":", "x", key() .. ":AAAA;", key() .. ":!!!!!!!;", ("y"):rep(500) } do
      dict:rpush(list_of("ada"), item)
    end
    local k = save("ada")
    for _ = 1, 5 do
      k = save("ada", k)
    end
    assert.same({ [k] = ngx.time() + 60 }, sessions("ada"))
  end)

  it("keeps a replaced record marked as replaced when it is updated", function()
    local old = save("ada")
    local new = save("ada", old)
    assert.same({ true }, { storage:__update(NAME, old, "w", 60, ngx.time()) })
    for _ = 1, 10 do
      save("ada")
    end
    local listed = sessions("ada")
    assert.is_nil(listed[old])
    assert.is_number(listed[new])
    assert.is_true(dict:ttl(NAME .. ":" .. old) <= 10)
  end)
end)
