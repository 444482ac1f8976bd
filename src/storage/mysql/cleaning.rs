//! Expired sessions are removed on a connection of their own, by one worker at a time.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use tokio::sync::Mutex;

use super::MySql;
use super::pool::connect;
use crate::storage::Error;

/// One round, if no other worker is at it. The lock goes with the connection.
pub async fn round(storage: Arc<MySql>) -> Result<(), Error> {
    let options = &storage.options;
    let connecting = tokio::time::timeout(options.timeouts.connect, connect(options));
    let mut conn = connecting.await.unwrap_or(Err(Error::ConnectTimeout))?;
    // No locks on the gaps where new sessions go.
    conn.query_drop("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED").await.map_err(failed)?;
    let locked: Option<Option<u8>> = conn
        .exec_first(
            "SELECT GET_LOCK(LEFT(CONCAT('resty-session ', DATABASE(), '.', ?), 64), 0)",
            (&options.tables.sessions,),
        )
        .await
        .map_err(failed)?;
    if locked.flatten() != Some(1) {
        return Ok(());
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let conn = Arc::new(Mutex::new(conn));
    options.cleanup.round(|limit| remove_batch(conn.clone(), storage.clone(), now, limit)).await
}

async fn remove_batch(conn: Arc<Mutex<Conn>>, storage: Arc<MySql>, now: u64, limit: u64) -> Result<u64, Error> {
    let mut conn = conn.lock().await;
    conn.exec_drop(&storage.statements.clean, (now, limit)).await.map_err(failed)?;
    Ok(conn.affected_rows())
}

fn failed(error: mysql_async::Error) -> Error {
    Error::Server(error.to_string())
}
