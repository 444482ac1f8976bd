//! The acts on a session: arguments into a [`Session`], its needs out to Lua, its results back.
//!
//! Every act answers the same row of values, [`Row`]. Where a storage has to be asked first, it
//! depends on the storage: what a storage on the bridge is to do is submitted at once, and the row
//! starts with a ticket, to be waited for. For a storage of the program's own the row starts with a
//! task, followed by the storage method's name and arguments; the shim calls the method. A key that
//! takes long to derive is submitted like an operation of the bridge, once it is known that the
//! thread can wait. `go_on`, `resume` and `derive` then answer such a row again. The request's
//! values to bind to are read by calling back into Lua at once, if they are needed.

use std::rc::Rc;

use mlua::prelude::*;
use mlua::{BString, Either, Variadic};

use super::blocks::in_entry_thread;
use super::bridge::bridge;
use super::configuration::{Handle, name_of};
use super::storages::{DELIVERY, NOT_A_STORAGES, StorageHandle, Submitted};
use crate::bridge::{Answer as BridgeAnswer, Ticket, derivations, runtime};
use resty_session_core::cookie::keys::Derivation;
use resty_session_core::cookie::{Binding, Error as CookieError};
use resty_session_core::secret::Secret;
use resty_session_core::session::audiences::Metadata;
use resty_session_core::session::effect::{Answer, Effect, Host, Step, Task};
use resty_session_core::session::{self, Act, Configuration, Error, Kind, Meta, Outcome, Session, State};
use resty_session_core::time::Timestamp;

type HandleRef = LuaUserDataRef<Handle>;

/// One value of a row. Text is pushed onto Lua's stack as it is, which is cheaper than a value with a reference.
type Slot = Either<Option<String>, LuaValue>;

/// What an act returns to the shim, one of:
///
/// - a ticket, how many seconds to wait for it at most, and whether this thread may wait by itself;
/// - a task and the storage operation that it needs: `method, ...`;
/// - a task and `derive`, if it needs a key that takes long to derive;
/// - nil and the result: `err, exists, lines, warning, key, cookie, cookie_end, payload, index,
///   subject, info, remembered, known_at`.
///
/// `cookie` is the value of the session's first cookie, header and initial chunk, if the act
/// changed it. If the act read it, `cookie` and `cookie_end` are where it starts and ends in the
/// Cookie header. `known_at` is when the session's record was last known to exist, if that is not
/// now. If the session has no other audience than the current one, `index` is that one's name,
/// `payload` only its data, and `subject` its subject, so that fewer tables are decoded. Nils at the
/// end are left out.
type Row = Variadic<Slot>;

pub fn register(lua: &Lua, module: &LuaTable) -> LuaResult<()> {
    module.set("open", lua.create_function(|lua, args: Args| on_request(lua, args, Function::Open))?)?;
    module.set("start", lua.create_function(|lua, args: Args| on_request(lua, args, Function::Start))?)?;
    module.set("logout", lua.create_function(|lua, args: Args| on_request(lua, args, Function::Logout))?)?;
    module.set("destroy", lua.create_function(|lua, args: Args| on_request(lua, args, Function::Destroy))?)?;
    let instance = lua.create_table()?;
    instance.set("open", lua.create_function(open_instance)?)?;
    instance.set("save", lua.create_function(|lua, args: InstanceArgs| on_instance(lua, args, Method::Save))?)?;
    instance.set("touch", lua.create_function(|lua, args: InstanceArgs| on_instance(lua, args, Method::Touch))?)?;
    instance.set("refresh", lua.create_function(|lua, args: InstanceArgs| on_instance(lua, args, Method::Refresh))?)?;
    instance.set("logout", lua.create_function(|lua, args: InstanceArgs| on_instance(lua, args, Method::Logout))?)?;
    instance.set("destroy", lua.create_function(|lua, args: InstanceArgs| on_instance(lua, args, Method::Destroy))?)?;
    instance
        .set("save_info", lua.create_function(|lua, args: InstanceArgs| on_instance(lua, args, Method::SaveInfo))?)?;
    module.set("instance", instance)?;
    module.set("set_reader", lua.create_function(set_reader)?)?;
    module.set("set_scheme_reader", lua.create_function(set_scheme_reader)?)?;
    module.set("resume", lua.create_function(resume)?)?;
    module.set("go_on", lua.create_function(go_on)?)?;
    module.set("derive", lua.create_function(derive)?)
}

/// The shim's function that reads the request's remote_addr, scheme and user agent.
struct Reader(LuaFunction);

/// `set_reader(read)`.
fn set_reader(lua: &Lua, read: LuaFunction) -> LuaResult<()> {
    lua.set_app_data(Reader(read));
    Ok(())
}

/// The shim's function that reads the request's scheme, and its `X-Forwarded-Proto` if it is told to.
struct SchemeReader(LuaFunction);

/// `set_scheme_reader(read)`.
fn set_scheme_reader(lua: &Lua, read: LuaFunction) -> LuaResult<()> {
    lua.set_app_data(SchemeReader(read));
    Ok(())
}

/// The configuration for this request, whose scheme may decide about the cookies' attributes. In a phase without a
/// request any will do, since no cookie can be set there.
fn for_request(lua: &Lua, configuration: &Rc<Configuration>) -> Rc<Configuration> {
    if !configuration.depends_on_scheme() {
        return configuration.clone();
    }
    let Some(reader) = lua.app_data_ref::<SchemeReader>().map(|reader| reader.0.clone()) else {
        return configuration.clone();
    };
    let read = reader.call::<(LuaValue, LuaValue)>(configuration.trusts_forwarded_proto());
    let (scheme, forwarded) = read.unwrap_or((LuaValue::Nil, LuaValue::Nil));
    configuration.for_request(&bytes_of(&scheme), &bytes_of(&forwarded))
}

/// The bytes of a string; none for any other value.
fn bytes_of(value: &LuaValue) -> Vec<u8> {
    value.as_string().map(|text| text.as_bytes().to_vec()).unwrap_or_default()
}

/// `handle, now, cookies, unsendable, problem`: the Cookie header; why the response can't set a
/// cookie, and why storages can't be waited for, if they can't.
type Args = (HandleRef, u64, Option<BString>, Option<String>, Option<String>);

/// The functions that start from the request's cookie.
#[derive(Clone, Copy)]
enum Function {
    Open,
    Start,
    Logout,
    Destroy,
}

fn on_request(lua: &Lua, args: Args, function: Function) -> LuaResult<Row> {
    let (handle, now, cookies, unsendable, problem) = args;
    let session = Session::new(&handle.configuration);
    let request = Request::new(now, cookies, unsendable, problem);
    let running = Running::new(lua, &handle, request, session, move |act, mut session| async move {
        let outcome = match function {
            Function::Open => session::open(&act, &mut session).await,
            Function::Start => session::start(&act, &mut session).await,
            Function::Logout => session::logout(&act, &mut session).await,
            Function::Destroy => session::destroy(&act, &mut session).await,
        };
        (session, outcome)
    });
    running.start(lua)
}

/// `handle, now, cookies, unsendable, problem, audience, remember`: opens on behalf of an instance.
type OpenArgs = (HandleRef, u64, Option<BString>, Option<String>, Option<String>, LuaValue, bool);

fn open_instance(lua: &Lua, args: OpenArgs) -> LuaResult<Row> {
    let (handle, now, cookies, unsendable, problem, audience, remember) = args;
    let request = Request::new(now, cookies, unsendable, problem);
    let session = Session { audience: Some(name_of(&audience)), remember, ..Session::new(&handle.configuration) };
    let running = Running::new(lua, &handle, request, session, |act, mut session| async move {
        let outcome = session::open(&act, &mut session).await;
        (session, outcome)
    });
    running.start(lua)
}

/// `handle, now, cookies, unsendable, problem, open, remember, forget, cookie, ikm, known_at,
/// remembered, payload, index, info`: whether the instance is open; what its meta, its
/// remember_meta and its data say.
type InstanceArgs = (
    HandleRef,
    u64,
    Option<BString>,
    Option<String>,
    Option<String>,
    bool,
    bool,
    bool,
    Option<BString>,
    Option<BString>,
    Option<u64>,
    Option<LuaTable>,
    Option<BString>,
    LuaValue,
    Option<BString>,
);

#[derive(Clone, Copy)]
enum Method {
    Save,
    Touch,
    Refresh,
    Logout,
    Destroy,
    SaveInfo,
}

fn on_instance(lua: &Lua, args: InstanceArgs, method: Method) -> LuaResult<Row> {
    let (handle, now, cookies, unsendable, problem, open, remember, forget, ..) = args;
    let (.., cookie, ikm, known_at, remembered, payload, index, info) = args;
    let configuration = &handle.configuration;
    let metas = meta(configuration, Kind::Session, cookie, ikm, known_at)
        .and_then(|meta| Ok((meta, remembered.map_or(Ok(None), |table| remembered_meta(configuration, &table))?)));
    let (meta, remember_meta) = match metas {
        Ok(metas) => metas,
        Err(error) => return Ok(failed(&error)),
    };
    let session = Session {
        state: if open { State::Open } else { State::New },
        meta,
        remember_meta: remember_meta.map(Box::new),
        remember,
        forget,
        payload: payload.map(|payload| Vec::from(payload).into()).unwrap_or_default(),
        // A program may have put anything in its place.
        index: index.as_usize().and_then(|index| index.checked_sub(1)),
        info: info.map(Into::into),
        ..Session::new(configuration)
    };
    let request = Request::new(now, cookies, unsendable, problem);
    let running = Running::new(lua, &handle, request, session, move |act, mut session| async move {
        let result = match method {
            Method::Save => session.save(&act).await,
            Method::Touch => session.touch(&act).await,
            Method::Refresh => session.refresh(&act).await,
            Method::Logout => session.logout(&act).await,
            Method::Destroy => session.destroy(&act).await,
            Method::SaveInfo => session.save_info(&act).await,
        };
        (session, Outcome { exists: open, result })
    });
    running.start(lua)
}

fn meta(
    configuration: &Configuration,
    kind: Kind,
    cookie: Option<BString>,
    ikm: Option<BString>,
    known_at: Option<u64>,
) -> Result<Option<Meta>, Error> {
    let Some(cookie) = cookie else { return Ok(None) };
    let ikm = Secret::from(Vec::from(ikm.unwrap_or_default()));
    let keys = &configuration.cookie(kind).keys;
    let key = keys.iter().position(|key| ikm == key.ikm()).ok_or(CookieError::InvalidMac)?;
    Meta::from_value(cookie.into(), key, Timestamp::from_secs(known_at.unwrap_or_default())).map(Some)
}

fn remembered_meta(configuration: &Configuration, table: &LuaTable) -> Result<Option<Meta>, Error> {
    let text = |name: &str| table.get::<Option<BString>>(name).ok().flatten();
    meta(configuration, Kind::Remember, text("value"), text("ikm"), table.get("known_at").ok())
}

/// What an act is told of the request and the response.
struct Request {
    now: Timestamp,
    /// The Cookie header.
    cookies: Vec<u8>,
    unsendable: Option<String>,
    problem: Option<String>,
}

impl Request {
    fn new(now: u64, cookies: Option<BString>, unsendable: Option<String>, problem: Option<String>) -> Self {
        let now = Timestamp::from_secs(now);
        Self { now, cookies: cookies.map(Into::into).unwrap_or_default(), unsendable, problem }
    }
}

/// An act's session, and what the act came to.
type Done = (Session, Outcome);

/// An act under way, and what it takes to go on with it.
pub struct Running {
    task: Task<Done>,
    /// One on the bridge.
    storage: Option<StorageHandle>,
    /// Why storages on the bridge can't be waited for.
    problem: Option<String>,
    /// The key that the act needs, until the shim has said whether this thread can wait for it.
    derivation: Option<Box<Derivation>>,
    payload_size: usize,
    now: Timestamp,
}

impl LuaUserData for Running {}

impl Running {
    fn new<F: Future<Output = Done> + 'static>(
        lua: &Lua,
        handle: &Handle,
        request: Request,
        session: Session,
        run: impl FnOnce(Act, Session) -> F,
    ) -> Self {
        let Handle { configuration, storage } = handle;
        let payload_size = session.payload.len();
        let Request { now, cookies, unsendable, problem } = request;
        let configuration = for_request(lua, configuration);
        let act = |host: Host| Act { configuration, host, cookies, unsendable, now, random: getrandom::fill };
        let task = Task::new(|host| run(act(host), session));
        Self { task, storage: storage.clone(), problem, derivation: None, payload_size, now }
    }

    fn start(mut self, lua: &Lua) -> LuaResult<Row> {
        let step = self.task.start();
        self.go_on(lua, step)
    }

    /// Goes on until a storage is needed or the act is done.
    fn go_on(mut self, lua: &Lua, mut step: Step<Done>) -> LuaResult<Row> {
        loop {
            let answer = match step {
                Step::Needs(Effect::Binding) => binding(lua),
                Step::Needs(Effect::Derive(derivation)) => match (&self.storage, &self.problem) {
                    (Some(_), None) => return self.derive_elsewhere(lua, *derivation),
                    _ => return self.ask_whether_to_wait(lua, derivation),
                },
                Step::Needs(effect) => match (&self.storage, &self.problem) {
                    (None, _) => return needs(lua, self, effect),
                    (Some(storage), None) => {
                        let storage = storage.clone();
                        let submitted = storage.submit_effect(lua, effect, self);
                        return Ok(submitted.map_or_else(|error| failed(&error), waits));
                    }
                    (Some(_), Some(problem)) => Ok(self.task.failure(problem.clone())),
                },
                Step::Done(result) => return done(lua, result, self.payload_size, self.now),
                Step::Over => return Ok(failed(&"the act is over")),
            };
            // Where nginx does not let the request be read, it says why.
            step = match answer {
                Ok(answer) => self.task.resume(answer),
                Err(error) => return Ok(failed(&error)),
            };
        }
    }

    /// Has a key derived on the threads for that.
    fn derive_elsewhere(self, lua: &Lua, derivation: Derivation) -> LuaResult<Row> {
        if runtime::current().is_err() {
            return self.derive_here(lua, &derivation);
        }
        let operation = async { derivations::derive(derivation).await.map(|key| BridgeAnswer::Key(Box::new(key))) };
        let ticket = bridge(lua)?.submit(derivations::LIMIT, operation, Some(self));
        Ok(waits((ticket, (derivations::LIMIT + DELIVERY).as_secs_f64(), in_entry_thread(lua))))
    }

    /// Derives a key on nginx's own thread, which serves no other request meanwhile.
    fn derive_here(mut self, lua: &Lua, derivation: &Derivation) -> LuaResult<Row> {
        let step = self.task.resume(Answer::Key(Ok(Box::new(derivation.derive()))));
        self.go_on(lua, step)
    }

    /// Asks the shim, which alone knows whether this thread can wait. The shim replies by calling [`derive`].
    fn ask_whether_to_wait(mut self, lua: &Lua, derivation: Box<Derivation>) -> LuaResult<Row> {
        self.derivation = Some(derivation);
        let task = Either::Right(LuaValue::UserData(lua.create_userdata(self)?));
        Ok(vec![task, text("derive")].into())
    }
}

fn binding(lua: &Lua) -> LuaResult<Answer> {
    let (remote_addr, scheme, user_agent): (LuaValue, LuaValue, LuaValue) = reader(lua)?.call(())?;
    Ok(Answer::Binding(Binding {
        remote_addr: bytes_of(&remote_addr),
        scheme: bytes_of(&scheme),
        user_agent: bytes_of(&user_agent),
    }))
}

fn reader(lua: &Lua) -> LuaResult<LuaFunction> {
    let reader = lua.app_data_ref::<Reader>().map(|reader| reader.0.clone());
    reader.ok_or_else(|| LuaError::runtime("no reader was set"))
}

/// `resume(task, value, err)`: goes on with what a storage of the program's own answered.
fn resume(lua: &Lua, (task, value, error): (LuaAnyUserData, LuaValue, LuaValue)) -> LuaResult<Row> {
    let mut running: Running = task.take()?;
    let cause = || if error.is_nil() { None } else { error.to_string().ok() };
    let answer = answer_of(&running, &value, cause);
    let step = running.task.resume(answer);
    running.go_on(lua, step)
}

/// `go_on(ticket, err)`: goes on with what came for the ticket, or with the error where nothing came.
fn go_on(lua: &Lua, (ticket, error): (Ticket, Option<String>)) -> LuaResult<Row> {
    let (running, result) = bridge(lua)?.take(ticket);
    let Some(mut running) = running else { return Ok(failed(&"the act is over")) };
    let answer = match result {
        Some(Ok(BridgeAnswer::Record(record))) => Answer::Record(record.ok_or(None)),
        Some(Ok(BridgeAnswer::Absent)) => Answer::Done(Err(None)),
        Some(Ok(BridgeAnswer::Done | BridgeAnswer::Sessions(_))) => Answer::Done(Ok(())),
        Some(Ok(BridgeAnswer::Key(key))) => Answer::Key(Ok(key)),
        Some(Err(error)) => running.task.failure(error.to_string()),
        None => running.task.failure(error.unwrap_or_else(|| "no answer".to_owned())),
    };
    let step = running.task.resume(answer);
    running.go_on(lua, step)
}

/// `derive(task, problem)`: has the key derived that the task needs. `problem` is why this thread can't wait for it, if
/// it can't.
fn derive(lua: &Lua, (task, problem): (LuaAnyUserData, Option<String>)) -> LuaResult<Row> {
    let mut running: Running = task.take()?;
    let Some(derivation) = running.derivation.take() else { return Ok(failed(&NOT_A_STORAGES)) };
    match problem {
        None => running.derive_elsewhere(lua, *derivation),
        Some(_) => running.derive_here(lua, &derivation),
    }
}

/// What a program's storage answered.
fn answer_of(running: &Running, value: &LuaValue, cause: impl Fn() -> Option<String>) -> Answer {
    let succeeded = !matches!(value, LuaValue::Nil | LuaValue::Boolean(false));
    if !running.task.needs_record() {
        return Answer::Done(if succeeded { Ok(()) } else { Err(cause()) });
    }
    match value.as_string() {
        Some(text) => Answer::Record(Ok(text.as_bytes().to_vec())),
        None if succeeded => Answer::Record(Err(Some(format!("string expected, got {}", value.type_name())))),
        None => Answer::Record(Err(cause())),
    }
}

fn nil() -> Slot {
    Either::Left(None)
}

fn text(text: impl Into<String>) -> Slot {
    Either::Left(Some(text.into()))
}

fn number(number: u64) -> Slot {
    Either::Right(LuaValue::Number(number as f64))
}

/// Bytes as they are, whether they are UTF-8 or not.
fn bytes(lua: &Lua, bytes: Option<Vec<u8>>) -> LuaResult<Slot> {
    let Some(bytes) = bytes else { return Ok(nil()) };
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Either::Left(Some(text))),
        Err(error) => Ok(Either::Right(LuaValue::String(lua.create_string(error.as_bytes())?))),
    }
}

fn failed(error: &dyn std::fmt::Display) -> Row {
    vec![nil(), text(error.to_string())].into()
}

fn waits((ticket, limit, in_entry): Submitted) -> Row {
    let [limit, in_entry] = [LuaValue::Number(limit), LuaValue::Boolean(in_entry)].map(Either::Right);
    vec![number(ticket), limit, in_entry].into()
}

fn needs(lua: &Lua, task: Running, effect: Effect) -> LuaResult<Row> {
    let task = Either::Right(LuaValue::UserData(lua.create_userdata(task)?));
    let row = match effect {
        Effect::Get(get) => vec![task, text("get"), text(&*get.name), text(get.key), number(get.current_time)],
        Effect::Set(set) => {
            let value = bytes(lua, Some(set.value))?;
            let mut row = vec![task, text("set"), text(&*set.name), text(set.key), value];
            row.extend([number(set.ttl), number(set.current_time), Either::Left(set.old_key), number(set.stale_ttl)]);
            row.extend([metadata(lua, set.metadata)?, Either::Right(LuaValue::Boolean(set.old_must_exist))]);
            row
        }
        Effect::Update(update) => {
            let value = bytes(lua, Some(update.value))?;
            let (ttl, current_time) = (number(update.ttl), number(update.current_time));
            vec![task, text("update"), text(&*update.name), text(update.key), value, ttl, current_time]
        }
        Effect::Delete(delete) => {
            let metadata = metadata(lua, delete.metadata)?;
            vec![task, text("delete"), text(&*delete.name), text(delete.key), number(delete.current_time), metadata]
        }
        Effect::Binding | Effect::Derive(_) => return Ok(failed(&NOT_A_STORAGES)),
    };
    Ok(row.into())
}

fn metadata(lua: &Lua, metadata: Option<Metadata>) -> LuaResult<Slot> {
    let Some(metadata) = metadata else { return Ok(nil()) };
    let table = lua.create_table()?;
    table.set("audiences", metadata.audiences)?;
    table.set("subjects", metadata.subjects)?;
    Ok(Either::Right(LuaValue::Table(table)))
}

fn done(lua: &Lua, (mut session, outcome): Done, payload_size: usize, now: Timestamp) -> LuaResult<Row> {
    let Outcome { exists, result } = outcome;
    // The payload is the shim's own unless the act opened a session or dropped audiences.
    let payload = (session.payload.len() != payload_size).then_some(session.payload);
    let info = payload.as_ref().and_then(|_| session.info.take());
    let parts = payload.as_deref().zip(session.sole).and_then(|(payload, sole)| sole.split(payload));
    let (place, subject) = match &parts {
        Some(parts) => (bytes(lua, Some(parts.audience.to_vec()))?, parts.subject.map(<[u8]>::to_vec)),
        None => (session.index.map_or_else(nil, |index| number(index as u64 + 1)), None),
    };
    let data = parts.map(|parts| parts.data).or(payload.as_deref().map(Vec::as_slice));
    // Copied once, into Lua's memory.
    let data =
        data.map(|data| lua.create_string(data).map(|text| Either::Right(LuaValue::String(text)))).transpose()?;
    let remembered = session.remember_meta.map(|meta| remembered_table(lua, &meta)).transpose()?;
    let (key, [cookie, cookie_end, known_at]) = match session.meta {
        Some(meta) => (number(meta.key as u64 + 1), cookie_of(&meta, now, !session.lines.is_empty())),
        None => (nil(), [nil(), nil(), nil()]),
    };
    let mut row = vec![
        nil(),
        Either::Left(result.err().map(|error| error.to_string())),
        Either::Right(LuaValue::Boolean(exists)),
        lines(lua, session.lines)?,
        Either::Left(session.warning),
        key,
        cookie,
        cookie_end,
        data.unwrap_or_else(nil),
        place,
        bytes(lua, subject)?,
        bytes(lua, info)?,
        remembered.map_or_else(nil, |table| Either::Right(LuaValue::Table(table))),
        known_at,
    ];
    while matches!(row.last(), Some(Either::Left(None))) {
        row.pop();
    }
    Ok(row.into())
}

/// `cookie, cookie_end, known_at` of a [`Row`].
fn cookie_of(meta: &Meta, now: Timestamp, changed: bool) -> [Slot; 3] {
    let known_at = if meta.known_at == now { nil() } else { number(meta.known_at.as_secs()) };
    match &meta.place {
        Some(place) => [number(place.start as u64 + 1), number(place.end as u64), known_at],
        None => [Either::Left(changed.then(|| meta.value())), nil(), known_at],
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

fn remembered_table(lua: &Lua, meta: &Meta) -> LuaResult<LuaTable> {
    let table = lua.create_table()?;
    table.set("value", meta.value())?;
    table.set("key", meta.key + 1)?;
    table.set("known_at", meta.known_at.as_secs())?;
    Ok(table)
}
