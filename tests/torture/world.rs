//! What all threads of a run share: the plan, how far it is, and which faults there were when.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::plan::Plan;

/// How many requests may be sent beyond the one before which a fault is due.
const SLACK: u64 = 100;

/// What went wrong, and where.
#[derive(Clone, Debug)]
pub struct Violation {
    pub browser: usize,
    pub step: u64,
    /// How many requests had been sent.
    pub requests: u64,
    pub text: String,
}

/// A time during which something was the case. It lasts if it has no end.
#[derive(Clone, Copy)]
struct Span {
    start: Instant,
    end: Option<Instant>,
}

impl Span {
    fn overlaps(&self, start: Instant, end: Instant) -> bool {
        self.start <= end && self.end.is_none_or(|until| until >= start)
    }
}

/// Of what a storage's faults can do, what a browser may see.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Damage {
    /// Bits were flipped, so that anything may have been stored, deleted or replied.
    Corruption,
    /// The storage lost what it held.
    Loss,
    /// Another server became the master, and what was written last may be undone.
    Undoing,
}

pub struct World {
    pub plan: Plan,
    /// Where nginx listens.
    pub ports: Vec<u16>,
    /// Whether the storage notes all of a user's sessions, also if two workers note at once.
    pub lists_all: bool,
    sent: AtomicU64,
    /// The request before which the next fault begins.
    next_fault: AtomicU64,
    stops: AtomicBool,
    /// The user whose browsers are traced.
    traced: Option<usize>,
    damages: Mutex<Vec<(Damage, Span)>>,
    violations: Mutex<Vec<Violation>>,
    counts: Mutex<BTreeMap<String, u64>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    pub fn new(plan: Plan, ports: Vec<u16>, lists_all: bool) -> Self {
        Self {
            plan,
            ports,
            lists_all,
            sent: AtomicU64::new(0),
            next_fault: AtomicU64::new(0),
            stops: AtomicBool::new(false),
            traced: std::env::var("TRACE")
                .ok()
                .and_then(|browser| browser.parse::<usize>().ok())
                .map(|browser| browser / 2),
            damages: Mutex::default(),
            violations: Mutex::default(),
            counts: Mutex::default(),
        }
    }

    /// Returns the number of a request that may be sent now. Requests wait for faults that are due,
    /// so that there are as many to a request on a slow machine.
    pub fn next_request(&self) -> u64 {
        let number = self.sent.fetch_add(1, Ordering::SeqCst);
        while number > self.next_fault.load(Ordering::SeqCst).saturating_add(SLACK) && !self.stops() {
            sleep(Duration::from_millis(1));
        }
        number
    }

    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::SeqCst)
    }

    /// Says before which request the next fault begins; `u64::MAX` if no further fault is planned.
    pub fn expect_fault(&self, at: u64) {
        self.next_fault.store(at, Ordering::SeqCst);
    }

    pub fn is_done(&self) -> bool {
        self.sent() >= self.plan.requests || self.stops()
    }

    pub fn stops(&self) -> bool {
        self.stops.load(Ordering::SeqCst)
    }

    /// Ends the run, because something is wrong.
    pub fn fail(&self, browser: usize, step: u64, text: String) {
        lock(&self.violations).push(Violation { browser, step, requests: self.sent(), text });
        self.stops.store(true, Ordering::SeqCst);
    }

    pub fn violations(&self) -> Vec<Violation> {
        lock(&self.violations).clone()
    }

    /// Prints what a user's browsers see, if they are to be traced.
    pub fn trace(&self, browser: usize, text: impl FnOnce() -> String) {
        if self.traced == Some(browser / 2) {
            println!("{browser}: {}", text());
        }
    }

    pub fn count(&self, what: &str) {
        *lock(&self.counts).entry(what.to_owned()).or_default() += 1;
    }

    pub fn counts(&self) -> BTreeMap<String, u64> {
        lock(&self.counts).clone()
    }

    pub fn begin(&self, damage: Damage) {
        lock(&self.damages).push((damage, Span { start: Instant::now(), end: None }));
    }

    pub fn end(&self, damage: Damage) {
        let mut damages = lock(&self.damages);
        let open = damages.iter_mut().filter(|(kind, span)| *kind == damage && span.end.is_none());
        open.for_each(|(_, span)| span.end = Some(Instant::now()));
    }

    /// Whether such a thing happened in that time.
    pub fn was(&self, damage: Damage, start: Instant, end: Instant) -> bool {
        lock(&self.damages).iter().any(|(kind, span)| *kind == damage && span.overlaps(start, end))
    }
}
