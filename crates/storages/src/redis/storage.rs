//! The operations of the storage, by commands to one server or to several.

use std::future::{Future, ready};
use std::sync::Arc;

use futures_util::future::join_all;
use redis::{Cmd, FromRedisValue, Value};

use super::commands;
use super::errors::{converted, failed};
use super::scripts::Scripts;
use crate::recent::RecentWrites;
use crate::{Delete, Error, Get, LiveSession, Lock, Naming, Operation, Sessions, Set, Storage, Unlock, Update, any_of};

/// Runs commands on the servers that hold their keys. Errors of servers are among the replies.
pub(super) trait Commands: Send + Sync + 'static {
    /// Runs a command.
    ///
    /// # Errors
    ///
    /// No server can be reached that would reply.
    fn one(&self, command: Cmd) -> impl Future<Output = Result<Value, Error>> + Send;

    /// Runs commands at the same time, those on one key in their order, unless the key is just
    /// moving to another server. Returns a reply for each.
    ///
    /// # Errors
    ///
    /// As for [`one`](Self::one), for any of the commands. The others may have been run or not.
    fn all(&self, commands: Vec<Cmd>) -> impl Future<Output = Result<Vec<Value>, Error>> + Send;

    /// Reads the values of keys at the same time, nil for one that is not there. Each has a result
    /// of its own: a server that fails does not affect the values from others.
    fn values(&self, keys: Vec<String>) -> impl Future<Output = Vec<Result<Value, Error>>> + Send;

    /// Runs a command that only reads, on a replica. Returns `None` if no replica replies.
    fn read(&self, _: Cmd) -> impl Future<Output = Option<Value>> + Send {
        ready(None)
    }

    /// What was changed a moment ago, if replicas are read from.
    fn changes(&self) -> Option<&RecentWrites> {
        None
    }

    /// Which scripts the servers run, as far as is known.
    fn scripts(&self) -> Scripts;

    /// Notes that a server has shown that it runs no more than these, and tells operators.
    fn learn(&self, scripts: Scripts);
}

/// The storage on servers that others may share. It names the records.
pub(super) struct RedisStorage<C> {
    servers: Arc<C>,
    naming: Naming,
    scripts: Scripts,
}

/// Why an operation was not carried out.
enum Stopped {
    /// The server runs no more than these scripts.
    Refused(Scripts, Error),
    Failed(Error),
}

impl From<Error> for Stopped {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// Returns a reply, or the server's error.
fn checked(value: Value) -> Result<Value, Stopped> {
    match value {
        Value::ServerError(error) => Err(match Scripts::allowed_after(&error) {
            Some(scripts) => Stopped::Refused(scripts, failed(error)),
            None => Stopped::Failed(failed(error)),
        }),
        value => Ok(value),
    }
}

impl<C: Commands> RedisStorage<C> {
    /// `scripts` are those that may be used; the servers may show that they run fewer.
    pub(super) fn new(servers: Arc<C>, naming: Naming, scripts: Scripts) -> Self {
        Self { servers, naming, scripts }
    }

    async fn one<T: FromRedisValue>(&self, command: Cmd) -> Result<T, Stopped> {
        Ok(converted(checked(self.servers.one(command).await?)?)?)
    }

    /// Sends commands at the same time and returns all replies, or the first error.
    async fn all(&self, commands: Vec<Cmd>) -> Result<Vec<Value>, Stopped> {
        if commands.is_empty() {
            return Ok(Vec::new());
        }
        self.servers.all(commands).await?.into_iter().map(checked).collect()
    }

    /// Carries out an operation with the scripts that the server runs. If it turns out to run
    /// fewer, carries the operation out again with those.
    async fn adapting<T, F>(&self, operation: impl Fn(Scripts) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Stopped>>,
    {
        let mut scripts = self.scripts.max(self.servers.scripts());
        loop {
            match operation(scripts).await {
                Ok(result) => return Ok(result),
                Err(Stopped::Refused(allowed, _)) if allowed > scripts => {
                    self.servers.learn(allowed);
                    scripts = allowed;
                }
                Err(Stopped::Refused(_, error) | Stopped::Failed(error)) => return Err(error),
            }
        }
    }

    async fn set_with(&self, scripts: Scripts, set: &Set) -> Result<(), Stopped> {
        let is_there = match scripts {
            Scripts::All => {
                let reply: Value = self.one(commands::set(&self.naming, set)).await?;
                return if reply == Value::Int(0) { Err(Error::Gone.into()) } else { Ok(()) };
            }
            Scripts::SingleKey => self.set_in_steps(set).await?,
            Scripts::None => self.set_plainly(set).await?,
        };
        if is_there || set.required().is_none() {
            return Ok(());
        }
        // Nobody knows the new record's key yet, so that this is as if it had never been stored.
        let (name, key) = (set.name.clone(), set.key.clone());
        let undo = Delete { name, key, current_time: set.current_time, owners: set.owners.clone() };
        self.all(commands::delete(&self.naming, &undo)).await?;
        Err(Error::Gone.into())
    }

    /// Stores the record first and then shortens the replaced one, because the replaced record must
    /// still work, and be listed, if anything before fails. Returns whether it was there.
    async fn set_in_steps(&self, set: &Set) -> Result<bool, Stopped> {
        self.all(commands::store(&self.naming, set)).await?;
        let Some(old_key) = &set.old_key else { return Ok(true) };
        let reply: Value = self.one(commands::shorten(&self.naming, set, old_key)).await?;
        self.unlist(set).await;
        Ok(reply != Value::Int(0))
    }

    /// Takes a replaced record from its owners' sessions. A failure does not fail the save: the
    /// record ends soon, and is listed until it would have ended by itself.
    async fn unlist(&self, set: &Set) {
        let _ = self.all(commands::unlist(&self.naming, set)).await;
    }

    /// As [`set_in_steps`](Self::set_in_steps), without scripts.
    async fn set_plainly(&self, set: &Set) -> Result<bool, Stopped> {
        let mut stored = self.all(commands::store_plainly(&self.naming, set)).await?;
        let asked = set.owners.len() + usize::from(set.old_key.is_some());
        let ttls = stored.split_off(stored.len().saturating_sub(asked));
        let ttls = ttls.into_iter().map(converted).collect::<Result<Vec<i64>, _>>()?;
        let replies = self.all(commands::shorten_plainly(&self.naming, set, &ttls)).await?;
        self.unlist(set).await;
        let Some(left) = ttls.get(set.owners.len()) else { return Ok(true) };
        let is_shortened = commands::outlives(*left, set.stale_ttl);
        Ok(*left != commands::GONE && !(is_shortened && replies.last() == Some(&Value::Int(0))))
    }

    async fn update_with(&self, scripts: Scripts, update: &Update) -> Result<bool, Stopped> {
        if scripts != Scripts::None {
            return self.one(commands::update(&self.naming, update)).await;
        }
        match self.one(commands::ttl(&self.naming, &update.name, &update.key)).await? {
            commands::GONE => Ok(false),
            left => {
                let reply: Value = self.one(commands::update_plainly(&self.naming, update, left)).await?;
                Ok(reply != Value::Nil)
            }
        }
    }

    async fn lock_with(&self, scripts: Scripts, lock: &Lock) -> Result<bool, Stopped> {
        if scripts != Scripts::None {
            return self.one(commands::lock(&self.naming, lock)).await;
        }
        let taken = self.all(commands::lock_plainly(&self.naming, lock)).await?;
        let is_holder = |replies: &[Value]| match replies.last() {
            Some(Value::BulkString(holder)) => *holder == *lock.holder.as_bytes(),
            _ => false,
        };
        if taken.first() != Some(&Value::Nil) || !is_holder(&taken) {
            return Ok(is_holder(&taken));
        }
        Ok(is_holder(&self.all(commands::renew_plainly(&self.naming, lock)).await?))
    }

    async fn unlock_with(&self, scripts: Scripts, unlock: &Unlock) -> Result<(), Stopped> {
        if scripts != Scripts::None {
            return self.one(commands::unlock(&self.naming, unlock)).await;
        }
        let holder: Option<Vec<u8>> = self.one(commands::holder(&self.naming, &unlock.name, &unlock.key)).await?;
        match holder.is_some_and(|holder| holder == unlock.holder.as_bytes()) {
            true => self.one(commands::free(&self.naming, unlock)).await,
            false => Ok(()),
        }
    }

    /// Returns records from the master.
    async fn records(&self, keys: Vec<String>) -> Vec<Result<Option<Vec<u8>>, Error>> {
        if keys.is_empty() {
            return Vec::new();
        }
        let values = self.servers.values(keys).await.into_iter();
        values.map(|value| converted(value?.extract_error().map_err(failed)?)).collect()
    }

    /// Reads a record from a replica, unless it was changed a moment ago. `None` does not say that
    /// it is absent: the replica may lag behind.
    async fn read(&self, key: &str) -> Option<Vec<u8>> {
        self.servers.changes().filter(|changes| !changes.contains(key))?;
        match self.servers.read(commands::get(key)).await? {
            Value::BulkString(record) => Some(record),
            _ => None,
        }
    }

    /// Runs an operation that changes records. For a while their replicas may not know that.
    async fn changing<T>(
        &self,
        name: &str,
        keys: impl IntoIterator<Item = &str>,
        operation: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let records = keys.into_iter().map(|key| self.naming.record(name, key));
        let _writing = self.servers.changes().map(|changes| changes.writing(records));
        operation.await
    }

    async fn plainly<T>(&self, operation: impl Future<Output = Result<T, Stopped>>) -> Result<T, Error> {
        operation.await.map_err(|(Stopped::Refused(_, error) | Stopped::Failed(error))| error)
    }
}

impl<C: Commands> Storage for RedisStorage<C> {
    fn set<'a>(&'a self, set: &'a Set) -> Operation<'a, ()> {
        let setting = self.adapting(move |scripts| self.set_with(scripts, set));
        let keys = [&set.key].into_iter().chain(&set.old_key).map(String::as_str);
        Box::pin(self.changing(&set.name, keys, setting))
    }

    fn update<'a>(&'a self, update: &'a Update) -> Operation<'a, bool> {
        let updating = self.adapting(move |scripts| self.update_with(scripts, update));
        Box::pin(self.changing(&update.name, [&*update.key], updating))
    }

    fn get<'a>(&'a self, get: &'a Get) -> Operation<'a, Option<Vec<u8>>> {
        let key = self.naming.record(&get.name, &get.key);
        if self.servers.changes().is_some() {
            return Box::pin(self.plainly(async move {
                match self.read(&key).await {
                    Some(found) => Ok(Some(found)),
                    None => self.one(commands::get(&key)).await,
                }
            }));
        }
        Box::pin(self.plainly(self.one(commands::get(&key))))
    }

    fn get_each<'a>(&'a self, gets: &'a [Get]) -> Operation<'a, Vec<Result<Option<Vec<u8>>, Error>>> {
        Box::pin(async move {
            let mut keys: Vec<String> = gets.iter().map(|get| self.naming.record(&get.name, &get.key)).collect();
            if self.servers.changes().is_none() {
                return any_of(self.records(keys).await);
            }
            let found = join_all(keys.iter().map(|key| self.read(key))).await;
            let mut is_missing = found.iter().map(Option::is_none);
            keys.retain(|_| is_missing.next() == Some(true));
            let mut missing = self.records(keys).await.into_iter();
            let found = found.into_iter();
            any_of(
                found
                    .map(|found| found.map_or_else(|| missing.next().ok_or(Error::Broken)?, |it| Ok(Some(it))))
                    .collect(),
            )
        })
    }

    fn delete<'a>(&'a self, delete: &'a Delete) -> Operation<'a, ()> {
        let deleting = self.plainly(async move { self.all(commands::delete(&self.naming, delete)).await.map(drop) });
        Box::pin(self.changing(&delete.name, [&*delete.key], deleting))
    }

    fn sessions<'a>(&'a self, sessions: &'a Sessions) -> Operation<'a, Vec<LiveSession>> {
        Box::pin(
            self.plainly(
                async move { Ok(commands::live(self.one(commands::sessions(&self.naming, sessions)).await?)) },
            ),
        )
    }

    fn lock<'a>(&'a self, lock: &'a Lock) -> Operation<'a, bool> {
        let locking = self.adapting(move |scripts| self.lock_with(scripts, lock));
        Box::pin(async move {
            let is_holder = locking.await?;
            if let Some(changes) = self.servers.changes().filter(|_| is_holder) {
                changes.note_all();
            }
            Ok(is_holder)
        })
    }

    fn unlock<'a>(&'a self, unlock: &'a Unlock) -> Operation<'a, ()> {
        Box::pin(self.adapting(move |scripts| self.unlock_with(scripts, unlock)))
    }
}
