//! Sessions in MySQL or MariaDB.
//!
//! The protocol has no pipelining: a connection does one thing at a time, so there is a pool of
//! connections. Statements are prepared once for each connection, and values are bound. Several
//! statements of one operation are one transaction.

mod cleaning;
mod connector;
mod failures;
mod options;
mod server;
mod statements;

use std::sync::{Arc, Weak};

use mysql_async::prelude::{FromRow, Queryable};
use mysql_async::{Conn, Params, Row, Value, from_row_opt};

pub use options::{DIALECT, MySqlOptions, ServerOptions};

use self::connector::Connection;
use self::failures::{fault, is_too_large, to_error};
use self::server::MySqlServer;
use self::statements::Statements;
use super::cleanup::Cleaner;
use super::connections::Servers;
use super::sql::{self, Fault, Outcome, conclude, outlast_deadlocks};
use super::{Delete, Error, Get, LiveSession, Lock, Operation, Owner, Sessions, Set, Storage, Unlock, Update};
use resty_session_core::time::Timestamp;

/// Sessions in a table of MySQL or MariaDB.
pub struct MySql {
    server: Arc<MySqlServer>,
    statements: Statements,
    cleaner: Cleaner,
    options: MySqlOptions,
    me: Weak<Self>,
}

impl MySql {
    /// A storage that connects when it is first used.
    pub fn new(options: MySqlOptions, servers: &Servers) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            server: servers.get(&options.server),
            statements: Statements::new(&options.tables),
            cleaner: Cleaner::new(options.cleanup, options.tables.rows(), servers.journal().clone()),
            options,
            me: me.clone(),
        })
    }

    /// Runs something on a connection, which it returns if everything on it has ended, with or
    /// without success: otherwise the next reply could belong to the previous request.
    async fn run<T, F>(&self, run: impl FnOnce(Connection) -> F) -> Result<Outcome<T>, Error>
    where
        F: Future<Output = (Option<Connection>, Result<T, mysql_async::Error>)>,
    {
        self.cleaner.start(&self.me, cleaning::round);
        let run = async |connection| {
            let (connection, result) = run(connection).await;
            let connection = connection.filter(|_| !result.as_ref().is_err_and(is_too_large));
            (connection, conclude(result, fault, |error| to_error(error, &self.options.tables)))
        };
        self.server.pool.run(run).await
    }

    /// Runs one statement, and returns what `finish` makes of the connection after it.
    async fn execute<T>(&self, (statement, values): Step, finish: impl Fn(&Conn) -> T) -> Result<T, Error> {
        outlast_deadlocks(|| {
            let (statement, values, finish) = (statement.clone(), values.clone(), &finish);
            self.run(async move |mut connection| {
                let result = connection.conn.exec_drop(statement, values).await;
                connection.has_written |= result.is_ok();
                let finished = result.map(|()| finish(&connection.conn));
                (Some(connection), finished)
            })
        })
        .await
    }

    /// Runs a statement that selects rows.
    async fn select(&self, (statement, values): Step) -> Result<Vec<Row>, Error> {
        outlast_deadlocks(|| {
            let (statement, values) = (statement.clone(), values.clone());
            self.run(async move |mut connection| {
                let rows = connection.conn.exec(statement, values).await;
                (Some(connection), rows)
            })
        })
        .await
    }

    /// Runs statements as one transaction. `required`, if given, selects the record that the first
    /// statement changes: if it is gone, nothing is changed and the error is [`Error::Gone`].
    async fn write(&self, mut steps: Vec<Step>, required: Option<Step>) -> Result<(), Error> {
        // A single statement is a transaction by itself.
        if steps.len() == 1
            && let Some(step) = steps.pop()
        {
            return self.execute(step, |_| ()).await;
        }
        let done = outlast_deadlocks(|| {
            let (steps, required) = (steps.clone(), required.clone());
            self.run(|connection| run_all(connection, steps, required))
        });
        if done.await? { Ok(()) } else { Err(Error::Gone) }
    }
}

/// A statement, and what is bound to it.
type Step = (String, Params);

/// Makes the values to bind from anything that converts into them.
macro_rules! values {
    ($($value:expr),* $(,)?) => { Params::Positional(vec![$(Value::from($value)),*]) };
}

/// Returns all statements of a save, for one transaction. The replaced session's row comes first,
/// so that a transaction that waits for this row has not locked any other.
fn steps(statements: &Statements, set: &Set) -> Result<Vec<Step>, Error> {
    let (expires, stale) = (set.expiry().as_secs(), set.stale_expiry().as_secs());
    let Set { name, key, value, old_key, owners, .. } = set;
    let mut steps = Vec::new();
    if let Some(old_key) = old_key {
        steps.push((statements.shorten.clone(), values!(stale, old_key, stale)));
    }
    steps.push((statements.save.clone(), values!(key, &**name, sql::text(value.clone())?, expires)));
    if !owners.is_empty() {
        let row = |owner: &Owner| [&owner.audience, &owner.subject, key].map(Value::from);
        let text = statements.note(owners.len());
        steps.push((text, Params::Positional(owners.iter().flat_map(row).collect())));
        if let Some(old_key) = old_key {
            steps.push((statements.forget.clone(), values!(old_key)));
        }
    }
    Ok(steps)
}

/// Runs statements as one transaction. Returns whether the required record exists; if it does not,
/// or a statement fails, everything is undone. A connection on which that fails is closed: its next
/// transaction would commit what this one has done.
async fn run_all(
    mut connection: Connection,
    steps: Vec<Step>,
    required: Option<Step>,
) -> (Option<Connection>, Result<bool, mysql_async::Error>) {
    let result = transact(&mut connection.conn, steps, required).await;
    connection.has_written |= matches!(result, Ok(true));
    let is_good = match &result {
        Ok(true) => true,
        Err(error) if fault(error) == Fault::Lost => false,
        _ => connection.conn.query_drop("ROLLBACK").await.is_ok(),
    };
    (is_good.then_some(connection), result)
}

async fn transact(conn: &mut Conn, steps: Vec<Step>, mut required: Option<Step>) -> Result<bool, mysql_async::Error> {
    // Plain statements, because the driver would wait without a limit for the end of a transaction
    // that it knows of.
    conn.query_drop("START TRANSACTION").await?;
    for (statement, values) in steps {
        conn.exec_drop(statement, values).await?;
        if !exists(conn, required.take()).await? {
            return Ok(false);
        }
    }
    conn.query_drop("COMMIT").await.map(|()| true)
}

/// Returns whether the record that a statement should change exists. The record is selected, and
/// locked, only if the statement changed no row.
async fn exists(conn: &mut Conn, required: Option<Step>) -> Result<bool, mysql_async::Error> {
    match required {
        Some((statement, values)) if conn.affected_rows() == 0 => {
            Ok(conn.exec_first::<Row, _, _>(statement, values).await?.is_some())
        }
        _ => Ok(true),
    }
}

/// Takes a lock unless another holder has it, and then looks who has it: the number of changed rows
/// does not tell.
async fn take_lock(conn: &mut Conn, taking: Step, asking: Step) -> Result<bool, mysql_async::Error> {
    let (statement, values) = taking;
    conn.exec_drop(statement, values).await?;
    let (statement, values) = asking;
    Ok(conn.exec_first::<Row, _, _>(statement, values).await?.is_some())
}

impl Storage for MySql {
    fn set<'a>(&'a self, set: &'a Set) -> Operation<'a, ()> {
        Box::pin(async move {
            let exists = |key| (self.statements.exists.clone(), values!(key, set.current_time.as_secs()));
            let required = set.required().map(exists);
            self.write(steps(&self.statements, set)?, required).await
        })
    }

    fn update<'a>(&'a self, update: &'a Update) -> Operation<'a, bool> {
        Box::pin(async move {
            let (expires, now) = (update.expiry().as_secs(), update.current_time.as_secs());
            let values = values!(sql::text(update.value.clone())?, expires, &update.key, now);
            self.execute((self.statements.update.clone(), values), |conn| conn.affected_rows() > 0).await
        })
    }

    fn get<'a>(&'a self, get: &'a Get) -> Operation<'a, Option<Vec<u8>>> {
        Box::pin(async move {
            let rows =
                self.select((self.statements.get.clone(), values!(&get.key, get.current_time.as_secs()))).await?;
            Ok(rows.into_iter().next().map(columns::<Option<Vec<u8>>>).transpose()?.flatten())
        })
    }

    /// Its metadata goes with it.
    fn delete<'a>(&'a self, delete: &'a Delete) -> Operation<'a, ()> {
        Box::pin(self.write(vec![(self.statements.delete.clone(), values!(&delete.key))], None))
    }

    fn sessions<'a>(&'a self, sessions: &'a Sessions) -> Operation<'a, Vec<LiveSession>> {
        Box::pin(async move {
            let owner = &sessions.owner;
            let values = values!(&owner.audience, &owner.subject, &*sessions.name, sessions.current_time.as_secs());
            let rows = self.select((self.statements.sessions.clone(), values)).await?;
            let rows = rows.into_iter().map(columns).collect::<Result<Vec<_>, _>>()?;
            // Tables that lua-resty-session's documentation describes compare without regard to
            // case.
            let is_owners = |row: &(String, String, _, _)| row.0 == owner.audience && row.1 == owner.subject;
            Ok(rows
                .into_iter()
                .filter(is_owners)
                .map(|(_, _, key, at)| LiveSession { key, expiry: Timestamp::from_secs(at) })
                .collect())
        })
    }

    fn lock<'a>(&'a self, lock: &'a Lock) -> Operation<'a, bool> {
        Box::pin(async move {
            let Lock { name, key, holder, current_time, .. } = lock;
            let (expires, now) = (lock.expiry().as_secs(), current_time.as_secs());
            outlast_deadlocks(|| {
                let taking = values!(key, &**name, holder, expires, now, holder, now, holder, now, holder);
                let asking = values!(key, holder, now);
                let (lock, is_holder) = (self.statements.lock.clone(), self.statements.is_holder.clone());
                self.run(async move |mut connection: Connection| {
                    let result = take_lock(&mut connection.conn, (lock, taking), (is_holder, asking)).await;
                    connection.has_written |= result.is_ok();
                    (Some(connection), result)
                })
            })
            .await
        })
    }

    fn unlock<'a>(&'a self, unlock: &'a Unlock) -> Operation<'a, ()> {
        let freeing = values!(&unlock.key, &unlock.holder);
        Box::pin(self.write(vec![(self.statements.unlock.clone(), freeing)], None))
    }
}

/// Returns the columns of a row. The driver's own error would show all values.
fn columns<T: FromRow>(row: Row) -> Result<T, Error> {
    from_row_opt(row).map_err(|_| Error::Server("the table's columns have unexpected types".to_owned()))
}
