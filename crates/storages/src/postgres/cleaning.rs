//! Expired sessions are removed on a connection of their own, by one worker at a time.

use std::sync::{Arc, Mutex, PoisonError};

use tokio_postgres::Statement;

use super::Postgres;
use super::connection::Connection;
use super::failures::failed;
use crate::Error;
use crate::cleanup::{Round, expired_before};
use crate::connections::Connector as _;
use crate::sql::within;

/// Runs one round, unless another worker does the rounds.
pub(super) async fn round(storage: Arc<Postgres>) -> Result<Round, Error> {
    storage.cleaner.clone().round(storage, remove).await
}

/// Removes expired rows, unless another worker is still doing so. Closing the connection releases
/// the lock.
async fn remove(storage: Arc<Postgres>) -> Result<(), Error> {
    let (timeouts, cleanup) = (storage.options.server.timeouts, storage.options.cleanup);
    let connection = within(timeouts.connect, storage.server.connect.connect()).await?;
    let sessions = storage.options.tables.sessions.clone();
    // A round must not keep a storage alive that nobody uses any more.
    drop(storage);
    if !within(timeouts.response, lock(connection.clone(), format!("resty-session {sessions}"))).await? {
        return Ok(());
    }
    // Rows that another transaction has locked are left for the next round.
    let remove = format!(
        "WITH gone AS (DELETE FROM {sessions} WHERE sid IN (SELECT sid FROM {sessions} \
         WHERE exp >= to_timestamp($1) AND exp <= to_timestamp($2) ORDER BY exp LIMIT $3 FOR UPDATE SKIP LOCKED) \
         RETURNING exp) SELECT count(*), extract(epoch FROM max(exp))::float8 FROM gone"
    );
    let statement = within(timeouts.response, prepare(connection.clone(), remove)).await?;
    let removal = Arc::new(Removal { connection, statement, from: Mutex::default(), to: expired_before() as f64 });
    cleanup.round(|limit| within(timeouts.response, removal.clone().remove(limit))).await
}

async fn lock(connection: Arc<Connection>, name: String) -> Result<bool, Error> {
    let lock = connection.client.query_one("SELECT pg_try_advisory_lock(hashtextextended($1, 0))", &[&name]).await;
    lock.and_then(|row| row.try_get(0)).map_err(failed)
}

async fn prepare(connection: Arc<Connection>, statement: String) -> Result<Statement, Error> {
    connection.client.prepare(&statement).await.map_err(failed)
}

struct Removal {
    connection: Arc<Connection>,
    statement: Statement,
    /// The expiry of the row that was removed last, in seconds since the epoch. The next batch
    /// starts there, because removed rows stay in the index until the table is vacuumed.
    from: Mutex<f64>,
    to: f64,
}

impl Removal {
    /// Removes at most `limit` rows, and returns how many it found.
    async fn remove(self: Arc<Self>, limit: u64) -> Result<u64, Error> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let from = *self.from.lock().unwrap_or_else(PoisonError::into_inner);
        let row =
            self.connection.client.query_one(&self.statement, &[&from, &self.to, &limit]).await.map_err(failed)?;
        if let Some(last) = row.try_get::<_, Option<f64>>(1).map_err(failed)? {
            *self.from.lock().unwrap_or_else(PoisonError::into_inner) = last;
        }
        Ok(row.try_get::<_, i64>(0).map_err(failed)?.try_into().unwrap_or_default())
    }
}
