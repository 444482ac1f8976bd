//! What all storages behind a network are configured with, and how they connect.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_util::either::Either;

use super::Error;

mod address;
mod options;
mod tls;

pub use address::{Address, Node};
pub use tls::Tls;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Timeouts {
    pub connect: Duration,
    /// From sending a command to its answer.
    pub response: Duration,
    /// How long a connection may be unused before it is not used again.
    pub keepalive: Duration,
}

impl Timeouts {
    /// How long an operation may take, connecting included.
    pub fn limit(&self) -> Duration {
        self.connect + self.response + MARGIN
    }
}

/// A server, and how to speak to it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    pub address: Address,
    pub tls: Option<Tls>,
    pub timeouts: Timeouts,
    /// Storages with different names share no connection.
    pub pool: Option<String>,
}

/// An operation's time limit is a little beyond those of its parts, whose errors say more.
pub(super) const MARGIN: Duration = Duration::from_millis(100);

/// A connection without TLS.
pub type Plain = Either<TcpStream, UnixStream>;

/// A connection, whatever is under it.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Connects, by TLS where there is any; a Unix socket has none.
pub async fn connect(address: &Address, tls: Option<&Tls>) -> Result<Box<dyn Stream>, Error> {
    match (connect_plain(address).await?, address, tls) {
        (Either::Left(stream), Address::Tcp(node), Some(tls)) => {
            Ok(Box::new(tls.connect(stream, &node.host).await.map_err(refused)?))
        }
        (stream, ..) => Ok(Box::new(stream)),
    }
}

/// Connects, to speak TLS later or never.
pub async fn connect_plain(address: &Address) -> Result<Plain, Error> {
    match address {
        Address::Unix(path) => Ok(Either::Right(UnixStream::connect(path).await.map_err(refused)?)),
        Address::Tcp(Node { host, port }) => {
            let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(refused)?;
            stream.set_nodelay(true).map_err(refused)?;
            Ok(Either::Left(stream))
        }
    }
}

fn refused(error: io::Error) -> Error {
    Error::Connect(error.to_string())
}
