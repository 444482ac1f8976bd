//! Keeps the password off connections that others can read or that lead to anybody.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_util::TryFutureExt as _;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};

/// A connection on which the server may not ask for the password in clear text. The driver would
/// send it, so the connection fails before the driver sees the question.
pub(super) struct Guarded<S> {
    stream: S,
    watch: Watch,
}

/// What is looked for in the bytes that the server sends.
enum Watch {
    /// The byte that tells whether TLS follows.
    WhetherTls,
    /// The first message: so many bytes of its head were seen.
    Request([u8; HEAD], usize),
    /// Nothing more.
    Nothing,
}

/// Bytes of the message that asks to sign in: its type, its size, and in which way.
const HEAD: usize = 9;
/// The type of that message.
const SIGN_IN: u8 = b'R';
/// The way that sends the password as it is.
const CLEAR_TEXT: u32 = 3;

impl<S> Guarded<S> {
    /// A connection that has no TLS, or that of a server that was not verified.
    pub(super) fn plain(stream: S) -> Self {
        Self { stream, watch: Watch::FIRST }
    }

    /// A connection that has TLS if the server agrees to it.
    pub(super) fn tls_if_agreed(stream: S) -> Self {
        Self { stream, watch: Watch::WhetherTls }
    }

    /// A connection on which nothing is looked for: a Unix socket, or one whose TLS is
    /// [guarded](GuardedTls).
    pub(super) fn private(stream: S) -> Self {
        Self { stream, watch: Watch::Nothing }
    }
}

/// Agrees on TLS. Without verification the other side may be anybody, who may ask for no more than
/// on a connection without TLS.
pub(super) struct GuardedTls<T> {
    pub connect: T,
    pub is_verified: bool,
}

impl<S, T> TlsConnect<S> for GuardedTls<T>
where
    T: TlsConnect<S>,
    T::Future: Send + 'static,
    T::Stream: 'static,
{
    type Stream = Guarded<T::Stream>;
    type Error = T::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Stream, T::Error>> + Send>>;

    fn connect(self, stream: S) -> Self::Future {
        let guard = if self.is_verified { Guarded::private } else { Guarded::plain };
        Box::pin(self.connect.connect(stream).map_ok(guard))
    }
}

impl<S: TlsStream + Unpin> TlsStream for Guarded<S> {
    fn channel_binding(&self) -> ChannelBinding {
        self.stream.channel_binding()
    }
}

impl Watch {
    const FIRST: Self = Self::Request([0; HEAD], 0);

    /// Takes bytes of the server's, and returns whether they ask for the password in clear text.
    fn sees_question(&mut self, bytes: &[u8]) -> bool {
        bytes.iter().any(|byte| match self {
            Self::Nothing => false,
            Self::WhetherTls => {
                *self = if *byte == b'S' { Self::Nothing } else { Self::FIRST };
                false
            }
            Self::Request(head, seen) => {
                head[*seen] = *byte;
                *seen += 1;
                // The driver takes nothing but this message here, or an error.
                let is_over = head[0] != SIGN_IN || *seen == HEAD;
                let asks = *seen == HEAD && head[5..] == CLEAR_TEXT.to_be_bytes();
                if is_over {
                    *self = Self::Nothing;
                }
                asks
            }
        })
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        if self.watch.sees_question(&buf.filled()[before..]) {
            return Poll::Ready(Err(io::Error::other(
                "it asks for the password in clear text, which is sent only with TLS that verifies the certificate: \
                 see the options ssl and ssl_verify",
            )));
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKS: &[u8] = b"R\0\0\0\x08\0\0\0\x03";
    const SCRAM: &[u8] = b"R\0\0\0\x17\0\0\0\x0aSCRAM-SHA-256\0\0";

    /// Whether one of the parts, of which each is read at once, asks.
    fn sees(mut watch: Watch, parts: &[&[u8]]) -> bool {
        parts.iter().any(|part| watch.sees_question(part))
    }

    #[test]
    fn the_question_is_seen_however_it_arrives() {
        for cut in 0..=ASKS.len() {
            let parts = [&ASKS[..cut], &ASKS[cut..]];
            assert!(sees(Watch::FIRST, &parts));
            assert!(sees(Watch::WhetherTls, &[b"N", parts[0], parts[1]]));
        }
        assert!(sees(Watch::WhetherTls, &[&[b"N", ASKS].concat()]));
    }

    #[test]
    fn nothing_else_is_taken_for_it() {
        assert!(!sees(Watch::FIRST, &[SCRAM, ASKS]), "the driver accepts one question");
        assert!(!sees(Watch::FIRST, &[b"E\0\0\0\x08\0\0\0\x03"]));
        assert!(!sees(Watch::FIRST, &[b"N", ASKS]), "the driver does not accept a notice first");
        assert!(!sees(Watch::WhetherTls, &[b"S", ASKS]), "that is a part of TLS");
        assert!(!sees(Watch::Nothing, &[ASKS]));
    }
}
