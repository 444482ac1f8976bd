-- What every storage must do: `require("spec.contract")(make, checks_old)` in a `describe`, where
-- `make(options)` returns a new storage. `checks_old` is false if the storage can't check, in one
-- step with storing a record, that the record which it replaces still exists.

local support = require "spec.support"
local utils = require "resty.session.utils"

local NAME = "contract"
local key, wait = support.key, support.wait

local function owners(count, subject)
  local metadata = { audiences = {}, subjects = {} }
  for i = 1, count do
    metadata.audiences[i] = utils.encode_base64url("audience " .. i .. subject)
    metadata.subjects[i] = utils.encode_base64url(subject)
  end
  return metadata
end

return function(make, checks_old)
  local spec = getfenv(2) -- busted gives its functions to spec files only
  local before_each, it, assert = spec.before_each, spec.it, spec.assert
  local storage

  before_each(function()
    storage = make()
  end)

  local function refused(...)
    local ok, err = ...
    assert.is_nil(ok)
    assert.matches("^invalid argument %([^\n]+%)$", err)
  end

  it("returns what was set, byte for byte", function()
    local k = key()
    local value = '["' .. ("x"):rep(5000) .. '"]'
    assert.same({ true }, { storage:set(NAME, k, value, 60, ngx.time()) })
    assert.equal(value, storage:get(NAME, k, ngx.time()))
    assert.same({ true }, { storage:set(NAME, k, "[]", 60, ngx.time()) })
    assert.equal("[]", storage:get(NAME, k, ngx.time()))
  end)

  it("returns nil without an error for an absent record", function()
    assert.same({}, { storage:get(NAME, key(), ngx.time()) })
    assert.same({ true }, { storage:delete(NAME, key(), ngx.time()) })
  end)

  it("forgets a record after its ttl, in whole seconds and at least one", function()
    local keys = {}
    for i, ttl in ipairs { 0, 0.5, 1, 1.9, "1" } do
      -- One time for both: the next second may begin while the server stores the record.
      local now = ngx.time()
      keys[i] = key()
      assert.same({ true }, { storage:set(NAME, keys[i], "v", ttl, now) })
      assert.equal("v", storage:get(NAME, keys[i], now))
    end
    wait(2.1)
    for i = 1, #keys do
      assert.is_nil((storage:get(NAME, keys[i], ngx.time())))
    end
    local ok = storage:set(NAME, key(), "new", 60, ngx.time(), keys[1], 10, nil, true)
    assert.equal(checks_old == false or nil, ok, "what has expired is gone")
  end)

  it("refuses arguments that are not valid, and stores nothing", function()
    local k, now = key(), ngx.time()
    for _, bad in ipairs { -1, 0 / 0, 1 / 0, "soon", {}, true } do
      refused(storage:set(NAME, k, "v", bad, now))
      refused(storage:set(NAME, k, "v", 60, bad))
      refused(storage:set(NAME, k, "v", 60, now, key(), bad))
      refused(storage:__update(NAME, k, "v", bad, now))
      refused(storage:delete(NAME, k, bad))
      refused(storage:read_metadata(NAME, "a", "s", bad))
    end
    refused(storage:set(NAME, k, "v", nil, now))
    for _, bad in ipairs { {}, true } do
      refused(storage:set(bad, k, "v", 60, now))
      refused(storage:set(NAME, bad, "v", 60, now))
      refused(storage:set(NAME, k, bad, 60, now))
      refused(storage:set(NAME, k, "v", 60, now, bad, 10))
      refused(storage:set(NAME, k, "v", 60, now, nil, nil, { audiences = { bad }, subjects = { "s" } }))
      refused(storage:get(bad, k, now))
      refused(storage:get(NAME, bad, now))
      refused(storage:delete(bad, k, now))
      refused(storage:delete(NAME, bad, now))
      refused(storage:read_metadata(bad, "a", "s", now))
      refused(storage:read_metadata(NAME, bad, "s", now))
      refused(storage:read_metadata(NAME, "a", bad, now))
    end
    for _, metadata in ipairs { {}, { audiences = { "a" } }, { audiences = true, subjects = { "s" } } } do
      refused(storage:set(NAME, k, "v", 60, now, nil, nil, metadata))
      refused(storage:delete(NAME, k, now, metadata))
    end
    refused(storage:set(NAME, nil, "v", 60, now))
    refused(storage:set(NAME, k, nil, 60, now))
    refused(storage:get(NAME, nil, now))
    refused(storage:delete(NAME, nil, now))
    refused(storage:read_metadata(NAME, "a", nil, now))
    assert.same({}, { storage:get(NAME, k, now) })
  end)

  it("works without the optional arguments", function()
    local old, k, metadata = key(), key(), owners(1, key())
    assert.same({ true }, { storage:set(NAME, old, "old", 60) })
    assert.same({ true }, { storage:set(NAME, k, "v", 60, nil, old, nil, metadata) })
    assert.is_nil((storage:get(NAME, old)))
    assert.equal("v", storage:get(NAME, k))
    assert.is_near(ngx.time() + 60, storage:read_metadata(NAME, metadata.audiences[1], metadata.subjects[1])[k], 2)
    for _, none in ipairs { k, "" } do -- a record that replaces itself, or none
      assert.same({ true }, { storage:set(NAME, k, "w", 60, nil, none, 0, metadata) })
      assert.equal("w", storage:get(NAME, k))
      assert.is_number(storage:read_metadata(NAME, metadata.audiences[1], metadata.subjects[1])[k])
    end
    assert.same({ true }, { storage:delete(NAME, k, nil, metadata) })
    assert.same({}, storage:read_metadata(NAME, metadata.audiences[1], metadata.subjects[1]))
  end)

  it("keeps the old record for stale_ttl, and no longer than it would have lived", function()
    local old, short, new, required = key(), key(), key(), key()
    assert(storage:set(NAME, old, "old", 60, ngx.time()))
    assert(storage:set(NAME, required, "old", 60, ngx.time()))
    assert(storage:set(NAME, key(), "new", 60, ngx.time(), required, 2, nil, true))
    assert(storage:set(NAME, short, "short", 1, ngx.time()))
    assert(storage:set(NAME, new, "new", 60, ngx.time(), old, 2))
    assert(storage:set(NAME, key(), "new", 60, ngx.time(), short, 60))
    assert.equal("old", storage:get(NAME, old, ngx.time()))
    wait(3.1)
    for _, k in ipairs { old, short, required } do
      assert.is_nil((storage:get(NAME, k, ngx.time())))
    end
    assert.equal("new", storage:get(NAME, new, ngx.time()))
  end)

  it("stores nothing if the record that must be replaced is gone", function()
    for _, metadata in ipairs { false, owners(2, key()) } do
      local now, there, replaced, deleted, absent = ngx.time(), key(), key(), key(), key()
      metadata = metadata or nil
      for _, k in ipairs { there, replaced, deleted } do
        assert(storage:set(NAME, k, "old", 60, now, nil, nil, metadata))
      end
      assert(storage:set(NAME, key(), "v", 60, now, replaced, 10, metadata))
      assert(storage:delete(NAME, deleted, now, metadata))
      local function live(k)
        return metadata and storage:read_metadata(NAME, metadata.audiences[2], metadata.subjects[2], now)[k] or nil
      end
      for old, is_there in pairs { [there] = true, [replaced] = true, [deleted] = false, [absent] = false } do
        local k = key()
        local result = { storage:set(NAME, k, "new", 60, now, old, 10, metadata, true) }
        if is_there or checks_old == false then
          assert.same({ true }, result)
          assert.equal("new", storage:get(NAME, k, now))
          assert.equal(metadata and now + 60, live(k))
          assert.is_nil(live(old))
        else
          assert.same({ nil, "the session was destroyed meanwhile" }, result)
          assert.is_nil((storage:get(NAME, k, now)))
          assert.is_nil(live(k))
        end
        assert.same({ true }, { storage:set(NAME, key(), "new", 60, now, old, 10, metadata, false) })
      end
    end
  end)

  it("updates a record that exists, without lengthening its life", function()
    local absent, long, short, stale, deleted = key(), key(), key(), key(), key()
    for _, k in ipairs { long, short, stale, deleted } do
      assert(storage:set(NAME, k, "old", 60, ngx.time()))
    end
    assert(storage:set(NAME, key(), "v", 60, ngx.time(), stale, 2))
    assert(storage:delete(NAME, deleted, ngx.time()))
    for _, k in ipairs { long, stale } do
      assert.same({ true }, { storage:__update(NAME, k, "new", 50, ngx.time()) })
      assert.equal("new", storage:get(NAME, k, ngx.time()))
    end
    for _, k in ipairs { absent, deleted } do
      assert.same({}, { storage:__update(NAME, k, "new", 50, ngx.time()) })
      assert.is_nil((storage:get(NAME, k, ngx.time())))
    end
    assert.same({ true }, { storage:__update(NAME, short, "new", 1, ngx.time()) })
    wait(3.1)
    assert.equal("new", storage:get(NAME, long, ngx.time()))
    assert.is_nil((storage:get(NAME, short, ngx.time())))
    assert.is_nil((storage:get(NAME, stale, ngx.time())))
  end)

  it("deletes", function()
    local k = key()
    assert(storage:set(NAME, k, "v", 60, ngx.time()))
    assert.same({ true }, { storage:delete(NAME, k, ngx.time()) })
    assert.is_nil((storage:get(NAME, k, ngx.time())))
    assert.same({ true }, { storage:delete(NAME, k, ngx.time()) })
  end)

  it("lists the live sessions of an owner", function()
    local metadata = owners(1, key())
    local audience, subject = metadata.audiences[1], metadata.subjects[1]
    local a, b, c = key(), key(), key()
    local now = ngx.time()
    assert.same({}, storage:read_metadata(NAME, audience, subject, now))
    assert(storage:set(NAME, a, "v", 50, now, nil, nil, metadata))
    assert(storage:set(NAME, b, "v", 60, now, nil, nil, metadata))
    assert.same({ [a] = now + 50, [b] = now + 60 }, storage:read_metadata(NAME, audience, subject, now))
    assert(storage:set(NAME, c, "v", 70, now, a, 10, metadata))
    assert.same({ [b] = now + 60, [c] = now + 70 }, storage:read_metadata(NAME, audience, subject, now))
    assert.same({ [c] = now + 70 }, storage:read_metadata(NAME, audience, subject, now + 60))
    assert(storage:delete(NAME, c, now, metadata))
    assert.same({ [b] = now + 60 }, storage:read_metadata(NAME, audience, subject, now))
  end)

  it("lists a session of 16 audiences", function()
    local metadata = owners(16, key())
    local k, now = key(), ngx.time()
    assert(storage:set(NAME, k, "v", 60, now, nil, nil, metadata))
    for i = 1, 16 do
      assert.same({ [k] = now + 60 }, storage:read_metadata(NAME, metadata.audiences[i], metadata.subjects[i], now))
    end
    assert(storage:delete(NAME, k, now, metadata))
    for i = 1, 16 do
      assert.same({}, storage:read_metadata(NAME, metadata.audiences[i], metadata.subjects[i], now))
    end
  end)

  it("locks for one holder at a time", function()
    local k, now = key(), ngx.time()
    assert.same({ true }, { storage:unlock(NAME, k, "nobody") })
    assert.same({ true }, { storage:lock(NAME, k, "one", 60, now) })
    assert.same({ false }, { storage:lock(NAME, k, "another", 60) })
    assert.same({ true }, { storage:lock(NAME, k, "one", "0.5", now) }, "its holder renews it")
    assert.same({ true }, { storage:unlock(NAME, k, "another") })
    assert.same({ false }, { storage:lock(NAME, k, "another", 60, now) })
    assert.same({ true }, { storage:unlock(NAME, k, "one") })
    assert.same({ true }, { storage:lock(NAME, k, "another", 60, now) })
    assert.same({ false }, { storage:lock(NAME, k, "one", 60, now) })
    assert.same({ true }, { storage:unlock(NAME, k, "another") })
  end)

  it("frees a lock whose time is over, and leaves it to whoever takes it then", function()
    local k, waits = key(), 0
    assert.same({ true }, { storage:lock(NAME, k, "late", 0.05, ngx.time()) })
    repeat -- some storages count in whole seconds
      wait(0.1)
      waits = waits + 1
    until storage:lock(NAME, k, "next", 60, ngx.time()) or waits > 30
    assert.is_true(waits <= 30)
    assert.same({ false }, { storage:lock(NAME, k, "late", 60, ngx.time()) })
    assert.same({ true }, { storage:unlock(NAME, k, "late") })
    assert.same({ false }, { storage:lock(NAME, k, "third", 60, ngx.time()) })
  end)

  it("gives a lock to one of many that ask at once", function()
    local k, threads, won = key(), {}, 0
    for i = 1, 20 do
      threads[i] = ngx.thread.spawn(storage.lock, storage, NAME, k, "holder-" .. i, 60)
    end
    for i = 1, 20 do
      local _, held, err = ngx.thread.wait(threads[i])
      assert.is_nil(err)
      won = won + (held and 1 or 0)
    end
    assert.equal(1, won)
  end)

  it("refuses a lock whose arguments are not valid", function()
    local k, now = key(), ngx.time()
    for _, bad in ipairs { -1, 0 / 0, 1 / 0, "soon", {}, true } do
      refused(storage:lock(NAME, k, "h", bad, now))
      refused(storage:lock(NAME, k, "h", 5, bad))
    end
    for _, bad in ipairs { {}, true } do
      refused(storage:lock(bad, k, "h", 5, now))
      refused(storage:lock(NAME, bad, "h", 5, now))
      refused(storage:unlock(bad, k, "h"))
      refused(storage:unlock(NAME, bad, "h"))
    end
    for _, bad in ipairs { {}, true, "", "a b", "\0", "\228", ("h"):rep(256) } do
      refused(storage:lock(NAME, k, bad, 5, now))
      refused(storage:unlock(NAME, k, bad))
    end
    refused(storage:lock(NAME, k, "h", nil, now))
    refused(storage:lock(NAME, k, nil, 5, now))
    refused(storage:unlock(NAME, k))
    local longest = ("h"):rep(255)
    assert.same({ true }, { storage:lock(NAME, k, longest, 5, now) })
    assert.same({ true }, { storage:unlock(NAME, k, longest) })
  end)

  it("holds revocation marks, whose keys have any length and whose values are no JSON", function()
    for _, mark in ipairs { "sid:", "sid:s", "subject:YQ", "subject:YWRhQGV4YW1wbGUub3JnYWJj" } do
      local k, now = utils.encode_base64url(mark), ngx.time()
      for _, value in ipairs { "1", tostring(now) } do
        assert.same({ true }, { storage:set(NAME, k, value, 60, now) })
        assert.equal(value, storage:get(NAME, k, now))
      end
      assert.same({ true }, { storage:delete(NAME, k, now) })
    end
  end)

  it("loses none of 64 sessions that are saved at once for one owner", function()
    local metadata = owners(1, key())
    local expected, threads, now = {}, {}, ngx.time()
    for i = 1, 64 do
      local k = key()
      expected[k] = now + 60
      threads[i] = ngx.thread.spawn(function()
        assert(storage:set(NAME, k, "v", 60, now, nil, nil, metadata))
      end)
    end
    for i = 1, 64 do
      assert(ngx.thread.wait(threads[i]))
    end
    assert.same(expected, storage:read_metadata(NAME, metadata.audiences[1], metadata.subjects[1], now))
  end)
end
