//! The options of the dshm storage.

use resty_session_core::settings::{Error, Names, Reader, Section};

use crate::Naming;
use crate::network::{Target, Tls};
use crate::options::TIMEOUTS;

/// Which server, and how records are named.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DshmOptions {
    /// The server.
    pub target: Target,
    /// How records and metadata are named.
    pub naming: Naming,
}

impl Section for DshmOptions {
    const STORAGE: &'static str = "dshm";
    const OPTIONS: Names = &[Target::OPTIONS, Tls::OPTIONS, TIMEOUTS, Naming::OPTIONS];

    fn read(reader: &Reader) -> Result<Self, Error> {
        const PORT: u16 = 4321;
        Ok(Self { target: Target::read(reader, PORT)?, naming: Naming::read(reader)? })
    }
}
