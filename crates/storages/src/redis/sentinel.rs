//! The Redis server that Sentinels name: the master, or a replica, whichever that is when a
//! connection is made.

use futures_util::stream::{FuturesUnordered, StreamExt};
use redis::sentinel::{SentinelClientBuilder, SentinelServerType};
use redis::{Client, ConnectionAddr, ProtocolVersion, TlsMode};
use tokio::time::{Instant, timeout_at};

use super::access::Access;
use super::errors::{connect_error, failed};
use super::options::Sentinels;
use crate::Error;
use crate::network::Node;

/// Asks the Sentinels for the server. The next one is asked when one fails, or beside it when it
/// has not replied after its share of the time: one that hangs must not keep the others from being
/// asked. A quarter of the time is left for connecting.
pub(super) async fn client(sentinels: &Sentinels, access: &Access) -> Result<Client, Error> {
    let time = access.timeouts.connect * 3 / 4;
    let (share, end) = (time / sentinels.nodes.len().max(1) as u32, Instant::now() + time);
    let mut asked = FuturesUnordered::new();
    let mut problem = Error::ConnectTimeout;
    let mut nodes = sentinels.nodes.iter();
    loop {
        let until = match nodes.next() {
            Some(node) => {
                asked.push(ask(node, sentinels, access));
                Instant::now() + share
            }
            None => end,
        };
        match timeout_at(until, asked.next()).await {
            Ok(Some(Ok(client))) => return Ok(client),
            // The error of another Sentinel tells more than that one was too slow.
            Ok(Some(Err(Error::ConnectTimeout))) => {}
            Ok(Some(Err(error))) => problem = error,
            Err(_) if until < end => {}
            Ok(None) | Err(_) => return Err(problem),
        }
    }
}

/// Returns the server that one Sentinel names, after that server has confirmed its role.
async fn ask(node: &Node, sentinels: &Sentinels, access: &Access) -> Result<Client, Error> {
    let addresses = [ConnectionAddr::Tcp(node.host.clone(), node.port)];
    let server_type = if sentinels.replica { SentinelServerType::Replica } else { SentinelServerType::Master };
    let mut builder = SentinelClientBuilder::new(addresses, &sentinels.master, server_type)
        .map_err(failed)?
        .set_client_to_redis_db(access.database)
        .set_client_to_redis_protocol(ProtocolVersion::RESP2)
        .set_client_to_sentinel_protocol(ProtocolVersion::RESP2);
    if let Some(username) = &access.username {
        builder = builder.set_client_to_redis_username(username);
    }
    if let Some(password) = &access.password {
        builder = builder.set_client_to_redis_password(&**password);
    }
    if let Some(username) = &sentinels.username {
        builder = builder.set_client_to_sentinel_username(username);
    }
    if let Some(password) = &sentinels.password {
        builder = builder.set_client_to_sentinel_password(&**password);
    }
    if let Some(tls) = &access.tls {
        let mode = if tls.verify { TlsMode::Secure } else { TlsMode::Insecure };
        builder = builder.set_client_to_redis_tls_mode(mode);
    }
    builder.build().map_err(failed)?.async_get_client().await.map_err(connect_error)
}
