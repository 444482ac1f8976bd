//! One connection to a server that answers requests in their order: many operations share it, and none waits for another's
//! answer before it sends.
//!
//! Requests are written as they come, what comes at the same time in one piece, and answers go to who asks first. Nothing
//! but their order tells whose an answer is. So the connection ends with the first answer that is none, that nobody asked
//! for, that fits another request, or that does not come in time, and with it all that are under way: an error each, never another's answer. Who does
//! not wait any more still has a place in the order.
//!
//! The crate `memcache` keeps a pool of connections instead, each for one request at a time, which takes a system call a
//! request on both sides where this one takes one for a batch.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf, split};
use tokio::sync::{Notify, oneshot};
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::Error;
use super::link::{Handle, Link};
use super::network::{Endpoint, Stream, connect};

/// The longest line of an answer, and the longest value in it: nothing longer is a record. The header of a session has
/// room for 16 MiB; with its info the record may have twice that.
pub const MAX_LINE: usize = 2048;
pub const MAX_VALUE: usize = 32 << 20;

/// How much is read at once, at most.
const CHUNK: usize = 64 << 10;

/// How a server's answers are read.
pub trait Protocol: Send + 'static {
    type Answer: Send + 'static;

    /// The first answer in the bytes, and how many of them it takes; none where more must come.
    ///
    /// # Errors
    ///
    /// It is no answer: what follows cannot be told apart.
    fn read(bytes: &[u8]) -> Result<Option<(Self::Answer, usize)>, Error>;

    /// Whether an answer can be one to this request. Where it cannot, one too many or too few came before.
    fn fits(request: &[u8], answer: &Self::Answer) -> bool;
}

/// The first line in the bytes, without its CRLF, and how many bytes it takes with it; none where more must come.
///
/// # Errors
///
/// It is longer than any line may be.
pub fn line(bytes: &[u8]) -> Result<Option<(&str, usize)>, Error> {
    let start = &bytes[..bytes.len().min(MAX_LINE)];
    match memchr::memmem::find(start, b"\r\n") {
        Some(size) => match str::from_utf8(&start[..size]) {
            Ok(line) => Ok(Some((line, size + 2))),
            Err(_) => Err(unintelligible()),
        },
        None if start.len() == MAX_LINE => Err(unintelligible()),
        None => Ok(None),
    }
}

/// The value of `size` bytes that follows a line of `offset` bytes, and where its CRLF ends; none where more must come.
///
/// # Errors
///
/// It is longer than any value may be, or does not end where it should.
pub fn value(bytes: &[u8], offset: usize, size: &str) -> Result<Option<(Vec<u8>, usize)>, Error> {
    let size: usize = number(size)?;
    if size > MAX_VALUE {
        return Err(Error::Server(format!("the server's answer is too large ({size} bytes)")));
    }
    let Some((value, rest)) = bytes.get(offset..).and_then(|bytes| bytes.split_at_checked(size)) else {
        return Ok(None);
    };
    match rest {
        [b'\r', b'\n', ..] => Ok(Some((value.to_vec(), offset + size + 2))),
        [] | [b'\r'] => Ok(None),
        _ => Err(unintelligible()),
    }
}

/// A decimal number in an answer, digits alone.
///
/// # Errors
///
/// It is none.
pub fn number<N: std::str::FromStr>(digits: &str) -> Result<N, Error> {
    let number = digits.parse().ok().filter(|_| digits.bytes().all(|byte| byte.is_ascii_digit()));
    number.ok_or_else(unintelligible)
}

/// What an answer is that no such server gives.
pub fn unintelligible() -> Error {
    Error::Server("the server's answer is unintelligible".into())
}

/// A server, and the connection to it, made when it is needed.
pub struct Client<P: Protocol> {
    link: Link<Pipeline<P>>,
    endpoint: Endpoint,
}

impl<P: Protocol> Client<P> {
    pub fn new(endpoint: Endpoint) -> Self {
        Self { link: Link::new(&endpoint.timeouts), endpoint }
    }

    /// Sends a request, and waits for its answer.
    ///
    /// # Errors
    ///
    /// There is no connection, or it was lost: then what was asked for may have been done.
    pub async fn ask(&self, request: &[u8]) -> Result<P::Answer, Error> {
        let [answer] = self.ask_all([request]).await?;
        Ok(answer)
    }

    /// Sends requests one right after the other, and waits for their answers.
    ///
    /// # Errors
    ///
    /// As for one.
    pub async fn ask_all<const N: usize>(&self, requests: [&[u8]; N]) -> Result<[P::Answer; N], Error> {
        let connection = self.link.get(|| self.connect()).await?;
        match timeout(self.endpoint.timeouts.response, connection.handle.ask(requests)).await {
            Ok(Err(Error::Server(cause))) if connection.handle.is_closed() => Err(Error::Lost(cause)),
            Ok(answers) => answers,
            Err(_) => {
                connection.handle.0.shared.fail(&Error::Timeout);
                Err(Error::Timeout)
            }
        }
    }

    pub fn close_idle(&self) {
        self.link.close_idle();
    }

    async fn connect(&self) -> Result<Pipeline<P>, Error> {
        Ok(Pipeline::start(connect(&self.endpoint.address, self.endpoint.tls.as_ref()).await?))
    }
}

type Waiting<A> = oneshot::Sender<Result<A, Error>>;

/// A connection. Clones are the same; it is closed with the last of them.
struct Pipeline<P: Protocol>(Arc<Inner<P>>);

impl<P: Protocol> Clone for Pipeline<P> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<P: Protocol> Handle for Pipeline<P> {
    fn is_closed(&self) -> bool {
        self.0.shared.has_failed()
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
    state: Mutex<State<P::Answer>>,
    /// There is something to write.
    ready: Notify,
}

struct State<A> {
    outgoing: Vec<u8>,
    /// Who waits for answers, in the requests' order.
    waiting: VecDeque<Waiting<A>>,
    failure: Option<Error>,
    /// The reader and the writer.
    tasks: Vec<AbortHandle>,
}

impl<P: Protocol> Pipeline<P> {
    /// Takes a connection over, on this runtime.
    fn start(stream: Box<dyn Stream>) -> Self {
        let state = State { outgoing: Vec::new(), waiting: VecDeque::new(), failure: None, tasks: Vec::new() };
        let shared = Arc::new(Shared { state: Mutex::new(state), ready: Notify::new() });
        let (from, to) = split(stream);
        let (reader, writer) = (shared.clone(), shared.clone());
        // Held meanwhile: a task that fails at once must find both.
        let mut state = shared.state();
        state.tasks.push(tokio::spawn(async move { reader.fail(&reader.read(from).await) }).abort_handle());
        state.tasks.push(tokio::spawn(async move { writer.fail(&writer.write(to).await) }).abort_handle());
        drop(state);
        Self(Arc::new(Inner { shared }))
    }

    async fn ask<const N: usize>(&self, requests: [&[u8]; N]) -> Result<[P::Answer; N], Error> {
        let mut answers = Vec::with_capacity(N);
        for (answer, request) in self.0.shared.send(requests)?.into_iter().zip(requests) {
            // Whoever drops the other end has said why before.
            let answer = answer.await.unwrap_or(Err(Error::Broken))?;
            if !P::fits(request, &answer) {
                self.0.shared.fail(&unintelligible());
                return Err(unintelligible());
            }
            answers.push(answer);
        }
        answers.try_into().map_err(|_| Error::Broken)
    }
}

type Receivers<A, const N: usize> = [oneshot::Receiver<Result<A, Error>>; N];

impl<P: Protocol> Shared<P> {
    fn state(&self) -> MutexGuard<'_, State<P::Answer>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_failed(&self) -> bool {
        self.state().failure.is_some()
    }

    /// Puts requests in line.
    fn send<const N: usize>(&self, requests: [&[u8]; N]) -> Result<Receivers<P::Answer, N>, Error> {
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

    /// Ends the connection. What is under way fails; the first failure is the one that is told.
    fn fail(&self, error: &Error) {
        let mut state = self.state();
        let error = state.failure.get_or_insert_with(|| error.clone()).clone();
        for task in state.tasks.drain(..) {
            task.abort();
        }
        let waiting = std::mem::take(&mut state.waiting);
        state.outgoing = Vec::new();
        drop(state);
        for one in waiting {
            let _ = one.send(Err(error.clone()));
        }
    }

    /// Writes what is sent until that fails.
    async fn write(&self, mut to: WriteHalf<Box<dyn Stream>>) -> Error {
        loop {
            self.ready.notified().await;
            // Others that run already may have something to send too.
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

    /// Reads answers until there is one that is none.
    async fn read(&self, mut from: ReadHalf<Box<dyn Stream>>) -> Error {
        let mut bytes = Vec::new();
        loop {
            bytes.reserve(CHUNK);
            match from.read_buf(&mut bytes).await {
                Ok(0) => return Error::Server("the server closed the connection".into()),
                Ok(_) => {}
                Err(error) => return Error::Server(format!("the connection is lost: {error}")),
            }
            let mut taken = 0;
            while taken < bytes.len() {
                match P::read(&bytes[taken..]) {
                    Ok(Some((answer, size))) => {
                        taken += size;
                        let Some(waiting) = self.state().waiting.pop_front() else { return unintelligible() };
                        let _ = waiting.send(Ok(answer));
                    }
                    Ok(None) => break,
                    Err(error) => return error,
                }
            }
            bytes.drain(..taken);
            if bytes.is_empty() {
                // Room for one large answer is not kept for ever.
                bytes.shrink_to(2 * CHUNK);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::DuplexStream;

    /// Answers are lines.
    struct Lines;

    impl Protocol for Lines {
        type Answer = String;

        fn read(bytes: &[u8]) -> Result<Option<(String, usize)>, Error> {
            let Some((line, size)) = line(bytes)? else { return Ok(None) };
            if line == "garbage" { Err(unintelligible()) } else { Ok(Some((line.to_owned(), size))) }
        }

        fn fits(_: &[u8], answer: &String) -> bool {
            answer != "another's"
        }
    }

    /// A pipeline, and the server's end of it.
    fn pipeline() -> (Pipeline<Lines>, DuplexStream) {
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        (Pipeline::start(Box::new(ours)), theirs)
    }

    fn ask(pipeline: &Pipeline<Lines>, request: &'static str) -> tokio::task::JoinHandle<Result<String, Error>> {
        let pipeline = pipeline.clone();
        tokio::spawn(async move { pipeline.ask([request.as_bytes()]).await.map(|[answer]| answer) })
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
    fn requests_go_out_together_and_answers_come_to_who_asked() {
        run(async {
            let (pipeline, mut server) = pipeline();
            let asked = [ask(&pipeline, "1;"), ask(&pipeline, "2;"), ask(&pipeline, "3;")];
            assert_eq!(receive(&mut server, 6).await, "1;2;3;");
            for piece in ["one\r", "\ntwo\r\nth", "ree\r\n"] {
                server.write_all(piece.as_bytes()).await.unwrap();
                tokio::task::yield_now().await;
            }
            for (one, answer) in asked.into_iter().zip(["one", "two", "three"]) {
                assert_eq!(one.await.unwrap().unwrap(), answer);
            }
        });
    }

    #[test]
    fn who_does_not_wait_any_more_shifts_no_answer() {
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
    fn a_wrong_answer_ends_it_for_all() {
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
                    assert!(failed.await.unwrap().unwrap_err().to_string().contains("unintelligible"));
                }
                assert_eq!(server.read(&mut [0; 9]).await.unwrap(), 0, "it is closed");
            }
        });
    }

    #[test]
    fn an_answer_that_nobody_asked_for_ends_it() {
        run(async {
            let (pipeline, mut server) = pipeline();
            server.write_all(b"one\r\n").await.unwrap();
            assert_eq!(server.read(&mut [0; 9]).await.unwrap(), 0);
            assert!(pipeline.0.shared.has_failed());
        });
    }

    #[test]
    fn a_cut_is_an_error_for_all_that_are_under_way() {
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
    fn the_last_of_its_users_closes_it() {
        run(async {
            let (pipeline, mut server) = pipeline();
            drop(pipeline);
            assert_eq!(server.read(&mut [0; 9]).await.unwrap(), 0);
        });
    }

    #[test]
    fn values_are_as_long_as_they_say() {
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
