//! A server, or several of which one takes writes, and the connections to them.

use std::sync::Arc;

use super::connector::{Access, Connect};
use super::options::{ReadFrom, ServerOptions};
use crate::connections::{Endpoint, Identity, Lanes, Link, Server};
use crate::journal::Journal;
use crate::recent::RecentWrites;
use crate::sql::TIMEOUT_MARGIN;

pub struct PostgresServer {
    /// For reads, which wait for no lock.
    pub reads: Arc<Link<Connect>>,
    /// For writes.
    pub writes: Lanes<Connect>,
    /// Makes further connections to the server that takes writes.
    pub connect: Connect,
    /// For reads, if they are to come from a standby.
    pub standby: Option<Standby>,
}

/// A server that only reads.
pub struct Standby {
    pub link: Arc<Link<Connect>>,
    /// What it may not have yet.
    pub recent: RecentWrites,
}

impl Identity for ServerOptions {
    type Server = PostgresServer;

    fn server(&self, journal: Arc<dyn Journal>) -> Arc<PostgresServer> {
        let access = Access::new(self.clone());
        let connect = |name: String, is_primary| {
            let endpoint = Endpoint::new("postgres", name, self.timeouts, journal.clone());
            Connect { access: access.clone(), endpoint, is_primary }
        };
        // The server itself ends a statement that takes too long, with a better error.
        let limit = self.timeouts.response + TIMEOUT_MARGIN;
        let link = |connect: &Connect| Link::with_response_limit(connect.endpoint.clone(), connect.clone(), limit);
        let standby = (self.read_from == ReadFrom::Replica).then(|| {
            let connect = connect(format!("a standby of {}", access.hosts), false);
            Standby { link: link(&connect), recent: RecentWrites::default() }
        });
        let connect = connect(access.hosts.to_string(), true);
        let (reads, writes) = (link(&connect), Lanes::new(self.pool_size, || link(&connect)));
        Arc::new(PostgresServer { reads, writes, connect, standby })
    }
}

impl Server for PostgresServer {
    fn endpoints(&self) -> Vec<Arc<Endpoint>> {
        let standby = self.standby.iter().map(|standby| standby.link.endpoint().clone());
        std::iter::once(self.reads.endpoint().clone()).chain(standby).collect()
    }

    fn close_idle(&self) {
        self.reads.close_idle();
        self.writes.close_idle();
        self.standby.iter().for_each(|standby| standby.link.close_idle());
    }
}
