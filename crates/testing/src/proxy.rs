//! A TCP proxy in front of a server. It can be made to fail in the ways that servers, networks and
//! load balancers do, while connections are open, and it counts connections.

use std::collections::HashMap;
use std::future::pending;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, SockRef, Socket, Type};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::sleep_until;

use crate::server::free_port;

/// Connections that the system completes before the proxy accepts them.
const BACKLOG: i32 = 1024;
/// Pieces of at most [`PIECE`] bytes that are on their way in one direction of a connection.
const PIECES: usize = 64;
const PIECE: usize = 16 * 1024;

/// How a connection is cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cut {
    /// In order: the client reads the end of the stream.
    #[default]
    Finished,
    /// The client gets a reset.
    Reset,
}

/// What becomes of a new connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Accept {
    /// It is connected with the server.
    #[default]
    Pass,
    /// Nobody listens, so it is refused.
    Refuse,
    /// It is accepted and cut at once.
    Cut(Cut),
    /// It is accepted, and the server never hears of it.
    Hang,
    /// It is not accepted: the system completes one or two connections, and others get no reply.
    Wait,
}

/// Makes what is sent instead of a piece.
pub type Edit = fn(&[u8]) -> Vec<u8>;

/// What becomes of the bytes of one direction. Offsets are counted in each connection from the last
/// [`Proxy::set`], or from its beginning if that is later.
#[derive(Clone, Copy, Debug, Default)]
pub struct Flow {
    /// How much later each byte arrives. It takes nothing from the throughput.
    pub delay: Duration,
    /// After how many bytes the connection is cut, and how.
    pub cut_after: Option<(u64, Cut)>,
    /// The offset of a byte whose lowest bit is flipped.
    pub flip_at: Option<u64>,
    /// What is sent instead of each piece.
    pub edit: Option<Edit>,
}

/// How the proxy behaves. By default it passes everything on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Behaviour {
    /// What becomes of new connections.
    pub accept: Accept,
    /// Whether all bytes wait, those of the end of a connection too, until this is false again.
    pub stalled: bool,
    /// What becomes of what clients send.
    pub to_server: Flow,
    /// What becomes of what the server sends.
    pub to_client: Flow,
    /// For how long a connection may be silent before it is finished.
    pub idle: Option<Duration>,
    /// Connections with smaller numbers are forgotten.
    forgotten: u64,
    /// Counts the calls of [`Proxy::set`].
    generation: u64,
}

/// The proxy. It ends, and its connections with it, when this is dropped.
pub struct Proxy {
    /// Where it listens.
    pub port: u16,
    behaviour: watch::Sender<Behaviour>,
    shared: Arc<Shared>,
}

impl Behaviour {
    fn stalls(&self, number: u64) -> bool {
        self.stalled || number < self.forgotten
    }
}

#[derive(Default)]
struct Shared {
    /// The number of the next connection.
    next: AtomicU64,
    /// The generation that the listener follows.
    seen: AtomicU64,
    accepted: Mutex<Vec<Instant>>,
    /// What cuts each connection that is open.
    open: Mutex<HashMap<u64, oneshot::Sender<Cut>>>,
}

impl Proxy {
    /// One that listens at 127.0.0.1, before the server with this port there.
    pub fn start(server: u16) -> Self {
        Self::start_on(Ipv4Addr::LOCALHOST, server)
    }

    /// One that listens at another of the machine's addresses.
    pub fn start_on(ip: impl Into<IpAddr>, server: u16) -> Self {
        Self::start_at(SocketAddr::new(ip.into(), free_port()), server)
    }

    /// One that listens here.
    pub fn start_at(address: SocketAddr, server: u16) -> Self {
        let behaviour = watch::Sender::new(Behaviour::default());
        let shared = Arc::<Shared>::default();
        let front = Front {
            address,
            server: SocketAddr::from((Ipv4Addr::LOCALHOST, server)),
            behaviour: behaviour.subscribe(),
            shared: shared.clone(),
        };
        // Clients may connect as soon as this returns.
        let listener = listen(address);
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(front.serve(listener));
        });
        Self { port: address.port(), behaviour, shared }
    }

    /// Changes how the proxy behaves, for connections that are open too. It does when this returns.
    pub fn set(&self, change: impl FnOnce(&mut Behaviour)) {
        let mut generation = 0;
        self.behaviour.send_modify(|behaviour| {
            change(behaviour);
            behaviour.generation += 1;
            generation = behaviour.generation;
        });
        while self.shared.seen.load(Ordering::SeqCst) < generation {
            thread::sleep(Duration::from_micros(100));
        }
    }

    /// Passes everything on from now on. What hangs or is forgotten remains so.
    pub fn pass(&self) {
        self.set(|behaviour| {
            let Behaviour { forgotten, generation, .. } = *behaviour;
            *behaviour = Behaviour { forgotten, generation, ..Behaviour::default() };
        });
    }

    /// Forgets the connections that are open, as firewalls do: nothing gets through on them any
    /// more, and nobody is told.
    pub fn forget_connections(&self) {
        let next = self.shared.next.load(Ordering::SeqCst);
        self.set(|behaviour| behaviour.forgotten = next);
    }

    /// Cuts all connections that are open.
    pub fn cut(&self, how: Cut) {
        self.cut_every(how, 1);
    }

    /// Cuts each `step`th of the connections that are open.
    pub fn cut_every(&self, how: Cut, step: usize) {
        let mut open = self.shared.open.lock().unwrap();
        let mut numbers: Vec<u64> = open.keys().copied().collect();
        numbers.sort_unstable();
        for number in numbers.into_iter().step_by(step) {
            let _ = open.remove(&number).unwrap().send(how);
        }
    }

    /// When each connection was accepted, since the beginning or since [`Self::forget`].
    pub fn accepted(&self) -> Vec<Instant> {
        self.shared.accepted.lock().unwrap().clone()
    }

    /// How many connections were accepted.
    pub fn connections(&self) -> usize {
        self.accepted().len()
    }

    /// How many connections are open.
    pub fn open(&self) -> usize {
        self.shared.open.lock().unwrap().len()
    }

    /// The most connections that were accepted in any second.
    pub fn most_in_a_second(&self) -> usize {
        most_within(Duration::from_secs(1), &self.accepted())
    }

    /// Starts to count accepted connections from nothing.
    pub fn forget(&self) {
        self.shared.accepted.lock().unwrap().clear();
    }
}

/// The most of these moments, which are sorted, that fall into any such period.
pub fn most_within(period: Duration, moments: &[Instant]) -> usize {
    let within = |at: usize| moments[at..].iter().take_while(|moment| **moment - moments[at] < period).count();
    (0..moments.len()).map(within).max().unwrap_or_default()
}

fn listen(address: SocketAddr) -> std::net::TcpListener {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
    // The port is taken again although earlier connections are still in their last states.
    socket.set_reuse_address(true).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket.bind(&address.into()).unwrap_or_else(|error| panic!("{address}: {error}"));
    socket.listen(BACKLOG).unwrap();
    socket.into()
}

/// What the proxy's thread has.
struct Front {
    address: SocketAddr,
    server: SocketAddr,
    behaviour: watch::Receiver<Behaviour>,
    shared: Arc<Shared>,
}

impl Front {
    async fn serve(mut self, listener: std::net::TcpListener) {
        let mut listener = Some(TcpListener::from_std(listener).unwrap());
        while let Some((client, accept)) = self.accept(&mut listener).await {
            let number = self.shared.next.fetch_add(1, Ordering::SeqCst);
            self.shared.accepted.lock().unwrap().push(Instant::now());
            if let Accept::Cut(how) = accept {
                close(client, how);
                continue;
            }
            let (cut, is_cut) = oneshot::channel();
            self.shared.open.lock().unwrap().insert(number, cut);
            let (server, behaviour, shared) = (self.server, self.behaviour.clone(), self.shared.clone());
            tokio::spawn(async move {
                let hangs = accept == Accept::Hang;
                Connection { number, client, server, behaviour, is_cut }.run(hangs).await;
                shared.open.lock().unwrap().remove(&number);
            });
        }
    }

    /// Returns the next connection, and what is to become of it, or `None` at the proxy's end.
    async fn accept(&mut self, listener: &mut Option<TcpListener>) -> Option<(TcpStream, Accept)> {
        loop {
            let Behaviour { accept, generation, .. } = *self.behaviour.borrow_and_update();
            if accept == Accept::Refuse {
                *listener = None;
            } else {
                let listener = listener.get_or_insert_with(|| TcpListener::from_std(listen(self.address)).unwrap());
                SockRef::from(&*listener).listen(if accept == Accept::Wait { 0 } else { BACKLOG }).unwrap();
            }
            self.shared.seen.store(generation, Ordering::SeqCst);
            let next = async {
                match &listener {
                    Some(listener) if accept != Accept::Wait => listener.accept().await,
                    _ => pending().await,
                }
            };
            tokio::select! {
                biased;
                changed = self.behaviour.changed() => changed.ok()?,
                Ok((client, _)) = next => return Some((client, accept)),
            }
        }
    }
}

/// Closes a connection. One that is to be reset is closed without a word.
fn close(stream: TcpStream, how: Cut) {
    if how == Cut::Reset {
        let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    }
}

/// What becomes of a connection that was accepted.
struct Connection {
    number: u64,
    client: TcpStream,
    server: SocketAddr,
    behaviour: watch::Receiver<Behaviour>,
    is_cut: oneshot::Receiver<Cut>,
}

impl Connection {
    async fn run(self, hangs: bool) {
        let Self { number, mut client, server, behaviour, is_cut } = self;
        // A cut that never comes: the proxy ends.
        let is_cut = async { is_cut.await.unwrap_or_default() };
        if hangs {
            let how = tokio::select! { how = is_cut => how, how = discard(&mut client) => how };
            return close(client, how);
        }
        // A client of a server that cannot be reached is reset.
        let Ok(mut server) = TcpStream::connect(server).await else { return close(client, Cut::Reset) };
        let _ = client.set_nodelay(true);
        let _ = server.set_nodelay(true);
        let last = Mutex::new(Instant::now());
        let how = {
            let ((from_client, to_client), (from_server, to_server)) = (client.split(), server.split());
            let direction = |flow| Direction { number, flow, behaviour: behaviour.clone(), last: &last };
            let (up, down) = (direction(|behaviour| behaviour.to_server), direction(|behaviour| behaviour.to_client));
            let both = async {
                let both = tokio::try_join!(up.carry(from_client, to_server), down.carry(from_server, to_client));
                both.err().unwrap_or_default()
            };
            tokio::select! { how = is_cut => how, how = both => how, how = idle(behaviour, &last) => how }
        };
        close(server, how);
        close(client, how);
    }
}

/// Reads and forgets what a client sends, to its end.
async fn discard(client: &mut TcpStream) -> Cut {
    let mut buffer = [0; 1024];
    while client.read(&mut buffer).await.is_ok_and(|size| size > 0) {}
    Cut::Finished
}

/// Returns when a connection has been silent for as long as it may be.
async fn idle(mut behaviour: watch::Receiver<Behaviour>, last: &Mutex<Instant>) -> Cut {
    loop {
        let limit = behaviour.borrow_and_update().idle;
        let until = limit.map(|limit| *last.lock().unwrap() + limit);
        if until.is_some_and(|until| until <= Instant::now()) {
            return Cut::Finished;
        }
        let over = async {
            match until {
                Some(until) => sleep_until(until.into()).await,
                None => pending().await,
            }
        };
        tokio::select! {
            () = over => (),
            changed = behaviour.changed() => if changed.is_err() { return Cut::Finished },
        }
    }
}

/// One direction of a connection.
struct Direction<'a> {
    /// The connection's.
    number: u64,
    flow: fn(&Behaviour) -> Flow,
    behaviour: watch::Receiver<Behaviour>,
    /// When bytes came last, in either direction.
    last: &'a Mutex<Instant>,
}

impl Direction<'_> {
    /// Carries bytes, to the end of the stream. An error says how the connection is to be cut.
    async fn carry(self, from: ReadHalf<'_>, to: WriteHalf<'_>) -> Result<(), Cut> {
        let (queue, pieces) = mpsc::channel(PIECES);
        let (flow, behaviour, last) = (self.flow, self.behaviour.clone(), self.last);
        let read = async move {
            let mut from = from;
            loop {
                let mut piece = vec![0; PIECE];
                let size = from.read(&mut piece).await.map_err(|_| Cut::Reset)?;
                if size == 0 {
                    return Ok(());
                }
                piece.truncate(size);
                *last.lock().unwrap() = Instant::now();
                let due = Instant::now() + flow(&behaviour.borrow()).delay;
                let _ = queue.send((due, piece)).await;
            }
        };
        tokio::try_join!(read, self.write(pieces, to)).map(|_| ())
    }

    async fn write(mut self, mut pieces: mpsc::Receiver<(Instant, Vec<u8>)>, mut to: WriteHalf<'_>) -> Result<(), Cut> {
        let (mut generation, mut count) = (0, 0);
        while let Some((due, mut piece)) = pieces.recv().await {
            if due > Instant::now() {
                sleep_until(due.into()).await;
            }
            let behaviour = self.moving().await;
            if behaviour.generation != generation {
                (generation, count) = (behaviour.generation, 0);
            }
            let flow = (self.flow)(&behaviour);
            let end = flow.apply(&mut piece, count);
            count += piece.len() as u64;
            to.write_all(&piece).await.map_err(|_| Cut::Reset)?;
            end?;
        }
        self.moving().await;
        to.shutdown().await.map_err(|_| Cut::Reset)
    }

    /// Waits until bytes do not wait any more, and returns how the proxy behaves then.
    async fn moving(&mut self) -> Behaviour {
        let behaviour =
            self.behaviour.wait_for(|behaviour| !behaviour.stalls(self.number)).await.map(|behaviour| *behaviour);
        match behaviour {
            Ok(behaviour) => behaviour,
            // The proxy ends.
            Err(_) => pending().await,
        }
    }
}

impl Flow {
    /// Changes a piece that comes after `count` bytes. An error says that the connection is cut
    /// after what is left of the piece, and how.
    fn apply(&self, piece: &mut Vec<u8>, count: u64) -> Result<(), Cut> {
        if let Some(edit) = self.edit {
            *piece = edit(piece);
        }
        let offset = |at: u64| at.checked_sub(count).and_then(|at| usize::try_from(at).ok());
        if let Some(byte) = self.flip_at.and_then(offset).and_then(|at| piece.get_mut(at)) {
            *byte ^= 1;
        }
        match self.cut_after {
            Some((after, how)) if after < count + piece.len() as u64 => {
                piece.truncate(offset(after).unwrap_or_default());
                Err(how)
            }
            _ => Ok(()),
        }
    }
}

/// An address at which connecting gets no reply, neither yes nor no, as behind a firewall that
/// drops packets: a listener whose queue is full. It ends when this is dropped.
pub struct Silent {
    pub address: SocketAddr,
    _listener: Socket,
    _queued: Vec<Socket>,
}

impl Silent {
    /// Silences a port of one of the machine's addresses.
    pub fn at(address: SocketAddr) -> Self {
        let _listener: Socket = listen(address).into();
        _listener.listen(0).unwrap();
        // The queue has room for one; the second may still be let in while the first is.
        let queued = (0..2).map(|_| {
            let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
            let _ = socket.connect_timeout(&address.into(), Duration::from_millis(50));
            socket
        });
        Self { address, _queued: queued.collect(), _listener }
    }

    /// Silences a free port of this address.
    pub fn on(ip: impl Into<IpAddr>) -> Self {
        Self::at(SocketAddr::new(ip.into(), free_port()))
    }
}

#[cfg(test)]
mod tests;
