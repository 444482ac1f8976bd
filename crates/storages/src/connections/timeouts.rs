//! Time limits of connections.

use std::time::Duration;

/// Time limits of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Timeouts {
    /// For connecting, with everything that belongs to it: DNS, TLS, authentication.
    pub connect: Duration,
    /// From sending a command to receiving its reply.
    pub response: Duration,
    /// How long a connection may be unused. After that it is closed instead of used again.
    pub keepalive: Duration,
    /// How old a connection may become. After that it is replaced.
    pub lifetime: Duration,
}

impl Timeouts {
    /// How long an operation may take, including connecting.
    pub fn limit(&self) -> Duration {
        self.connect + self.response + LIMIT_MARGIN
    }
}

/// How much longer an operation may take than its parts, so that a part's time limit, whose error
/// says more, ends first.
const LIMIT_MARGIN: Duration = Duration::from_millis(100);
