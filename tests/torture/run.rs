//! A run of a plan: an nginx over a storage, browsers in threads, and a thread that puts faults in.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use resty_session_testing::usage::Usage;

use super::browser::Browser;
use super::client::Client;
use super::leaks;
use super::plan::{CYCLE, Fault, Plan, random};
use super::servers::Storage;
use super::site::Site;
use super::world::{Violation, World};

const THREADS: usize = 24;

/// What came of a run.
pub struct Report {
    pub violations: Vec<Violation>,
    plan: Plan,
    requests: u64,
    faults: BTreeMap<String, u64>,
    counts: BTreeMap<String, u64>,
    usage: [BTreeMap<i32, Usage>; 2],
    time: Duration,
    log: String,
}

/// Runs a plan.
pub fn run(plan: &Plan) -> Report {
    let mut storage = Storage::start(&plan.storage);
    let site = Site::start(plan, &storage);
    let world = World::new(plan.clone(), site.ports(), storage.lists_all);
    let schedule = plan.schedule(&storage.possible);
    let start = Instant::now();
    let mut browsers: Vec<Browser> = (0..plan.browsers.next_multiple_of(2)).map(Browser::new).collect();
    let (half_way, done) = (Mutex::new(BTreeMap::new()), AtomicBool::new(false));
    let killed = scope(|scope| {
        let share = browsers.len().div_ceil(THREADS).next_multiple_of(2);
        let threads: Vec<_> = browsers.chunks_mut(share).map(|own| scope.spawn(|| browse(own, &world))).collect();
        let faults = scope.spawn(|| inject(&schedule, &mut storage, (&world, &site)));
        scope.spawn(|| {
            let at = plan.requests / 2 + CYCLE.min(plan.requests / 4);
            while world.sent() < at && !done.load(Ordering::SeqCst) {
                sleep(Duration::from_millis(10));
            }
            *half_way.lock().unwrap() = leaks::measure(&site);
        });
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        done.store(true, Ordering::SeqCst);
        faults.join().unwrap()
    });
    let before = half_way.into_inner().unwrap();
    let after = if world.stops() { BTreeMap::new() } else { finish(&mut browsers, &world, (&site, &before)) };
    if let Err(problem) = leaks::check_log(&site, &killed.1) {
        world.fail(usize::MAX, 0, problem);
    }
    check_versions(&world, plan);
    Report {
        violations: world.violations(),
        plan: plan.clone(),
        requests: world.sent(),
        faults: killed.0,
        counts: world.counts(),
        usage: [before, after],
        time: start.elapsed(),
        log: site.complaints().into_iter().rev().take(5).collect::<Vec<_>>().join("\n"),
    }
}

/// Checks that both versions have served browsers, if there are two.
fn check_versions(world: &World, plan: &Plan) {
    let served = world.counts().keys().filter(|what| what.starts_with("served by")).count();
    if plan.has_versions() && served < 2 && !world.stops() {
        world.fail(usize::MAX, 0, "only one version has served anybody".to_owned());
    }
}

/// What a thread's browsers do, in turns, two of each user together.
fn browse(browsers: &mut [Browser], world: &World) {
    let mut client = Client::new(&world.ports);
    for step in 0.. {
        for pair in browsers.chunks_mut(2) {
            let [first, second] = pair else { continue };
            for turn in [false, true] {
                if world.is_done() {
                    return;
                }
                let (one, other) = if turn { (&mut *second, &mut *first) } else { (&mut *first, &mut *second) };
                let (action, mut rng) = world.plan.step(one.id(), step);
                if let Err(problem) = one.step(action, &mut rng, (other, &mut client, world)) {
                    world.fail(one.id(), step, format!("{action:?}: {problem}"));
                }
            }
        }
    }
}

/// Puts the faults in. Returns how many of each kind there were, and which workers were killed.
fn inject(
    schedule: &[Fault],
    storage: &mut Storage,
    (world, site): (&World, &Site),
) -> (BTreeMap<String, u64>, Vec<i32>) {
    let (mut counts, mut killed) = (BTreeMap::new(), Vec::new());
    let _over = Over(world);
    for fault in schedule {
        world.expect_fault(fault.at);
        while world.sent() < fault.at && !world.is_done() {
            sleep(Duration::from_micros(500));
        }
        if world.is_done() {
            break;
        }
        killed.extend(storage.suffer(fault, world, site));
        *counts.entry(fault.kind.name()).or_default() += 1;
        // Workers need up to 400 ms until they connect again. They get that time now and then.
        let mut rng = random(world.plan.seed, 3, fault.number, 0);
        let longest = if fault.kind.breaks_connecting() && rng.bool() { 450 } else { 40 };
        sleep(Duration::from_millis(rng.u64(..longest)));
    }
    (counts, killed)
}

/// Lets the browsers go on without faults when it is dropped, also by a panic.
struct Over<'a>(&'a World);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.expect_fault(u64::MAX);
    }
}

/// All faults are over: each session that must be there is, and the workers let everything go.
fn finish(
    browsers: &mut [Browser],
    world: &World,
    (site, before): (&Site, &BTreeMap<i32, Usage>),
) -> BTreeMap<i32, Usage> {
    sleep(Duration::from_millis(1500));
    leaks::wait_for_workers(site);
    let mut client = Client::new(&world.ports);
    for browser in browsers {
        if let Err(problem) = browser.look_again(&mut client, world) {
            world.fail(browser.id(), u64::MAX, problem);
        }
    }
    drop(client);
    leaks::check(site, before).unwrap_or_else(|problem| {
        world.fail(usize::MAX, u64::MAX, problem);
        leaks::measure(site)
    })
}

impl fmt::Display for Plan {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { storage, seed, requests, browsers, faults, kinds, before, actions } = self;
        match before.as_str() {
            "" => write!(formatter, "make torture")?,
            before => write!(formatter, "make versions BEFORE={before}")?,
        }
        write!(formatter, " STORAGE={storage} SEED={seed} REQUESTS={requests} BROWSERS={browsers} FAULTS={faults}")?;
        if !actions.is_empty() {
            write!(formatter, " ACTIONS={}", actions.join(","))?;
        }
        if kinds.is_empty() { Ok(()) } else { write!(formatter, " KINDS={}", kinds.join(",")) }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let faults: u64 = self.faults.values().sum();
        writeln!(formatter, "{} requests and {faults} faults in {:.1?}", self.requests, self.time)?;
        writeln!(formatter, "faults: {:?}", self.faults)?;
        let errors = self.counts.iter().filter(|(what, _)| what.starts_with("error"));
        writeln!(formatter, "{} requests failed", errors.map(|(_, count)| count).sum::<u64>())?;
        for (what, count) in &self.counts {
            writeln!(formatter, "{count:>8}  {what}")?;
        }
        writeln!(formatter, "workers half way: {:?}\nworkers at the end: {:?}", self.usage[0], self.usage[1])?;
        for Violation { browser, step, requests, text } in &self.violations {
            writeln!(formatter, "VIOLATION after {requests} requests, browser {browser}, step {step}: {text}")?;
        }
        if self.violations.is_empty() {
            return write!(formatter, "all checks hold: {}", self.plan);
        }
        write!(formatter, "the end of the log:\n{}\nagain: {}", self.log, self.plan)
    }
}
