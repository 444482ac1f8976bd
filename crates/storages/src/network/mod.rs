//! Settings of all storages that are reached over a network, and how they connect.

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_util::either::Either;

use super::connections::Timeouts;
use super::{Cause, Error};

mod address;
mod options;
mod race;
mod tls;

pub use address::{Address, Node};
pub use race::{Pace, STAGGER, addresses, race, race_until};
pub use tls::{ClientIdentity, Tls, system_roots};

/// A server of one address, and how to connect to it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// Where it listens.
    pub address: Address,
    /// How it is spoken to over TLS; `None` without TLS.
    pub tls: Option<Tls>,
    /// How long connecting, replies and idle connections may take.
    pub timeouts: Timeouts,
    /// Storages with different pool names do not share connections.
    pub pool: Option<String>,
}

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

/// Connects to an address without TLS. The addresses of a name are tried staggered.
///
/// # Errors
///
/// The server cannot be reached.
pub async fn connect_plain(address: &Address) -> Result<Plain, Error> {
    match address {
        Address::Unix(path) => Ok(Either::Right(UnixStream::connect(path).await.map_err(connect_error)?)),
        Address::Tcp(Node { host, port }) => {
            let connect = async |address| TcpStream::connect(address).await.map_err(connect_error);
            let stream = race(addresses(host, *port).await?, connect).await?;
            stream.set_nodelay(true).map_err(connect_error)?;
            Ok(Either::Left(stream))
        }
    }
}

/// The error of an attempt to connect that the system or TLS reports.
pub fn connect_error(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Connect(Cause::new(error.to_string(), error))
}
