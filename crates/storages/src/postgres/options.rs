//! What the Postgres storage is configured with.

use std::sync::Arc;
use std::time::Duration;

use super::Postgres;
use crate::Storage;
use crate::cleanup::Cleanup;
use crate::network::{Address, Timeouts, Tls};
use crate::repeating::Repeating;
use crate::sql::{Dialect, Tables};
use resty_session_core::secret::Password;

pub const DIALECT: Dialect = Dialect { quote: '"', longest: 63, schema: include_str!("../../../../sql/postgres.sql") };

/// It holds a password, and so has no `Debug`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Options {
    pub address: Address,
    pub username: String,
    pub password: Option<Password>,
    /// The user's name, if there is none.
    pub database: Option<String>,
    pub application: Option<String>,
    pub transport: Transport,
    pub tables: Tables,
    pub timeouts: Timeouts,
    /// Connections for writes, beside the one for reads.
    pub pool_size: usize,
    pub cleanup: Cleanup,
    /// Storages with different names share no connection.
    pub pool: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    Plain,
    /// TLS, where the server has it.
    Preferred(Tls),
    Required(Tls),
}

impl crate::Options for Options {
    fn limit(&self) -> Duration {
        self.timeouts.limit()
    }

    fn storage(self) -> Arc<dyn Storage> {
        Repeating::new(Postgres::new(self))
    }
}
