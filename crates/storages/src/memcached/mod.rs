//! Sessions in memcached 1.6 or later.
//!
//! A record is an item whose time to live is the session's. An owner's sessions are the text of [`super::metadata`] in one
//! item. Meta commands are used, because only they tell what is left of an item's time.

mod notes;
mod options;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::try_join_all;

use super::pipeline::{Client, unintelligible};
use super::repeating::Repeating;
use super::{Error, Naming, Operation, Options, Owner, Record, Sessions, Storage, Update, metadata};
pub use options::MemcachedOptions;
use wire::{Answer, Expiry, Meta, Mode, Name, Ttl};

impl Options for MemcachedOptions {
    fn limit(&self) -> Duration {
        self.endpoint.timeouts.limit()
    }

    fn storage(self) -> Arc<dyn Storage> {
        Repeating::new(Arc::new(Server { client: Client::new(self.endpoint), naming: self.naming }))
    }
}

/// The storage.
pub struct Server {
    client: Client<Meta>,
    naming: Naming,
}

impl Server {
    fn record_name(&self, name: &str, key: &str) -> Result<Name, Error> {
        Name::new(&self.naming.record(name, key))
    }

    fn owner_names(&self, name: &str, owners: &[Owner]) -> Result<Vec<Name>, Error> {
        owners.iter().map(|owner| Name::new(&self.naming.metadata(name, owner))).collect()
    }

    async fn store(&self, name: &Name, value: &[u8], expiry: Expiry, mode: Mode) -> Result<Answer, Error> {
        match self.client.ask(&wire::store(name, value, expiry, mode)).await? {
            Answer::Failed(cause) => {
                let size = value.len();
                Err(Error::Server(format!("the server refuses a record of {size} bytes: {cause}")))
            }
            answer => Ok(answer),
        }
    }

    /// What is left of a record's time, if there is one.
    async fn time_left(&self, name: &Name) -> Result<Option<Ttl>, Error> {
        match self.client.ask(&wire::look(name)).await? {
            Answer::Done(facts) => Ok(Some(facts.ttl.ok_or_else(unintelligible)?)),
            Answer::Absent => Ok(None),
            other => other.unexpected(),
        }
    }

    /// Lets a replaced record expire soon, if it would live longer.
    async fn shorten(&self, name: &Name, stale_ttl: u64, current_time: u64) -> Result<(), Error> {
        if self.time_left(name).await?.is_none_or(|left| left <= Ttl::Seconds(stale_ttl)) {
            return Ok(());
        }
        let request = match stale_ttl {
            0 => wire::delete(name),
            _ => wire::touch(name, Expiry::after(stale_ttl, current_time)),
        };
        match self.client.ask(&request).await? {
            Answer::Done(_) | Answer::Absent => Ok(()),
            other => other.unexpected(),
        }
    }
}

impl Storage for Server {
    /// The record first, and the one that it replaces last: where anything fails, that one must go on working. What cannot
    /// be named is refused before anything is stored.
    fn set<'a>(&'a self, record: &'a Record) -> Operation<'a, ()> {
        Box::pin(async move {
            let name = self.record_name(&record.name, &record.key)?;
            let old = record.old_key.as_deref().map(|key| self.record_name(&record.name, key)).transpose()?;
            let owners = self.owner_names(&record.name, &record.owners)?;
            let items = if owners.is_empty() { Vec::new() } else { metadata::written(record)? };
            let expiry = Expiry::after(record.ttl, record.current_time);
            match self.store(&name, &record.value, expiry, Mode::Set).await? {
                Answer::Done(_) => {}
                other => return other.unexpected(),
            }
            let notes =
                owners.iter().map(|owner| notes::add(&self.client, owner, &items, record.ttl, record.current_time));
            try_join_all(notes).await?;
            match old {
                Some(old) => self.shorten(&old, record.stale_ttl, record.current_time).await,
                None => Ok(()),
            }
        })
    }

    /// One that is shortened between the two requests may live for the time that it had before.
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
                Answer::Done(_) => Ok(true),
                Answer::NotStored => Ok(false),
                other => other.unexpected(),
            }
        })
    }

    fn get<'a>(&'a self, name: &'a str, key: &'a str, _: u64) -> Operation<'a, Option<Vec<u8>>> {
        Box::pin(async move {
            match self.client.ask(&wire::get(&self.record_name(name, key)?)).await? {
                Answer::Value(value, _) => Ok(Some(value)),
                Answer::Absent => Ok(None),
                other => other.unexpected(),
            }
        })
    }

    fn delete<'a>(&'a self, name: &'a str, key: &'a str, current_time: u64, owners: &'a [Owner]) -> Operation<'a, ()> {
        Box::pin(async move {
            let record = self.record_name(name, key)?;
            let owners = self.owner_names(name, owners)?;
            let item = if owners.is_empty() { Vec::new() } else { metadata::deleted(key)? };
            match self.client.ask(&wire::delete(&record)).await? {
                Answer::Done(_) | Answer::Absent => {}
                other => return other.unexpected(),
            }
            let notes = owners.iter().map(|owner| notes::remove(&self.client, owner, &item, current_time));
            try_join_all(notes).await.map(|_| ())
        })
    }

    fn read_metadata<'a>(&'a self, name: &'a str, owner: &'a Owner, current_time: u64) -> Operation<'a, Sessions> {
        Box::pin(async move {
            let name = Name::new(&self.naming.metadata(name, owner))?;
            match self.client.ask(&wire::get(&name)).await? {
                Answer::Value(text, _) => metadata::live(&text, current_time),
                Answer::Absent => Ok(Vec::new()),
                other => other.unexpected(),
            }
        })
    }

    fn close_idle(&self) {
        self.client.close_idle();
    }
}
