//! One Redis server, and the storage on it.

use std::sync::Arc;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, FromRedisValue, RedisResult, Value};

use super::access::{Access, FixedHost};
use super::commands;
use super::errors::{connect_error, failed, is_broken, is_lost, lost};
use super::gathering::{self, Gathered, Gathering};
use super::options::Sentinels;
use crate::link::{Connection, Handle, Link};
use crate::network::Address;
use crate::{Cause, Delete, Error, Get, LiveSession, Lock, Naming, Operation, Sessions, Set, Storage, Unlock, Update};

/// How to find the server.
pub enum Location {
    /// The one at this address.
    Configured(Address),
    /// The one that Sentinels name when a connection is made.
    Named(Sentinels),
}

/// One server, and the storage on it.
pub struct RedisServer(Arc<Shared>);

/// What requests that run at the same time share.
struct Shared {
    link: Link<MultiplexedConnection>,
    gathering: Gathering,
    location: Location,
    access: Access,
}

impl RedisServer {
    /// Nothing connects yet.
    pub fn new(location: Location, access: Access) -> Self {
        let link = Link::new(&access.timeouts);
        Self(Arc::new(Shared { link, gathering: Gathering::default(), location, access }))
    }

    fn naming(&self) -> &Naming {
        &self.0.access.naming
    }

    /// Runs a command, in one pipeline with those that are requested at the same time.
    async fn run<T: FromRedisValue>(&self, command: Cmd) -> Result<T, Error> {
        let (is_first, reply) = self.0.gathering.add(command);
        if is_first {
            // In a task: it starts after the operations that run already have added their commands,
            // and is not dropped with this operation.
            let shared = self.0.clone();
            tokio::spawn(async move { shared.send_gathered().await });
        }
        let value = reply.await.unwrap_or(Err(Error::Broken))?;
        redis::from_redis_value(value).map_err(|error| Error::Driver(Cause::new(error.to_string(), error)))
    }
}

impl Shared {
    async fn send_gathered(&self) {
        let gathered = self.gathering.take();
        match self.connection().await {
            Ok(connection) => {
                let pipelines = gathering::pipelines(gathered).map(|gathered| self.send(&connection, gathered));
                futures_util::future::join_all(pipelines).await;
            }
            Err(error) => gathering::refuse(gathered.into_iter().map(|(_, reply)| reply), &error),
        }
    }

    async fn send(&self, connection: &Connection<MultiplexedConnection>, gathered: Vec<Gathered>) {
        let (commands, replies): (Vec<_>, Vec<_>) = gathered.into_iter().unzip();
        let result = gathering::send(&mut connection.handle.clone(), commands).await;
        match self.checked(connection, result) {
            Ok(values) => {
                for (reply, value) in replies.into_iter().zip(values) {
                    // Nobody receives the reply if its operation was dropped.
                    let _ = reply.send(self.checked(connection, value));
                }
            }
            Err(error) => gathering::refuse(replies, &error),
        }
    }

    async fn connection(&self) -> Result<Connection<MultiplexedConnection>, Error> {
        self.link.get(|| self.connect()).await
    }

    /// A connection that failed, or replied too late, or leads to a server that cannot be written
    /// to, is given up: the next attempt connects anew.
    fn checked<T>(&self, connection: &Connection<MultiplexedConnection>, result: RedisResult<T>) -> Result<T, Error> {
        match result {
            Err(error) if is_lost(&error) => {
                self.link.give_up(connection);
                // A server that refuses commands (loading, read-only) would refuse again; Sentinels
                // may name another.
                let may_be_repeated = is_broken(&error) || matches!(self.location, Location::Named(_));
                Err(if may_be_repeated { lost(error) } else { failed(error) })
            }
            result => result.map_err(failed),
        }
    }

    async fn connect(&self) -> Result<MultiplexedConnection, Error> {
        let (client, host) = match &self.location {
            Location::Configured(address @ Address::Tcp(node)) => {
                (self.access.client(address)?, Some(node.host.clone()))
            }
            Location::Configured(address @ Address::Unix(_)) => (self.access.client(address)?, None),
            Location::Named(sentinels) => (super::sentinel::client(sentinels, &self.access).await?, None),
        };
        let config = self.config(host);
        client.get_multiplexed_async_connection_with_config(&config).await.map_err(connect_error)
    }

    /// `host` is the host to connect to if the certificate is for another name.
    fn config(&self, host: Option<String>) -> AsyncConnectionConfig {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.access.timeouts.connect))
            .set_response_timeout(Some(self.access.timeouts.response));
        let server_name = self.access.tls.as_ref().and_then(|tls| tls.server_name.as_ref());
        match (server_name, host) {
            (Some(_), Some(host)) => config.set_dns_resolver(FixedHost(host)),
            _ => config,
        }
    }
}

/// The driver does not tell whether a connection is closed. The next command on a closed one fails
/// at once, unsent, and is repeated.
impl Handle for MultiplexedConnection {
    fn is_closed(&self) -> bool {
        false
    }
}

impl Storage for RedisServer {
    fn set<'a>(&'a self, set: &'a Set) -> Operation<'a, ()> {
        let set = self.run(commands::set(self.naming(), set));
        Box::pin(async move {
            match set.await? {
                Value::Int(0) => Err(Error::Gone),
                _ => Ok(()),
            }
        })
    }

    fn update<'a>(&'a self, update: &'a Update) -> Operation<'a, bool> {
        Box::pin(self.run(commands::update(self.naming(), update)))
    }

    fn get<'a>(&'a self, get: &'a Get) -> Operation<'a, Option<Vec<u8>>> {
        Box::pin(self.run(commands::get(self.naming(), get)))
    }

    fn delete<'a>(&'a self, delete: &'a Delete) -> Operation<'a, ()> {
        if delete.owners.is_empty() {
            return Box::pin(self.run(commands::unlink(self.naming(), delete)));
        }
        let delete = commands::delete(self.naming(), delete);
        Box::pin(async move {
            let connection = self.0.connection().await?;
            let result = delete.query_async(&mut connection.handle.clone()).await;
            self.0.checked(&connection, result)
        })
    }

    fn sessions<'a>(&'a self, sessions: &'a Sessions) -> Operation<'a, Vec<LiveSession>> {
        let found = self.run(commands::sessions(self.naming(), sessions));
        Box::pin(async move { Ok(commands::live(found.await?)) })
    }

    fn lock<'a>(&'a self, lock: &'a Lock) -> Operation<'a, bool> {
        Box::pin(self.run(commands::lock(self.naming(), lock)))
    }

    fn unlock<'a>(&'a self, unlock: &'a Unlock) -> Operation<'a, ()> {
        Box::pin(self.run(commands::unlock(self.naming(), unlock)))
    }

    fn close_idle(&self) {
        self.0.link.close_idle();
    }
}
