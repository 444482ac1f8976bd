//! A Redis Cluster. Keys lie in different slots, so an operation on several keys is several
//! commands, sent at once to the nodes that hold them.

use redis::Cmd;
use redis::cluster::{ClusterClient, ClusterClientBuilder};
use redis::cluster_async::ClusterConnection;
use redis::{FromRedisValue, IntoConnectionInfo as _, ProtocolVersion, TlsMode};

use super::access::Access;
use super::commands;
use super::errors::{connect_error, failed, is_broken, lost};
use super::node::Node;
use super::options::ClusterNodes;
use crate::connections::Timeouts;
use crate::link::{Connection, Handle, Link};
use crate::{Delete, Error, Get, LiveSession, Lock, Operation, Sessions, Set, Storage, Unlock, Update};

/// All nodes are tried at once, then the slots are asked for: a node that does not reply must leave
/// time for that.
pub(super) fn timeouts(of_a_node: &Timeouts) -> Timeouts {
    Timeouts { connect: of_a_node.connect * 3, ..*of_a_node }
}

/// The storage on all servers of a Cluster.
pub struct Cluster {
    link: Link<ClusterConnection<Node>>,
    nodes: ClusterNodes,
    access: Access,
}

impl Cluster {
    /// Nothing connects yet.
    pub fn new(nodes: ClusterNodes, access: Access) -> Self {
        Self { link: Link::new(&timeouts(&access.timeouts)), nodes, access }
    }

    /// Returns the connection, which follows changes of the Cluster by itself.
    /// [`run_on`](Self::run_on) says when it is replaced.
    async fn connection(&self) -> Result<Connection<ClusterConnection<Node>>, Error> {
        self.link
            .get(|| async {
                let client = self.client()?;
                client.get_async_generic_connection::<Node>().await.map_err(connect_error)
            })
            .await
    }

    fn client(&self) -> Result<ClusterClient, Error> {
        let nodes = self.nodes.nodes.iter().map(|node| {
            let info = self.access.address(node).into_connection_info()?;
            Ok(info.set_redis_settings(self.access.credentials()))
        });
        let nodes = nodes.collect::<Result<Vec<_>, redis::RedisError>>().map_err(failed)?;
        let mut builder = ClusterClientBuilder::new(nodes)
            .use_protocol(ProtocolVersion::RESP2)
            .connection_timeout(self.access.timeouts.connect)
            .response_timeout(self.access.timeouts.response)
            .overall_response_timeout(Some(self.access.timeouts.response))
            .retries(self.nodes.max_redirections)
            .min_retry_wait(10)
            .max_retry_wait(100);
        if let Some(tls) = &self.access.tls {
            builder = builder.tls(if tls.verify { TlsMode::Secure } else { TlsMode::Insecure });
        }
        builder.build().map_err(failed)
    }

    async fn run<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, Error> {
        let connection = self.connection().await?;
        self.run_on(&connection, command).await
    }

    /// A connection whose node does not reply, or that has lost it, is given up: the next one asks
    /// again who holds what.
    async fn run_on<T: FromRedisValue>(
        &self,
        connection: &Connection<ClusterConnection<Node>>,
        command: &Cmd,
    ) -> Result<T, Error> {
        let result = command.query_async(&mut connection.handle.clone()).await;
        match result {
            Err(error) if is_broken(&error) || error.kind() == redis::ErrorKind::ClusterConnectionNotFound => {
                self.link.give_up(connection);
                Err(lost(error))
            }
            result => result.map_err(failed),
        }
    }

    /// Runs commands at the same time and waits for all of them. Returns the first error.
    async fn run_all(&self, commands: Vec<Cmd>) -> Result<(), Error> {
        let connection = self.connection().await?;
        let running = commands.iter().map(|command| self.run_on::<()>(&connection, command));
        futures_util::future::join_all(running).await.into_iter().collect()
    }
}

/// Never closed as a whole. Connections to single nodes are replaced: see [`Node`].
impl Handle for ClusterConnection<Node> {
    fn is_closed(&self) -> bool {
        false
    }
}

impl Storage for Cluster {
    /// Stores the record first and shortens the replaced one last, because the replaced record must
    /// still work if anything before fails.
    fn set<'a>(&'a self, set: &'a Set) -> Operation<'a, ()> {
        Box::pin(async move {
            self.run::<()>(&commands::set_record(&self.access.naming, set)).await?;
            self.run_all(commands::notes(&self.access.naming, set)).await?;
            match commands::shorten(&self.access.naming, set) {
                Some(shorten) => self.run(&shorten).await,
                None => Ok(()),
            }
        })
    }

    fn update<'a>(&'a self, update: &'a Update) -> Operation<'a, bool> {
        Box::pin(async move { self.run(&commands::update(&self.access.naming, update)).await })
    }

    fn get<'a>(&'a self, get: &'a Get) -> Operation<'a, Option<Vec<u8>>> {
        Box::pin(async move { self.run(&commands::get(&self.access.naming, get)).await })
    }

    fn delete<'a>(&'a self, delete: &'a Delete) -> Operation<'a, ()> {
        Box::pin(async move {
            let forget = |owner| commands::forget(&self.access.naming, delete, owner);
            let mut all = vec![commands::unlink(&self.access.naming, delete)];
            all.extend(delete.owners.iter().flat_map(forget));
            self.run_all(all).await
        })
    }

    fn sessions<'a>(&'a self, sessions: &'a Sessions) -> Operation<'a, Vec<LiveSession>> {
        Box::pin(async move {
            let found = self.run(&commands::sessions(&self.access.naming, sessions)).await?;
            Ok(commands::live(found))
        })
    }

    fn lock<'a>(&'a self, lock: &'a Lock) -> Operation<'a, bool> {
        Box::pin(async move { self.run(&commands::lock(&self.access.naming, lock)).await })
    }

    fn unlock<'a>(&'a self, unlock: &'a Unlock) -> Operation<'a, ()> {
        Box::pin(async move { self.run(&commands::unlock(&self.access.naming, unlock)).await })
    }

    fn close_idle(&self) {
        self.link.close_idle();
    }
}
