//! Sessions in MySQL or MariaDB.
//!
//! The protocol has no pipelining: a connection does one thing at a time, and so there is a pool of them. Statements are
//! prepared once a connection, and values are bound. What is more than one statement is one transaction.

mod cleaning;
mod options;
mod pool;
mod statements;

use std::future::Future;
use std::sync::{Arc, Weak};

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Params, TxOpts, Value};

pub use options::{DIALECT, Options};

use self::pool::Pool;
use self::statements::Statements;
use super::cleanup::Cleaner;
use super::sql::{self, GRACE, expiry, stale_expiry};
use super::{Error, Operation, Owner, Record, Storage};

/// How often a write that the server undid because of a deadlock is tried in all.
const ATTEMPTS: usize = 8;

pub struct MySql {
    pool: Pool,
    statements: Statements,
    cleaner: Cleaner,
    options: Options,
    me: Weak<Self>,
}

impl MySql {
    pub fn new(options: Options) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            pool: Pool::new(&options),
            statements: Statements::new(&options.tables),
            cleaner: Cleaner::default(),
            options,
            me: me.clone(),
        })
    }

    /// Runs something on a connection. Only one that has done all it was asked, with or without success, is used again:
    /// on any other, the next answer could be the last question's.
    async fn run<T, F>(&self, run: impl FnOnce(Conn) -> F) -> Result<T, Failure>
    where
        F: Future<Output = (Conn, Result<T, mysql_async::Error>)>,
    {
        let lease = self.pool.take(&self.options).await?;
        let running = lease.run(run);
        match tokio::time::timeout(self.options.timeouts.response + GRACE, running).await {
            Ok(result) => result.map_err(|error| Failure::new(&error, &self.options)),
            Err(_) => Err(Failure { error: Error::Timeout, deadlock: false }),
        }
    }

    /// Runs a write, again where the server undid it because of a deadlock.
    async fn write<F>(&self, write: impl Fn(Conn) -> F) -> Result<(), Error>
    where
        F: Future<Output = (Conn, Result<(), mysql_async::Error>)>,
    {
        self.cleaner.start(self.options.cleanup, &self.me, cleaning::round);
        let mut attempts = 1;
        loop {
            match self.run(&write).await {
                Err(failure) if failure.deadlock && attempts < ATTEMPTS => attempts += 1,
                result => return result.map_err(|failure| failure.error),
            }
        }
    }
}

/// An error, and whether it is a deadlock's.
struct Failure {
    error: Error,
    deadlock: bool,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { error, deadlock: false }
    }
}

impl Failure {
    fn new(error: &mysql_async::Error, options: &Options) -> Self {
        const NO_SUCH_TABLE: u16 = 1146;
        const DEADLOCK: u16 = 1213;
        match error {
            mysql_async::Error::Server(server) if server.code == NO_SUCH_TABLE => {
                DIALECT.missing(&options.tables, &server.message).into()
            }
            mysql_async::Error::Server(server) => {
                Self { error: Error::Server(server.message.clone()), deadlock: server.code == DEADLOCK }
            }
            other => Error::Server(other.to_string()).into(),
        }
    }
}

/// Values to bind, from what turns into them.
macro_rules! values {
    ($($value:expr),* $(,)?) => { Params::Positional(vec![$(Value::from($value)),*]) };
}

/// Everything of a save, as one transaction. The replaced session comes first: where its row is locked, nothing else is
/// meanwhile.
fn steps(statements: &Statements, record: Record) -> Result<Vec<(String, Params)>, Error> {
    let (expires, stale) = (expiry(&record), stale_expiry(&record));
    let Record { name, key, value, old_key, owners, .. } = record;
    let mut steps = Vec::new();
    if let Some(old_key) = &old_key {
        steps.push((statements.shorten.clone(), values!(stale, old_key, stale)));
    }
    steps.push((statements.save.clone(), values!(&key, name, sql::text(value)?, expires)));
    if !owners.is_empty() {
        let row = |Owner { audience, subject }| [audience.into(), subject.into(), Value::from(&key)];
        let text = statements.note(owners.len());
        steps.push((text, Params::Positional(owners.into_iter().flat_map(row).collect())));
        if let Some(old_key) = &old_key {
            steps.push((statements.forget.clone(), values!(old_key)));
        }
    }
    Ok(steps)
}

/// Runs statements as one transaction; one alone is one by itself.
async fn run_all(conn: &mut Conn, mut steps: Vec<(String, Params)>) -> Result<(), mysql_async::Error> {
    if steps.len() == 1
        && let Some((statement, values)) = steps.pop()
    {
        return conn.exec_drop(statement, values).await;
    }
    let mut transaction = conn.start_transaction(TxOpts::default()).await?;
    for (statement, values) in steps {
        if let Err(error) = transaction.exec_drop(statement, values).await {
            // Where this fails, the connection is not used again.
            transaction.rollback().await?;
            return Err(error);
        }
    }
    transaction.commit().await
}

impl Storage for MySql {
    fn set(&self, record: Record) -> Operation<'_, ()> {
        Box::pin(async move {
            let steps = steps(&self.statements, record)?;
            self.write(|mut conn| {
                let steps = steps.clone();
                async move {
                    let result = run_all(&mut conn, steps).await;
                    (conn, result)
                }
            })
            .await
        })
    }

    fn get(&self, _: String, key: String, current_time: u64) -> Operation<'_, Option<Vec<u8>>> {
        Box::pin(async move {
            let found = self.run(|mut conn| async move {
                let values = values!(key, current_time);
                let found: Result<Option<Option<Vec<u8>>>, _> = conn.exec_first(&self.statements.get, values).await;
                (conn, found)
            });
            Ok(found.await.map_err(|failure| failure.error)?.flatten())
        })
    }

    /// Its metadata goes with it.
    fn delete(&self, _: String, key: String, _: u64, _: Vec<Owner>) -> Operation<'_, ()> {
        Box::pin(async move {
            let steps = vec![(self.statements.delete.clone(), values!(key))];
            self.write(|mut conn| {
                let steps = steps.clone();
                async move {
                    let result = run_all(&mut conn, steps).await;
                    (conn, result)
                }
            })
            .await
        })
    }

    fn read_metadata(&self, name: String, owner: Owner, current_time: u64) -> Operation<'_, Vec<(String, u64)>> {
        Box::pin(async move {
            let values = values!(&owner.audience, &owner.subject, name, current_time);
            let found = self.run(|mut conn| async move {
                let found = conn.exec(&self.statements.sessions, values).await;
                (conn, found)
            });
            let rows: Vec<(String, String, String, u64)> = found.await.map_err(|failure| failure.error)?;
            // Tables that lua-resty-session's documentation describes compare without regard to case.
            let is_owners = |row: &(String, String, _, _)| row.0 == owner.audience && row.1 == owner.subject;
            Ok(rows.into_iter().filter(is_owners).map(|(_, _, key, expires)| (key, expires)).collect())
        })
    }
}
