//! The rows of values that cross the border when an act runs. Each is a struct here, and is read or
//! made in one place; the shim's `run_act` and `perform`, and `resty.session.outcomes`, are the
//! other ends.
//!
//! Frequent results cross as separate values, because a table for each act would cost a tenth of an
//! open. Rare ones cross in a table with names.

use std::ops::Range;

use mlua::prelude::*;
use mlua::{BString, Either};

use super::configuration::HandleRef;
use super::storages::Submitted;
use resty_session_core::session::audiences::SignedParts;
use resty_session_core::session::{Error, Meta, Outcome, Session, State};
use resty_session_core::time::Timestamp;

/// One value of a row. Text is pushed onto Lua's stack as it is, which is cheaper than a value with
/// a reference.
pub type Field = Either<Option<String>, LuaValue>;

/// A row: what the shim is to do next, the number of a [`Next`], and what it needs for that: four
/// values; unused ones at the end are nil.
// A tuple, because it needs no memory of its own on its way to Lua, as a list of values would;
// nested, so that no tuple has more than four parts.
pub type Row = (f64, Field, Field, (Field, Field));

/// What the shim is to do next: the first value of each [`Row`], with at most four others. (The
/// shim's functions take them as parameters. LuaJIT does not compile a function by itself that
/// takes any number of values.)
#[derive(Clone, Copy)]
pub enum Next {
    /// Apply an opened session; the act has no other result: `data, subject, position`. That is
    /// JSON of its only audience's data, its subject, and where in the Cookie header the value of
    /// the session's first cookie is: see [`POSITION_FACTOR`]. The audience is the one that was
    /// asked for, and the configuration's first key authenticates the cookie.
    Opened,
    /// Apply an opened session whose only entry also holds the id of its sign-in: `data, subject,
    /// ids, position`. The ids are that of the sign-in, of 22 characters, and right behind it the
    /// identity provider's session id, if there is one.
    OpenedSigned,
    /// Apply an opened session as [`Opened`](Self::Opened) does; the entry of its only audience
    /// holds more, or other names: `payload, position`. The payload is the JSON of an array with
    /// that entry.
    OpenedEntry,
    /// Apply any other outcome: `err, lines, cookie, more`. The lines are a string or an array of
    /// strings, `cookie` is the value of the session's first cookie if the act sets any, and `more`
    /// is a table or nil: see [`Finished::more`].
    ///
    /// Of an act that has no session: `err, value`, of which one is nil.
    Done,
    /// Take over the session's cookie, which was touched: `line, cookie`. Its key is the same, and
    /// the storage was not asked, so `known_at` stays.
    Touched,
    /// Wait for a ticket and call `resume_ticket(ticket, err)`: `ticket, limit, in_entry_thread`.
    /// The limit is how many seconds to wait at most; `in_entry_thread` says whether this thread
    /// may wait by itself.
    Wait,
    /// Call `get` of the program's own storage and then `reply(task, value, err)`: `task, name,
    /// key, current_time`.
    Get,
    /// Call another method of the program's own storage and then `reply(task, value, err)`: `task,
    /// request`, a table with the `method` and its arguments by their names.
    Call,
    /// Find out whether this thread can wait for a key that takes long to derive, and call
    /// `derive(task, problem)`: `task`.
    Derive,
    /// Find out how the store of marks is reached, and call `ask(task, store, problem)`: `task`.
    Ask,
    /// Call `get` of the program's own store of marks and then `reply(task, value, err)`: `task,
    /// name, key, current_time`.
    GetMark,
    /// Call `set` of the program's own store of marks and then `reply(task, value, err)`: `task,
    /// request`, as for [`Call`](Self::Call).
    SetMark,
}

/// The shim gets a position in a Cookie header as one number: its start, counted from 1, times this
/// factor, plus its end.
pub const POSITION_FACTOR: u64 = 1 << 26;

/// A place in a Cookie header as one number.
fn position(place: &Range<usize>) -> u64 {
    (place.start as u64 + 1) * POSITION_FACTOR + place.end as u64
}

impl Next {
    /// All of them by name, for the shim.
    pub const ALL: [(&str, Self); 12] = [
        ("OPENED", Self::Opened),
        ("OPENED_SIGNED", Self::OpenedSigned),
        ("OPENED_ENTRY", Self::OpenedEntry),
        ("DONE", Self::Done),
        ("TOUCHED", Self::Touched),
        ("WAIT", Self::Wait),
        ("GET", Self::Get),
        ("CALL", Self::Call),
        ("DERIVE", Self::Derive),
        ("ASK", Self::Ask),
        ("GET_MARK", Self::GetMark),
        ("SET_MARK", Self::SetMark),
    ];

    /// The number that stands for it.
    pub fn number(self) -> f64 {
        f64::from(self as u8)
    }

    /// A row that starts with it.
    pub fn row<const N: usize>(self, values: [Field; N]) -> Row {
        const { assert!(N <= 4, "a row has four values besides its first") };
        let mut values = values.into_iter();
        let mut value = || values.next().unwrap_or_else(nil);
        (self.number(), value(), value(), (value(), value()))
    }
}

/// The arguments of every act: `handle, now, cookies, unsendable, problem`, and the act's own.
pub type Args<More> = (HandleRef, u64, Option<BString>, (Option<String>, Option<String>, More));

/// What an act knows about the request and the response.
pub struct RequestRow {
    pub now: Timestamp,
    /// The Cookie header.
    pub cookies: Vec<u8>,
    /// Why the response can't set a cookie, if it can't.
    pub unsendable: Option<String>,
    /// Why storages can't be waited for, if they can't.
    pub problem: Option<String>,
}

/// Reads the arguments of an act.
pub fn read<More>((handle, now, cookies, (unsendable, problem, more)): Args<More>) -> (HandleRef, RequestRow, More) {
    let cookies = cookies.map(Into::into).unwrap_or_default();
    (handle, RequestRow { now: Timestamp::from_secs(now), cookies, unsendable, problem }, more)
}

/// What an act on an instance is given besides: `open, remember, forget, cookie, ikm, known_at,
/// remembered, payload, index, info`.
pub type InstanceArgs = (bool, bool, bool, (Option<BString>, Option<BString>, Option<u64>, DataArgs));

type DataArgs = (Option<LuaTable>, Option<BString>, LuaValue, Option<BString>);

/// An instance between two acts, as the shim keeps it.
pub struct InstanceRow {
    pub open: bool,
    /// Whether the user is to be remembered.
    pub remember: bool,
    /// Whether the user asked to be forgotten.
    pub forget: bool,
    pub meta: MetaRow,
    /// The meta of the remember cookie: `value`, `ikm` and `known_at`.
    pub remembered: Option<LuaTable>,
    /// The data, JSON.
    pub payload: Option<BString>,
    /// The current audience's place among the data, counted from 1; a program may have put anything
    /// in its place.
    pub index: LuaValue,
    /// JSON.
    pub info: Option<BString>,
}

/// What the shim keeps of a cookie.
pub struct MetaRow {
    /// The value of the first cookie.
    pub cookie: Option<BString>,
    /// The key material that authenticates it.
    pub ikm: Option<BString>,
    /// When its record was last known to exist: seconds since the epoch.
    pub known_at: Option<u64>,
}

impl From<InstanceArgs> for InstanceRow {
    fn from((open, remember, forget, (cookie, ikm, known_at, data)): InstanceArgs) -> Self {
        let (remembered, payload, index, info) = data;
        Self { open, remember, forget, meta: MetaRow { cookie, ikm, known_at }, remembered, payload, index, info }
    }
}

/// An act's result, for the shim.
pub struct Finished<'a> {
    pub session: &'a mut Session,
    pub outcome: Outcome,
    /// How many bytes of data the act started with.
    pub payload_size: usize,
    /// When the act started.
    pub now: Timestamp,
}

impl Finished<'_> {
    /// A row of [`Next::Opened`], [`Next::Touched`] or [`Next::Done`].
    pub fn into_row(self, lua: &Lua) -> LuaResult<Row> {
        match self.opened(lua)?.or_else(|| self.touched()) {
            Some(row) => Ok(row),
            None => self.done(lua),
        }
    }

    /// Whether the act opened a session, or dropped audiences; otherwise the data are the shim's
    /// own.
    fn has_new_data(&self) -> bool {
        self.session.rewritten || self.session.payload.len() != self.payload_size
    }

    fn opened(&self, lua: &Lua) -> LuaResult<Option<Row>> {
        let Session { meta, payload, sole, .. } = &*self.session;
        let (Some(Meta { key: 0, place: Some(place), known_at, .. }), Some(sole)) = (meta, sole) else {
            return Ok(None);
        };
        let is_all = self.session.state == State::Open && self.session.lines.is_empty() && !self.has_more();
        if *known_at != self.now || !self.has_new_data() || !is_all {
            return Ok(None);
        }
        let position = number(position(place));
        let Some(parts) = sole.split(payload) else {
            return match sole.split_signed(payload) {
                Some(parts) => signed(lua, &parts, position).map(Some),
                None => Ok(Some(Next::OpenedEntry.row([string(lua.create_string(payload)?), position]))),
            };
        };
        // The data are copied once, into Lua's memory.
        let data = string(lua.create_string(parts.data)?);
        Ok(Some(Next::Opened.row([data, bytes(lua, parts.subject)?, position])))
    }

    fn touched(&self) -> Option<Row> {
        let (Some(meta), [line]) = (&self.session.meta, self.session.lines.as_slice()) else { return None };
        let is_all = !self.outcome.exists && !self.has_new_data() && !self.has_more();
        (is_all && meta.known_at != self.now).then(|| Next::Touched.row([text(line.as_str()), text(meta.value())]))
    }

    /// Whether there is an error or a rare result.
    fn has_more(&self) -> bool {
        let Session { warning, info, remember_meta, .. } = &*self.session;
        self.outcome.result.is_err() || warning.is_some() || info.is_some() || remember_meta.is_some()
    }

    fn done(self, lua: &Lua) -> LuaResult<Row> {
        let error = self.outcome.result.as_ref().err().map(ToString::to_string);
        let more = self.more(lua)?;
        let Session { meta, lines, .. } = self.session;
        let changed = meta.as_ref().filter(|meta| meta.place.is_none() && !lines.is_empty());
        let cookie = Either::Left(changed.map(|meta| meta.value()));
        let lines = match lines.len() {
            0 | 1 => Either::Left(lines.pop()),
            _ => Either::Right(LuaValue::Table(lua.create_sequence_from(std::mem::take(lines))?)),
        };
        Ok(Next::Done.row([Either::Left(error), lines, cookie, more]))
    }

    /// Returns an act's rare results in a table with names, or nil if it has none:
    ///
    /// - `exists`: whether the session exists, or existed
    /// - `warning`: to be logged
    /// - `key`: the number of the configuration's key that authenticates the cookie, if it is not
    ///   the first
    /// - `known_at`: when the session's record was last known to exist, if that is not now: seconds
    ///   since the epoch
    /// - `position`: where the session's first cookie stands in the Cookie header, if the act read
    ///   it
    /// - `payload`: the data of all audiences, JSON, if the act opened a session or dropped
    ///   audiences
    /// - `index`: the current audience's place among them
    /// - `info`: JSON, beside `payload`
    /// - `remembered`: the remember cookie's meta, if the act opened or saved it: `value`, `key`
    ///   and `known_at`
    fn more(&self, lua: &Lua) -> LuaResult<Field> {
        let mut more = More(None);
        let session = &*self.session;
        more.set(lua, "exists", Some(true).filter(|_| self.outcome.exists))?;
        more.set(lua, "warning", session.warning.as_deref())?;
        if let Some(meta) = &session.meta {
            more.set(lua, "key", Some(meta.key + 1).filter(|key| *key > 1))?;
            let known_at = Some(meta.known_at).filter(|known_at| *known_at != self.now);
            more.set(lua, "known_at", known_at.map(Timestamp::as_secs))?;
            more.set(lua, "position", meta.place.as_ref().map(position))?;
        }
        if self.has_new_data() {
            more.set(lua, "payload", Some(lua.create_string(&session.payload)?))?;
            more.set(lua, "index", session.index.map(|index| index + 1))?;
            more.set(lua, "info", session.info.as_deref().map(|info| lua.create_string(info)).transpose()?)?;
        }
        let remembered = session.remember_meta.as_deref();
        more.set(lua, "remembered", remembered.map(|meta| remembered_table(lua, meta)).transpose()?)?;
        Ok(more.0.map_or_else(nil, |table| Either::Right(LuaValue::Table(table))))
    }
}

/// A row of [`Next::OpenedSigned`].
// By itself, so that sessions without marks, which have no such row, don't get slower by it.
#[inline(never)]
fn signed(lua: &Lua, parts: &SignedParts, position: Field) -> LuaResult<Row> {
    let data = string(lua.create_string(parts.data)?);
    let ids = parts.sid.map(|sid| [parts.sign_in, sid].concat());
    let ids = bytes(lua, Some(ids.as_deref().unwrap_or(parts.sign_in)))?;
    Ok(Next::OpenedSigned.row([data, bytes(lua, parts.subject)?, ids, position]))
}

/// A table that is only made once a field has a value.
struct More(Option<LuaTable>);

impl More {
    fn set(&mut self, lua: &Lua, name: &str, value: Option<impl IntoLua>) -> LuaResult<()> {
        let Some(value) = value else { return Ok(()) };
        let table = match self.0.take() {
            Some(table) => table,
            None => lua.create_table()?,
        };
        table.raw_set(name, value)?;
        self.0 = Some(table);
        Ok(())
    }
}

/// The row of an act that failed at once.
pub fn failed(error: &dyn std::fmt::Display) -> Row {
    Next::Done.row([text(error.to_string())])
}

/// The row of an act that has no session: its value, or its error.
pub fn of_value(result: Result<Field, Error>) -> Row {
    match result {
        Ok(value) => Next::Done.row([nil(), value]),
        Err(error) => failed(&error),
    }
}

/// The row of an act that waits for a ticket.
pub fn waits((ticket, limit, in_entry_thread): Submitted) -> Row {
    Next::Wait.row([number(ticket), Either::Right(LuaValue::Number(limit)), boolean(in_entry_thread)])
}

fn nil() -> Field {
    Either::Left(None)
}

pub fn text(text: impl Into<String>) -> Field {
    Either::Left(Some(text.into()))
}

pub fn number(number: u64) -> Field {
    Either::Right(LuaValue::Number(number as f64))
}

pub fn boolean(value: bool) -> Field {
    Either::Right(LuaValue::Boolean(value))
}

fn string(string: LuaString) -> Field {
    Either::Right(LuaValue::String(string))
}

/// Bytes as they are, whether they are UTF-8 or not.
fn bytes(lua: &Lua, bytes: Option<&[u8]>) -> LuaResult<Field> {
    let Some(bytes) = bytes else { return Ok(nil()) };
    match std::str::from_utf8(bytes) {
        Ok(plain) => Ok(text(plain)),
        Err(_) => lua.create_string(bytes).map(string),
    }
}

/// `{ value = …, key = …, known_at = … }`.
fn remembered_table(lua: &Lua, meta: &Meta) -> LuaResult<LuaTable> {
    let table = lua.create_table()?;
    table.set("value", meta.value())?;
    table.set("key", meta.key + 1)?;
    table.set("known_at", meta.known_at.as_secs())?;
    Ok(table)
}
