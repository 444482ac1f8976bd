//! Sessions in the files of a directory, which may be on a network share.
//!
//! Each record is a file: the content is the value, and the modification time is the expiry. An
//! owner's sessions are a file that holds the text of [`metadata`]. lua-resty-session uses the same
//! layout.
//!
//! A file is written under another name and then renamed, so that nobody reads an incomplete one.
//! File systems block, so operations run on threads of their own. A directory that hangs blocks
//! only some of these threads.

use std::array;
use std::slice;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::sleep;

use super::journal::Journal;
use super::metadata::{Departure, Departures};
use super::{
    Delete, Get, LiveSession, Lock, Naming, Operation, Owner, Sessions, Set, Storage, Unlock, Update, metadata,
    one_by_one,
};
use resty_session_core::time::Timestamp;

mod directory;
mod error;
mod held;
mod lock;
mod names;
mod options;
mod owners;
mod private;
mod sweep;
mod sweeper;
mod threads;

use directory::Directory;
use error::Error;
use lock::FileLock;
pub use names::is_safe;
pub use options::FileOptions;
use owners::{Change, LOCKS};
use sweeper::Sweeper;
use threads::Share;

/// The largest file, in bytes. A record holds a payload, whose size has three bytes in a session's
/// header, and the session's info.
const MAX_FILE_SIZE: usize = 32 << 20;

/// The pause before the next attempt to take a lock that is held by another.
const LOCK_RETRY_PAUSE: Duration = Duration::from_millis(1);

/// Sessions in the files of a directory.
pub struct Files {
    directory: Arc<Directory>,
    naming: Naming,
    /// The threads that operations run on. An operation waits for its turn until its time limit.
    threads: Arc<Share>,
    /// One for each lock file: the requests of this worker take turns before they try the lock
    /// itself.
    turns: [Mutex<()>; LOCKS],
    sweeper: Arc<Sweeper>,
    journal: Arc<dyn Journal>,
    /// For jobs on threads, which may run longer than anybody waits for them.
    this: Weak<Self>,
}

impl Files {
    /// The journal tells when expired files can't be removed, and warns of a directory in which all
    /// users may write.
    pub fn new(options: FileOptions, journal: Arc<dyn Journal>) -> Arc<Self> {
        let threads = Share::of(&options.path);
        let sweeper = threads.common.sweeper(&options, &threads, &journal);
        let files = Arc::new_cyclic(|this| Self {
            directory: sweeper.directory().clone(),
            naming: options.naming,
            threads,
            turns: array::from_fn(|_| Mutex::default()),
            sweeper: sweeper.clone(),
            journal,
            this: this.clone(),
        });
        sweeper.add(&files);
        files
    }

    fn naming(&self) -> &Naming {
        &self.naming
    }

    /// Runs a job on the directory, on a thread.
    async fn run<T, J>(&self, job: J) -> Result<T, super::Error>
    where
        T: Send + 'static,
        J: FnOnce(&Directory) -> Result<T, Error> + Send + 'static,
    {
        self.sweeper.start();
        let files = self.this.upgrade().ok_or(super::Error::Broken)?;
        let job = move || {
            files.threads.common.look(&files.directory, &*files.journal);
            job(&files.directory)
        };
        Ok(self.threads.run(job).await??)
    }

    /// Runs a job while nobody else, in any process, runs one under the lock file of this number.
    async fn exclusively<T, J>(&self, number: usize, job: J) -> Result<T, super::Error>
    where
        T: Send + 'static,
        J: Fn(&Directory, &FileLock) -> Result<T, Error> + Send + Sync + 'static,
    {
        let _turn = self.turns[number % LOCKS].lock().await;
        let job = Arc::new(job);
        loop {
            let job = job.clone();
            let attempt = move |directory: &Directory| {
                let lock = lock::try_lock(directory, &names::lock(number))?;
                lock.map(|lock| job(directory, &lock)).transpose()
            };
            if let Some(done) = self.run(attempt).await? {
                return Ok(done);
            }
            sleep(LOCK_RETRY_PAUSE).await;
        }
    }

    /// Changes an owner's sessions when it is this operation's turn.
    async fn change(&self, change: Change) -> Result<(), super::Error> {
        self.exclusively(change.lock(), move |directory, _| change.make(directory)).await
    }

    async fn change_all(&self, changes: Vec<Change>) -> Result<(), super::Error> {
        for change in changes {
            self.change(change).await?;
        }
        Ok(())
    }

    /// Returns the changes that append items to the metadata of all owners.
    fn changes(
        &self,
        name: &str,
        owners: &[Owner],
        items: &[u8],
        current_time: Timestamp,
    ) -> Result<Vec<Change>, Error> {
        let change = |owner| {
            let file = names::metadata(&self.naming, name, owner)?;
            Ok(Change { file, items: items.to_vec(), current_time })
        };
        owners.iter().map(change).collect()
    }

    async fn store(&self, set: Set) -> Result<(), super::Error> {
        // All names and keys are checked before anything is written.
        let file = names::record(&self.naming, &set.name, &set.key)?;
        let old_key = set.old_key.as_ref();
        let old_file = old_key.map(|key| names::record(&self.naming, &set.name, key)).transpose()?;
        let items = if set.owners.is_empty() { Vec::new() } else { metadata::written(&set)? };
        let changes = self.changes(&set.name, &set.owners, &items, set.current_time)?;
        let stale = set.stale_expiry();
        let required = old_file.clone().filter(|_| set.required().is_some());
        let write = move |directory: &Directory| {
            let (value, expiry) = (&set.value, set.expiry());
            let Some(old) = required else { return directory.write(&file, value, expiry) };
            match directory.write_if((&old, set.current_time), &file, value, expiry)? {
                true => Ok(()),
                false => Err(Error::Gone(super::Error::Gone)),
            }
        };
        // The last step: if anything before fails, the replaced record must go on working.
        let shorten = move |directory: &Directory| old_file.map_or(Ok(()), |file| directory.shorten(&file, stale));
        if changes.is_empty() {
            return self.run(move |directory| write(directory).and_then(|()| shorten(directory))).await;
        }
        self.run(write).await?;
        self.change_all(changes).await?;
        self.run(shorten).await
    }

    async fn remove(&self, delete: &Delete) -> Result<(), super::Error> {
        let Delete { name, key, current_time, owners } = delete;
        let file = names::record(&self.naming, name, key)?;
        let items = if owners.is_empty() { Vec::new() } else { metadata::deleted(key)? };
        let changes = self.changes(name, owners, &items, *current_time)?;
        self.run(move |directory| directory.remove(&file)).await?;
        self.change_all(changes).await
    }
}

impl Storage for Files {
    fn set<'a>(&'a self, set: &'a Set) -> Operation<'a, ()> {
        Box::pin(self.store(set.clone()))
    }

    fn update<'a>(&'a self, update: &'a Update) -> Operation<'a, bool> {
        Box::pin(async move {
            let file = names::record(&self.naming, &update.name, &update.key)?;
            let (value, expiry, now) = (update.value.clone(), update.expiry(), update.current_time);
            self.run(move |directory| directory.update(&file, &value, expiry, now)).await
        })
    }

    fn get<'a>(&'a self, get: &'a Get) -> Operation<'a, Option<Vec<u8>>> {
        Box::pin(async move {
            let (file, now) = (names::record(&self.naming, &get.name, &get.key)?, get.current_time);
            self.run(move |directory| directory.read(&file, Some(now))).await
        })
    }

    fn delete<'a>(&'a self, delete: &'a Delete) -> Operation<'a, ()> {
        Box::pin(self.remove(delete))
    }

    fn delete_each<'a>(&'a self, deletes: &'a [Delete]) -> Operation<'a, ()> {
        Box::pin(async move {
            let Departures { records, owners } = metadata::departures(deletes)?;
            one_by_one(&records, |delete| self.delete(delete)).await?;
            for Departure { name, owner, items, current_time } in &owners {
                let changes = self.changes(name, slice::from_ref(owner), items, *current_time)?;
                self.change_all(changes).await?;
            }
            Ok(())
        })
    }

    fn sessions<'a>(&'a self, sessions: &'a Sessions) -> Operation<'a, Vec<LiveSession>> {
        Box::pin(async move {
            let file = names::metadata(&self.naming, &sessions.name, &sessions.owner)?;
            let now = sessions.current_time;
            self.run(move |directory| owners::live(directory, &file, now)).await
        })
    }

    fn lock<'a>(&'a self, lock: &'a Lock) -> Operation<'a, bool> {
        Box::pin(async move {
            let file = names::held(&self.naming, &lock.name, &lock.key)?;
            let (holder, expiry, now) = (lock.holder.clone(), lock.expiry(), lock.current_time);
            let number = owners::lock_of(&file);
            self.exclusively(number, move |_, lock| held::lock(lock.directory(), &file, &holder, (now, expiry))).await
        })
    }

    fn unlock<'a>(&'a self, unlock: &'a Unlock) -> Operation<'a, ()> {
        Box::pin(async move {
            let file = names::held(&self.naming, &unlock.name, &unlock.key)?;
            let (holder, number) = (unlock.holder.clone(), owners::lock_of(&file));
            self.exclusively(number, move |_, lock| held::unlock(lock.directory(), &file, &holder)).await
        })
    }
}
