//! The operations that a worker's Lua has submitted, and their replies until they are taken.

use std::cell::RefCell;

use rustc_hash::FxHashMap;

/// The number of an operation. No two operations of an exchange ever have the same one, so a reply
/// cannot be taken for another operation's.
pub type Ticket = u64;

/// The tickets of one Lua VM. `A` is an act that waits for a reply `R`.
pub struct Tickets<A, R> {
    /// The submitted operations whose reply was not taken or discarded yet.
    waiting: RefCell<FxHashMap<Ticket, Waiting<A, R>>>,
    /// The tickets whose replies have arrived since the last sweep.
    arrived: RefCell<Vec<Ticket>>,
    /// The tickets whose replies the last sweep found not taken.
    untaken: RefCell<Vec<Ticket>>,
}

/// The act that waits for an operation, if an act does, and the operation's reply once it has
/// arrived.
struct Waiting<A, R> {
    act: Option<A>,
    reply: Option<R>,
}

impl<A, R> Tickets<A, R> {
    /// Expects a reply to a ticket, for which an act waits, or Lua itself.
    pub fn expect(&self, ticket: Ticket, act: Option<A>) {
        self.waiting.borrow_mut().insert(ticket, Waiting { act, reply: None });
    }

    /// Keeps replies until they are taken, and returns the tickets that wait for them. A reply
    /// whose ticket was taken before is dropped, because nobody waits for it.
    pub fn arrive(&self, replies: impl IntoIterator<Item = (Ticket, R)>) -> Vec<Ticket> {
        let mut waiting = self.waiting.borrow_mut();
        let awaited = replies.into_iter().filter_map(|(ticket, reply)| {
            waiting.get_mut(&ticket)?.reply = Some(reply);
            Some(ticket)
        });
        let awaited: Vec<_> = awaited.collect();
        self.arrived.borrow_mut().extend(&awaited);
        awaited
    }

    /// Takes the act that waits for a ticket, and its reply if that has arrived.
    pub fn take(&self, ticket: Ticket) -> (Option<A>, Option<R>) {
        let waiting = self.waiting.borrow_mut().remove(&ticket);
        waiting.map_or((None, None), |waiting| (waiting.act, waiting.reply))
    }

    /// Drops the replies that the last sweep found and that still nobody took, if `passed`:
    /// everyone who had been woken by then has run, so whoever waited for them has ended. Returns
    /// whether replies are left, so that another sweep is needed.
    pub fn sweep(&self, passed: bool) -> bool {
        let (mut waiting, mut untaken) = (self.waiting.borrow_mut(), self.untaken.borrow_mut());
        let mut arrived = self.arrived.borrow_mut();
        arrived.retain(|ticket| waiting.contains_key(ticket));
        if passed {
            for ticket in untaken.drain(..) {
                waiting.remove(&ticket);
            }
            untaken.append(&mut arrived);
        }
        !(untaken.is_empty() && arrived.is_empty())
    }

    /// How many operations wait for their reply, or have one that was not taken.
    pub fn count(&self) -> usize {
        self.waiting.borrow().len()
    }
}

impl<A, R> Default for Tickets<A, R> {
    fn default() -> Self {
        Self { waiting: RefCell::default(), arrived: RefCell::default(), untaken: RefCell::default() }
    }
}
