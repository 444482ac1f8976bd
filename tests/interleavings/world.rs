//! Both sides of the protocol, as the runtime and the Lua of `lua/resty/session/waiting.lua` use
//! it.

use std::io::{self, ErrorKind, Write};
use std::mem::take;

use loom::alloc::Track;
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread::spawn;

use super::flagged::Flagged;
use super::mailbox::{Bell, Mailbox};
use super::tickets::Tickets;

/// What both sides share.
#[derive(Default)]
pub struct World {
    pub mailbox: Mailbox<(u64, Track<u64>)>,
    /// The functions that are to be called.
    calls: Flagged<Vec<u8>>,
}

impl World {
    pub fn with_worker() -> (Arc<Self>, Worker) {
        let world = Arc::new(Self::default());
        let socket = Socket::new();
        world.mailbox.install_bell(socket.bell());
        let worker = Worker {
            world: world.clone(),
            socket,
            tickets: Tickets::default(),
            submissions: Vec::new(),
            flush_due: false,
            taken: Vec::new(),
            called: Vec::new(),
        };
        (world, worker)
    }

    /// Replies to tickets one after the other, and then rings, as the runtime does it.
    pub fn reply(&self, tickets: &[u64]) {
        let due: Vec<bool> = tickets.iter().map(|ticket| self.mailbox.post((*ticket, Track::new(*ticket)))).collect();
        due.into_iter().filter(|due| *due).for_each(|_| self.mailbox.ring());
    }

    /// Has a function called.
    pub fn call(&self, function: u8) {
        self.put_call(function);
        self.mailbox.ring();
    }

    pub fn put_call(&self, function: u8) {
        self.calls.put(|calls| {
            calls.push(function);
            true
        });
    }
}

/// A worker's Lua.
pub struct Worker {
    world: Arc<World>,
    pub socket: Socket,
    pub tickets: Tickets<(), Track<u64>>,
    submissions: Vec<u64>,
    flush_due: bool,
    /// The tickets whose replies were taken, and what the replies said.
    pub taken: Vec<(u64, u64)>,
    pub called: Vec<u8>,
}

impl Worker {
    pub fn submit(&mut self) -> u64 {
        let ticket = self.world.mailbox.ticket();
        self.tickets.expect(ticket, None);
        self.submissions.push(ticket);
        ticket
    }

    /// Rings its own bell, so that what was submitted is flushed after it has waited.
    pub fn request_flush(&mut self) {
        self.flush_due = true;
        self.world.mailbox.ring();
    }

    /// Waits for the bell, and flushes what is due.
    pub fn wait(&mut self) {
        self.socket.read();
        if take(&mut self.flush_due) {
            self.take_all();
            let (world, submissions) = (self.world.clone(), take(&mut self.submissions));
            spawn(move || world.reply(&submissions));
        }
    }

    /// Its socket closes with what was written to it, and it listens anew: another thread installs
    /// the bell.
    pub fn replace_bell(&mut self) {
        self.socket.close();
        self.world.mailbox.remove_bell();
        self.socket = Socket::new();
        let (world, bell) = (self.world.clone(), self.socket.bell());
        spawn(move || world.mailbox.install_bell(bell));
    }

    /// Drains the replies that have arrived. Returns the tickets that wait for them.
    pub fn arrive(&mut self) -> Vec<u64> {
        self.tickets.arrive(self.world.mailbox.take())
    }

    /// Takes all replies and calls that have arrived, in the order that the rules ask for.
    pub fn take_all(&mut self) {
        for ticket in self.arrive() {
            let reply = self.tickets.take(ticket).1.unwrap();
            self.taken.push((ticket, *reply.get_ref()));
        }
        self.take_calls();
    }

    pub fn take_calls(&mut self) {
        if self.world.calls.is_set() {
            self.called.extend(self.world.calls.take(take));
        }
    }

    /// Each of these tickets got its own reply, once, and nothing is left.
    pub fn assert_done(&mut self, tickets: &[u64]) {
        self.taken.sort_unstable();
        assert!(self.taken.iter().map(|(ticket, _)| ticket).eq(tickets), "{:?}", self.taken);
        assert!(self.taken.iter().all(|(ticket, reply)| ticket == reply), "{:?}", self.taken);
        assert_eq!(self.tickets.count(), 0);
        assert!(self.world.mailbox.take().is_empty());
    }
}

/// A socket that holds few bytes. Clones are the same.
#[derive(Clone)]
pub struct Socket(Arc<Ends>);

struct Ends {
    state: Mutex<State>,
    readable: Condvar,
}

struct State {
    bytes: usize,
    is_closed: bool,
    /// Whether the next write fails, as where the system has no memory for it.
    fails: bool,
}

const CAPACITY: usize = 2;

impl Socket {
    pub fn new() -> Self {
        let state = Mutex::new(State { bytes: 0, is_closed: false, fails: false });
        Self(Arc::new(Ends { state, readable: Condvar::new() }))
    }

    /// Its end that is rung.
    pub fn bell(&self) -> Bell {
        Box::new(self.clone())
    }

    /// Waits for bytes, and reads all that are there.
    fn read(&self) {
        let mut state = self.0.state.lock().unwrap();
        while state.bytes == 0 {
            state = self.0.readable.wait(state).unwrap();
        }
        state.bytes = 0;
    }

    pub fn fail_once(&self) {
        self.0.state.lock().unwrap().fails = true;
    }

    /// The reader goes.
    fn close(&self) {
        self.0.state.lock().unwrap().is_closed = true;
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.0.state.lock().unwrap();
        if take(&mut state.fails) {
            return Err(ErrorKind::OutOfMemory.into());
        } else if state.is_closed {
            return Err(ErrorKind::BrokenPipe.into());
        } else if state.bytes == CAPACITY {
            return Err(ErrorKind::WouldBlock.into());
        }
        state.bytes += bytes.len();
        self.0.readable.notify_one();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
