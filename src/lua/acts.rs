//! The acts on a session: arguments into a [`Session`], its needs out to Lua, its results back.
//!
//! Every act returns a [`Row`] that tells the shim what to do [`Next`]. A request to a storage on
//! the bridge is submitted at once, and the shim waits for its ticket. For a storage that the
//! program wrote, the shim calls the storage's method. A key that takes long to derive is submitted
//! like a request, once it is known that the thread can wait. `resume_ticket`, `reply` and `derive`
//! then return such a row again. The request's values to bind to are read by calling back into Lua
//! at once, if they are needed.

use std::rc::Rc;

use mlua::prelude::*;
use mlua::{BString, Either};

use super::blocks::in_entry_thread;
use super::bridge::bridge;
use super::configuration::{Handle, name_of};
use super::rows::{self, Args, Finished, InstanceArgs, InstanceRow, MetaRow, Next, RequestRow, Row};
use super::rows::{failed, number, text, waits};
use super::running::{Awaited, Done, Running};
use super::storage_handle::StorageHandle;
use super::storages::{DELIVERY, submit};
use super::subjects::{Gathered, List};
use crate::bridge::{Ticket, derivations, runtime};
use resty_session_core::cookie::cipher::OneTimeKey;
use resty_session_core::cookie::keys::Derivation;
use resty_session_core::cookie::{Binding, Error as CookieError};
use resty_session_core::secret::Secret;
use resty_session_core::session::effect::{Environment, Need, Step, Supply, Task};
use resty_session_core::session::{self, Configuration, Context, Error, Kind, Meta, Outcome, Session, State};
use resty_session_core::storage::{Delete, Error as StorageError, LiveSession, Owner, Reply, Request};
use resty_session_core::time::Timestamp;

pub fn register(lua: &Lua, module: &LuaTable) -> LuaResult<()> {
    for (name, function) in FUNCTIONS {
        module.set(name, lua.create_function(move |lua, args| on_request(lua, args, function))?)?;
    }
    let instance = lua.create_table()?;
    for (name, method) in METHODS {
        instance.set(name, lua.create_function(move |lua, args| on_instance(lua, args, method))?)?;
    }
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
    module.set("resume_ticket", lua.create_function(resume_ticket)?)?;
    module.set("derive", lua.create_function(derive)?)
}

/// The shim's function that reads the request's remote_addr, scheme and user agent.
struct BindingReader(LuaFunction);

/// `set_reader(read)`.
fn set_reader(lua: &Lua, read: LuaFunction) -> LuaResult<()> {
    lua.set_app_data(BindingReader(read));
    Ok(())
}

/// The shim's function that reads the request's scheme, and its `X-Forwarded-Proto` if it is told
/// to.
struct SchemeReader(LuaFunction);

/// `set_scheme_reader(read)`.
fn set_scheme_reader(lua: &Lua, read: LuaFunction) -> LuaResult<()> {
    lua.set_app_data(SchemeReader(read));
    Ok(())
}

/// The configuration for this request, whose scheme may decide about the cookies' attributes. In a
/// phase without a request any will do, since no cookie can be set there.
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

const FUNCTIONS: [(&str, Function); 4] = [
    ("open", Function::Open),
    ("start", Function::Start),
    ("logout", Function::Logout),
    ("destroy", Function::Destroy),
];

/// `audience` and `remember` are those of an instance that is to be opened, if they are not the
/// configured ones.
fn on_request(lua: &Lua, args: Args<(LuaValue, Option<bool>)>, function: Function) -> LuaResult<Row> {
    let (handle, request, (audience, remember)) = rows::read(args);
    let audience = Some(audience).filter(|audience| !audience.is_nil()).map(|audience| name_of(&audience));
    let running = Running::new(lua, &handle, request, 0, move |context| async move {
        // Boxed, because it would be moved half a dozen times on its way out of the act.
        let mut session = Box::new(Session::new(&context.configuration));
        session.audience = audience;
        session.remember = remember.unwrap_or(session.remember);
        let outcome = match function {
            Function::Open => session::open(&context, &mut session).await,
            Function::Start => session::start(&context, &mut session).await,
            Function::Logout => session::logout(&context, &mut session).await,
            Function::Destroy => session::destroy(&context, &mut session).await,
        };
        Done::Session(session, outcome)
    });
    running.start(lua)
}

/// The methods of an instance.
#[derive(Clone, Copy)]
enum Method {
    Save,
    SignIn,
    Touch,
    Refresh,
    Logout,
    Destroy,
    SaveInfo,
}

const METHODS: [(&str, Method); 7] = [
    ("save", Method::Save),
    ("sign_in", Method::SignIn),
    ("touch", Method::Touch),
    ("refresh", Method::Refresh),
    ("logout", Method::Logout),
    ("destroy", Method::Destroy),
    ("save_info", Method::SaveInfo),
];

fn on_instance(lua: &Lua, args: Args<InstanceArgs>, method: Method) -> LuaResult<Row> {
    let (handle, request, instance) = rows::read(args);
    let instance = InstanceRow::from(instance);
    let session = match session_of(&handle.configuration, instance) {
        Ok(session) => session,
        Err(error) => return Ok(failed(&error)),
    };
    let payload_size = session.payload.len();
    let running = Running::new(lua, &handle, request, payload_size, move |context| async move {
        let mut session = session;
        let result = match method {
            Method::Save => session.save(&context).await,
            Method::SignIn => {
                session.signs_in = true;
                session.save(&context).await
            }
            Method::Touch => session.touch(&context).await,
            Method::Refresh => session.refresh(&context).await,
            Method::Logout => session.logout(&context).await,
            Method::Destroy => session.destroy(&context).await,
            Method::SaveInfo => session.save_info(&context).await,
        };
        // The shim knows whether an instance is open.
        Done::Session(session, Outcome { exists: false, result })
    });
    running.start(lua)
}

/// The session of an instance.
pub fn session_of(configuration: &Configuration, instance: InstanceRow) -> Result<Box<Session>, Error> {
    let meta = meta(configuration, Kind::Session, instance.meta)?;
    let remembered = instance.remembered.as_ref().map(|table| remembered_meta(configuration, table));
    Ok(Box::new(Session {
        state: if instance.open { State::Open } else { State::New },
        meta,
        remember_meta: remembered.transpose()?.flatten().map(Box::new),
        remember: instance.remember,
        forget: instance.forget,
        payload: instance.payload.map(|payload| Vec::from(payload).into()).unwrap_or_default(),
        index: instance.index.as_usize().and_then(|index| index.checked_sub(1)),
        info: instance.info.map(Into::into),
        ..Session::new(configuration)
    }))
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

impl Running {
    /// An act on a request, which has not started.
    pub fn new<F: Future<Output = Done> + 'static>(
        lua: &Lua,
        handle: &Handle,
        request: RequestRow,
        payload_size: usize,
        run: impl FnOnce(Context) -> F,
    ) -> Self {
        let Handle { configuration, storage, store } = handle;
        let RequestRow { now, cookies, unsendable, problem } = request;
        let configuration = for_request(lua, configuration);
        let context =
            |environment| Context { configuration, environment, cookies, unsendable, now, random: getrandom::fill };
        let task = Task::new(|environment: Environment| run(context(environment)));
        let (storage, store) = (storage.clone(), store.clone());
        Self { task, storage, store, problem, awaited: Awaited::Reply, payload_size, now }
    }

    /// Starts the act, and returns what it needs first, or what it has come to.
    pub fn start(mut self, lua: &Lua) -> LuaResult<Row> {
        let step = self.task.start();
        self.run_from(lua, step)
    }

    pub fn resume(mut self, lua: &Lua, supply: Supply) -> LuaResult<Row> {
        let step = self.task.resume(supply);
        self.run_from(lua, step)
    }

    /// Runs the act from a step on, until it has to wait or is done.
    fn run_from(mut self, lua: &Lua, mut step: Step<Done>) -> LuaResult<Row> {
        loop {
            let supply = match step {
                // If nginx does not let the request be read here, its error says so.
                Step::Needs(Need::Binding) => match binding(lua) {
                    Ok(binding) => Supply::Binding(binding),
                    Err(error) => return Ok(failed(&error)),
                },
                Step::Needs(Need::Derive(derivation)) => match (&self.storage, &self.problem) {
                    (Some(_), None) => return self.derive_elsewhere(lua, *derivation),
                    _ => return self.ask_whether_to_wait(lua, derivation),
                },
                Step::Needs(Need::Storage(request)) => match (&self.storage, &self.problem) {
                    (None, _) => return self.call_method(lua, request),
                    (Some(storage), None) => {
                        let storage = storage.clone();
                        return self.submit(lua, &storage, request);
                    }
                    (Some(_), Some(problem)) => Supply::Storage(Err(StorageError::Wait(problem.clone()))),
                },
                Step::Needs(Need::Revocation(request)) => match (&self.store, &self.problem) {
                    (None, _) => return self.ask_for_store(lua, request),
                    (Some(store), None) => {
                        let store = store.clone();
                        return self.submit(lua, &store, request);
                    }
                    (Some(_), Some(problem)) => Supply::Storage(Err(StorageError::Wait(problem.clone()))),
                },
                Step::Done(done) => return self.row_of(lua, done),
                Step::Over => return Ok(failed(&OVER)),
            };
            step = self.task.resume(supply);
        }
    }

    /// The row of what the act has come to.
    fn row_of(self, lua: &Lua, done: Done) -> LuaResult<Row> {
        match done {
            Done::Session(mut session, outcome) => {
                session.warning = self.task.take_warning().or(session.warning.take());
                let (session, payload_size) = (&mut *session, self.payload_size);
                Finished { session, outcome, payload_size, now: self.now }.into_row(lua)
            }
            Done::Success(result) => Ok(rows::of_value(result.map(|()| rows::boolean(true)))),
            Done::Count(result) => {
                let field = |count: Option<usize>| count.map_or(rows::boolean(true), |count| number(count as u64));
                Ok(rows::of_value(result.map(field)))
            }
            Done::List(Err(error)) => Ok(failed(&error)),
            Done::List(Ok(sessions)) => {
                let list = LuaValue::UserData(lua.create_userdata(List(sessions))?);
                Ok(rows::of_value(Ok(Either::Right(list))))
            }
        }
    }

    /// Submits a request to a storage on the bridge. The act waits for the reply.
    pub fn submit(mut self, lua: &Lua, storage: &StorageHandle, request: Request) -> LuaResult<Row> {
        self.awaited = Awaited::Reply;
        let submitted = submit(lua, storage, request, Some(self));
        Ok(submitted.map_or_else(|error| failed(&error), waits))
    }

    /// Has the shim call a method of the program's own storage.
    fn call_method(mut self, lua: &Lua, request: Request) -> LuaResult<Row> {
        self.awaited = match request {
            Request::Get(_) => Awaited::Record,
            Request::Sessions(_) => Awaited::Sessions,
            _ => Awaited::Reply,
        };
        let task = Either::Right(LuaValue::UserData(lua.create_userdata(self)?));
        if let Request::Get(get) = request {
            return Ok(Next::Get.row([task, text(&*get.name), text(get.key), number(get.current_time.as_secs())]));
        }
        Ok(Next::Call.row([task, Either::Right(LuaValue::Table(request_table(lua, request)?))]))
    }

    /// Has a key derived on the thread for that. The act waits for it.
    fn derive_elsewhere(mut self, lua: &Lua, derivation: Derivation) -> LuaResult<Row> {
        if runtime::current().is_err() {
            return self.derive_here(lua, &derivation);
        }
        let slot = derivations::Slot::default();
        self.awaited = Awaited::Key(slot.clone());
        let ticket = bridge(lua)?.submit(derivations::LIMIT, slot.fill(derivation), Some(self));
        Ok(waits((ticket, (derivations::LIMIT + DELIVERY).as_secs_f64(), in_entry_thread(lua))))
    }

    /// Derives a key on nginx's own thread, which serves no other request meanwhile.
    fn derive_here(self, lua: &Lua, derivation: &Derivation) -> LuaResult<Row> {
        self.resume(lua, Supply::Key(Ok(Box::new(derivation.derive()))))
    }

    /// Asks the shim, which alone knows whether this thread can wait. The shim replies by calling
    /// [`derive()`].
    fn ask_whether_to_wait(mut self, lua: &Lua, derivation: Box<Derivation>) -> LuaResult<Row> {
        self.awaited = Awaited::Permission(derivation);
        let task = Either::Right(LuaValue::UserData(lua.create_userdata(self)?));
        Ok(Next::Derive.row([task]))
    }
}

/// The error of a call that resumes an act that does not wait for it.
pub const OVER: &str = "the act is over";

fn binding(lua: &Lua) -> LuaResult<Binding> {
    let (remote_addr, scheme, user_agent): (LuaValue, LuaValue, LuaValue) = reader(lua)?.call(())?;
    Ok(Binding { remote_addr: bytes_of(&remote_addr), scheme: bytes_of(&scheme), user_agent: bytes_of(&user_agent) })
}

fn reader(lua: &Lua) -> LuaResult<LuaFunction> {
    let reader = lua.app_data_ref::<BindingReader>().map(|reader| reader.0.clone());
    reader.ok_or_else(|| LuaError::runtime("no reader was set"))
}

/// `reply(task, value, err)`: resumes an act with what a method of the program's own storage
/// returned.
fn reply(lua: &Lua, (task, value, error): (LuaAnyUserData, LuaValue, LuaValue)) -> LuaResult<Row> {
    let mut running: Running = task.take()?;
    if let Awaited::Marks(lookups) = &mut running.awaited {
        let lookups = std::mem::take(&mut **lookups);
        return running.take_mark(lua, lookups, &value, &error);
    }
    let result = returned(&running.awaited, &value, &error);
    running.resume(lua, Supply::Storage(result))
}

/// `resume_ticket(ticket, err)`: resumes an act with the reply that came for the ticket, or with
/// the error if none came.
fn resume_ticket(lua: &Lua, (ticket, error): (Ticket, Option<String>)) -> LuaResult<Row> {
    let (running, result) = bridge(lua)?.take(ticket);
    let Some(running) = running else { return Ok(failed(&OVER)) };
    let no_reply = || StorageError::Wait(error.unwrap_or_else(|| "no reply came".to_owned()));
    let result = result.unwrap_or_else(|| Err(no_reply()));
    let supply = match &running.awaited {
        Awaited::Key(slot) => Supply::Key(derived(slot, result)),
        _ => Supply::Storage(result),
    };
    running.resume(lua, supply)
}

/// The key in a slot, once its operation is over, or why it is not there.
fn derived(slot: &derivations::Slot, result: Result<Reply, StorageError>) -> Result<Box<OneTimeKey>, String> {
    result.map_err(|error| error.to_string())?;
    let key = slot.take().unwrap_or(Err(derivations::Error::Broken));
    key.map_err(|error| error.to_string())
}

/// `derive(task, problem)`: has the key derived that the task needs. `problem` is why this thread
/// cannot wait for it, if it cannot.
fn derive(lua: &Lua, (task, problem): (LuaAnyUserData, Option<String>)) -> LuaResult<Row> {
    let mut running: Running = task.take()?;
    let Awaited::Permission(derivation) = std::mem::replace(&mut running.awaited, Awaited::Reply) else {
        return Ok(failed(&OVER));
    };
    match problem {
        None => running.derive_elsewhere(lua, *derivation),
        Some(_) => running.derive_here(lua, &derivation),
    }
}

/// The name of a value's type in Lua 5.1, which has no type of its own for integers.
fn lua_type(value: &LuaValue) -> &'static str {
    if value.is_integer() { "number" } else { value.type_name() }
}

/// What a method of the program's own storage returned, as a reply. A method that returns nil or
/// false without a message has found or done nothing: [`Reply::Absent`].
pub fn returned(awaited: &Awaited, value: &LuaValue, error: &LuaValue) -> Result<Reply, StorageError> {
    if let (Awaited::Sessions, LuaValue::Table(sessions)) = (awaited, value) {
        return match live_sessions(sessions) {
            Ok(sessions) => Ok(Reply::Sessions(sessions)),
            Err(error) => Err(StorageError::Program(error.to_string())),
        };
    }
    if let (Awaited::Sessions, Some(gathered)) = (awaited, Gathered::from_value(value)) {
        return Ok(Reply::Sessions(gathered.into_sessions()));
    }
    let succeeded = !matches!(value, LuaValue::Nil | LuaValue::Boolean(false));
    let message = || if error.is_nil() { None } else { error.to_string().ok() };
    match (awaited, value.as_string()) {
        (Awaited::Record, Some(text)) => Ok(Reply::Record(text.as_bytes().to_vec())),
        (Awaited::Record, None) if succeeded => {
            Err(StorageError::Program(format!("string expected, got {}", lua_type(value))))
        }
        (Awaited::Sessions, _) if succeeded => {
            Err(StorageError::Program(format!("table expected, got {}", lua_type(value))))
        }
        _ if succeeded => Ok(Reply::Done),
        _ => message().map_or(Ok(Reply::Absent), |message| Err(StorageError::Program(message))),
    }
}

/// The sessions in a table `{ [key] = expiry, … }`. Whatever else it holds is left out.
fn live_sessions(table: &LuaTable) -> LuaResult<Vec<LiveSession>> {
    let mut sessions = Vec::new();
    table.for_each(|key: LuaValue, value: LuaValue| {
        let expiry = value.as_f64().or_else(|| value.as_i64().map(|expiry| expiry as f64));
        if let (LuaValue::String(key), Some(expiry)) = (key, expiry) {
            sessions.push(LiveSession { key: key.to_string_lossy(), expiry: Timestamp::from_secs(expiry as u64) });
        }
        Ok(())
    })?;
    Ok(sessions)
}

/// A request to a program's own storage as a table: its `method`, and the method's arguments by
/// their names.
///
/// # Errors
///
/// No act calls the method in this way: `get` has a row of its own.
pub fn request_table(lua: &Lua, request: Request) -> LuaResult<LuaTable> {
    let table = lua.create_table()?;
    match request {
        Request::Set(set) => {
            table.raw_set("method", "set")?;
            identify(&table, (&set.name, set.key, set.current_time))?;
            table.raw_set("value", lua.create_string(set.value)?)?;
            table.raw_set("ttl", set.ttl.as_secs())?;
            table.raw_set("old_key", set.old_key)?;
            table.raw_set("stale_ttl", set.stale_ttl.as_secs())?;
            table.raw_set("metadata", metadata(lua, set.owners)?)?;
            table.raw_set("old_must_exist", set.old_must_exist)?;
        }
        Request::Update(update) => {
            table.raw_set("method", "update")?;
            identify(&table, (&update.name, update.key, update.current_time))?;
            table.raw_set("value", lua.create_string(update.value)?)?;
            table.raw_set("ttl", update.ttl.as_secs())?;
        }
        Request::Delete(delete) => {
            table.raw_set("method", "delete")?;
            identify(&table, (&delete.name, delete.key, delete.current_time))?;
            table.raw_set("metadata", metadata(lua, delete.owners)?)?;
        }
        Request::DeleteEach(deletes) => {
            table.raw_set("method", "delete_each")?;
            fill_deletes(lua, &table, deletes)?;
        }
        Request::Sessions(sessions) => {
            table.raw_set("method", "read_metadata")?;
            table.raw_set("name", &*sessions.name)?;
            table.raw_set("audience", sessions.owner.audience)?;
            table.raw_set("subject", sessions.owner.subject)?;
            table.raw_set("current_time", sessions.current_time.as_secs())?;
        }
        Request::Get(_) | Request::GetEach(_) | Request::Lock(_) | Request::Unlock(_) => {
            return Err(LuaError::runtime("acts do not call this method of a storage"));
        }
    }
    Ok(table)
}

/// Appends deletes to an array. Successive ones of the same owners share the table of these,
/// because there may be more than a hundred.
fn fill_deletes(lua: &Lua, array: &LuaTable, deletes: Vec<Delete>) -> LuaResult<()> {
    let mut last: Option<(Vec<Owner>, Option<LuaTable>)> = None;
    for Delete { name, key, current_time, owners } in deletes {
        let metadata = match last.take() {
            Some((last_owners, metadata)) if last_owners == owners => metadata,
            _ => metadata(lua, owners.clone())?,
        };
        let table = lua.create_table_with_capacity(0, 4)?;
        identify(&table, (&name, key, current_time))?;
        table.raw_set("metadata", metadata.as_ref())?;
        array.raw_push(table)?;
        last = Some((owners, metadata));
    }
    Ok(())
}

fn identify(table: &LuaTable, (name, key, current_time): (&str, String, Timestamp)) -> LuaResult<()> {
    table.raw_set("name", name)?;
    table.raw_set("key", key)?;
    table.raw_set("current_time", current_time.as_secs())
}

/// `{ audiences = {…}, subjects = {…} }`, two arrays of equal length; or nil without owners.
fn metadata(lua: &Lua, owners: Vec<Owner>) -> LuaResult<Option<LuaTable>> {
    if owners.is_empty() {
        return Ok(None);
    }
    let (audiences, subjects): (Vec<String>, Vec<String>) =
        owners.into_iter().map(|owner| (owner.audience, owner.subject)).unzip();
    let table = lua.create_table()?;
    table.set("audiences", audiences)?;
    table.set("subjects", subjects)?;
    Ok(Some(table))
}
