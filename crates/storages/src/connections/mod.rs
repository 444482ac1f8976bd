//! How connections are held, in one way for all drivers.
//!
//! - A process has one [`Servers`]. Storages of the same server, credentials and time limits share
//!   its connections, whatever their records are called.
//! - An [`Endpoint`] is what is known of a server: whether it fails, since when and why, and
//!   counts. While it fails, operations fail at once and one background task tries to connect.
//! - A [`Link`] is a connection that many operations share; [`Lanes`] are a few of them.
//! - A [`Pool`] has connections that one operation at a time uses.
//! - A driver gives a [`Connector`], which makes a connection, and says of each error with a
//!   [`Failure`] what it means for the connection.
//!
//! What is told to operators goes to the [`Journal`](crate::journal::Journal).

use crate::{Cause, Error, Operation};

mod backoff;
mod endpoint;
#[cfg(feature = "postgres")]
mod lanes;
mod life;
mod link;
#[cfg(feature = "mysql")]
mod pool;
mod servers;
#[cfg(all(test, feature = "postgres"))]
mod tests;
mod timeouts;

pub use endpoint::{Endpoint, EndpointStatus, InFlight};
#[cfg(feature = "postgres")]
pub use lanes::Lanes;
pub use link::{Held, Link};
#[cfg(feature = "mysql")]
pub use pool::{Exclusive, ExclusiveConnector, Pool};
pub use servers::{Identity, Server, Servers};
pub use timeouts::Timeouts;

/// A connection, which clones cheaply and can be used by many at once.
pub trait Handle: Clone + Send + Sync + 'static {
    /// Whether the connection is known to be closed, by the server or because it failed. A closed
    /// one is not used.
    fn is_closed(&self) -> bool;

    /// Closes the connection. Operations that are in flight on it fail at once.
    fn close(&self);
}

/// How a driver connects to its server.
pub trait Connector: Send + Sync + 'static {
    /// What it makes.
    type Connection: Handle;

    /// Connects, signs in, and waits for one reply: a kernel accepts connections for a server that
    /// has stopped. The caller limits the time.
    ///
    /// # Errors
    ///
    /// The server cannot be reached, refuses to serve, or does not reply.
    fn connect(&self) -> Operation<'static, Self::Connection>;
}

/// Why an operation failed, and what that means for its connection.
#[derive(Debug)]
pub enum Failure {
    /// The connection is lost: it is given up, and the operation may be repeated on another one.
    Lost(Error),
    /// The server is in a state in which it refuses operations, such as read-only. Another server
    /// may have taken its place, so the connection is renewed, but not more often than the pauses
    /// between attempts allow.
    Refused(Error),
    /// The server refuses this operation. The connection is good.
    Failed(Error),
}

/// An error of an operation that the server has not seen.
impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// The error of an operation that may be repeated on another connection.
fn lost(error: Error) -> Error {
    match error {
        Error::Lost(_) => error,
        error => Error::Lost(Cause::new(error.to_string(), error)),
    }
}
