//! A Redis server that Sentinels name: the master, or a replica, whichever that is when a connection is made.

use futures_util::stream::{FuturesUnordered, StreamExt};
use redis::aio::MultiplexedConnection;
use redis::sentinel::{SentinelClientBuilder, SentinelServerType};
use redis::{AsyncConnectionConfig, ConnectionAddr, ProtocolVersion, TlsMode};
use tokio::time::timeout;

use super::options::{Options, Target};
use super::single::connect_error;
use crate::storage::Error;
use crate::storage::network::Node;

/// Asks the Sentinels, and connects to the server that they name. The next one is asked when one fails, or beside it when it
/// has not answered after its share of the time: one that hangs must not keep the others from being asked.
pub(super) async fn connect(options: &Options, config: &AsyncConnectionConfig) -> Result<MultiplexedConnection, Error> {
    let Target::Sentinel { sentinels, .. } = &options.target else { return Err(Error::Connect(NONE.into())) };
    let share = options.timeouts.connect / (sentinels.len() as u32 + 1);
    let mut asked = FuturesUnordered::new();
    let mut problem = Error::Connect(NONE.into());
    for sentinel in sentinels {
        asked.push(connect_by(sentinel, options, config));
        match timeout(share, asked.next()).await {
            Ok(Some(Ok(connection))) => return Ok(connection),
            Ok(Some(Err(error))) => problem = error,
            Ok(None) | Err(_) => {}
        }
    }
    while let Some(result) = asked.next().await {
        match result {
            Ok(connection) => return Ok(connection),
            Err(error) => problem = error,
        }
    }
    Err(problem)
}

const NONE: &str = "no sentinels";

/// Connects to the server that one Sentinel names.
async fn connect_by(
    sentinel: &Node,
    options: &Options,
    config: &AsyncConnectionConfig,
) -> Result<MultiplexedConnection, Error> {
    let Target::Sentinel { master, replica, username, password, .. } = &options.target else {
        return Err(Error::Connect(NONE.into()));
    };
    let addresses = [ConnectionAddr::Tcp(sentinel.host.clone(), sentinel.port)];
    let server_type = if *replica { SentinelServerType::Replica } else { SentinelServerType::Master };
    let mut builder = SentinelClientBuilder::new(addresses, master, server_type)?
        .set_client_to_redis_db(options.database)
        .set_client_to_redis_protocol(ProtocolVersion::RESP2)
        .set_client_to_sentinel_protocol(ProtocolVersion::RESP2);
    if let Some(username) = &options.username {
        builder = builder.set_client_to_redis_username(username);
    }
    if let Some(password) = &options.password {
        builder = builder.set_client_to_redis_password(password);
    }
    if let Some(username) = username {
        builder = builder.set_client_to_sentinel_username(username);
    }
    if let Some(password) = password {
        builder = builder.set_client_to_sentinel_password(password);
    }
    if let Some(tls) = &options.tls {
        let mode = if tls.verify { TlsMode::Secure } else { TlsMode::Insecure };
        builder = builder.set_client_to_redis_tls_mode(mode);
    }
    let mut client = builder.build()?;
    client.get_async_connection_with_config(config).await.map_err(|error| connect_error(&error))
}
