//! What `synchronize` needs: the sign-in that a session comes from, and the notes that requests
//! leave for one another.

use std::rc::Rc;

use mlua::BString;
use mlua::prelude::*;

use super::ValueOrError;
use super::configuration::{HandleRef, name_of};
use super::value_or_error;
use resty_session_core::cookie::{Error as CookieError, Header, request};
use resty_session_core::session::note::Note;
use resty_session_core::session::{Configuration, sign_in};
use resty_session_core::time::Timestamp;

/// Adds the functions.
pub fn register(lua: &Lua, module: &LuaTable) -> LuaResult<()> {
    module.set("sign_in", lua.create_function(sign_in_of)?)?;
    module.set("own_cookies", lua.create_function(own_cookies)?)?;
    module.set("read_note", lua.create_function(read_note)?)?;
    module.set("write_note", lua.create_function(write_note)?)
}

/// A session's turn under a lock: what its note is written from.
struct Turn {
    configuration: Rc<Configuration>,
    lock: Vec<u8>,
    /// The note that was there, if it knows the session's own cookie.
    note: Option<Note>,
}

impl LuaUserData for Turn {}

/// `sign_in(value, audience, subject, written)`: the id of the sign-in that the cookie with this
/// value comes from; or `nil, err`. `written` is what the payload has of it.
fn sign_in_of(
    _: &Lua,
    (value, audience, subject, written): (BString, LuaValue, LuaValue, LuaValue),
) -> LuaResult<ValueOrError<BString>> {
    let is_missing = |value: &LuaValue| value.is_nil() || value.as_boolean() == Some(false) || value.is_null();
    let [subject, written] = [subject, written].map(|value| (!is_missing(&value)).then(|| name_of(&value)));
    let header = match Header::decode(&value) {
        Ok(header) => header,
        Err(error) => return Ok(value_or_error(Err::<BString, CookieError>(error))),
    };
    let id = sign_in::of(&header, Some(&name_of(&audience)), subject.as_ref(), written);
    Ok((id.map(|id| id.into_owned().into()), None))
}

/// `own_cookies(handle, cookies, lines)`: the session's cookies and the remember cookie's, as a
/// browser sends them that sent the Cookie header `cookies` and then got the Set-Cookie lines
/// `lines`, an array.
fn own_cookies(
    lua: &Lua,
    (handle, cookies, lines): (HandleRef, Option<BString>, Vec<BString>),
) -> LuaResult<LuaString> {
    let names = names(&handle.configuration);
    lua.create_string(request::after_response(&cookies.unwrap_or_default(), &lines, &names))
}

fn names(configuration: &Configuration) -> [&str; 2] {
    [&configuration.session_cookie.name, &configuration.remember_cookie.name]
}

/// `read_note(handle, lock, sealed, own)`: a turn, and the cookies to open, which are nil if the
/// note does not know the session's own or if these are the newest, and false if the session has
/// ended; then a warning or nil. `own` is the value of the session's first cookie.
fn read_note(
    lua: &Lua,
    (handle, lock, sealed, own): (HandleRef, BString, Option<BString>, BString),
) -> LuaResult<TurnRow> {
    let own = match Header::decode(&own) {
        Ok(own) => own,
        Err(error) => return Ok((None, LuaValue::Nil, Some(error.to_string()))),
    };
    let configuration = handle.configuration.clone();
    let found = sealed.map(|sealed| Note::open(&configuration, &lock, &sealed)).transpose();
    let (note, warning) = match found {
        Ok(note) => (note.filter(|note| note.knows(&own)), None),
        Err(error) => (None, Some(error.to_string())),
    };
    let cookies = match note.as_ref().filter(|note| note.is_newer_than(&own)) {
        None => LuaValue::Nil,
        Some(note) if note.has_ended() => LuaValue::Boolean(false),
        Some(note) => LuaValue::String(lua.create_string(note.cookies())?),
    };
    Ok((Some(Turn { configuration, lock: lock.into(), note }), cookies, warning))
}

/// What [`read_note`] returns. Without a turn, the third value is an error.
type TurnRow = (Option<Turn>, LuaValue, Option<String>);

/// What has happened in a turn: the Set-Cookie lines, when it ended, and whether the session is for
/// another subject now.
type Change = (Option<Vec<BString>>, u64, bool);

/// `write_note(turn, opened, cookies, lines, now, is_another)`: the sealed note of a turn, in which
/// the response got these Set-Cookie lines, or nil if they change nothing; or `nil, err`. `lines`
/// is an array, or nil if the session has ended. `cookies` is the Cookie header that the turn began
/// with, and `opened` the value of the first cookie that it has opened there. With `is_another`,
/// neither that nor older cookies lead to the session.
fn write_note(
    _: &Lua,
    (turn, opened, cookies, (lines, now, is_another)): (LuaUserDataRef<Turn>, BString, BString, Change),
) -> LuaResult<ValueOrError<String>> {
    let opened = match Header::decode(&opened) {
        Ok(opened) => opened,
        Err(error) => return Ok(value_or_error(Err::<String, CookieError>(error))),
    };
    let now = Timestamp::from_secs(now);
    let note = match lines {
        Some(lines) => Note::of_turn(names(&turn.configuration), &cookies, &lines, &opened, now),
        None => Some(Note::of_end(&opened, now)),
    };
    let Some(mut note) = note else { return Ok((None, None)) };
    if !is_another {
        note = note.replacing_header(&opened);
        if let Some(previous) = &turn.note {
            note = note.after(previous);
        }
    }
    Ok(value_or_error(note.seal(&turn.configuration, &turn.lock, getrandom::fill)))
}
