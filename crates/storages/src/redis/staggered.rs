//! Asks several servers the same until one replies.

use std::future::Future;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::time::{Instant, timeout_at};

use crate::Error;

/// Asks the first. Asks the next when one fails, or beside it when it has not replied after its share
/// of the time: one that hangs must not keep the others from being asked. Returns the first reply.
///
/// # Errors
///
/// That of the last that failed for another reason than that it was too slow, or a timeout.
pub async fn first_reply<S, T, F>(
    servers: impl ExactSizeIterator<Item = S>,
    time: Duration,
    ask: impl Fn(S) -> F,
) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    let (share, end) = (time / servers.len().max(1) as u32, Instant::now() + time);
    let mut asked = FuturesUnordered::new();
    let mut problem = Error::ConnectTimeout;
    let mut servers = servers;
    loop {
        let until = match servers.next() {
            Some(server) => {
                asked.push(ask(server));
                Instant::now() + share
            }
            None => end,
        };
        match timeout_at(until, asked.next()).await {
            Ok(Some(Ok(reply))) => return Ok(reply),
            // The error of another server tells more than that one was too slow.
            Ok(Some(Err(Error::ConnectTimeout | Error::Timeout))) => {}
            Ok(Some(Err(error))) => problem = error,
            Err(_) if until < end => {}
            Ok(None) | Err(_) => return Err(problem),
        }
    }
}
