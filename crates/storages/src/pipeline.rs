//! One connection to a server that replies to requests in their order. Many operations share it,
//! and each sends its request without waiting for the replies to others.
//!
//! Requests are written as they come; those that come at the same time are written together. Each
//! reply goes to the oldest request that has none yet: nothing but the order tells which request a
//! reply belongs to. So the connection is closed on the first reply that is malformed, unsolicited,
//! late, or impossible for its request, and all requests in flight fail: none ever gets the reply
//! to another. A request whose sender has stopped waiting keeps its place in the order.
//!
//! The crate `memcache` has a pool of connections instead, each for one request at a time. That
//! takes both sides a system call for each request, where this takes one for a batch. Only its
//! requests and replies are used here.

use std::collections::VecDeque;
use std::hash::Hash;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf, split};
use tokio::sync::{Notify, oneshot};
use tokio::task::AbortHandle;

use super::connections::{Connector, Endpoint, Failure, Handle, Identity, Link, Server};
use super::journal::Journal;
use super::network::{Stream, Target, connect, connect_error};
use super::{Error, Operation};

/// The longest line of a reply, in bytes.
pub const MAX_LINE: usize = 2048;
/// The longest value of a reply, in bytes. A session's header has room for a payload of 16 MiB;
/// with its info the record may have twice that.
pub const MAX_VALUE: usize = 32 << 20;

/// How much is read at once, at most, in bytes.
const READ_SIZE: usize = 64 << 10;

/// How a server's replies are parsed.
pub trait Protocol: Copy + Eq + Hash + Send + Sync + 'static {
    type Reply: Send + 'static;

    /// The storage's name.
    const STORAGE: &'static str;

    /// A request that changes nothing. Its reply shows that the server serves.
    const GREETING: &'static [u8];

    /// Returns the first reply in the bytes and its size in bytes, or `None` if its end has not
    /// arrived yet.
    ///
    /// # Errors
    ///
    /// The reply is malformed, so nobody can tell where the next one starts.
    fn parse(bytes: &[u8]) -> Result<Option<(Self::Reply, usize)>, Error>;

    /// Whether the server can send this reply to this request. If it cannot, the server has sent
    /// too many or too few replies.
    fn matches(request: &[u8], reply: &Self::Reply) -> bool;
}

/// Returns the first line in the bytes without its CRLF, and its size in bytes with it, or `None`
/// if its end has not arrived yet.
///
/// # Errors
///
/// The line is longer than [`MAX_LINE`] or not valid UTF-8.
pub fn line(bytes: &[u8]) -> Result<Option<(&str, usize)>, Error> {
    let start = &bytes[..bytes.len().min(MAX_LINE)];
    match memchr::memmem::find(start, b"\r\n") {
        Some(size) => match str::from_utf8(&start[..size]) {
            Ok(line) => Ok(Some((line, size + 2))),
            Err(_) => Err(invalid_reply()),
        },
        None if start.len() == MAX_LINE => Err(invalid_reply()),
        None => Ok(None),
    }
}

/// Returns the value of `size` bytes that starts at `offset`, and the offset of what follows its
/// CRLF, or `None` if its end has not arrived yet.
///
/// # Errors
///
/// `size` is not a number or larger than [`MAX_VALUE`], or no CRLF follows the value.
pub fn value(bytes: &[u8], offset: usize, size: &str) -> Result<Option<(Vec<u8>, usize)>, Error> {
    let size: usize = number(size)?;
    if size > MAX_VALUE {
        return Err(Error::Server(format!("the server's reply is too large ({size} bytes)")));
    }
    let Some((value, rest)) = bytes.get(offset..).and_then(|bytes| bytes.split_at_checked(size)) else {
        return Ok(None);
    };
    match rest {
        [b'\r', b'\n', ..] => Ok(Some((value.to_vec(), offset + size + 2))),
        [] | [b'\r'] => Ok(None),
        _ => Err(invalid_reply()),
    }
}

/// Parses a decimal number that has no sign.
///
/// # Errors
///
/// The text is not such a number, or the number does not fit its type.
pub fn number<N: std::str::FromStr>(digits: &str) -> Result<N, Error> {
    let number = digits.parse().ok().filter(|_| digits.bytes().all(|byte| byte.is_ascii_digit()));
    number.ok_or_else(invalid_reply)
}

/// The error for a reply that does not follow the protocol.
pub fn invalid_reply() -> Error {
    Error::Server("the server sent an invalid reply".into())
}

/// A server that speaks `P`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ServerOf<P> {
    target: Target,
    protocol: PhantomData<P>,
}

impl<P: Protocol> ServerOf<P> {
    /// The server of these options.
    pub fn new(target: Target) -> Self {
        Self { target, protocol: PhantomData }
    }
}

impl<P: Protocol> Identity for ServerOf<P> {
    type Server = Client<P>;

    fn server(&self, journal: Arc<dyn Journal>) -> Arc<Client<P>> {
        let endpoint = Endpoint::new(P::STORAGE, &self.target.address, self.target.timeouts, journal);
        Arc::new(Client { link: Link::new(endpoint, self.clone()) })
    }
}

impl<P: Protocol> Connector for ServerOf<P> {
    type Connection = Pipeline<P>;

    fn connect(&self) -> Operation<'static, Pipeline<P>> {
        let target = self.target.clone();
        Box::pin(async move {
            let pipeline = Pipeline::start(connect(&target.address, target.tls.as_ref()).await?);
            let greeted = pipeline.ask([P::GREETING]).await;
            greeted.map_err(connect_error)?;
            Ok(pipeline)
        })
    }
}

/// A server and the connection to it, which is made when it is first needed.
pub struct Client<P: Protocol> {
    link: Arc<Link<ServerOf<P>>>,
}

impl<P: Protocol> Client<P> {
    /// Sends a request and waits for its reply.
    ///
    /// # Errors
    ///
    /// The connection cannot be made, or it breaks before the reply arrives: then the server may
    /// have carried out the request.
    pub async fn ask(&self, request: &[u8]) -> Result<P::Reply, Error> {
        let [reply] = self.ask_all([request]).await?;
        Ok(reply)
    }

    /// Sends several requests without anything between them, and waits for their replies.
    ///
    /// # Errors
    ///
    /// As for a single request. The server may have carried out some of them.
    pub async fn ask_all<const N: usize>(&self, requests: [&[u8]; N]) -> Result<[P::Reply; N], Error> {
        // Every error closes the connection.
        self.link.run(|pipeline| async move { pipeline.ask(requests).await.map_err(Failure::Lost) }).await
    }
}

impl<P: Protocol> Server for Client<P> {
    fn endpoints(&self) -> Vec<Arc<Endpoint>> {
        vec![self.link.endpoint().clone()]
    }

    fn close_idle(&self) {
        self.link.close_idle();
    }
}

type Waiting<R> = oneshot::Sender<Result<R, Error>>;

/// A connection. All clones share it, and it is closed when the last of them is dropped.
pub struct Pipeline<P: Protocol>(Arc<Inner<P>>);

impl<P: Protocol> Clone for Pipeline<P> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<P: Protocol> Handle for Pipeline<P> {
    fn is_closed(&self) -> bool {
        self.0.shared.has_failed()
    }

    fn close(&self) {
        self.0.shared.fail(&Error::Lost("the connection was closed, because a reply did not come".into()));
    }
}

struct Inner<P: Protocol> {
    shared: Arc<Shared<P>>,
}

impl<P: Protocol> Drop for Inner<P> {
    fn drop(&mut self) {
        self.shared.fail(&Error::Broken);
    }
}

struct Shared<P: Protocol> {
    state: Mutex<State<P::Reply>>,
    /// Notified when there is something to write.
    ready: Notify,
}

struct State<R> {
    outgoing: Vec<u8>,
    /// One for each request that has no reply yet, in the order of the requests.
    waiting: VecDeque<Waiting<R>>,
    /// Why the connection was closed.
    failure: Option<Error>,
    /// The tasks that read and write.
    tasks: Vec<AbortHandle>,
}

impl<P: Protocol> Pipeline<P> {
    /// Starts the tasks that read and write, on the current runtime.
    fn start(stream: Box<dyn Stream>) -> Self {
        let state = State { outgoing: Vec::new(), waiting: VecDeque::new(), failure: None, tasks: Vec::new() };
        let shared = Arc::new(Shared { state: Mutex::new(state), ready: Notify::new() });
        let (from, to) = split(stream);
        let (reader, writer) = (shared.clone(), shared.clone());
        // Locked until both tasks are noted, because a task that fails at once ends both.
        let mut state = shared.state();
        state.tasks.push(tokio::spawn(async move { reader.fail(&reader.read(from).await) }).abort_handle());
        state.tasks.push(tokio::spawn(async move { writer.fail(&writer.write(to).await) }).abort_handle());
        drop(state);
        Self(Arc::new(Inner { shared }))
    }

    async fn ask<const N: usize>(&self, requests: [&[u8]; N]) -> Result<[P::Reply; N], Error> {
        let mut replies = Vec::with_capacity(N);
        for (reply, request) in self.0.shared.send(requests)?.into_iter().zip(requests) {
            // The sender is dropped only after `fail` has sent the cause.
            let reply = reply.await.unwrap_or(Err(Error::Broken))?;
            if !P::matches(request, &reply) {
                self.0.shared.fail(&invalid_reply());
                return Err(invalid_reply());
            }
            replies.push(reply);
        }
        replies.try_into().map_err(|_| Error::Broken)
    }
}

type Receivers<R, const N: usize> = [oneshot::Receiver<Result<R, Error>>; N];

impl<P: Protocol> Shared<P> {
    fn state(&self) -> MutexGuard<'_, State<P::Reply>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_failed(&self) -> bool {
        self.state().failure.is_some()
    }

    /// Appends requests to those that are to be written.
    fn send<const N: usize>(&self, requests: [&[u8]; N]) -> Result<Receivers<P::Reply, N>, Error> {
        let mut state = self.state();
        if let Some(failure) = &state.failure {
            return Err(failure.clone());
        }
        let receivers = requests.map(|request| {
            let (sender, receiver) = oneshot::channel();
            state.outgoing.extend_from_slice(request);
            state.waiting.push_back(sender);
            receiver
        });
        drop(state);
        self.ready.notify_one();
        Ok(receivers)
    }

    /// Closes the connection. All requests in flight fail with the error of the first call.
    fn fail(&self, error: &Error) {
        let mut state = self.state();
        let error = state.failure.get_or_insert_with(|| error.clone()).clone();
        for task in state.tasks.drain(..) {
            task.abort();
        }
        let waiting = std::mem::take(&mut state.waiting);
        state.outgoing = Vec::new();
        drop(state);
        for sender in waiting {
            let _ = sender.send(Err(error.clone()));
        }
    }

    /// Writes requests until writing fails.
    async fn write(&self, mut to: WriteHalf<Box<dyn Stream>>) -> Error {
        loop {
            self.ready.notified().await;
            // Operations that are ready to run may add requests, which are then written together.
            tokio::task::yield_now().await;
            let outgoing = std::mem::take(&mut self.state().outgoing);
            let written = async {
                to.write_all(&outgoing).await?;
                to.flush().await
            };
            if let Err(error) = written.await {
                return Error::Server(format!("the connection is lost: {error}"));
            }
        }
    }

    /// Reads replies until reading fails or a reply is malformed or unsolicited.
    async fn read(&self, mut from: ReadHalf<Box<dyn Stream>>) -> Error {
        let mut bytes = Vec::new();
        loop {
            bytes.reserve(READ_SIZE);
            match from.read_buf(&mut bytes).await {
                Ok(0) => return Error::Server("the server closed the connection".into()),
                Ok(_) => {}
                Err(error) => return Error::Server(format!("the connection is lost: {error}")),
            }
            let mut taken = 0;
            while taken < bytes.len() {
                match P::parse(&bytes[taken..]) {
                    Ok(Some((reply, size))) => {
                        taken += size;
                        let Some(waiting) = self.state().waiting.pop_front() else { return invalid_reply() };
                        let _ = waiting.send(Ok(reply));
                    }
                    Ok(None) => break,
                    Err(error) => return error,
                }
            }
            bytes.drain(..taken);
            if bytes.is_empty() {
                // Give back the memory that a large reply took.
                bytes.shrink_to(2 * READ_SIZE);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::DuplexStream;

    /// Replies are lines.
    #[derive(Clone, Copy, PartialEq, Eq, Hash)]
    struct Lines;

    impl Protocol for Lines {
        type Reply = String;
        const STORAGE: &'static str = "lines";
        const GREETING: &'static [u8] = b"hello\r\n";

        fn parse(bytes: &[u8]) -> Result<Option<(String, usize)>, Error> {
            let Some((line, size)) = line(bytes)? else { return Ok(None) };
            if line == "garbage" { Err(invalid_reply()) } else { Ok(Some((line.to_owned(), size))) }
        }

        fn matches(_: &[u8], reply: &String) -> bool {
            reply != "another's"
        }
    }

    /// A pipeline, and the server's end of it.
    fn pipeline() -> (Pipeline<Lines>, DuplexStream) {
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        (Pipeline::start(Box::new(ours)), theirs)
    }

    fn ask(pipeline: &Pipeline<Lines>, request: &'static str) -> tokio::task::JoinHandle<Result<String, Error>> {
        let pipeline = pipeline.clone();
        tokio::spawn(async move { pipeline.ask([request.as_bytes()]).await.map(|[reply]| reply) })
    }

    async fn receive(server: &mut DuplexStream, size: usize) -> String {
        let mut bytes = vec![0; size];
        server.read_exact(&mut bytes).await.unwrap();
        String::from_utf8(bytes).unwrap()
    }

    fn run(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
    }

    #[test]
    fn requests_are_written_together_and_each_gets_its_reply() {
        run(async {
            let (pipeline, mut server) = pipeline();
            let asked = [ask(&pipeline, "1;"), ask(&pipeline, "2;"), ask(&pipeline, "3;")];
            assert_eq!(receive(&mut server, 6).await, "1;2;3;");
            for piece in ["one\r", "\ntwo\r\nth", "ree\r\n"] {
                server.write_all(piece.as_bytes()).await.unwrap();
                tokio::task::yield_now().await;
            }
            for (one, reply) in asked.into_iter().zip(["one", "two", "three"]) {
                assert_eq!(one.await.unwrap().unwrap(), reply);
            }
        });
    }

    #[test]
    fn a_request_that_nobody_waits_for_keeps_its_place() {
        run(async {
            let (pipeline, mut server) = pipeline();
            let (gone, stays) = (ask(&pipeline, "1;"), ask(&pipeline, "2;"));
            receive(&mut server, 4).await;
            gone.abort();
            server.write_all(b"one\r\ntwo\r\n").await.unwrap();
            assert_eq!(stays.await.unwrap().unwrap(), "two");
        });
    }

    #[test]
    fn a_wrong_reply_fails_all_requests_in_flight() {
        run(async {
            for wrong in [
                b"one\r\ngarbage\r\n".to_vec(),
                b"one\r\nanother's\r\n".to_vec(),
                [b"one\r\n".to_vec(), vec![b'x'; MAX_LINE]].concat(),
            ] {
                let (pipeline, mut server) = pipeline();
                let asked = [ask(&pipeline, "1;"), ask(&pipeline, "2;"), ask(&pipeline, "3;")];
                receive(&mut server, 6).await;
                server.write_all(&wrong).await.unwrap();
                let [first, second, third] = asked;
                assert_eq!(first.await.unwrap().unwrap(), "one");
                for failed in [second, third, ask(&pipeline, "4;")] {
                    assert!(failed.await.unwrap().unwrap_err().to_string().contains("invalid reply"));
                }
                assert_eq!(server.read(&mut [0; 9]).await.unwrap(), 0, "the connection is not closed");
            }
        });
    }

    #[test]
    fn an_unsolicited_reply_closes_the_connection() {
        run(async {
            let (pipeline, mut server) = pipeline();
            server.write_all(b"one\r\n").await.unwrap();
            assert_eq!(server.read(&mut [0; 9]).await.unwrap(), 0);
            assert!(pipeline.0.shared.has_failed());
        });
    }

    #[test]
    fn a_cut_connection_fails_all_requests_in_flight() {
        run(async {
            let (pipeline, mut server) = pipeline();
            let asked = [ask(&pipeline, "1;"), ask(&pipeline, "2;")];
            receive(&mut server, 4).await;
            server.write_all(b"on").await.unwrap();
            drop(server);
            for one in asked {
                assert!(one.await.unwrap().unwrap_err().to_string().contains("closed"));
            }
        });
    }

    #[test]
    fn the_last_clone_closes_the_connection() {
        run(async {
            let (pipeline, mut server) = pipeline();
            drop(pipeline);
            assert_eq!(server.read(&mut [0; 9]).await.unwrap(), 0);
        });
    }

    #[test]
    fn values_are_as_long_as_their_lines_say() {
        assert_eq!(value(b"abcde\r\nx", 2, "3").unwrap(), Some((b"cde".to_vec(), 7)));
        for more in [&b"ab"[..], b"abc", b"abcde", b"abcde\r"] {
            assert_eq!(value(more, 2, "3").unwrap(), None);
        }
        for (bytes, size) in [(&b"abcd\r\n"[..], "3"), (b"ab3\n", "1"), (b"ab", "+3"), (b"ab", "x"), (b"ab", "")] {
            assert!(value(bytes, 2, size).is_err(), "{size}");
        }
        assert!(value(b"ab", 2, "99999999999").is_err());
    }
}
