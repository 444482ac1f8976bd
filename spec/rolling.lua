-- What a rolling deployment must do with marks of revocation in every store that can hold them:
-- `require("spec.rolling")(options)` in a `describe`, where `options` are those of a session in
-- cookies, with `revocation`. The other library is the stand-in of `spec.peer`.

local ours = require "resty.session"
local peer = require "spec.peer"
local support = require "spec.support"
local utils = require "resty.session.utils"

local REVOKED = { nil, "session revoked", false }

-- Short enough for a column of 43 characters, which is where mysql keeps a mark's key.
local function name()
  return utils.encode_base64url(utils.rand_bytes(9))
end

return function(options)
  local spec = getfenv(2) -- busted gives its functions to spec files only
  local describe, it, assert = spec.describe, spec.it, spec.assert

  describe("beside another library", function()
    local browser

    -- Plays a session's life on a new browser each time.
    local function fresh()
      browser = support.browser()
      peer.connect(browser)
    end

    spec.before_each(function()
      ours.init({ secret = "rolling" })
      fresh()
    end)
    spec.after_each(function()
      peer.restore()
      support.restore()
    end)

    local function with(more)
      local all = support.with({ secret = "rolling", revocation_cache_ttl = 0, remember_safety = "Low" }, options)
      return support.with(all, more)
    end

    -- Signs a user in, in a new browser. Returns the browser's cookies.
    local function signed_in(library, more, subject, sid)
      fresh()
      local s = library.new(with(more))
      s:set("name", "Ada")
      s:set_subject(subject)
      if sid then
        s:set_sid(sid)
      end
      assert.is_true(s:save())
      browser:next()
      return support.with(browser.cookies)
    end

    -- Sends a request with these cookies.
    local function request(cookies)
      fresh()
      for cookie, value in pairs(cookies) do
        browser.cookies[cookie] = value
      end
    end

    local function opens(library, cookies, more)
      request(cookies)
      local s, err, exists = library.open(with(more))
      assert.is_nil(err)
      assert.is_true(exists)
      assert.equal("Ada", s:get("name"))
      return s
    end

    local function is_refused(library, cookies, more)
      request(cookies)
      local _, err, exists = library.open(with(more))
      assert.same(REVOKED, { nil, err, exists })
    end

    for _, direction in ipairs { { "ours", ours, "the other's", peer }, { "the other's", peer, "ours", ours } } do
      local here, there = direction[2], direction[4]
      describe("marks of " .. direction[1] .. ", at " .. direction[3], function()
        for _, hashed in ipairs { false, true } do
          local hash = { hash_storage_key = hashed, hash_subject = hashed }
          local suffix = hashed and ", hashed" or ""

          it("end a session by its id" .. suffix, function()
            for _, writer in ipairs { ours, peer } do
              local cookies, others = signed_in(writer, hash, name()), signed_in(writer, hash, name())
              opens(there, cookies, hash)
              request(cookies)
              assert.same({ true, nil, true, true }, { here.destroy(with(hash)) })
              assert.matches("^session=;.*Max%-Age=0$", browser:next()[1])
              is_refused(there, cookies, hash)
              is_refused(here, cookies, hash)
              opens(there, others, hash)
            end
          end)

          it("end a session that its last audience leaves" .. suffix, function()
            local cookies = signed_in(there, hash, name())
            request(cookies)
            assert.is_true((here.logout(with(hash))))
            is_refused(there, cookies, hash)
          end)

          it("end the sessions of a subject" .. suffix, function()
            local ada, bob = name(), name()
            local hers, his = signed_in(there, hash, ada), signed_in(there, hash, bob)
            local also_hers = signed_in(here, hash, ada)
            assert.is_true(here.revoke_subject(ada, 600, with(hash)))
            is_refused(there, hers, hash)
            is_refused(there, also_hers, hash)
            is_refused(here, hers, hash)
            opens(there, his, hash)
            peer.time = function()
              return ngx.time() + 5 -- a sign-in after the mark
            end
            local later = signed_in(peer, hash, ada)
            peer.time = ngx.time
            opens(there, later, hash)
            opens(here, later, hash)
          end)

          it("end the sessions with a sid" .. suffix, function()
            for _, subject in ipairs { name(), false } do
              local sid, other = name(), name()
              local cookies = signed_in(there, hash, subject or nil, sid)
              local others = signed_in(there, hash, subject or nil, other)
              assert.equal(sid, opens(here, cookies, hash):get_sid())
              assert.is_true(here.revoke_sid(sid, 600, with(hash)))
              is_refused(there, cookies, hash)
              is_refused(here, cookies, hash)
              assert.equal(other, opens(there, others, hash):get_sid())
            end
          end)
        end

        it("end the sessions of a subject with a long name, or are an error", function()
          local subject = "ada.lovelace@mathematics.example.com " .. name()
          for _, hashed in ipairs { false, true } do
            local hash = { hash_storage_key = hashed }
            local cookies = signed_in(there, hash, subject)
            local ok, err = here.revoke_subject(subject, 600, with(hash))
            if options.revocation == "mysql" and not hashed then -- a column of 43 characters
              assert.is_nil(ok)
              assert.matches("^unable to revoke session key %(.*too long", err)
              opens(there, cookies, hash)
            else
              assert.is_true(ok)
              is_refused(there, cookies, hash)
            end
          end
        end)

        it("end a remember cookie, for any of its audiences", function()
          local remember, subject, sid = { remember = true }, name(), name()
          local cookies = signed_in(there, remember, subject, sid)
          request({ remember = cookies.remember })
          assert.same({ nil, true }, { select(2, here.open(with(remember))) })
          request(cookies)
          assert.same({ true, nil, true, true }, { here.destroy(with(remember)) })
          is_refused(there, cookies, remember)
          request({ remember = cookies.remember })
          assert.same({ "missing session cookie", false }, { select(2, there.open(with(remember))) })

          for _, revoke in ipairs { "subject", "sid" } do
            subject, sid = name(), name()
            cookies = signed_in(there, remember, subject, sid)
            request(cookies)
            local s = there.open(with({ remember = true, audience = "second" }))
            assert.is_true(s:save())
            browser:next()
            cookies = support.with(browser.cookies)
            assert.is_true(here["revoke_" .. revoke](revoke == "sid" and sid or subject, 600, with(remember)))
            request({ remember = cookies.remember })
            assert.same({ "missing session cookie", false },
              { select(2, there.open(with({ remember = true, audience = "second" }))) })
            is_refused(there, { session = cookies.session })
          end
        end)
      end)
    end

    -- Saves the session of these cookies twice at the same time. Returns the cookies of both.
    local function forked(cookies, more)
      request(cookies)
      local s, other = opens(ours, cookies, more), opens(ours, cookies, more)
      local forks = {}
      for i, each in ipairs { s, other } do
        request(cookies)
        assert.is_true(each:save())
        browser:next()
        forks[i] = support.with(browser.cookies)
      end
      assert.not_equal(forks[1].session, forks[2].session)
      return forks
    end

    it("ends sessions in a storage that parallel saves forked from one another", function()
      for _, subject in ipairs { name(), false } do
        local stored = { storage = options.revocation, store_metadata = true }
        local cookies = signed_in(ours, stored, subject or nil)
        local others = signed_in(ours, stored, subject or nil)
        local forks = forked(cookies, stored)
        opens(ours, forks[1], stored)
        opens(ours, forks[2], stored)
        request(forks[1])
        assert.same({ true, nil, true, true }, { ours.destroy(with(stored)) })
        for _, each in ipairs { forks[1], forks[2], cookies } do
          request(each)
          local _, err, exists = ours.open(with(stored))
          assert.is_false(exists)
          assert.is_true(err == "session revoked" or err:find("unable to load session", 1, true) == 1, err)
        end
        opens(ours, others, stored)
      end
    end)
  end)
end
