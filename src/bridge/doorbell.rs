//! The doorbell's socket. nginx' Lua can only connect, so this side listens, for one connection, in
//! a directory that nobody else can enter. If no directory can be made, it listens on a loopback
//! port, and the first bytes must be a token.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use subtle::ConstantTimeEq;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, UnixListener};
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::Exchange;
use super::exchange::socket_bell;
use resty_session_core::cookie::base64url;

/// How long Lua may take to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Characters of the token: base64url of 32 bytes.
const TOKEN_SIZE: usize = base64url::encoded_size(32);

/// Where Lua has to connect.
pub struct Address {
    /// An IP address, or a Unix socket as `unix:/path`.
    pub host: String,
    /// `None` for a Unix socket.
    pub port: Option<u16>,
    /// What Lua has to send first, if anything.
    pub token: Option<String>,
}

/// Listens for one connection, and installs it as the exchange's bell. The former bell is removed
/// at once.
///
/// # Errors
///
/// Neither a directory could be made nor a loopback port bound.
pub fn open(runtime: &Handle, exchange: &Exchange) -> io::Result<Address> {
    exchange.remove_bell();
    let _entered = runtime.enter();
    for place in places() {
        if let Ok(address) = open_in(place, runtime, exchange) {
            return Ok(address);
        }
    }
    open_loopback(runtime, exchange)
}

/// Directories to try. Workers run as an unprivileged user, who cannot write everywhere.
fn places() -> impl Iterator<Item = PathBuf> {
    [std::env::temp_dir(), "/tmp".into(), "/dev/shm".into(), "/var/tmp".into(), "/run".into()].into_iter()
}

fn open_in(place: PathBuf, runtime: &Handle, exchange: &Exchange) -> io::Result<Address> {
    // Its mode is 0700, and it is deleted when it is dropped.
    let directory = tempfile::Builder::new().prefix("resty-session-").tempdir_in(place)?;
    let path = directory.path().join("bell");
    let listener = UnixListener::bind(&path)?;
    let host = format!("unix:{}", path.display());
    let exchange = exchange.clone();
    runtime.spawn(async move {
        while let Ok(Ok((stream, _))) = timeout(CONNECT_TIMEOUT, listener.accept()).await {
            let own = stream.peer_cred().is_ok_and(|peer| peer.pid() == i32::try_from(std::process::id()).ok());
            if !own {
                continue;
            }
            if let Ok(bell) = stream.into_std().and_then(socket_bell) {
                exchange.install_bell(bell);
            }
            break;
        }
        drop(directory);
    });
    Ok(Address { host, port: None, token: None })
}

fn open_loopback(runtime: &Handle, exchange: &Exchange) -> io::Result<Address> {
    let std_listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    std_listener.set_nonblocking(true)?;
    let number = std_listener.local_addr()?.port();
    let listener = TcpListener::from_std(std_listener)?;
    let mut token = [0; 32];
    getrandom::fill(&mut token).map_err(|error| io::Error::other(error.to_string()))?;
    let token = base64url::encode(&token);
    let (exchange, expected) = (exchange.clone(), token.clone());
    runtime.spawn(async move {
        while let Ok(Ok((mut stream, _))) = timeout(CONNECT_TIMEOUT, listener.accept()).await {
            let mut said = [0; TOKEN_SIZE];
            let read = timeout(CONNECT_TIMEOUT, stream.read_exact(&mut said)).await;
            if !matches!(read, Ok(Ok(_))) || !bool::from(said.ct_eq(expected.as_bytes())) {
                continue;
            }
            if let Ok(stream) = stream.into_std() {
                exchange.install_bell(Box::new(stream));
            }
            break;
        }
    });
    Ok(Address { host: "127.0.0.1".into(), port: Some(number), token: Some(token) })
}
