//! The functions of an instance besides its acts: the fields of a header, timeouts, and the text of
//! cookie headers.

use mlua::BString;
use mlua::prelude::*;

use super::configuration::HandleRef;
use super::{ValueOrError, value_or_error};
use resty_session_core::cookie::header::ENCODED_SIZE;
use resty_session_core::cookie::{Error, Flags, Header, base64url, chunks, request, set_cookie};
use resty_session_core::time::Timestamp;
use resty_session_storages::{EXPIRY_BYTES, KEY_SIZE};

/// Adds the functions, and the constants of cookies and of metadata that the shim needs.
pub fn register(lua: &Lua, module: &LuaTable) -> LuaResult<()> {
    module.set("FLAG_FORGET", Flags::FORGET.bits())?;
    module.set("MAX_COOKIES", chunks::MAX_COOKIES)?;
    module.set("KEY_SIZE", KEY_SIZE)?;
    module.set("EXPIRY_BYTES", EXPIRY_BYTES)?;
    module.set("header_fields", lua.create_function(header_fields)?)?;
    module.set("property", lua.create_function(property)?)?;
    module.set("without_cookies", lua.create_function(without_cookies)?)?;
    module.set("names_collide", lua.create_function(names_collide)?)?;
    module.set("merge_cookies", lua.create_function(merge_cookies)?)
}

/// `header_fields(value)`: the fields of a cookie's header by name, and its initial chunk; or `nil,
/// err`.
fn header_fields(lua: &Lua, value: BString) -> LuaResult<ValueOrError<LuaTable>> {
    let header = match Header::decode(&value) {
        Ok(header) => header,
        Err(error) => return Ok(value_or_error(Err(error))),
    };
    let table = lua.create_table()?;
    table.set("header", lua.create_string(header.as_bytes())?)?;
    table.set("flags", header.flags().bits())?;
    table.set("sid", lua.create_string(header.sid())?)?;
    table.set("creation_time", header.creation_time().as_secs())?;
    table.set("rolling_offset", header.rolling_offset().as_secs())?;
    table.set("data_size", header.data_size())?;
    table.set("idling_offset", header.idling_offset().as_secs())?;
    table.set("initial_chunk", lua.create_string(&value[ENCODED_SIZE..])?)?;
    Ok(value_or_error(Ok::<_, Error>(table)))
}

/// `property(handle, value, name, timestamp)`: the session's id, or what is left of a timeout in
/// seconds; nil for one that is switched off, and for any other name.
fn property(lua: &Lua, (handle, header, name, timestamp): (HandleRef, BString, LuaValue, u64)) -> LuaResult<LuaValue> {
    let (Ok(header), Some(name)) = (Header::decode(&header), name.as_string()) else { return Ok(LuaValue::Nil) };
    let remaining = handle.configuration.session_cookie.timeouts.remaining(&header, Timestamp::from_secs(timestamp));
    match &*name.as_bytes() {
        b"id" => base64url::encode(header.sid()).into_lua(lua),
        b"nonce" => Ok(LuaValue::String(lua.create_string(header.sid())?)),
        b"timeout" => remaining.nearest().into_lua(lua),
        b"idling-timeout" | b"idling_timeout" => remaining.idling.into_lua(lua),
        b"rolling-timeout" | b"rolling_timeout" => remaining.rolling.into_lua(lua),
        b"absolute-timeout" | b"absolute_timeout" => remaining.absolute.into_lua(lua),
        _ => Ok(LuaValue::Nil),
    }
}

/// `without_cookies(handle, now, cookies, value)`: a Cookie header without the session's cookies
/// and without the remember cookie's. `value` is that of the session's first cookie, if it was
/// opened or saved.
fn without_cookies(
    lua: &Lua,
    (handle, now, cookies, value): (HandleRef, u64, BString, Option<BString>),
) -> LuaResult<LuaString> {
    let (configuration, now) = (&handle.configuration, Timestamp::from_secs(now));
    let name = &configuration.session_cookie.name;
    let chunks = match value.map(|value| Header::decode(&value)) {
        Some(Ok(header)) if !configuration.stored => chunks::count(name, header.data_size()).unwrap_or(1),
        _ => 1,
    };
    let rest = request::without_session(&cookies, name, chunks, now);
    lua.create_string(request::without_session(&rest, &configuration.remember_cookie.name, 1, now))
}

/// `names_collide(name, other)`: whether sessions of these names would overwrite each other's
/// cookies.
fn names_collide(_: &Lua, (name, other): (String, String)) -> LuaResult<bool> {
    Ok(chunks::collide(&name, &other))
}

/// `merge_cookies(present, lines)`: the Set-Cookie lines of a response with others put among them;
/// each is a string or an array of strings.
fn merge_cookies(lua: &Lua, (present, lines): (LuaValue, LuaValue)) -> LuaResult<LuaTable> {
    let mut merged: Vec<Vec<u8>> = texts(present)?.into_iter().map(Into::into).collect();
    set_cookie::merge(&mut merged, texts(lines)?.into_iter().map(Into::into));
    lua.create_sequence_from(merged.into_iter().map(BString::from))
}

fn texts(value: LuaValue) -> LuaResult<Vec<BString>> {
    match value {
        LuaValue::Table(table) => Ok(table.sequence_values::<BString>().filter_map(Result::ok).collect()),
        LuaValue::String(text) => Ok(vec![BString::from(text.as_bytes().to_vec())]),
        _ => Ok(Vec::new()),
    }
}
