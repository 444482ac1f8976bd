//! The protocol between a worker and the runtime's thread, in all orders in which the threads may
//! get on, and with all that the memory model lets them see: `src/bridge/mailbox.rs`, `flagged.rs`
//! and `tickets.rs` are compiled here once more, over loom's locks and atomics.
//!
//! loom runs each model again and again, and takes another order each time. It fails if a thread
//! waits and nobody can wake it, so a lost wake-up is a deadlock here, and if a [`Track`]ed value
//! is left. A run has two preemptions at most, since nearly all races need no more; `make
//! interleavings` allows three.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "../../src/bridge/flagged.rs"]
mod flagged;
#[path = "../../src/bridge/mailbox.rs"]
mod mailbox;
#[path = "../../src/bridge/tickets.rs"]
mod tickets;

/// In place of the module of that name in `src/bridge/mod.rs`.
mod sync {
    pub use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    pub use loom::sync::{Mutex, MutexGuard};
}

mod world;

use loom::thread::spawn;
use sync::{AtomicBool, Ordering};
use world::World;

/// Preemptions in a run, unless `LOOM_MAX_PREEMPTIONS` says otherwise.
const PREEMPTIONS: usize = 2;

/// Takes a model through the orders.
fn in_all_orders(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(PREEMPTIONS);
    builder.check(model);
}

#[test]
fn each_reply_is_announced_and_taken_by_its_own_ticket() {
    in_all_orders(|| {
        let (world, mut worker) = World::with_worker();
        let tickets: Vec<u64> = (0..3).map(|_| worker.submit()).collect();
        let (one, other) = (world.clone(), world.clone());
        let (first, second, third) = (tickets[0], tickets[1], tickets[2]);
        spawn(move || one.reply(&[first, second]));
        spawn(move || other.reply(&[third]));
        while worker.taken.len() < 3 {
            worker.wait();
            worker.take_all();
        }
        worker.assert_done(&tickets);
    });
}

#[test]
fn what_is_submitted_while_replies_arrive_is_flushed() {
    in_all_orders(|| {
        let (world, mut worker) = World::with_worker();
        let first = worker.submit();
        worker.request_flush();
        worker.wait();
        let second = worker.submit();
        worker.request_flush();
        while worker.taken.len() < 2 {
            worker.wait();
            worker.take_all();
        }
        worker.assert_done(&[first, second]);
        assert_eq!(world.mailbox.counts().in_flight(), 0);
    });
}

#[test]
fn calls_are_announced_beside_replies() {
    in_all_orders(|| {
        let (world, mut worker) = World::with_worker();
        let ticket = worker.submit();
        let (one, other) = (world.clone(), world.clone());
        spawn(move || one.reply(&[ticket]));
        spawn(move || {
            other.call(7);
            other.call(8);
        });
        while worker.called.len() < 2 || worker.taken.is_empty() {
            worker.wait();
            worker.take_all();
        }
        worker.called.sort_unstable();
        assert_eq!(worker.called, [7, 8]);
        worker.assert_done(&[ticket]);
    });
}

#[test]
fn nothing_is_lost_when_a_bell_is_replaced() {
    in_all_orders(|| {
        let (world, mut worker) = World::with_worker();
        let ticket = worker.submit();
        let (one, other) = (world.clone(), world.clone());
        spawn(move || one.reply(&[ticket]));
        spawn(move || other.call(7));
        worker.replace_bell();
        while worker.called.is_empty() || worker.taken.is_empty() {
            worker.wait();
            worker.take_all();
        }
        worker.assert_done(&[ticket]);
    });
}

/// Without a reply, whose ring would stand for the call's.
#[test]
fn no_call_is_lost_when_a_bell_is_replaced() {
    in_all_orders(|| {
        let (world, mut worker) = World::with_worker();
        spawn(move || world.call(7));
        worker.replace_bell();
        while worker.called.is_empty() {
            worker.wait();
            worker.take_all();
        }
    });
}

#[test]
fn nothing_is_lost_while_there_is_no_bell() {
    in_all_orders(|| {
        let (world, mut worker) = World::with_worker();
        world.mailbox.remove_bell();
        let (one, other) = (world.clone(), worker.socket.bell());
        spawn(move || one.call(7));
        world.mailbox.install_bell(other);
        while worker.called.is_empty() {
            worker.wait();
            worker.take_all();
        }
    });
}

#[test]
fn a_ring_that_fails_is_made_good_by_the_next() {
    in_all_orders(|| {
        let (world, mut worker) = World::with_worker();
        let socket = worker.socket.clone();
        worker.wait();
        worker.take_all();
        spawn(move || {
            socket.fail_once();
            world.call(7);
            world.call(8);
        });
        while worker.called.len() < 2 {
            worker.wait();
            worker.take_all();
        }
    });
}

#[test]
fn a_worker_that_exits_leaves_with_the_last_reply() {
    in_all_orders(|| {
        let (world, mut worker) = World::with_worker();
        let tickets = [worker.submit(), worker.submit()];
        let (one, other) = (world.clone(), world.clone());
        let exiting = loom::sync::Arc::new(AtomicBool::new(false));
        let exit = exiting.clone();
        spawn(move || one.reply(&tickets));
        spawn(move || {
            exit.store(true, Ordering::Relaxed);
            other.mailbox.ring();
        });
        // As the listener in lua/resty/session/waiting.lua.
        while !(exiting.load(Ordering::Relaxed) && world.mailbox.counts().in_flight() == 0) {
            worker.wait();
            worker.take_all();
        }
        worker.take_all();
        worker.assert_done(&tickets);
    });
}

#[test]
fn replies_that_nobody_takes_are_dropped() {
    in_all_orders(|| {
        let (world, mut worker) = World::with_worker();
        let (discarded, forgotten) = (worker.submit(), worker.submit());
        let replies = spawn(move || world.reply(&[discarded, forgotten]));
        // Before its reply arrives, or after it.
        worker.arrive();
        worker.tickets.take(discarded);
        replies.join().unwrap();
        worker.arrive();
        while worker.tickets.sweep(true) {}
        assert_eq!(worker.tickets.count(), 0);
    });
}

#[test]
fn replies_are_dropped_with_the_vm_that_waited_for_them() {
    in_all_orders(|| {
        let (world, mut worker) = World::with_worker();
        let tickets = [worker.submit(), worker.submit()];
        spawn(move || world.reply(&tickets));
        worker.arrive();
    });
}

/// What breaks the rules in `src/bridge/mailbox.rs` is found. A model that fails may end its
/// process, so each of the controls runs in one of its own.
#[test]
fn the_controls_are_found() {
    for (control, problem) in [
        ("a_reader_that_takes_the_replies_last_sleeps_through_a_call", "deadlock"),
        ("a_ring_before_the_call_is_there_is_too_early", "deadlock"),
        ("a_reply_that_is_forgotten_is_a_leak", "Allocation leaked"),
    ] {
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        let output = command.args(["--ignored", "--exact", control]).env("RUST_BACKTRACE", "0").output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(!output.status.success() && said.contains(problem), "{control}: {said}");
    }
}

#[test]
#[ignore = "a control, which fails"]
fn a_reader_that_takes_the_replies_last_sleeps_through_a_call() {
    in_all_orders(|| {
        let (world, mut worker) = World::with_worker();
        spawn(move || world.call(7));
        while worker.called.is_empty() {
            worker.wait();
            worker.take_calls();
            worker.arrive();
        }
    });
}

#[test]
#[ignore = "a control, which fails"]
fn a_ring_before_the_call_is_there_is_too_early() {
    in_all_orders(|| {
        let (world, mut worker) = World::with_worker();
        spawn(move || {
            world.mailbox.ring();
            world.put_call(7);
        });
        while worker.called.is_empty() {
            worker.wait();
            worker.take_all();
        }
    });
}

#[test]
#[ignore = "a control, which fails"]
fn a_reply_that_is_forgotten_is_a_leak() {
    in_all_orders(|| {
        let (world, mut worker) = World::with_worker();
        world.reply(&[worker.submit()]);
        std::mem::forget(world.mailbox.take());
    });
}
