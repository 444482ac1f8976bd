//! A Redis server that Sentinels name: the master, or a replica, whichever that is when a connection is made.

use redis::aio::MultiplexedConnection;
use redis::sentinel::{SentinelClientBuilder, SentinelServerType};
use redis::{AsyncConnectionConfig, ConnectionAddr, ProtocolVersion, TlsMode};

use super::options::{Options, Target};
use super::single::connect_error;
use crate::storage::Error;

/// Asks the Sentinels, one after the other, and connects to the server that they name.
pub(super) async fn connect(options: &Options, config: &AsyncConnectionConfig) -> Result<MultiplexedConnection, Error> {
    let Target::Sentinel { master, replica, sentinels, username, password } = &options.target else {
        return Err(Error::Connect("no sentinels".into()));
    };
    let addresses = sentinels.iter().map(|node| ConnectionAddr::Tcp(node.host.clone(), node.port));
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
