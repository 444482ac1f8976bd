//! The options of the dshm storage.

use resty_session_core::settings::{Error, Names, Reader, Section};

use crate::Naming;
use crate::network::Endpoint;
use crate::options::TIMEOUTS;

/// Which server, and how records are named.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DshmOptions {
    /// The server.
    pub endpoint: Endpoint,
    /// How records and metadata are named.
    pub naming: Naming,
}

impl Section for DshmOptions {
    const STORAGE: &'static str = "dshm";
    const OPTIONS: Names = &[Endpoint::OPTIONS, TIMEOUTS, Naming::OPTIONS];

    fn read(reader: &Reader) -> Result<Self, Error> {
        const PORT: u16 = 4321;
        Ok(Self { endpoint: Endpoint::read(reader, PORT)?, naming: Naming::read(reader)? })
    }
}
