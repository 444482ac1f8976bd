//! How connections to Redis servers are made.

use std::sync::Arc;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, ProtocolVersion, RedisConnectionInfo, RedisResult, Value};
use tokio::task::JoinHandle;

use super::errors::connect_error;
use super::greeting::greet;
use crate::Error;
use crate::connections::{Handle, Timeouts};
use crate::credentials::{Credentials, Login};
use crate::network::{self, Address, Tls};

/// The settings that all servers of a storage share. Equal settings for the same servers share
/// connections. It has no `Debug`, because it holds a password.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Access {
    /// The credentials to sign in with.
    pub login: Login,
    /// The database's number; a Cluster has only 0.
    pub database: i64,
    /// The TLS settings, or `None` to connect without TLS.
    pub tls: Option<Tls>,
    /// How long the server may take.
    pub timeouts: Timeouts,
    /// Storages with different names share no connection.
    pub pool: Option<String>,
}

impl Access {
    /// Connects to a server, signs in, chooses the database, and waits for a reply.
    pub(super) async fn connect(&self, address: &Address) -> Result<Connection, Error> {
        self.connect_as(address, &self.login, self.database).await
    }

    /// Connects to a Sentinel, as to the servers, but with a login of its own.
    pub(super) async fn connect_to_sentinel(&self, address: &Address, login: &Login) -> Result<Connection, Error> {
        self.connect_as(address, login, 0).await
    }

    async fn connect_as(&self, address: &Address, login: &Login, database: i64) -> Result<Connection, Error> {
        login.sign_in(|credentials| self.connect_with(address, credentials, database)).await
    }

    async fn connect_with(
        &self,
        address: &Address,
        credentials: Credentials,
        database: i64,
    ) -> Result<Connection, Error> {
        let mut stream = network::connect(address, self.tls.as_ref()).await?;
        greet(&mut stream, &credentials, database).await?;
        // The driver itself asks nothing.
        let settings = RedisConnectionInfo::default().set_protocol(ProtocolVersion::RESP2).set_skip_set_lib_name();
        // The link keeps the time.
        let config = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
        let (commands, driver) =
            MultiplexedConnection::new_with_config(&settings, stream, config).await.map_err(connect_error)?;
        Ok(Connection { commands, driver: Arc::new(Driver(tokio::spawn(driver))) })
    }
}

/// A connection that many commands share. Clones are the same connection, which ends with the last.
#[derive(Clone)]
pub(super) struct Connection {
    commands: MultiplexedConnection,
    driver: Arc<Driver>,
}

/// The task that writes commands and reads replies. It ends when the connection does.
struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Connection {
    /// Sends a command and waits for its reply.
    pub(super) async fn send(&mut self, command: &Cmd) -> RedisResult<Value> {
        self.commands.send_packed_command(command).await
    }

    /// Sends commands at once and waits for their replies. Errors of the server are among them.
    pub(super) async fn send_all(&mut self, commands: &redis::Pipeline) -> RedisResult<Vec<Value>> {
        self.commands.send_packed_commands(commands, 0, commands.len()).await
    }
}

impl Handle for Connection {
    fn is_closed(&self) -> bool {
        self.driver.0.is_finished()
    }

    fn close(&self) {
        self.driver.0.abort();
    }
}
