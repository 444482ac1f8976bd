//! How long a connection is used.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::endpoint::{Endpoint, Open};
use crate::random::fraction;

/// A connection that was lost so soon after it was made, before any reply to an operation, counts
/// as a failed attempt to connect: some proxies accept connections for servers that are gone.
const TRIAL: Duration = Duration::from_secs(1);

/// What is known of a connection. It counts as open until this is dropped.
pub(super) struct Life {
    made: Instant,
    /// When the connection is to be replaced, because load balancers and names change.
    ends: Instant,
    open: Open,
}

impl Life {
    /// That of a connection that was just made.
    pub(super) fn new(endpoint: &Arc<Endpoint>) -> Self {
        let made = Instant::now();
        let lifetime = endpoint.timeouts().lifetime;
        Self { made, ends: made + lifetime.mul_f64(1.0 - 0.1 * fraction()), open: Open::new(endpoint.clone()) }
    }

    /// When the connection was made.
    pub(super) fn made(&self) -> Instant {
        self.made
    }

    /// Notes that an operation has got a reply.
    pub(super) fn prove(&self) {
        self.open.prove();
    }

    /// Whether losing the connection now counts as a failed attempt to connect.
    pub(super) fn is_on_trial(&self) -> bool {
        !self.open.is_proved() && self.made.elapsed() < TRIAL
    }

    /// Whether the connection has become too old.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        now > self.ends
    }
}
