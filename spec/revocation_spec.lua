-- Revocation beside another library, the stand-in of `spec.peer`: marks in a program's own store
-- and in shm, stolen copies of cookies, and the sessions with a sid that the stand-in wrote. Other
-- stores are tried by their own specs.

local cjson = require "cjson"
local ours = require "resty.session"
local peer = require "spec.peer"
local rolling = require "spec.rolling"
local support = require "spec.support"
local vectors = require "spec.vectors"

local NO_TIMEOUTS = { idling_timeout = 0, rolling_timeout = 0, absolute_timeout = 0 }
local OLD = "4.1.5"

describe("marks in a program's own table", function()
  rolling({ revocation = support.memory() })
end)

describe("marks in a module of a program's own", function()
  local store = support.memory()
  package.loaded["spec.store"] = { new = function(options)
    assert(options.zone == "own")
    return store
  end }
  rolling({ revocation = "spec.store", ["spec.store"] = { zone = "own" } })
end)

describe("marks in shm", function()
  rolling({ revocation = "shm" })
end)

describe("revocation", function()
  local browser, store

  before_each(function()
    ours.init({ secret = "revocation" })
    store = support.memory()
  end)
  after_each(function()
    peer.restore()
    support.restore()
  end)

  local function with(more)
    return support.with({ secret = "revocation", revocation = store, remember_safety = "Low" }, more)
  end

  local function request(cookies)
    browser = support.browser()
    peer.connect(browser)
    for cookie, value in pairs(cookies or {}) do
      browser.cookies[cookie] = value
    end
  end

  -- Saves the session that a request with these cookies opens, or a new one. Returns the cookies
  -- afterwards, and the session.
  local function saved(library, cookies, more, subject)
    request(cookies)
    local options = with(more)
    local s, err, exists
    if cookies then
      s, err, exists = library.open(options)
      assert.is_nil(err)
      assert.is_true(exists)
    else
      s = library.new(options)
      s:set("name", "Ada")
      s:set_subject(subject)
    end
    assert.is_true(s:save())
    browser:next()
    return support.with(browser.cookies), s
  end

  local function opened(library, cookies, more)
    request(cookies)
    local s, err, exists = library.open(with(more))
    return exists and s:get("name") or err, s
  end

  local LIBRARIES = { ours = { ours }, peer = { peer }, old = { peer, { version = OLD } } }

  -- Returns the cookies that a session has after each save, by the libraries in turn.
  local function rotated(writers, more, subject)
    local all, cookies = {}, nil
    for i, writer in ipairs(writers) do
      local library, version = unpack(LIBRARIES[writer])
      cookies = saved(library, cookies, support.with(more, version), subject)
      all[i] = cookies
    end
    return all
  end

  describe("a stolen copy", function()
    -- Whoever wrote the three cookies, ours knows that they come from one sign-in. Without a
    -- subject it must have saved the first or the second. Each test's user is another one, because
    -- ours cannot tell two sign-ins of one user in one second apart if others wrote both.
    local turns, with_subject = { "ours", "peer", "old" }, {}
    for _, first in ipairs(turns) do
      for _, second in ipairs(turns) do
        for _, third in ipairs(turns) do
          table.insert(with_subject, { first, second, third })
        end
      end
    end

    local function ends(writers, subject, more)
      local what = table.concat(writers, ", ")
      -- Another sign-in of the same user, in the same second.
      local others, other, all
      for _ = 1, 10 do
        all = rotated(writers, more, subject)
        others, other = saved(ours, nil, more, subject)
        if select(2, opened(ours, all[1], more)).meta.creation_time == other.meta.creation_time then
          break
        end
      end
      for _, copy in ipairs(all) do
        assert.equal("Ada", (opened(ours, copy, more)), what) -- this worker now knows that it is not revoked
      end
      request(all[3])
      assert.same({ true, nil, true, true }, { ours.destroy(with(more)) })
      for i, copy in ipairs(all) do
        local which = what .. ": " .. i
        assert.equal("session revoked", (opened(ours, { session = copy.session }, more)), which)
        if copy.remember then
          assert.equal("missing session cookie", (opened(ours, { remember = copy.remember }, more)), which)
        end
      end
      assert.equal("Ada", (opened(ours, others, more)), what)
      if others.remember then
        assert.equal("Ada", (opened(ours, { remember = others.remember }, more)), what)
      end
    end

    it("ends at once with the session, whoever saved it", function()
      for i, writers in ipairs(with_subject) do
        ends(writers, "ada" .. i)
      end
    end)

    it("ends at once without a subject", function()
      for _, writers in ipairs(with_subject) do
        if writers[1] == "ours" or writers[2] == "ours" then
          ends(writers, nil)
        end
      end
    end)

    it("of a remember cookie ends too", function()
      for i, writers in ipairs { { "ours", "ours", "ours" }, { "ours", "peer", "ours" }, { "peer", "ours", "ours" },
                                 { "peer", "peer", "ours" }, { "ours", "old", "peer" } } do
        ends(writers, "ada" .. i, { remember = true })
      end
      ends({ "ours", "peer", "ours" }, nil, { remember = true })
    end)

    it("of a session that a remember cookie brought back ends too", function()
      local remember = { remember = true }
      local first = saved(ours, nil, remember, "ada")
      local second = saved(ours, { remember = first.remember }, remember)
      request(second)
      assert.same({ true, nil, true, true }, { ours.destroy(with(remember)) })
      assert.equal("session revoked", (opened(ours, { session = first.session })))
      assert.equal("missing session cookie", (opened(ours, { remember = first.remember }, remember)))
    end)

    it("ends for every audience", function()
      local first = saved(ours, nil, nil, "ada")
      request(first)
      local s = ours.open(with({ audience = "shop" }))
      s:set_subject("ada")
      assert.is_true(s:save())
      browser:next()
      local second = support.with(browser.cookies)
      request(second)
      assert.same({ true, nil, true, true }, { ours.destroy(with()) })
      assert.equal("session revoked", (opened(ours, first)))
      assert.equal("session revoked", (opened(ours, second, { audience = "shop" })))
    end)
  end)

  describe("the id of a sign-in", function()
    local function entry(cookies)
      return select(2, opened(peer, cookies)).data[1]
    end

    it("is carried along unharmed, and is not taken for a subject", function()
      for _, version in ipairs { "4.2.0", OLD } do
        for _, subject in ipairs { false, "ada" } do
          local cookies = saved(ours, nil, nil, subject or nil)
          local before = entry(cookies)
          assert.matches("^[%w_-]+$", before[5])
          assert.equal(22, #before[5])
          assert.equal(subject, before[3])
          assert.equal(cjson.null, before[4])
          local after = entry((saved(peer, cookies, { version = version })))
          assert.same(before, after)
          local _, s = opened(peer, cookies, { version = version })
          assert.equal(subject or nil, s:get_subject() or nil)
        end
      end
    end)

    it("lets 4.1.5 store metadata", function()
      local records = support.memory()
      local stored = { storage = records, store_metadata = true, version = OLD }
      for subject, count in pairs { [""] = 0, ada = 1 } do
        local cookies = saved(ours, nil, stored, subject ~= "" and subject or nil)
        saved(peer, cookies, stored)
        local metadata = records.calls[#records.calls][9]
        assert.equal(count, #metadata.subjects)
      end
    end)

    it("is not written without revocation", function()
      local cookies = saved(ours, nil, { revocation = false }, "ada")
      assert.same({ { name = "Ada" }, "default", "ada" }, entry(cookies))
    end)
  end)

  describe("what a worker has found out", function()
    local function lookups()
      local count = 0
      for _, call in ipairs(store.calls) do
        count = count + (call[1] == "get" and 1 or 0)
      end
      return count
    end

    it("is looked up once in the cache's time, and each time without a cache", function()
      for ttl, asks in pairs { [60] = false, [0] = true } do
        local options = { revocation_cache_ttl = ttl }
        local cookies = saved(ours, nil, options, "ada" .. ttl)
        assert.equal("Ada", (opened(ours, cookies, options)))
        local before = lookups()
        assert.is_true(before >= 2) -- the id and the subject
        assert.equal("Ada", (opened(ours, cookies, options)))
        assert.equal(asks, lookups() > before)
      end
    end)

    it("is another thing for each store", function()
      local cookies = saved(ours, nil, nil, "ada")
      assert.equal("Ada", (opened(ours, cookies)))
      local other = support.memory()
      assert.is_true(peer.revoke_subject("ada", 60, with({ revocation = other })))
      assert.equal("Ada", (opened(ours, cookies)))
      assert.equal("session revoked", (opened(ours, cookies, { revocation = other })))
    end)

    it("may be an error, in closed mode only, for a time of its own", function()
      for mode, answer in pairs { open = "Ada", closed = "unable to check session revocation (out of order)" } do
        local options = { revocation_cache_ttl = 60, revocation_error_cache_ttl = 1, revocation_fail_mode = mode }
        local cookies = saved(ours, nil, options, "ada" .. mode)
        store.broken = "out of order"
        assert.equal(answer, (opened(ours, cookies, options)))
        store.broken = nil
        local before = lookups()
        assert.equal(answer, (opened(ours, cookies, options)))
        assert.equal(mode == "open", lookups() > before)
        support.wait(1.1)
        assert.equal("Ada", (opened(ours, cookies, options)))
      end
    end)
  end)

  describe("a store that fails", function()
    local function log_of(text)
      for _, line in ipairs(browser.log) do
        local said = table.concat(line, "", 2)
        if said:find(text, 1, true) then
          return said
        end
      end
    end

    for name, library in pairs { ours = ours, ["the other's"] = peer } do
      it("lets sessions open and end in open mode, with a warning: " .. name, function()
        local options = { revocation_cache_ttl = 0 }
        local cookies = saved(library, nil, options, "ada")
        store.broken = "out of order"
        assert.equal("Ada", (opened(library, cookies, options)))
        if library == ours then
          store.broken = "out\nof\rorder" -- what a server says must not begin another line of the log
          ours.open(with(options))
          assert.equal("[session] unable to check session revocation: out of order",
            table.concat(browser.log[#browser.log], "", 2))
          store.broken = "out of order"
        end
        assert.equal("[session] unable to check session revocation: out of order",
          log_of("unable to check session revocation"))
        request(cookies)
        assert.same({ true, nil, true, true }, { library.destroy(with(options)) })
        assert.equal("[session] unable to mark session revoked: out of order", log_of("unable to mark session revoked"))
        assert.matches("^session=;.*Max%-Age=0$", browser:next()[1])
      end)

      it("refuses them in closed mode: " .. name, function()
        local options = { revocation_fail_mode = "closed", revocation_cache_ttl = 0 }
        local cookies = saved(library, nil, options, "ada")
        store.broken = "out of order"
        local refused = "unable to check session revocation (out of order)"
        assert.equal(refused, (opened(library, cookies, options)))
        request(cookies)
        assert.same({ nil, refused, false, false }, { library.destroy(with(options)) })
        store.broken = nil
        request(cookies)
        local s = library.open(with(options))
        store.broken = "out of order"
        assert.same({ nil, "unable to mark session revoked (out of order)" }, { s:destroy() })
        assert.same({}, browser:lines())
        store.broken = nil
        assert.equal("Ada", (opened(library, cookies, options)))
      end)

      it("is named by what revokes a subject or a sid, in both modes: " .. name, function()
        store.broken = "out of order"
        for _, mode in ipairs { "open", "closed" } do
          for _, revoke in ipairs { "revoke_subject", "revoke_sid" } do
            request()
            assert.same({ nil, "unable to revoke session key (out of order)" },
              { library[revoke]("ada", 60, with({ revocation_fail_mode = mode })) })
          end
        end
      end)
    end
  end)

  describe("vectors", function()
    local path = ngx.var.arg_file:match("^(.*)/spec/") .. "/crates/testing/vectors/with_sid.json"
    local file = assert(io.open(path))
    local written = cjson.decode(file:read("*a")).vectors
    file:close()

    it("are those that the stand-in writes", function()
      assert.equal(#vectors.cases, #written)
      for i, case in ipairs(vectors.cases) do
        local now = vectors.write(case)
        assert.same(written[i].cookies, now.cookies, case.name)
        assert.same(written[i].set_cookie, now.set_cookie, case.name)
        assert.equal(written[i].header.hex, now.header.hex, case.name)
      end
    end)

    it("open, and the stand-in opens what ours saves then", function()
      for _, vector in ipairs(written) do
        for _, revocation in ipairs { false, store } do
          local options = support.with(support.with(vector.configuration, NO_TIMEOUTS), { revocation = revocation })
          request(vector.cookies)
          local s, err, exists = ours.open(options)
          assert.is_nil(err, vector.name)
          assert.is_true(exists)
          local entry = vector.data[1]
          local sid, subject = entry[4] ~= cjson.null and entry[4] or nil, entry[3] ~= cjson.null and entry[3] or nil
          assert.equal(sid, s:get_sid(), vector.name)
          assert.equal(subject or nil, s:get_subject() or nil, vector.name)
          assert.same(entry[1], s:get_data())
          assert.is_true(s:save())
          browser:next()
          local again
          again, err, exists = peer.open(options)
          assert.is_nil(err, vector.name)
          assert.is_true(exists)
          assert.equal(sid, again:get_sid(), vector.name)
          assert.equal(subject or nil, again:get_subject() or nil, vector.name)
          assert.same(entry[1], again:get_data())
          assert.equal(#vector.data, #again.data)
          assert.equal(entry[5], entry[5] and again.data[1][5])
        end
      end
    end)
  end)
end)
