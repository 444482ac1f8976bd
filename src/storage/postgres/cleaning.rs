//! Expired sessions are removed on a connection of their own, by one worker at a time.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::Postgres;
use tokio_postgres::{Client, Statement};

use super::connection::{connect, failed};
use crate::storage::Error;

/// One round, if no other worker is at it. The lock goes with the connection.
pub async fn round(storage: Arc<Postgres>) -> Result<(), Error> {
    let options = &storage.options;
    let connecting = tokio::time::timeout(options.timeouts.connect, connect(options));
    let client = connecting.await.unwrap_or(Err(Error::ConnectTimeout))?.client;
    let table = format!("resty-session {}", options.tables.sessions);
    let lock = client.query_one("SELECT pg_try_advisory_lock(hashtextextended($1, 0))", &[&table]).await;
    if !lock.map_err(failed)?.try_get::<_, bool>(0).map_err(failed)? {
        return Ok(());
    }
    // Rows that somebody is at are left for the next round.
    let remove = format!(
        "DELETE FROM {0} WHERE sid IN \
         (SELECT sid FROM {0} WHERE exp <= to_timestamp($1) ORDER BY exp LIMIT $2 FOR UPDATE SKIP LOCKED)",
        options.tables.sessions
    );
    let remove = client.prepare(&remove).await.map_err(failed)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64());
    let (client, now) = (Arc::new(client), now);
    options.cleanup.round(|limit| remove_batch(client.clone(), remove.clone(), now, limit)).await
}

async fn remove_batch(client: Arc<Client>, remove: Statement, now: f64, limit: u64) -> Result<u64, Error> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    client.execute(&remove, &[&now, &limit]).await.map_err(failed)
}
