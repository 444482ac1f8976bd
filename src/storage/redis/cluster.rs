//! A Redis Cluster. Keys lie in different slots, so an operation on several keys is several commands, sent at once to
//! the nodes that hold them.

use redis::Cmd;
use redis::cluster::{ClusterClient, ClusterClientBuilder};
use redis::cluster_async::ClusterConnection;
use redis::{FromRedisValue, IntoConnectionInfo as _, ProtocolVersion, TlsMode};

use super::commands;
use super::options::{Options, Target, credentials};
use super::single::connect_error;
use crate::storage::link::{Connection, Link};
use crate::storage::{Error, Naming, Operation, Owner, Record, Storage};

/// How many times the timeout for one node connecting to the cluster may take.
pub(super) const CONNECT_STEPS: u32 = 3;

pub struct Cluster {
    link: Link<ClusterConnection>,
    naming: Naming,
    options: Options,
}

impl Cluster {
    pub fn new(options: Options) -> Self {
        // All nodes are tried at once, then the slots are asked for: a node that does not answer must leave time for that.
        let link = Link::new(options.connect_timeout * CONNECT_STEPS, options.keepalive_timeout);
        Self { link, naming: options.naming.clone(), options }
    }

    /// The connection follows the changes of the cluster by itself; [`run_on`](Self::run_on) says when it is made anew.
    async fn connection(&self) -> Result<Connection<ClusterConnection>, Error> {
        self.link
            .get(|| async {
                let client = self.client()?;
                client.get_async_connection().await.map_err(|error| connect_error(&error))
            })
            .await
    }

    fn client(&self) -> Result<ClusterClient, Error> {
        let Target::Cluster { nodes, max_redirections } = &self.options.target else {
            return Err(Error::Connect("no cluster nodes".into()));
        };
        let nodes = nodes.iter().map(|node| {
            let info = self.options.address(node).into_connection_info()?;
            Ok(info.set_redis_settings(credentials(&self.options.username, &self.options.password)))
        });
        let nodes = nodes.collect::<Result<Vec<_>, redis::RedisError>>()?;
        let mut builder = ClusterClientBuilder::new(nodes)
            .use_protocol(ProtocolVersion::RESP2)
            .connection_timeout(self.options.connect_timeout)
            .response_timeout(self.options.response_timeout)
            .overall_response_timeout(Some(self.options.response_timeout))
            .retries(*max_redirections)
            .min_retry_wait(10)
            .max_retry_wait(100);
        if let Some(tls) = &self.options.tls {
            builder = builder.tls(if tls.verify { TlsMode::Secure } else { TlsMode::Insecure });
        }
        Ok(builder.build()?)
    }

    async fn run<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, Error> {
        let connection = self.connection().await?;
        self.run_on(&connection, command).await
    }

    /// A connection whose node does not answer, or that has lost it, is given up: the next one asks again who holds what.
    async fn run_on<T: FromRedisValue>(
        &self,
        connection: &Connection<ClusterConnection>,
        command: &Cmd,
    ) -> Result<T, Error> {
        let result = command.query_async(&mut connection.handle.clone()).await;
        if let Err(error) = &result
            && (error.is_timeout()
                || error.is_connection_dropped()
                || error.is_unrecoverable_error()
                || error.kind() == redis::ErrorKind::ClusterConnectionNotFound)
        {
            self.link.give_up(connection);
        }
        Ok(result?)
    }

    /// Runs commands on keys of their own, all at once. The first error counts.
    async fn run_all(&self, commands: Vec<Cmd>) -> Result<(), Error> {
        let connection = self.connection().await?;
        let running = commands.iter().map(|command| self.run_on::<()>(&connection, command));
        futures_util::future::join_all(running).await.into_iter().collect()
    }
}

impl Storage for Cluster {
    /// The record first, and the one that it replaces last: where anything fails, that one must go on working.
    fn set(&self, record: Record) -> Operation<'_, ()> {
        Box::pin(async move {
            self.run::<()>(&commands::set_record(&self.naming, &record)).await?;
            self.run_all(commands::notes(&self.naming, &record)).await?;
            match commands::shorten(&self.naming, &record) {
                Some(shorten) => self.run(&shorten).await,
                None => Ok(()),
            }
        })
    }

    fn get(&self, name: String, key: String, _: u64) -> Operation<'_, Option<Vec<u8>>> {
        Box::pin(async move { self.run(&commands::get(&self.naming, &name, &key)).await })
    }

    fn delete(&self, name: String, key: String, current_time: u64, owners: Vec<Owner>) -> Operation<'_, ()> {
        Box::pin(async move {
            let forget = |owner: &Owner| commands::forget(&self.naming, &name, &key, owner, current_time);
            let mut all = vec![commands::unlink(&self.naming, &name, &key)];
            all.extend(owners.iter().flat_map(forget));
            self.run_all(all).await
        })
    }

    fn read_metadata(&self, name: String, owner: Owner, current_time: u64) -> Operation<'_, Vec<(String, u64)>> {
        Box::pin(async move { self.run(&commands::sessions(&self.naming, &name, &owner, current_time)).await })
    }
}
