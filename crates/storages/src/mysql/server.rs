//! A server, or several of which one takes writes, and the connections to it.

use std::sync::Arc;

use super::connector::{Access, Connect};
use super::options::ServerOptions;
use crate::connections::{Endpoint, Identity, Pool, Server};
use crate::journal::Journal;
use crate::sql::TIMEOUT_MARGIN;

pub struct MySqlServer {
    pub pool: Arc<Pool<Connect>>,
}

impl Identity for ServerOptions {
    type Server = MySqlServer;

    fn server(&self, journal: Arc<dyn Journal>) -> Arc<MySqlServer> {
        let access = Access::new(self.clone());
        let endpoint = Endpoint::new("mysql", &access.hosts, self.timeouts, journal);
        let connect = Connect::new(access, endpoint.clone());
        let pool = Pool::new(endpoint, connect, self.pool_size, self.timeouts.response + TIMEOUT_MARGIN);
        Arc::new(MySqlServer { pool })
    }
}

impl Server for MySqlServer {
    fn endpoints(&self) -> Vec<Arc<Endpoint>> {
        vec![self.pool.endpoint().clone()]
    }

    fn close_idle(&self) {
        self.pool.close_idle();
    }
}
