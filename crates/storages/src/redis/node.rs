//! The connection to one node of a Cluster, which is replaced when it is lost.
//!
//! The driver would do that too, but it repeats a command on lost connections before it replaces
//! any. It can get stuck if many are lost at once, for example because all were idle for too long.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster_async::Connect;
use redis::{AsyncConnectionConfig, Client, Cmd, IntoConnectionInfo, Pipeline, RedisError, RedisFuture, Value};

use super::errors::connect_error;
use crate::Error;
use crate::connections::Timeouts;
use crate::link::{Connection, Link};

/// Clones are the same connection.
#[derive(Clone)]
pub struct Node(Arc<Inner>);

struct Inner {
    link: Link<MultiplexedConnection>,
    client: Client,
    config: AsyncConnectionConfig,
}

/// The driver keeps the time of connects and commands, and [`Cluster`](super::Cluster) that of idle
/// connections.
const UNLIMITED: Timeouts =
    Timeouts { connect: Duration::MAX, response: Duration::MAX, keepalive: Duration::MAX, lifetime: Duration::MAX };

impl Connect for Node {
    fn connect_with_config<'a, T>(info: T, config: AsyncConnectionConfig) -> RedisFuture<'a, Self>
    where
        T: IntoConnectionInfo + Send + 'a,
    {
        Box::pin(async move {
            let client = Client::open(info)?;
            let node = Self(Arc::new(Inner { link: Link::new(&UNLIMITED), client, config }));
            node.connection().await?;
            Ok(node)
        })
    }
}

impl Node {
    async fn connection(&self) -> Result<Connection<MultiplexedConnection>, RedisError> {
        let Inner { link, client, config } = &*self.0;
        let connect =
            || async { client.get_multiplexed_async_connection_with_config(config).await.map_err(connect_error) };
        link.get(connect).await.map_err(|error| {
            let kind = match error {
                Error::ConnectTimeout => io::ErrorKind::TimedOut,
                _ => io::ErrorKind::ConnectionRefused,
            };
            io::Error::new(kind, error.to_string()).into()
        })
    }

    /// Replaces a connection if the error says that it is lost, and returns the new one.
    async fn replaced(
        &self,
        lost: &Connection<MultiplexedConnection>,
        error: &RedisError,
    ) -> Option<Result<MultiplexedConnection, RedisError>> {
        if !error.is_connection_dropped() {
            return None;
        }
        self.0.link.give_up(lost);
        Some(self.connection().await.map(|connection| connection.handle))
    }
}

/// If the connection to this node is lost, the command is repeated here once. The driver and then
/// [`crate::repeating`] may repeat it again on other connections; the latter says why that is
/// harmless.
impl ConnectionLike for Node {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(async move {
            let connection = self.connection().await?;
            let result = connection.handle.clone().req_packed_command(cmd).await;
            let Err(error) = result else { return result };
            match self.replaced(&connection, &error).await {
                Some(replaced) => replaced?.req_packed_command(cmd).await,
                None => Err(error),
            }
        })
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        Box::pin(async move {
            let connection = self.connection().await?;
            let result = connection.handle.clone().req_packed_commands(pipeline, offset, count).await;
            let Err(error) = result else { return result };
            match self.replaced(&connection, &error).await {
                Some(replaced) => replaced?.req_packed_commands(pipeline, offset, count).await,
                None => Err(error),
            }
        })
    }

    /// A Cluster has only database 0.
    fn get_db(&self) -> i64 {
        0
    }
}
