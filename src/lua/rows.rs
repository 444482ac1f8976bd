//! The rows of values that cross the border when an act runs. Each is a struct here, and is read or made in one place;
//! `carry`, `perform` and `take_over` of the shim are the other ends.
//!
//! Rows instead of tables, because a table for each act would cost a tenth of an open.

use mlua::prelude::*;
use mlua::{BString, Either, Variadic};

use super::configuration::HandleRef;
use super::storages::Submitted;
use resty_session_core::session::{Meta, Outcome, Session};

/// One value of a row. Text is pushed onto Lua's stack as it is, which is cheaper than a value with a reference.
pub type Slot = Either<Option<String>, LuaValue>;

/// A row: what the shim is to do next, a [`Next`], and what it needs for that. Nils at the end may be left out.
pub type Row = Variadic<Slot>;

/// What the shim is to do next: the first value of each [`Row`].
#[derive(Clone, Copy)]
pub enum Next {
    /// Take over what the act came to: an [`OutcomeRow`].
    Done,
    /// Wait for a ticket and call `proceed(ticket, err)`: `ticket, limit, in_entry_thread`. The limit is how many seconds
    /// to wait at most; `in_entry_thread` says whether this thread may wait by itself.
    Wait,
    /// Call a method of the program's own storage and then `reply(task, value, err)`: `task, method, …`.
    Call,
    /// Find out whether this thread can wait for a key that takes long to derive, and call `derive(task, problem)`: `task`.
    Derive,
}

impl Next {
    /// The numbers by name, for the shim.
    pub const ALL: [(&str, Self); 4] =
        [("DONE", Self::Done), ("WAIT", Self::Wait), ("CALL", Self::Call), ("DERIVE", Self::Derive)];

    /// The number that stands for it.
    pub fn number(self) -> u64 {
        self as u64
    }

    /// A row that starts with it.
    pub fn row(self, values: impl IntoIterator<Item = Slot>) -> Row {
        [number(self.number())].into_iter().chain(values).collect()
    }
}

/// What every act is given: `handle, now, cookies, unsendable, problem`, and what else the act needs.
pub type Args<More = ()> = (HandleRef, u64, Option<BString>, (Option<String>, Option<String>, More));

/// What an act is told of the request and the response.
pub struct Request {
    /// Seconds since the epoch.
    pub now: u64,
    /// The Cookie header.
    pub cookies: Vec<u8>,
    /// Why the response can't set a cookie, if it can't.
    pub unsendable: Option<String>,
    /// Why storages can't be waited for, if they can't.
    pub problem: Option<String>,
}

/// Reads what every act is given.
pub fn read<More>((handle, now, cookies, (unsendable, problem, more)): Args<More>) -> (HandleRef, Request, More) {
    let cookies = cookies.map(Into::into).unwrap_or_default();
    (handle, Request { now, cookies, unsendable, problem }, more)
}

/// What an act on an instance is given besides: `open, remember, forget, cookie, ikm, known_at, remembered, payload, index,
/// info`.
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
    /// The current audience's place among the data, counted from 1; a program may have put anything in its place.
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

/// What an act came to.
pub struct OutcomeRow {
    pub error: Option<String>,
    /// Whether the session exists, or existed.
    pub exists: bool,
    /// Set-Cookie lines.
    pub lines: Vec<String>,
    /// To be logged.
    pub warning: Option<String>,
    /// Where the key that authenticates the cookie stands among the configuration's, counted from 1.
    pub key: Option<usize>,
    pub cookie: CookieRow,
    /// When the session's record was last known to exist, if that is not now: seconds since the epoch.
    pub known_at: Option<u64>,
    pub data: DataRow,
    /// The remember cookie's meta, if the act saved or opened it.
    pub remembered: Option<Box<Meta>>,
}

/// The value of a session's first cookie, header and initial chunk.
#[derive(Default)]
pub enum CookieRow {
    /// The act has not changed it.
    #[default]
    Same,
    /// The act saved it.
    Saved(String),
    /// The act read it: where it starts in the Cookie header, counted from 1, and where it ends.
    Read { start: usize, end: usize },
}

/// The data that an act gives to the shim. All is nil unless the act opened a session or dropped audiences.
pub struct DataRow {
    /// JSON: all audiences, or only the data of `audience`.
    pub payload: Option<LuaString>,
    /// The current audience's place among all, counted from 1.
    pub index: Option<usize>,
    /// The current audience, if the session has no other: fewer tables are decoded then.
    pub audience: Option<Vec<u8>>,
    /// The subject of that one.
    pub subject: Option<Vec<u8>>,
    /// JSON.
    pub info: Option<Vec<u8>>,
}

impl OutcomeRow {
    /// The outcome of an act which started at `now` with `payload_size` bytes of data.
    pub fn new(lua: &Lua, session: Session, outcome: Outcome, payload_size: usize, now: u64) -> LuaResult<Self> {
        let Session { meta, remember_meta, payload, index, sole, mut info, lines, warning, .. } = session;
        // The payload is the shim's own unless the act opened a session or dropped audiences.
        let payload = (payload.len() != payload_size).then_some(payload);
        info = info.filter(|_| payload.is_some());
        let parts = payload.as_deref().zip(sole).and_then(|(payload, sole)| sole.split(payload));
        let audience = parts.as_ref().map(|parts| parts.audience.to_vec());
        let subject = parts.as_ref().and_then(|parts| parts.subject).map(<[u8]>::to_vec);
        let text = parts.map(|parts| parts.data).or(payload.as_deref().map(Vec::as_slice));
        // Copied once, into Lua's memory.
        let payload = text.map(|text| lua.create_string(text)).transpose()?;
        Ok(Self {
            error: outcome.result.err().map(|error| error.to_string()),
            exists: outcome.exists,
            warning,
            key: meta.as_ref().map(|meta| meta.key + 1),
            known_at: meta.as_ref().map(|meta| meta.known_at).filter(|known_at| *known_at != now),
            cookie: meta.map(|meta| CookieRow::new(&meta, !lines.is_empty())).unwrap_or_default(),
            lines,
            data: DataRow { payload, index: index.map(|index| index + 1), audience, subject, info },
            remembered: remember_meta,
        })
    }

    /// `DONE, err, exists, lines, warning, key, cookie, cookie_end, known_at, payload, index, audience, subject, info,
    /// remembered`.
    pub fn into_row(self, lua: &Lua) -> LuaResult<Row> {
        let (cookie, cookie_end) = match self.cookie {
            CookieRow::Same => (nil(), nil()),
            CookieRow::Saved(value) => (text(value), nil()),
            CookieRow::Read { start, end } => (number(start as u64), number(end as u64)),
        };
        let place = |place: Option<usize>| place.map_or_else(nil, |place| number(place as u64));
        let mut row = Vec::with_capacity(15);
        row.extend([number(Next::Done.number()), Either::Left(self.error), boolean(self.exists)]);
        row.extend([lines(lua, self.lines)?, Either::Left(self.warning), place(self.key), cookie, cookie_end]);
        row.extend([self.known_at.map_or_else(nil, number), self.data.payload.map_or_else(nil, string)]);
        row.extend([place(self.data.index), bytes(lua, self.data.audience)?, bytes(lua, self.data.subject)?]);
        row.extend([bytes(lua, self.data.info)?, remembered(lua, self.remembered)?]);
        while matches!(row.last(), Some(Either::Left(None))) {
            row.pop();
        }
        Ok(row.into())
    }
}

impl CookieRow {
    fn new(meta: &Meta, changed: bool) -> Self {
        match &meta.place {
            Some(place) => Self::Read { start: place.start + 1, end: place.end },
            None if changed => Self::Saved(meta.value()),
            None => Self::Same,
        }
    }
}

/// The row of an act that failed at once.
pub fn failed(error: &dyn std::fmt::Display) -> Row {
    Next::Done.row([text(error.to_string())])
}

/// The row of an act that waits for a ticket.
pub fn waits((ticket, limit, in_entry_thread): Submitted) -> Row {
    Next::Wait.row([number(ticket), Either::Right(LuaValue::Number(limit)), boolean(in_entry_thread)])
}

pub fn nil() -> Slot {
    Either::Left(None)
}

pub fn text(text: impl Into<String>) -> Slot {
    Either::Left(Some(text.into()))
}

pub fn number(number: u64) -> Slot {
    Either::Right(LuaValue::Number(number as f64))
}

pub fn boolean(value: bool) -> Slot {
    Either::Right(LuaValue::Boolean(value))
}

fn string(string: LuaString) -> Slot {
    Either::Right(LuaValue::String(string))
}

/// Bytes as they are, whether they are UTF-8 or not.
pub fn bytes(lua: &Lua, bytes: Option<Vec<u8>>) -> LuaResult<Slot> {
    let Some(bytes) = bytes else { return Ok(nil()) };
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Either::Left(Some(text))),
        Err(error) => lua.create_string(error.as_bytes()).map(string),
    }
}

/// One line as a string, several as an array.
fn lines(lua: &Lua, mut lines: Vec<String>) -> LuaResult<Slot> {
    match lines.len() {
        0 => Ok(nil()),
        1 => Ok(Either::Left(lines.pop())),
        _ => Ok(Either::Right(LuaValue::Table(lua.create_sequence_from(lines)?))),
    }
}

/// `{ value = …, key = …, known_at = … }`.
fn remembered(lua: &Lua, meta: Option<Box<Meta>>) -> LuaResult<Slot> {
    let Some(meta) = meta else { return Ok(nil()) };
    let table = lua.create_table()?;
    table.set("value", meta.value())?;
    table.set("key", meta.key + 1)?;
    table.set("known_at", meta.known_at)?;
    Ok(Either::Right(LuaValue::Table(table)))
}
