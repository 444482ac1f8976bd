//! Sessions in memcached 1.6.10 or later, on one server or several.
//!
//! Each record is an item with the session's time to live. An owner's sessions are one item that
//! holds the text of [`super::metadata`]. Requests are meta commands, because other commands do not
//! return an item's time to live.

mod locks;
mod notes;
mod options;
mod ring;
#[doc(hidden)]
pub mod wire;

use std::slice;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::try_join_all;

use super::connections::Servers;
use super::metadata::{Departure, Departures};
use super::pipeline::invalid_reply;
use super::repeating::Repeating;
use super::{
    Delete, Error, Get, LiveSession, Lock, Naming, Operation, Options, Owner, Sessions, Set, Storage, Unlock, Update,
    metadata, one_by_one,
};
pub use options::MemcachedOptions;
use resty_session_core::time::{Seconds, Timestamp};
use ring::Ring;
use wire::{Expiry, Mode, Name, Reply, Ttl};

impl Options for MemcachedOptions {
    fn limit(&self) -> Duration {
        self.targets.first().map_or(Duration::ZERO, |target| target.timeouts.limit())
    }

    fn storage(self, servers: &Servers) -> Arc<dyn Storage> {
        let servers = Ring::new(self.targets, servers);
        Repeating::new(Arc::new(Memcached { servers, naming: self.naming }))
    }
}

/// The storage.
pub struct Memcached {
    servers: Ring,
    naming: Naming,
}

impl Memcached {
    fn record_name(&self, name: &str, key: &str) -> Result<Name, Error> {
        Name::new(&self.naming.record(name, key))
    }

    fn owner_names(&self, name: &str, owners: &[Owner]) -> Result<Vec<Name>, Error> {
        owners.iter().map(|owner| Name::new(&self.naming.metadata(name, owner))).collect()
    }

    async fn store(&self, name: &Name, value: &[u8], expiry: Expiry, mode: Mode) -> Result<Reply, Error> {
        match self.servers.of(name).ask(&wire::store(name, value, expiry, mode)?).await? {
            Reply::Failed(cause) => {
                let size = value.len();
                Err(Error::Server(format!("the server refuses a record of {size} bytes: {cause}")))
            }
            reply => Ok(reply),
        }
    }

    /// Returns the record's remaining time to live, or `None` if there is no such record.
    async fn time_left(&self, name: &Name) -> Result<Option<Ttl>, Error> {
        match self.servers.of(name).ask(&wire::get_info(name)?).await? {
            Reply::Done(info) => Ok(Some(info.ttl.ok_or_else(invalid_reply)?)),
            Reply::Absent => Ok(None),
            other => other.unexpected(),
        }
    }

    /// Lets a replaced record expire in `stale_ttl`, unless it expires earlier.
    async fn shorten(&self, name: &Name, stale_ttl: Seconds, current_time: Timestamp) -> Result<(), Error> {
        if self.time_left(name).await?.is_none_or(|left| left <= Ttl::Seconds(stale_ttl)) {
            return Ok(());
        }
        let request = match stale_ttl {
            Seconds::ZERO => wire::delete(name)?,
            _ => wire::touch(name, Expiry::after(stale_ttl, current_time))?,
        };
        match self.servers.of(name).ask(&request).await? {
            Reply::Done(_) | Reply::Absent => Ok(()),
            other => other.unexpected(),
        }
    }
}

impl Storage for Memcached {
    /// Names are checked before anything is stored. The record that is replaced is shortened last,
    /// because it must go on working if anything before fails.
    fn set<'a>(&'a self, set: &'a Set) -> Operation<'a, ()> {
        Box::pin(async move {
            let name = self.record_name(&set.name, &set.key)?;
            let old = set.old_key.as_deref().map(|key| self.record_name(&set.name, key)).transpose()?;
            let owners = self.owner_names(&set.name, &set.owners)?;
            let items = if owners.is_empty() { Vec::new() } else { metadata::written(set)? };
            let expiry = Expiry::after(set.ttl, set.current_time);
            match self.store(&name, &set.value, expiry, Mode::Set).await? {
                Reply::Done(_) => {}
                other => return other.unexpected(),
            }
            let notes =
                owners.iter().map(|owner| notes::add(self.servers.of(owner), owner, &items, set.ttl, set.current_time));
            try_join_all(notes).await?;
            match old {
                Some(old) => self.shorten(&old, set.stale_ttl, set.current_time).await,
                None => Ok(()),
            }
        })
    }

    /// A record that another request shortens between the two requests here keeps its former time
    /// to live.
    fn update<'a>(&'a self, update: &'a Update) -> Operation<'a, bool> {
        Box::pin(async move {
            let name = self.record_name(&update.name, &update.key)?;
            let ttl = match self.time_left(&name).await? {
                Some(Ttl::Seconds(left)) => left.min(update.ttl),
                Some(Ttl::Endless) => update.ttl,
                None => return Ok(false),
            };
            let expiry = Expiry::after(ttl, update.current_time);
            match self.store(&name, &update.value, expiry, Mode::Replace).await? {
                Reply::Done(_) => Ok(true),
                Reply::NotStored => Ok(false),
                other => other.unexpected(),
            }
        })
    }

    fn get<'a>(&'a self, get: &'a Get) -> Operation<'a, Option<Vec<u8>>> {
        Box::pin(async move {
            let name = self.record_name(&get.name, &get.key)?;
            match self.servers.of(&name).ask(&wire::get(&name)?).await? {
                Reply::Value(value, _) => Ok(Some(value)),
                Reply::Absent => Ok(None),
                other => other.unexpected(),
            }
        })
    }

    fn delete<'a>(&'a self, delete: &'a Delete) -> Operation<'a, ()> {
        Box::pin(async move {
            let record = self.record_name(&delete.name, &delete.key)?;
            let owners = self.owner_names(&delete.name, &delete.owners)?;
            let item = if owners.is_empty() { Vec::new() } else { metadata::deleted(&delete.key)? };
            match self.servers.of(&record).ask(&wire::delete(&record)?).await? {
                Reply::Done(_) | Reply::Absent => {}
                other => return other.unexpected(),
            }
            let notes =
                owners.iter().map(|owner| notes::remove(self.servers.of(owner), owner, &item, delete.current_time));
            try_join_all(notes).await.map(|_| ())
        })
    }

    fn delete_each<'a>(&'a self, deletes: &'a [Delete]) -> Operation<'a, ()> {
        Box::pin(async move {
            let Departures { records, owners } = metadata::departures(deletes)?;
            one_by_one(&records, |delete| self.delete(delete)).await?;
            for Departure { name, owner, items, current_time } in &owners {
                for name in self.owner_names(name, slice::from_ref(owner))? {
                    notes::remove(self.servers.of(&name), &name, items, *current_time).await?;
                }
            }
            Ok(())
        })
    }

    fn sessions<'a>(&'a self, sessions: &'a Sessions) -> Operation<'a, Vec<LiveSession>> {
        Box::pin(async move {
            let name = Name::new(&self.naming.metadata(&sessions.name, &sessions.owner))?;
            match self.servers.of(&name).ask(&wire::get(&name)?).await? {
                Reply::Value(text, _) => metadata::live(&text, sessions.current_time),
                Reply::Absent => Ok(Vec::new()),
                other => other.unexpected(),
            }
        })
    }

    fn lock<'a>(&'a self, lock: &'a Lock) -> Operation<'a, bool> {
        Box::pin(async move {
            let name = self.record_name(&lock.name, &lock.key)?;
            locks::lock(self.servers.of(&name), &name, lock).await
        })
    }

    fn unlock<'a>(&'a self, unlock: &'a Unlock) -> Operation<'a, ()> {
        Box::pin(async move {
            let name = self.record_name(&unlock.name, &unlock.key)?;
            locks::unlock(self.servers.of(&name), &name, &unlock.holder).await
        })
    }
}
