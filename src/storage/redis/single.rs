//! One Redis server, and the storage on it.

use std::future::Future;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, RedisError};

use super::options::{Options, Target};
use super::{commands, describe, is_broken};
use crate::storage::link::Link;
use crate::storage::network::Address;
use crate::storage::{Error, Operation, Owner, Record, Storage};

/// The way to one server, whichever it is at the time: the configured one, or the one that Sentinels name.
pub struct Server {
    link: Link<MultiplexedConnection>,
    options: Options,
}

impl Server {
    pub fn new(options: Options) -> Self {
        Self { link: Link::new(&options.timeouts), options }
    }

    /// Runs commands on the server's connection, making one where there is none.
    ///
    /// A connection that failed, or answered too late, or leads to a server that cannot be written to, is given up: the
    /// next operation connects anew. This one fails: what it asked for may have been done.
    async fn run<T, F>(&self, run: impl FnOnce(MultiplexedConnection) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, RedisError>>,
    {
        let connection = self.link.get(|| self.connect()).await?;
        let result = run(connection.handle.clone()).await;
        if let Err(error) = &result
            && is_lost(error)
        {
            self.link.give_up(&connection);
        }
        Ok(result?)
    }

    async fn connect(&self) -> Result<MultiplexedConnection, Error> {
        match &self.options.target {
            Target::Single(address) => self.connect_to(address).await,
            Target::Sentinel { .. } => super::sentinel::connect(&self.options, &self.config(None)).await,
            Target::Cluster { .. } => Err(Error::Connect("a cluster is no single server".into())),
        }
    }

    async fn connect_to(&self, address: &Address) -> Result<MultiplexedConnection, Error> {
        let node = match address {
            Address::Tcp(node) => Some(node.host.clone()),
            Address::Unix(_) => None,
        };
        let client = self.options.client(address)?;
        let config = self.config(node);
        client.get_multiplexed_async_connection_with_config(&config).await.map_err(|error| connect_error(&error))
    }

    /// `host` is where to connect to when the certificate bears another name.
    fn config(&self, host: Option<String>) -> AsyncConnectionConfig {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.options.timeouts.connect))
            .set_response_timeout(Some(self.options.timeouts.response));
        let server_name = self.options.tls.as_ref().and_then(|tls| tls.server_name.as_ref());
        match (server_name, host) {
            (Some(_), Some(host)) => config.set_dns_resolver(super::options::FixedHost(host)),
            _ => config,
        }
    }
}

pub(super) fn connect_error(error: &RedisError) -> Error {
    if error.is_timeout() { Error::ConnectTimeout } else { Error::Connect(describe(error)) }
}

/// Whether the connection is of no more use.
fn is_lost(error: &RedisError) -> bool {
    is_broken(error)
        || error.detail().is_some_and(|detail| detail.contains("READONLY"))
        || matches!(error.code(), Some("READONLY" | "MASTERDOWN" | "LOADING" | "NOAUTH" | "NOREPLICAS"))
}

impl Storage for Server {
    fn set(&self, record: Record) -> Operation<'_, ()> {
        let set = commands::set(&self.options.naming, &record);
        Box::pin(self.run(move |mut connection| async move { set.query_async(&mut connection).await }))
    }

    fn get(&self, name: String, key: String, _: u64) -> Operation<'_, Option<Vec<u8>>> {
        let get = commands::get(&self.options.naming, &name, &key);
        Box::pin(self.run(move |mut connection| async move { get.query_async(&mut connection).await }))
    }

    fn delete(&self, name: String, key: String, current_time: u64, owners: Vec<Owner>) -> Operation<'_, ()> {
        let delete = commands::delete(&self.options.naming, &name, &key, &owners, current_time);
        Box::pin(self.run(move |mut connection| async move { delete.query_async(&mut connection).await }))
    }

    fn read_metadata(&self, name: String, owner: Owner, current_time: u64) -> Operation<'_, Vec<(String, u64)>> {
        let sessions = commands::sessions(&self.options.naming, &name, &owner, current_time);
        Box::pin(self.run(move |mut connection| async move { sessions.query_async(&mut connection).await }))
    }

    fn close_idle(&self) {
        self.link.close_idle();
    }
}
