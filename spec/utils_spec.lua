local utils = require "resty.session.utils"

describe("utils", function()
  it("packs and unpacks", function()
    for size, number in pairs {
      [1] = 200, [2] = 65000, [3] = 2 ^ 24 - 1, [4] = 2 ^ 32 - 1, [5] = 2 ^ 40 - 1, [8] = 2 ^ 53,
    } do
      local packed = utils.bpack(size, number)
      assert.equal(size, #packed)
      assert.equal(number, utils.bunpack(size, packed))
    end
    assert.equal("\1\2", utils.bpack(2, 0x0201))
    assert.is_nil((utils.bpack(9, 1)))
    assert.is_nil((utils.bunpack(4, "abc")))
  end)

  it("trims", function()
    assert.equal("yay\ntrim!", utils.trim("  \t\r\n\v\fyay\ntrim!\f\v\n\r\t "))
    assert.equal("", utils.trim(nil))
    assert.equal("", utils.trim(" "))
  end)

  it("encodes and decodes", function()
    assert.same({ a = { 1, 2 } }, utils.decode_json(utils.encode_json({ a = { 1, 2 } })))
    assert.equal("PDw8Pz8_Pj4-", utils.encode_base64url("<<<???>>>"))
    assert.equal("<<<???>>>", utils.decode_base64url("PDw8Pz8_Pj4-"))
    local decoded, err = utils.decode_base64url("!")
    assert.is_nil(decoded)
    assert.is_string(err)
    for size = 0, 9 do
      assert.equal(utils.base64_size(size), #utils.encode_base64url(("x"):rep(size)))
    end
    local input = utils.rand_bytes(1024)
    assert.equal(1024, #input)
    assert.equal(input, utils.inflate(utils.deflate(input)))
    assert.is_nil((utils.inflate("no deflate stream")))
  end)

  it("hashes, authenticates and derives", function()
    local function hex(bytes)
      return (bytes:gsub(".", function(c) return ("%02x"):format(c:byte()) end))
    end
    assert.equal("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", hex(utils.sha256("abc")))
    -- RFC 4231, test case 2
    assert.equal("5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
      hex(utils.hmac_sha256("Jefe", "what do ya want for nothing?")))
    assert.equal(44, #utils.derive_hkdf_sha256("ikm", "nonce", "usage"))
    assert.equal(20, #utils.derive_hkdf_sha256("ikm", "nonce", "usage", 20))
    assert.equal(44, #utils.derive_pbkdf2_hmac_sha256("password", "salt", "usage"))
    assert.equal(32, #utils.derive_hmac_sha256_key("ikm", "nonce"))
    assert.is_false(utils.is_fips_mode())
  end)

  it("encrypts and decrypts", function()
    for _, safety in ipairs { "None", "Low", "Medium" } do
      local key, err, iv = utils.derive_aes_gcm_256_key_and_iv("ikm", "nonce", safety)
      assert.is_nil(err)
      assert.same({ 32, 12 }, { #key, #iv })
      local ciphertext, _, tag = utils.encrypt_aes_256_gcm(key, iv, "text", "aad")
      assert.same({ 4, 16 }, { #ciphertext, #tag })
      assert.equal("text", utils.decrypt_aes_256_gcm(key, iv, ciphertext, "aad", tag))
      assert.is_nil((utils.decrypt_aes_256_gcm(key, iv, ciphertext, "other", tag)))
      assert.is_nil((utils.decrypt_aes_256_gcm("short", iv, ciphertext, "aad", tag)))
    end
  end)

  it("formats errors and names", function()
    assert.equal("a b (c)", utils.errmsg("c", "a %s", "b"))
    assert.equal("a", utils.errmsg(nil, "a"))
    assert.equal("c", utils.errmsg("c"))
    assert.equal("unknown error", utils.errmsg())
    assert.equal("n:k", utils.get_name({}, "n", "k"))
    assert.equal("p:n:k:u:s", utils.get_name({ prefix = "p", suffix = "s" }, "n", "k", "u"))
    assert.equal("n:k:s", utils.get_name({ suffix = "s" }, "n", "k"))
  end)

  it("sets flags", function()
    assert.equal(5, utils.set_flag(1, 4))
    assert.equal(1, utils.unset_flag(5, 4))
    assert.is_true(utils.has_flag(5, 4))
    assert.is_false(utils.has_flag(1, 4))
    assert.is_true(utils.table_is_empty({}))
    assert.is_table(utils.table_new(1, 1))
  end)

  it("reads and writes metadata", function()
    local a, b = ("a"):rep(43), ("b"):rep(43)
    local text = utils.meta_get_value(a, 1700000000) .. utils.meta_get_value(b, 1700000100) .. utils.meta_get_value(a)
    assert.equal(a .. ":APFTZQA;", utils.meta_get_value(a, 1700000000))
    assert.equal(a .. ";", utils.meta_get_value(a, 0))
    local key, err, exp, index = utils.meta_get_next(text, 1)
    assert.same({ a, 1700000000, 53 }, { key, exp, index })
    assert.is_nil(err)
    assert.same({ [b] = 1700000100 }, utils.meta_get_latest(text, 1700000000))
    assert.same({}, utils.meta_get_latest(text, 1700000100))
    assert.is_nil((utils.meta_get_latest(a .. ":!!!!!!!;", 1)))
  end)

  it("raises strings for arguments that are not valid", function()
    local ok, err = pcall(utils.sha256, {})
    assert.is_false(ok)
    assert.equal("string", type(err))
    assert.matches("sha256", err)
  end)

  it("loads storages", function()
    assert.is_nil(utils.load_storage("cookie"))
    assert.is_table(utils.load_storage("shm", { shm = { prefix = "x" } }))
    assert.equal("x", utils.load_storage("shm", { shm = { prefix = "x" } }).prefix)
  end)
end)
