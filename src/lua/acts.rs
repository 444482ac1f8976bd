//! The acts on a session: arguments into a [`Session`], its needs out to Lua, its results back.
//!
//! Every act returns a [`Row`] that tells the shim what to do [`Next`]. An operation of a storage on
//! the bridge is submitted at once, and the shim waits for its ticket. For a storage of the
//! program's own the shim calls the storage's method. A key that takes long to derive is submitted
//! like an operation of the bridge, once it is known that the thread can wait. `proceed`, `reply`
//! and `derive` then return such a row again. The request's values to bind to are read by calling
//! back into Lua at once, if they are needed.

use std::rc::Rc;

use mlua::prelude::*;
use mlua::{BString, Either};

use super::blocks::in_entry_thread;
use super::bridge::bridge;
use super::configuration::{Handle, name_of};
use super::rows::{self, Args, Finished, InstanceArgs, InstanceRow, MetaRow, Next, Request, Row};
use super::rows::{failed, number, text, waits};
use super::storages::{DELIVERY, NOT_A_STORAGES, StorageHandle};
use crate::bridge::{Answer as BridgeAnswer, Ticket, derivations, runtime};
use resty_session_core::cookie::keys::Derivation;
use resty_session_core::cookie::{Binding, Error as CookieError};
use resty_session_core::secret::Secret;
use resty_session_core::session::audiences::Metadata;
use resty_session_core::session::effect::{Answer, Effect, Host, Step, Task};
use resty_session_core::session::{self, Act, Configuration, Error, Kind, Meta, Outcome, Session, State};
use resty_session_core::time::Timestamp;

pub fn register(lua: &Lua, module: &LuaTable) -> LuaResult<()> {
    module.set("open", lua.create_function(|lua, args| on_request(lua, args, Function::Open))?)?;
    module.set("start", lua.create_function(|lua, args| on_request(lua, args, Function::Start))?)?;
    module.set("logout", lua.create_function(|lua, args| on_request(lua, args, Function::Logout))?)?;
    module.set("destroy", lua.create_function(|lua, args| on_request(lua, args, Function::Destroy))?)?;
    let instance = lua.create_table()?;
    instance.set("save", lua.create_function(|lua, args: Args<InstanceArgs>| on_instance(lua, args, Method::Save))?)?;
    instance
        .set("touch", lua.create_function(|lua, args: Args<InstanceArgs>| on_instance(lua, args, Method::Touch))?)?;
    instance.set(
        "refresh",
        lua.create_function(|lua, args: Args<InstanceArgs>| on_instance(lua, args, Method::Refresh))?,
    )?;
    instance
        .set("logout", lua.create_function(|lua, args: Args<InstanceArgs>| on_instance(lua, args, Method::Logout))?)?;
    instance.set(
        "destroy",
        lua.create_function(|lua, args: Args<InstanceArgs>| on_instance(lua, args, Method::Destroy))?,
    )?;
    instance.set(
        "save_info",
        lua.create_function(|lua, args: Args<InstanceArgs>| on_instance(lua, args, Method::SaveInfo))?,
    )?;
    module.set("instance", instance)?;
    let next = lua.create_table()?;
    for (name, value) in Next::ALL {
        next.set(name, value.number())?;
    }
    module.set("NEXT", next)?;
    module.set("POSITION_FACTOR", rows::POSITION_FACTOR)?;
    module.set("set_reader", lua.create_function(set_reader)?)?;
    module.set("set_scheme_reader", lua.create_function(set_scheme_reader)?)?;
    module.set("reply", lua.create_function(reply)?)?;
    module.set("proceed", lua.create_function(proceed)?)?;
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

/// The functions that start from the request's cookie.
#[derive(Clone, Copy)]
enum Function {
    Open,
    Start,
    Logout,
    Destroy,
}

/// `audience` and `remember` are those of an instance that is to be opened, if they are not the configured ones.
fn on_request(lua: &Lua, args: Args<(LuaValue, Option<bool>)>, function: Function) -> LuaResult<Row> {
    let (handle, request, (audience, remember)) = rows::read(args);
    let mut session = Session::new(&handle.configuration);
    session.audience = Some(audience).filter(|audience| !audience.is_nil()).map(|audience| name_of(&audience));
    session.remember = remember.unwrap_or(session.remember);
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

#[derive(Clone, Copy)]
enum Method {
    Save,
    Touch,
    Refresh,
    Logout,
    Destroy,
    SaveInfo,
}

fn on_instance(lua: &Lua, args: Args<InstanceArgs>, method: Method) -> LuaResult<Row> {
    let (handle, request, instance) = rows::read(args);
    let instance = InstanceRow::from(instance);
    let session = match session_of(&handle.configuration, instance) {
        Ok(session) => session,
        Err(error) => return Ok(failed(&error)),
    };
    let running = Running::new(lua, &handle, request, session, move |act, mut session| async move {
        let result = match method {
            Method::Save => session.save(&act).await,
            Method::Touch => session.touch(&act).await,
            Method::Refresh => session.refresh(&act).await,
            Method::Logout => session.logout(&act).await,
            Method::Destroy => session.destroy(&act).await,
            Method::SaveInfo => session.save_info(&act).await,
        };
        // The shim knows whether an instance is open.
        (session, Outcome { exists: false, result })
    });
    running.start(lua)
}

/// The session of an instance.
fn session_of(configuration: &Configuration, instance: InstanceRow) -> Result<Session, Error> {
    let meta = meta(configuration, Kind::Session, instance.meta)?;
    let remembered = instance.remembered.as_ref().map(|table| remembered_meta(configuration, table));
    Ok(Session {
        state: if instance.open { State::Open } else { State::New },
        meta,
        remember_meta: remembered.transpose()?.flatten().map(Box::new),
        remember: instance.remember,
        forget: instance.forget,
        payload: instance.payload.map(|payload| Vec::from(payload).into()).unwrap_or_default(),
        index: instance.index.as_usize().and_then(|index| index.checked_sub(1)),
        info: instance.info.map(Into::into),
        ..Session::new(configuration)
    })
}

fn meta(configuration: &Configuration, kind: Kind, row: MetaRow) -> Result<Option<Meta>, Error> {
    let Some(cookie) = row.cookie else { return Ok(None) };
    let ikm = Secret::from(Vec::from(row.ikm.unwrap_or_default()));
    let keys = &configuration.cookie(kind).keys;
    let key = keys.iter().position(|key| ikm == key.ikm()).ok_or(CookieError::InvalidMac)?;
    Meta::from_value(cookie.into(), key, Timestamp::from_secs(row.known_at.unwrap_or_default())).map(Some)
}

fn remembered_meta(configuration: &Configuration, table: &LuaTable) -> Result<Option<Meta>, Error> {
    let text = |name: &str| table.get::<Option<BString>>(name).ok().flatten();
    let row = MetaRow { cookie: text("value"), ikm: text("ikm"), known_at: table.get("known_at").ok() };
    meta(configuration, Kind::Remember, row)
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
                Step::Done((session, outcome)) => {
                    return Finished { session, outcome, payload_size: self.payload_size, now: self.now }.into_row(lua);
                }
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

    /// Asks the shim, which alone knows whether this thread can wait. The shim replies by calling [`derive()`].
    fn ask_whether_to_wait(mut self, lua: &Lua, derivation: Box<Derivation>) -> LuaResult<Row> {
        self.derivation = Some(derivation);
        let task = Either::Right(LuaValue::UserData(lua.create_userdata(self)?));
        Ok(Next::Derive.row([task]))
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

/// `reply(task, value, err)`: goes on with the reply of a storage of the program's own.
fn reply(lua: &Lua, (task, value, error): (LuaAnyUserData, LuaValue, LuaValue)) -> LuaResult<Row> {
    let mut running: Running = task.take()?;
    let cause = || if error.is_nil() { None } else { error.to_string().ok() };
    let answer = answer_of(&running, &value, cause);
    let step = running.task.resume(answer);
    running.go_on(lua, step)
}

/// `proceed(ticket, err)`: goes on with the reply to the ticket, or with the error if none came.
fn proceed(lua: &Lua, (ticket, error): (Ticket, Option<String>)) -> LuaResult<Row> {
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

/// What a program's own storage is to do, in values or, if that is not `get`, in a table with names.
fn needs(lua: &Lua, task: Running, effect: Effect) -> LuaResult<Row> {
    let task = Either::Right(LuaValue::UserData(lua.create_userdata(task)?));
    if let Effect::Get(get) = effect {
        return Ok(Next::Get.row([task, text(&*get.name), text(get.key), number(get.current_time)]));
    }
    let request = lua.create_table()?;
    match effect {
        Effect::Set(set) => {
            request.raw_set("method", "set")?;
            record(lua, &request, (&set.name, set.key, &set.value))?;
            request.raw_set("ttl", set.ttl)?;
            request.raw_set("current_time", set.current_time)?;
            request.raw_set("old_key", set.old_key)?;
            request.raw_set("stale_ttl", set.stale_ttl)?;
            request.raw_set("metadata", metadata(lua, set.metadata)?)?;
            request.raw_set("old_must_exist", set.old_must_exist)?;
        }
        Effect::Update(update) => {
            request.raw_set("method", "update")?;
            record(lua, &request, (&update.name, update.key, &update.value))?;
            request.raw_set("ttl", update.ttl)?;
            request.raw_set("current_time", update.current_time)?;
        }
        Effect::Delete(delete) => {
            request.raw_set("method", "delete")?;
            request.raw_set("name", &*delete.name)?;
            request.raw_set("key", delete.key)?;
            request.raw_set("current_time", delete.current_time)?;
            request.raw_set("metadata", metadata(lua, delete.metadata)?)?;
        }
        Effect::Get(_) | Effect::Binding | Effect::Derive(_) => return Ok(failed(&NOT_A_STORAGES)),
    }
    Ok(Next::Call.row([task, Either::Right(LuaValue::Table(request))]))
}

fn record(lua: &Lua, request: &LuaTable, (name, key, value): (&str, String, &[u8])) -> LuaResult<()> {
    request.raw_set("name", name)?;
    request.raw_set("key", key)?;
    request.raw_set("value", lua.create_string(value)?)
}

fn metadata(lua: &Lua, metadata: Option<Metadata>) -> LuaResult<Option<LuaTable>> {
    let Some(metadata) = metadata else { return Ok(None) };
    let table = lua.create_table()?;
    table.set("audiences", metadata.audiences)?;
    table.set("subjects", metadata.subjects)?;
    Ok(Some(table))
}
