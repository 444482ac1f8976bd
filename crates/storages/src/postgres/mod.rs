//! Sessions in Postgres.
//!
//! Every operation is one statement, and so one transaction and one round trip. Statements are
//! prepared once for each connection, and values are bound. Reads share one connection, pipelined,
//! because they wait for no lock. Writes go to the least busy of a few others, because a write that
//! waits for a locked row delays those behind it.

mod cleaning;
mod connection;
mod failures;
mod guard;
mod options;
mod parameter;
mod statements;

use std::sync::{Arc, Weak};

use futures_util::TryStreamExt as _;
use tokio_postgres::Row;

pub use options::{DIALECT, PostgresOptions, Transport};

use self::connection::{Connection, connect};
use self::failures::{cause, failed, fault, to_error};
use self::parameter::Parameter;
use self::parameter::Parameter::{Optional, Text, Texts, Time};
use self::statements::{Kind, Statements};
use super::cleanup::Cleaner;
use super::lanes::Lanes;
use super::link::Link;
use super::sql::{self, Failure, Fault, TIMEOUT_MARGIN, outlast_deadlocks};
use super::{Delete, Error, Get, LiveSession, Lock, Operation, Sessions, Set, Storage, Unlock, Update};

pub struct Postgres {
    reads: Link<Arc<Connection>>,
    writes: Lanes<Arc<Connection>>,
    statements: Statements,
    cleaner: Cleaner,
    options: PostgresOptions,
    me: Weak<Self>,
}

impl Postgres {
    pub fn new(options: PostgresOptions) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            reads: Link::new(&options.timeouts),
            writes: Lanes::new(options.pool_size, &options.timeouts),
            statements: Statements::new(&options.tables),
            cleaner: Cleaner::default(),
            options,
            me: me.clone(),
        })
    }

    /// Runs a statement on the link's connection, and gives the connection up if it fails or the
    /// reply comes too late.
    async fn run(
        &self,
        link: &Link<Arc<Connection>>,
        kind: Kind,
        parameters: Vec<Parameter>,
    ) -> Result<Vec<Row>, Failure> {
        self.cleaner.start(self.options.cleanup, &self.me, cleaning::round);
        let connect = || async { connect(&self.options).await.map(Arc::new) };
        let connection = link.get(connect).await?;
        let running = async {
            let statement = connection.handle.statement(kind, &self.statements).await?;
            let rows = connection.handle.client.query_raw(&statement, parameters).await?;
            rows.try_collect().await
        };
        match tokio::time::timeout(self.options.timeouts.response + TIMEOUT_MARGIN, running).await {
            Ok(Ok(rows)) => Ok(rows),
            Ok(Err(error)) => {
                let fault = fault(&error);
                if matches!(fault, Fault::Lost | Fault::Refused) {
                    link.give_up(&connection);
                }
                let deadlock = fault == Fault::Deadlock;
                let error = match fault {
                    Fault::Lost => Error::Lost(cause(error)),
                    _ => to_error(error, &self.options.tables),
                };
                Err(Failure { deadlock, error })
            }
            Err(_) => {
                link.give_up(&connection);
                Err(Error::Timeout.into())
            }
        }
    }

    async fn read(&self, kind: Kind, parameters: Vec<Parameter>) -> Result<Vec<Row>, Error> {
        Ok(self.run(&self.reads, kind, parameters).await?)
    }

    async fn write(&self, kind: Kind, parameters: Vec<Parameter>) -> Result<Vec<Row>, Error> {
        let lane = self.writes.least_busy();
        outlast_deadlocks(|| self.run(lane.link(), kind, parameters.clone())).await
    }
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
            let rows = self.write(kind, parameters).await?;
            if required && rows.is_empty() { Err(Error::Gone) } else { Ok(()) }
        })
    }

    fn update<'a>(&'a self, update: &'a Update) -> Operation<'a, bool> {
        Box::pin(async move {
            let (expires, now) = (Time(update.expiry()), Time(update.current_time));
            let parameters = vec![Text(update.key.clone()), Text(sql::text(update.value.clone())?), expires, now];
            let rows = self.write(Kind::Update, parameters).await?;
            Ok(!rows.is_empty())
        })
    }

    fn get<'a>(&'a self, get: &'a Get) -> Operation<'a, Option<Vec<u8>>> {
        Box::pin(async move {
            let rows = self.read(Kind::Get, vec![Text(get.key.clone()), Time(get.current_time)]).await?;
            let Some(row) = rows.first() else { return Ok(None) };
            let data: Option<String> = row.try_get(0).map_err(failed)?;
            Ok(data.map(String::into_bytes))
        })
    }

    /// Its metadata goes with it.
    fn delete<'a>(&'a self, delete: &'a Delete) -> Operation<'a, ()> {
        Box::pin(async move { self.write(Kind::Delete, vec![Text(delete.key.clone())]).await.map(drop) })
    }

    fn sessions<'a>(&'a self, sessions: &'a Sessions) -> Operation<'a, Vec<LiveSession>> {
        Box::pin(async move {
            let Sessions { name, owner, current_time } = sessions;
            let (audience, subject) = (owner.audience.clone(), owner.subject.clone());
            let parameters = vec![Text(audience), Text(subject), Text(name.to_string()), Time(*current_time)];
            let rows = self.read(Kind::Sessions, parameters).await?;
            rows.iter().map(session).collect::<Result<_, _>>().map_err(failed)
        })
    }

    fn lock<'a>(&'a self, lock: &'a Lock) -> Operation<'a, bool> {
        Box::pin(async move {
            let (expires, now) = (Time(lock.expiry()), Time(lock.current_time));
            let (key, name, holder) = (lock.key.clone(), lock.name.to_string(), lock.holder.clone());
            let rows = self.write(Kind::Lock, vec![Text(key), Text(name), Text(holder), expires, now]).await?;
            Ok(!rows.is_empty())
        })
    }

    fn unlock<'a>(&'a self, unlock: &'a Unlock) -> Operation<'a, ()> {
        Box::pin(async move {
            let parameters = vec![Text(unlock.key.clone()), Text(unlock.holder.clone())];
            self.write(Kind::Unlock, parameters).await.map(drop)
        })
    }

    fn close_idle(&self) {
        self.reads.close_idle();
        self.writes.close_idle();
    }
}

fn session(row: &Row) -> Result<LiveSession, tokio_postgres::Error> {
    let expiry: i64 = row.try_get(1)?;
    Ok(LiveSession { key: row.try_get(0)?, expiry: expiry.try_into().unwrap_or_default() })
}
