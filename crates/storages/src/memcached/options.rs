//! The options of the memcached storage.

use resty_session_core::settings::{Error, Names, Reader, Section};

use crate::Naming;
use crate::network::{Target, Tls};
use crate::options::TIMEOUTS;

/// Which servers, and how records are named.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MemcachedOptions {
    /// The servers, at least one. Each holds a share of the items.
    pub targets: Vec<Target>,
    /// How records and metadata are named.
    pub naming: Naming,
}

impl Section for MemcachedOptions {
    const STORAGE: &'static str = "memcached";
    const OPTIONS: Names = &[Target::OPTIONS, Tls::OPTIONS, TIMEOUTS, Naming::OPTIONS];

    fn read(reader: &Reader) -> Result<Self, Error> {
        const PORT: u16 = 11211;
        Ok(Self { targets: Target::read_all(reader, PORT)?, naming: Naming::read(reader)? })
    }
}
