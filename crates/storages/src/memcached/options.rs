//! The options of the memcached storage.

use resty_session_core::settings::{Error, Names, Reader, Section};

use crate::Naming;
use crate::network::{Target, Tls};
use crate::options::TIMEOUTS;

/// Which server, and how records are named.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MemcachedOptions {
    /// The server.
    pub target: Target,
    /// How records and metadata are named.
    pub naming: Naming,
}

impl Section for MemcachedOptions {
    const STORAGE: &'static str = "memcached";
    const OPTIONS: Names = &[Target::OPTIONS, Tls::OPTIONS, TIMEOUTS, Naming::OPTIONS];

    fn read(reader: &Reader) -> Result<Self, Error> {
        const PORT: u16 = 11211;
        Ok(Self { target: Target::read(reader, PORT)?, naming: Naming::read(reader)? })
    }
}
