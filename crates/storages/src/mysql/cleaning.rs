//! Expired sessions are removed on a connection of their own, by one worker at a time.

use std::sync::Arc;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row, from_row_opt};
use tokio::sync::Mutex;

use super::MySql;
use crate::cleanup::{Round, expired_before};
use crate::connections::ExclusiveConnector as _;
use crate::sql::within;
use crate::{Cause, Error};

/// Runs one round, unless another worker does the rounds.
pub(super) async fn round(storage: Arc<MySql>) -> Result<Round, Error> {
    storage.cleaner.clone().round(storage, remove).await
}

/// Removes expired rows, unless another worker is still doing so. Closing the connection releases
/// the lock.
async fn remove(storage: Arc<MySql>) -> Result<(), Error> {
    let (timeouts, cleanup) = (storage.options.server.timeouts, storage.options.cleanup);
    let mut conn = within(timeouts.connect, storage.server.pool.connector().connect()).await?.conn;
    let (sessions, remove) = (storage.options.tables.sessions.clone(), storage.statements.clean.clone());
    // The rounds must not keep a storage that nobody has any more.
    drop(storage);
    if !within(timeouts.response, lock(&mut conn, sessions)).await? {
        return Ok(());
    }
    let conn = Arc::new(Mutex::new(conn));
    let time = expired_before();
    let batch = |limit| within(timeouts.response, remove_batch(conn.clone(), remove.clone(), time, limit));
    cleanup.round(batch).await
}

async fn lock(conn: &mut Conn, sessions: String) -> Result<bool, Error> {
    // Do not lock the gaps into which new sessions are inserted.
    conn.query_drop("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED").await.map_err(failed)?;
    let lock = "SELECT COALESCE(GET_LOCK(LEFT(CONCAT('resty-session ', CONCAT_WS('.', DATABASE(), ?)), 64), 0), 0)";
    let locked: Option<Row> = conn.exec_first(lock, (sessions,)).await.map_err(failed)?;
    Ok(locked.is_some_and(|row| from_row_opt::<u8>(row).is_ok_and(|locked| locked == 1)))
}

async fn remove_batch(conn: Arc<Mutex<Conn>>, remove: String, time: u64, limit: u64) -> Result<u64, Error> {
    let mut conn = conn.lock().await;
    conn.exec_drop(remove, (time, limit)).await.map_err(failed)?;
    Ok(conn.affected_rows())
}

fn failed(error: mysql_async::Error) -> Error {
    Error::Driver(Cause::new(error.to_string(), error))
}
