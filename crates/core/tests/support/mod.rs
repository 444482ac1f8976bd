//! The world around a session in these tests: a browser's cookies, a request's values, a storage in
//! memory, and a clock.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::rc::Rc;

use resty_session_core::cookie::Binding;
use resty_session_core::cookie::keys::Derivation;
use resty_session_core::session;
use resty_session_core::session::effect::{Need, Step, Supply, Task};
use resty_session_core::session::{Configuration, Context, Error, Options, Outcome, Session};
use resty_session_core::storage::{self, LiveSession, Owner, Reply, Request};
use resty_session_core::time::Timestamp;

thread_local! {
    static SIDS: RefCell<VecDeque<[u8; 32]>> = RefCell::default();
}

/// The session ids that the next saves use. After them, ids are random again.
pub fn use_sids(sids: impl IntoIterator<Item = [u8; 32]>) {
    SIDS.with_borrow_mut(|queue| *queue = sids.into_iter().collect());
}

fn random(bytes: &mut [u8]) -> Result<(), getrandom::Error> {
    match SIDS.with_borrow_mut(VecDeque::pop_front) {
        Some(sid) if bytes.len() == sid.len() => {
            bytes.copy_from_slice(&sid);
            Ok(())
        }
        _ => getrandom::fill(bytes),
    }
}

/// Records by `name:key`, with their expiry.
#[derive(Default)]
pub struct Memory {
    pub records: HashMap<String, (String, u64)>,
    /// Whose each record is, by `name:key`.
    pub owners: HashMap<String, Vec<Owner>>,
    /// Fails the storage calls with these numbers, counting from 1.
    pub failing: Vec<usize>,
    /// Fails the reads of these places among several, counting from 0.
    pub unreadable: Vec<usize>,
    pub calls: Vec<Request>,
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The key of a record.
fn name(name: &str, key: &str) -> String {
    format!("{name}:{key}")
}

fn done_or_absent(done: bool) -> Reply {
    if done { Reply::Done } else { Reply::Absent }
}

impl Memory {
    fn perform(&mut self, request: Request, now: u64) -> Result<Reply, storage::Error> {
        let result = self.reply_to(&request, now);
        self.calls.push(request);
        result
    }

    fn reply_to(&mut self, request: &Request, now: u64) -> Result<Reply, storage::Error> {
        if self.failing.contains(&(self.calls.len() + 1)) {
            return Err(storage::Error::Program("connection refused".into()));
        }
        let record = |get: &storage::Get| self.live(&name(&get.name, &get.key), now).map(String::into_bytes);
        Ok(match request {
            Request::Get(get) => record(get).map_or(Reply::Absent, Reply::Record),
            Request::GetEach(gets) => Reply::Records(
                gets.iter()
                    .enumerate()
                    .map(|(place, get)| match self.unreadable.contains(&place) {
                        true => Err(storage::Error::Busy),
                        false => Ok(record(get)),
                    })
                    .collect(),
            ),
            Request::Set(set) => {
                self.set(set, now)?;
                Reply::Done
            }
            Request::Update(update) => done_or_absent(self.update(update, now)),
            Request::Delete(delete) => {
                self.delete(delete);
                Reply::Done
            }
            Request::DeleteEach(deletes) => {
                deletes.iter().for_each(|delete| self.delete(delete));
                Reply::Done
            }
            Request::Lock(lock) => done_or_absent(self.lock(lock, now)),
            Request::Unlock(unlock) => {
                let key = name(&unlock.name, &unlock.key);
                if self.live(&key, now).is_some_and(|holder| holder == unlock.holder) {
                    self.records.remove(&key);
                }
                Reply::Done
            }
            Request::Sessions(sessions) => Reply::Sessions(self.sessions(sessions)),
        })
    }

    /// The value of a record that has not expired.
    fn live(&self, key: &str, now: u64) -> Option<String> {
        self.records.get(key).filter(|(_, expiry)| *expiry > now).map(|(value, _)| value.clone())
    }

    fn set(&mut self, set: &storage::Set, now: u64) -> Result<(), storage::Error> {
        let replaced = set.old_key.as_ref().and_then(|key| self.records.get(&name(&set.name, key)));
        if set.old_must_exist && replaced.is_none_or(|(_, expiry)| *expiry <= now) {
            return Err(storage::Error::Gone);
        }
        self.records.insert(name(&set.name, &set.key), (text(&set.value), now + set.ttl.as_secs()));
        self.owners.insert(name(&set.name, &set.key), set.owners.clone());
        if let Some(old_key) = &set.old_key
            && let Some((_, expiry)) = self.records.get_mut(&name(&set.name, old_key))
        {
            *expiry = (*expiry).min(now + set.stale_ttl.as_secs());
            self.owners.remove(&name(&set.name, old_key));
        }
        Ok(())
    }

    fn update(&mut self, update: &storage::Update, now: u64) -> bool {
        let Some((value, expiry)) = self.records.get_mut(&name(&update.name, &update.key)) else { return false };
        *value = text(&update.value);
        *expiry = (*expiry).min(now + update.ttl.as_secs());
        true
    }

    fn lock(&mut self, lock: &storage::Lock, now: u64) -> bool {
        let key = name(&lock.name, &lock.key);
        if self.live(&key, now).is_some_and(|holder| holder != lock.holder) {
            return false;
        }
        self.records.insert(key, (lock.holder.clone(), lock.expiry().as_secs()));
        true
    }

    /// Metadata go on naming the sessions of owners that the request does not name.
    fn delete(&mut self, delete: &storage::Delete) {
        let name = format!("{}:{}", delete.name, delete.key);
        self.owners.entry(name.clone()).or_default().retain(|owner| !delete.owners.contains(owner));
        self.records.remove(&name);
    }

    fn sessions(&self, sessions: &storage::Sessions) -> Vec<LiveSession> {
        let of_owner = self.owners.iter().filter(|(_, owners)| owners.contains(&sessions.owner));
        of_owner
            .filter_map(|(record, _)| {
                let key = record.strip_prefix(&*sessions.name)?.strip_prefix(':')?.to_owned();
                let expiry = self.records.get(record).map_or(u64::MAX, |(_, expiry)| *expiry);
                Some(LiveSession { key, expiry: Timestamp::from_secs(expiry) })
            })
            .collect()
    }
}

/// A browser, the site it talks to, and the site's clock.
pub struct World {
    pub configuration: Rc<Configuration>,
    pub now: u64,
    pub cookies: BTreeMap<String, String>,
    /// What the browser's Cookie header has before these cookies, and after them.
    pub more_cookies: (String, String),
    pub unsendable: Option<String>,
    pub binding: Binding,
    pub memory: Memory,
    /// The store of marks, if it is not the storage.
    pub marks: Memory,
    pub has_marks: bool,
    /// How often an act read the values that cookies are bound to.
    pub bound: usize,
    /// How many slow keys acts have asked for.
    pub derived: usize,
    /// Whether such keys can't be derived.
    pub crowded: bool,
    /// The Set-Cookie lines of the last act.
    pub lines: Vec<String>,
}

impl World {
    pub fn new(options: Options, now: u64) -> Self {
        let configuration = session::init(options, None, getrandom::fill).unwrap();
        Self {
            configuration: Rc::new(configuration),
            now,
            cookies: BTreeMap::new(),
            more_cookies: Default::default(),
            unsendable: None,
            binding: Binding::default(),
            memory: Memory::default(),
            marks: Memory::default(),
            has_marks: false,
            bound: 0,
            derived: 0,
            crowded: false,
            lines: Vec::new(),
        }
    }

    /// With the payload in the storage.
    pub fn stored(options: Options, now: u64) -> Self {
        let mut world = Self::new(options, now);
        Rc::get_mut(&mut world.configuration).unwrap().stored = true;
        world
    }

    /// Changes the options, as if the browser went to another program of the site.
    pub fn configure(&mut self, options: Options) {
        let stored = self.configuration.stored;
        let mut configuration = session::new(options, &self.configuration).unwrap();
        configuration.stored = stored;
        self.configuration = Rc::new(configuration);
    }

    /// Runs an act to its end; the browser takes the cookies that it sets.
    pub fn act<T: 'static, F: Future<Output = (Session, T)> + 'static>(
        &mut self,
        act: impl FnOnce(Context) -> F,
    ) -> (Session, T) {
        let mut task = self.task(act);
        let mut step = task.start();
        loop {
            step = match step {
                Step::Done((mut session, result)) => {
                    session.warning = task.take_warning().or(session.warning.take());
                    self.lines = std::mem::take(&mut session.lines);
                    self.receive();
                    return (session, result);
                }
                Step::Needs(need) => task.resume(self.supply(need)),
                Step::Over => panic!("nothing to go on with"),
            };
        }
    }

    fn task<T: 'static, F: Future<Output = T> + 'static>(&self, act: impl FnOnce(Context) -> F) -> Task<T> {
        let (configuration, unsendable) = (self.configuration.clone(), self.unsendable.clone());
        let (now, cookies) = (Timestamp::from_secs(self.now), self.header().into_bytes());
        Task::new(|environment| act(Context { configuration, environment, cookies, unsendable, now, random }))
    }

    fn supply(&mut self, need: Need) -> Supply {
        match need {
            Need::Binding => {
                self.bound += 1;
                Supply::Binding(self.binding.clone())
            }
            Need::Derive(derivation) => self.derive(&derivation),
            Need::Revocation(_) if !self.has_marks => panic!("there is no store of marks"),
            Need::Revocation(request) => Supply::Storage(self.marks.perform(request, self.now)),
            Need::Storage(request) => Supply::Storage(self.memory.perform(request, self.now)),
        }
    }

    /// Runs acts of several browsers at once: each gets one thing that it needs, then the next one
    /// does. Each begins `pause` turns after the one before it. Returns what cookies each browser
    /// has then.
    pub fn at_once<F: Future<Output = Session> + 'static>(
        &mut self,
        acts: impl IntoIterator<Item = impl FnOnce(Context) -> F>,
        pause: usize,
    ) -> Vec<BTreeMap<String, String>> {
        let own = self.cookies.clone();
        let mut running = VecDeque::new();
        for (number, act) in acts.into_iter().enumerate() {
            let mut task = self.task(act);
            running.push_back((number, number * pause, task.start(), task));
        }
        let mut given = vec![BTreeMap::new(); running.len()];
        while let Some((number, pause, step, mut task)) = running.pop_front() {
            match step {
                Step::Done(session) => {
                    (self.lines, self.cookies) = (session.lines, own.clone());
                    self.receive();
                    given[number] = std::mem::take(&mut self.cookies);
                }
                step @ Step::Needs(_) if pause > 0 => running.push_back((number, pause - 1, step, task)),
                Step::Needs(need) => running.push_back((number, 0, task.resume(self.supply(need)), task)),
                Step::Over => panic!("nothing to go on with"),
            }
        }
        self.cookies = own;
        given
    }

    fn derive(&mut self, derivation: &Derivation) -> Supply {
        self.derived += 1;
        Supply::Key(match self.crowded {
            true => Err("too many keys are waiting to be derived".into()),
            false => Ok(Box::new(derivation.derive())),
        })
    }

    /// The browser's Cookie header.
    fn header(&self) -> String {
        let own = self.cookies.iter().map(|(name, value)| format!("{name}={value}"));
        let (before, after) = &self.more_cookies;
        [before.clone()].into_iter().chain(own).chain([after.clone()]).collect::<Vec<_>>().join("; ")
    }

    fn receive(&mut self) {
        for line in &self.lines {
            let (pair, attributes) = line.split_once(';').unwrap_or((line, ""));
            let (name, value) = pair.split_once('=').unwrap();
            if attributes.contains("Max-Age=0") {
                self.cookies.remove(name);
            } else {
                self.cookies.insert(name.to_owned(), value.to_owned());
            }
        }
    }

    pub fn session(&self) -> Session {
        Session::new(&self.configuration)
    }

    pub fn open(&mut self) -> (Session, Outcome) {
        self.act(|context| async move {
            let mut session = Session::new(&context.configuration);
            let outcome = session::open(&context, &mut session).await;
            (session, outcome)
        })
    }

    pub fn start(&mut self) -> (Session, Outcome) {
        self.act(|context| async move {
            let mut session = Session::new(&context.configuration);
            let outcome = session::start(&context, &mut session).await;
            (session, outcome)
        })
    }

    pub fn logout(&mut self) -> Outcome {
        let done = self.act(|context| async move {
            let mut session = Session::new(&context.configuration);
            let outcome = session::logout(&context, &mut session).await;
            (session, outcome)
        });
        done.1
    }

    pub fn destroy(&mut self) -> Outcome {
        let done = self.act(|context| async move {
            let mut session = Session::new(&context.configuration);
            let outcome = session::destroy(&context, &mut session).await;
            (session, outcome)
        });
        done.1
    }

    /// Runs an act on a session that a program holds.
    fn act_on(
        &mut self,
        mut session: Session,
        act: impl AsyncFnOnce(&mut Session, &Context) -> Result<(), Error> + 'static,
    ) -> (Session, Result<(), Error>) {
        self.act(|context| async move {
            let result = act(&mut session, &context).await;
            (session, result)
        })
    }

    pub fn save(&mut self, session: Session) -> (Session, Result<(), Error>) {
        self.act_on(session, async |session, context| session.save(context).await)
    }

    pub fn touch(&mut self, session: Session) -> (Session, Result<(), Error>) {
        self.act_on(session, async |session, context| session.touch(context).await)
    }

    pub fn refresh(&mut self, session: Session) -> (Session, Result<(), Error>) {
        self.act_on(session, async |session, context| session.refresh(context).await)
    }

    pub fn save_info(&mut self, session: Session) -> (Session, Result<(), Error>) {
        self.act_on(session, async |session, context| session.save_info(context).await)
    }

    pub fn logout_session(&mut self, session: Session) -> (Session, Result<(), Error>) {
        self.act_on(session, async |session, context| session.logout(context).await)
    }

    pub fn destroy_session(&mut self, session: Session) -> (Session, Result<(), Error>) {
        self.act_on(session, async |session, context| session.destroy(context).await)
    }

    /// Signs in with one audience's data.
    pub fn sign_in(&mut self, payload: &str) -> Session {
        let session = Session { payload: payload.into(), index: Some(0), ..self.session() };
        let (session, result) = self.save(session);
        result.unwrap();
        session
    }

    /// The error of an open, or `None` if the session opens.
    pub fn open_error(&mut self) -> Option<String> {
        self.open().1.result.err().map(|error| error.to_string())
    }
}

pub fn options(secret: &str) -> Options {
    Options { secret: Some(secret.into()), ..Options::default() }
}
