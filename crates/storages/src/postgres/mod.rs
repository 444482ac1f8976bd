//! Sessions in Postgres.
//!
//! Every operation is one statement, and so one transaction and one round trip. Statements are
//! prepared once for each connection, and values are bound. Reads share one connection, pipelined,
//! because they wait for no lock. Writes go to the least busy of a few others, because a write that
//! waits for a locked row delays those behind it. Storages of one server share all of them.

mod cleaning;
mod connection;
mod connector;
mod failures;
mod guard;
mod options;
mod parameter;
mod server;
mod statements;

use std::sync::{Arc, Weak};

use futures_util::TryStreamExt as _;
use tokio_postgres::Row;

pub use options::{DIALECT, PostgresOptions, ServerOptions, Transport};

use self::connector::Connect;
use self::failures::{failed, fault, is_of_columns, to_error};
use self::parameter::Parameter;
use self::parameter::Parameter::{Optional, Text, Texts, Time};
use self::server::{PostgresServer, Standby};
use self::statements::{Kind, Statements};
use super::cleanup::{self, Cleaner};
use super::connections::{Link, Servers};
use super::recent::Writing;
use super::sql::{self, Fault, Outcome, conclude, outlast_deadlocks};
use super::{Delete, Error, Get, LiveSession, Lock, Operation, Sessions, Set, Storage, Unlock, Update};
use resty_session_core::time::Timestamp;

/// Sessions in a table of Postgres.
pub struct Postgres {
    server: Arc<PostgresServer>,
    statements: Arc<Statements>,
    cleaner: Cleaner,
    options: PostgresOptions,
    me: Weak<Self>,
}

impl Postgres {
    /// A storage that connects when it is first used.
    pub fn new(options: PostgresOptions, servers: &Servers) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            server: servers.get(&options.server),
            statements: Arc::new(Statements::new(&options.tables)),
            cleaner: Cleaner::new(options.cleanup, options.tables.rows(), servers.journal().clone()),
            options,
            me: me.clone(),
        })
    }

    async fn run(
        &self,
        link: &Link<Connect>,
        kind: Kind,
        parameters: Vec<Parameter>,
    ) -> Result<Outcome<Vec<Row>>, Error> {
        self.cleaner.start(&self.me, cleaning::round);
        link.run(|connection| async move {
            let running = async {
                let statement = connection.statement(kind, &self.statements).await?;
                connection.client.query_raw(&statement, parameters).await?.try_collect().await
            };
            let result = running.await;
            if result.as_ref().is_err_and(is_of_columns) {
                // The table may be mended: what was prepared knows the columns' types.
                connection.forget(&self.statements);
            }
            if kind.is_write() {
                self.note(&result);
            }
            conclude(result, fault, |error| to_error(error, &self.options.tables))
        })
        .await
    }

    /// Notes whether the server takes writes.
    fn note(&self, result: &Result<Vec<Row>, tokio_postgres::Error>) {
        match result.as_ref().map_err(fault) {
            Ok(_) => self.server.writes.note(false),
            Err(Fault::Refused) => self.server.writes.note(true),
            Err(_) => {}
        }
    }

    async fn read(&self, link: &Link<Connect>, kind: Kind, parameters: Vec<Parameter>) -> Result<Vec<Row>, Error> {
        match self.run(link, kind, parameters).await? {
            Outcome::Done(rows) => Ok(rows),
            Outcome::Deadlock(error) => Err(error),
        }
    }

    /// Runs a statement that changes the records of these keys.
    async fn write(&self, keys: &[&str], kind: Kind, parameters: Vec<Parameter>) -> Result<Vec<Row>, Error> {
        let _writing = self.writing(keys);
        let lane = self.server.writes.least_busy();
        outlast_deadlocks(|| self.run(lane.link(), kind, parameters.clone())).await
    }

    fn writing<'a>(&'a self, keys: &[&'a str]) -> Option<Writing<'a, &'a str>> {
        self.server.standby.as_ref().map(|standby| standby.recent.writing(keys.iter().copied()))
    }

    /// Reads a record from the standby. Returns `None` if the standby does not have it or cannot
    /// tell, or may have an older one.
    async fn get_from(&self, standby: &Standby, get: &Get) -> Option<Vec<u8>> {
        if standby.recent.contains(&get.key) {
            return None;
        }
        data(&self.read(&standby.link, Kind::Get, get_parameters(get)).await.ok()?).ok()?
    }
}

fn get_parameters(get: &Get) -> Vec<Parameter> {
    vec![Text(get.key.clone()), Time(get.current_time)]
}

/// The record that a `get` found.
fn data(rows: &[Row]) -> Result<Option<Vec<u8>>, Error> {
    let Some(row) = rows.first() else { return Ok(None) };
    let data: Option<String> = row.try_get(0).map_err(failed)?;
    Ok(data.map(String::into_bytes))
}

impl Storage for Postgres {
    fn set<'a>(&'a self, set: &'a Set) -> Operation<'a, ()> {
        Box::pin(async move {
            let (expires, stale) = (Time(set.expiry()), Time(set.stale_expiry()));
            let required = set.required().is_some();
            let mut parameters =
                vec![Text(set.key.clone()), Text(set.name.to_string()), Text(sql::text(set.value.clone())?), expires];
            let kind = match (&set.owners[..], &set.old_key) {
                ([], None) => Kind::Save,
                ([], Some(_)) if required => Kind::ReplaceExisting,
                ([], Some(_)) => Kind::Replace,
                _ if required => Kind::ReplaceExistingWithMetadata,
                _ => Kind::ReplaceWithMetadata,
            };
            if kind != Kind::Save {
                parameters.extend([Optional(set.old_key.clone()), stale]);
            }
            if required {
                parameters.push(Time(set.current_time));
            }
            if !set.owners.is_empty() {
                let owners = set.owners.iter().map(|owner| (owner.audience.clone(), owner.subject.clone()));
                let (audiences, subjects) = owners.unzip();
                parameters.extend([Texts(audiences), Texts(subjects)]);
            }
            let keys = [Some(&set.key), set.old_key.as_ref()];
            let keys = keys.into_iter().flatten().map(String::as_str).collect::<Vec<_>>();
            let rows = self.write(&keys, kind, parameters).await?;
            if required && rows.is_empty() { Err(Error::Gone) } else { Ok(()) }
        })
    }

    fn update<'a>(&'a self, update: &'a Update) -> Operation<'a, bool> {
        Box::pin(async move {
            let (expires, now) = (Time(update.expiry()), Time(update.current_time));
            let parameters = vec![Text(update.key.clone()), Text(sql::text(update.value.clone())?), expires, now];
            let rows = self.write(&[&update.key], Kind::Update, parameters).await?;
            Ok(!rows.is_empty())
        })
    }

    fn get<'a>(&'a self, get: &'a Get) -> Operation<'a, Option<Vec<u8>>> {
        Box::pin(async move {
            if let Some(standby) = &self.server.standby
                && let Some(record) = self.get_from(standby, get).await
            {
                return Ok(Some(record));
            }
            data(&self.read(&self.server.reads, Kind::Get, get_parameters(get)).await?)
        })
    }

    /// Its metadata goes with it.
    fn delete<'a>(&'a self, delete: &'a Delete) -> Operation<'a, ()> {
        Box::pin(
            async move { self.write(&[&delete.key], Kind::Delete, vec![Text(delete.key.clone())]).await.map(drop) },
        )
    }

    fn sessions<'a>(&'a self, sessions: &'a Sessions) -> Operation<'a, Vec<LiveSession>> {
        Box::pin(async move {
            let Sessions { name, owner, current_time } = sessions;
            let (audience, subject) = (owner.audience.clone(), owner.subject.clone());
            let parameters = vec![Text(audience), Text(subject), Text(name.to_string()), Time(*current_time)];
            let rows = self.read(&self.server.reads, Kind::Sessions, parameters).await?;
            rows.iter().map(session).collect::<Result<_, _>>().map_err(failed)
        })
    }

    fn lock<'a>(&'a self, lock: &'a Lock) -> Operation<'a, bool> {
        Box::pin(async move {
            let (expires, now) = (Time(lock.expiry()), Time(lock.current_time));
            let (key, name, holder) = (lock.key.clone(), lock.name.to_string(), lock.holder.clone());
            let rows = self.write(&[], Kind::Lock, vec![Text(key), Text(name), Text(holder), expires, now]).await?;
            // The holder of the cleanup's lock reads no records.
            if let Some(standby) = &self.server.standby
                && !rows.is_empty()
                && lock.key != cleanup::LOCK.1
            {
                standby.recent.note_all();
            }
            Ok(!rows.is_empty())
        })
    }

    fn unlock<'a>(&'a self, unlock: &'a Unlock) -> Operation<'a, ()> {
        Box::pin(async move {
            let parameters = vec![Text(unlock.key.clone()), Text(unlock.holder.clone())];
            self.write(&[], Kind::Unlock, parameters).await.map(drop)
        })
    }
}

fn session(row: &Row) -> Result<LiveSession, tokio_postgres::Error> {
    let expiry: i64 = row.try_get(1)?;
    let expiry = Timestamp::from_secs(u64::try_from(expiry).unwrap_or_default());
    Ok(LiveSession { key: row.try_get(0)?, expiry })
}
