//! Settings of all storages that are reached over a network, and how they connect.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_util::either::Either;

use super::{Cause, Error};

mod address;
mod options;
mod tls;

pub use address::{Address, Node};
pub use tls::Tls;

/// Time limits of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Timeouts {
    /// For connecting, with everything that belongs to it: DNS, TLS, authentication.
    pub connect: Duration,
    /// From sending a command to receiving its reply.
    pub response: Duration,
    /// How long a connection may be unused. After that it is closed instead of used again.
    pub keepalive: Duration,
}

impl Timeouts {
    /// How long an operation may take, including connecting.
    pub fn limit(&self) -> Duration {
        self.connect + self.response + LIMIT_MARGIN
    }
}

/// A server and how to connect to it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    pub address: Address,
    pub tls: Option<Tls>,
    pub timeouts: Timeouts,
    /// Storages with different pool names do not share connections.
    pub pool: Option<String>,
}

/// How much longer an operation may take than its parts, so that a part's time limit, whose error
/// says more, ends first.
const LIMIT_MARGIN: Duration = Duration::from_millis(100);

/// A connection without TLS.
pub type Plain = Either<TcpStream, UnixStream>;

/// A connection of any kind.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Connects to an address, with TLS if it is configured. TLS is not used on a Unix socket.
///
/// # Errors
///
/// The server cannot be reached, or TLS cannot be agreed on.
pub async fn connect(address: &Address, tls: Option<&Tls>) -> Result<Box<dyn Stream>, Error> {
    match (connect_plain(address).await?, address, tls) {
        (Either::Left(stream), Address::Tcp(node), Some(tls)) => {
            Ok(Box::new(tls.connect(stream, &node.host).await.map_err(connect_error)?))
        }
        (stream, ..) => Ok(Box::new(stream)),
    }
}

/// Connects to an address without TLS.
///
/// # Errors
///
/// The server cannot be reached.
pub async fn connect_plain(address: &Address) -> Result<Plain, Error> {
    match address {
        Address::Unix(path) => Ok(Either::Right(UnixStream::connect(path).await.map_err(connect_error)?)),
        Address::Tcp(Node { host, port }) => {
            let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(connect_error)?;
            stream.set_nodelay(true).map_err(connect_error)?;
            Ok(Either::Left(stream))
        }
    }
}

fn connect_error(error: io::Error) -> Error {
    Error::Connect(Cause::new(error.to_string(), error))
}
