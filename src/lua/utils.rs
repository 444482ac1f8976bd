//! The functions of `resty.session.utils` that are more than a line of Lua.

use mlua::BString;
use mlua::prelude::*;

use super::{ValueOrError, value_or_error};
use resty_session_core::cookie::cipher::{KEY_SIZE, NONCE_SIZE, OneTimeKey};
use resty_session_core::cookie::{RememberSafety, base64url, compression, keys};
use resty_session_core::secret::Secret;

/// The largest number of random bytes that one call returns.
const MAX_RANDOM: usize = 16 << 20;
/// Size of the key and the nonce of one encryption together.
const KEY_AND_NONCE: usize = KEY_SIZE + NONCE_SIZE;

type Bytes = ValueOrError<BString>;

pub fn table(lua: &Lua) -> LuaResult<LuaTable> {
    let table = lua.create_table()?;
    table.set("bpack", lua.create_function(bpack)?)?;
    table.set("bunpack", lua.create_function(bunpack)?)?;
    table.set("encode_base64url", lua.create_function(|_, bytes: BString| Ok(base64url::encode(&bytes)))?)?;
    table.set("decode_base64url", lua.create_function(|_, text: BString| Ok(bytes(base64url::decode(&text))))?)?;
    table.set("base64_size", lua.create_function(|_, size: usize| Ok(base64url::encoded_size(size)))?)?;
    table.set(
        "deflate",
        lua.create_function(|lua, data: BString| {
            secret(lua, compression::deflate(&data).ok_or_else(|| "deflate failed".to_owned()))
        })?,
    )?;
    table.set(
        "inflate",
        lua.create_function(|lua, data: BString| {
            secret(lua, compression::inflate(&data).map_err(|error| error.to_string()))
        })?,
    )?;
    table.set("rand_bytes", lua.create_function(|_, size: usize| Ok(bytes(random(size))))?)?;
    table.set("sha256", lua.create_function(|_, data: BString| Ok(BString::from(keys::sha256(&data).to_vec())))?)?;
    table.set("hmac_sha256", lua.create_function(hmac_sha256)?)?;
    table.set("derive_hkdf_sha256", lua.create_function(derive_hkdf_sha256)?)?;
    table.set("derive_pbkdf2_hmac_sha256", lua.create_function(derive_pbkdf2_hmac_sha256)?)?;
    table.set("derive_aes_gcm_256_key_and_iv", lua.create_function(derive_aes_gcm_256_key_and_iv)?)?;
    table.set("encrypt_aes_256_gcm", lua.create_function(encrypt_aes_256_gcm)?)?;
    table.set("decrypt_aes_256_gcm", lua.create_function(decrypt_aes_256_gcm)?)?;
    Ok(table)
}

/// `(size, number)`: an unsigned little-endian integer of 1 to 8 bytes.
fn bpack(_: &Lua, (size, number): (usize, f64)) -> LuaResult<Bytes> {
    if !(1..=8).contains(&size) {
        return Ok(bytes(Err("size from 1 to 8 expected")));
    }
    Ok(bytes(Ok::<_, String>((number as u64).to_le_bytes()[..size].to_vec())))
}

/// `(size, bytes)`: the number that `bpack` packed, or `nil, err`.
fn bunpack(_: &Lua, (size, packed): (usize, BString)) -> LuaResult<ValueOrError<f64>> {
    let mut number = [0; 8];
    let found = packed.get(..size).filter(|_| (1..=8).contains(&size));
    Ok(value_or_error(match found {
        Some(found) => {
            number[..size].copy_from_slice(found);
            Ok(u64::from_le_bytes(number) as f64)
        }
        None => Err("size from 1 to 8, and at least as many bytes, expected"),
    }))
}

fn bytes(result: Result<Vec<u8>, impl std::fmt::Display>) -> Bytes {
    value_or_error(result.map(BString::from))
}

/// [`Bytes`] that are wiped on the Rust side.
type Secrets = ValueOrError<LuaString>;

fn secret(lua: &Lua, result: Result<Secret, String>) -> LuaResult<Secrets> {
    Ok(match result {
        Ok(secret) => (Some(lua.create_string(&*secret)?), None),
        Err(error) => (None, Some(error)),
    })
}

fn random(size: usize) -> Result<Vec<u8>, String> {
    if size > MAX_RANDOM {
        return Err(format!("at most {MAX_RANDOM} bytes"));
    }
    let mut bytes = vec![0; size];
    getrandom::fill(&mut bytes).map_err(|error| error.to_string())?;
    Ok(bytes)
}

fn hmac_sha256(_: &Lua, (key, message): (BString, BString)) -> LuaResult<BString> {
    Ok(BString::from(keys::hmac_sha256(&key, &[&message]).to_vec()))
}

/// `(ikm, nonce, usage, size = 44)`.
fn derive_hkdf_sha256(
    lua: &Lua,
    (ikm, nonce, usage, size): (LuaString, BString, BString, Option<usize>),
) -> LuaResult<Secrets> {
    let size = size.unwrap_or(KEY_AND_NONCE);
    let derived = keys::hkdf_sha256(&ikm.as_bytes(), &nonce, &usage, size);
    secret(lua, derived.ok_or_else(|| "more than 255 hashes of output".to_owned()))
}

/// `(password, salt, usage, size = 44, iterations = 10000)`.
fn derive_pbkdf2_hmac_sha256(
    lua: &Lua,
    (password, salt, usage, (size, iterations)): (LuaString, BString, BString, (Option<usize>, Option<u32>)),
) -> LuaResult<Secrets> {
    let size = size.unwrap_or(KEY_AND_NONCE);
    if size > MAX_RANDOM {
        return secret(lua, Err(format!("at most {MAX_RANDOM} bytes")));
    }
    let password = password.as_bytes();
    secret(lua, Ok(keys::pbkdf2_hmac_sha256(&password, &salt, &usage, size, iterations.unwrap_or(10_000))))
}

/// `(ikm, nonce, safety?)` → key, err, iv. Without a safety, and with `None`, by HKDF; else by
/// PBKDF2.
fn derive_aes_gcm_256_key_and_iv(
    lua: &Lua,
    (ikm, nonce, safety): (LuaString, BString, LuaValue),
) -> LuaResult<(Option<LuaString>, Option<String>, Option<LuaString>)> {
    const USAGE: &[u8] = b"encryption";
    let rounds = match &safety {
        LuaValue::Nil | LuaValue::Boolean(false) => None,
        LuaValue::String(name) => RememberSafety::from_name(&name.as_bytes()).rounds(),
        _ => RememberSafety::Medium.rounds(),
    };
    let ikm = ikm.as_bytes();
    let derived = match rounds {
        Some(rounds) => Some(keys::pbkdf2_hmac_sha256(&ikm, &nonce, USAGE, KEY_AND_NONCE, rounds)),
        None => keys::hkdf_sha256(&ikm, &nonce, USAGE, KEY_AND_NONCE),
    };
    Ok(match derived {
        Some(bytes) => {
            (Some(lua.create_string(&bytes[..KEY_SIZE])?), None, Some(lua.create_string(&bytes[KEY_SIZE..])?))
        }
        None => (None, Some("unable to derive key".to_owned()), None),
    })
}

/// `(key, iv, plaintext, aad)` → ciphertext, err, tag.
fn encrypt_aes_256_gcm(
    _: &Lua,
    (key, iv, plaintext, aad): (LuaString, BString, LuaString, BString),
) -> LuaResult<(Option<BString>, Option<String>, Option<BString>)> {
    let mut data = plaintext.as_bytes().to_vec();
    let encrypted = one_time_key(&key.as_bytes(), &iv)
        .and_then(|key| key.encrypt(&mut data, &aad).map_err(|error| error.to_string()));
    Ok(match encrypted {
        Ok(tag) => (Some(data.into()), None, Some(BString::from(tag.to_vec()))),
        Err(error) => (None, Some(error), None),
    })
}

/// `(key, iv, ciphertext, aad, tag)` → plaintext, err.
fn decrypt_aes_256_gcm(
    lua: &Lua,
    (key, iv, ciphertext, (aad, tag)): (LuaString, BString, BString, (BString, BString)),
) -> LuaResult<Secrets> {
    let mut data = Secret::from(Vec::from(ciphertext));
    let tag = tag.as_slice().try_into().map_err(|_| "invalid tag size".to_owned());
    let decrypted = tag.and_then(|tag| {
        one_time_key(&key.as_bytes(), &iv)?.decrypt(&mut data, &aad, &tag).map_err(|error| error.to_string())
    });
    secret(lua, decrypted.map(|()| data))
}

fn one_time_key(key: &[u8], nonce: &[u8]) -> Result<OneTimeKey, String> {
    Ok(OneTimeKey {
        key: key.try_into().map_err(|_| "invalid key size".to_owned())?,
        nonce: nonce.try_into().map_err(|_| "invalid iv size".to_owned())?,
    })
}
