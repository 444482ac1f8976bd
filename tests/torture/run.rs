//! A run of a plan: an nginx over a storage, browsers in threads, and a thread that puts faults in.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use resty_session_testing::server::{Nginx, Site, root};

use super::browser::Browser;
use super::client::Client;
use super::leaks::{self, Usage};
use super::model::{IDLING, ROLLING, STALE};
use super::plan::{CYCLE, Fault, Plan, random};
use super::servers::Storage;
use super::world::{Violation, World};

const WORKERS: usize = 2;
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

/// The program, and its nginx.
fn start_nginx(plan: &Plan, storage: &Storage) -> Nginx {
    let (name, options, cache) = (storage.name, &storage.options, plan.cache_ttl());
    let init = format!(
        r#"require("resty.session").init({{
            secret = "the secret of the torture, which nobody can guess", storage = "{name}", revocation = "{name}",
            revocation_fail_mode = "closed", revocation_cache_ttl = {cache}, store_metadata = true, seal_info = "only",
            idling_timeout = {IDLING}, rolling_timeout = {ROLLING}, stale_ttl = {STALE}, touch_threshold = 2,
            {name} = {{ {options} }},
        }})
        {program}
        torture.storage = require("resty.session.utils").load_storage("{name}", {{ {name} = {{ {options} }} }})"#,
        program = include_str!("program.lua"),
    );
    let act = |check| {
        format!("location /{check}/act {{ lua_check_client_abort {check}; content_by_lua_block {{ torture.run() }} }}")
    };
    let server = format!(
        "{} {}
        location /inner {{ internal; content_by_lua_block {{ torture.run() }} }}
        location /subrequest {{ content_by_lua_block {{ torture.subrequest() }} }}
        location /counts {{ content_by_lua_block {{ torture.counts() }} }}",
        act("on"),
        act("off"),
    );
    // A build with the bugs that are put in on purpose has a directory of its own.
    let bugs = std::env::var("TORTURE_BUG").is_ok_and(|bug| !bug.is_empty());
    let (lua, native) = (root().join("build/lualib"), root().join("build/torture"));
    let lualib = bugs.then_some((lua.as_path(), native.as_path()));
    let main = "env TORTURE_BUG; worker_shutdown_timeout 5s;";
    Nginx::start(&Site { main, init: &init, server: &server, workers: WORKERS, lualib, ..Site::default() })
}

/// Runs a plan.
pub fn run(plan: &Plan) -> Report {
    let mut storage = Storage::start(&plan.storage);
    let nginx = start_nginx(plan, &storage);
    let world = World::new(plan.clone(), nginx.port, storage.lists_all);
    let schedule = plan.schedule(&storage.possible);
    let start = Instant::now();
    let mut browsers: Vec<Browser> = (0..plan.browsers.next_multiple_of(2)).map(Browser::new).collect();
    let (half_way, done) = (Mutex::new(BTreeMap::new()), AtomicBool::new(false));
    let killed = scope(|scope| {
        let share = browsers.len().div_ceil(THREADS).next_multiple_of(2);
        let threads: Vec<_> = browsers.chunks_mut(share).map(|own| scope.spawn(|| browse(own, &world))).collect();
        let faults = scope.spawn(|| inject(&schedule, &mut storage, (&world, &nginx)));
        scope.spawn(|| {
            let at = plan.requests / 2 + CYCLE.min(plan.requests / 4);
            while world.sent() < at && !done.load(Ordering::SeqCst) {
                sleep(Duration::from_millis(10));
            }
            *half_way.lock().unwrap() = leaks::measure(&nginx);
        });
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        done.store(true, Ordering::SeqCst);
        faults.join().unwrap()
    });
    let before = half_way.into_inner().unwrap();
    let after = if world.stops() { BTreeMap::new() } else { finish(&mut browsers, &world, (&nginx, &before)) };
    if let Err(problem) = leaks::check_log(&nginx, &killed.1) {
        world.fail(usize::MAX, 0, problem);
    }
    Report {
        violations: world.violations(),
        plan: plan.clone(),
        requests: world.sent(),
        faults: killed.0,
        counts: world.counts(),
        usage: [before, after],
        time: start.elapsed(),
        log: nginx.complaints().into_iter().rev().take(5).collect::<Vec<_>>().join("\n"),
    }
}

/// What a thread's browsers do, in turns, two of each user together.
fn browse(browsers: &mut [Browser], world: &World) {
    let mut client = Client::new(world.port);
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
    (world, nginx): (&World, &Nginx),
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
        killed.extend(storage.suffer(fault, world, nginx));
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
    (nginx, before): (&Nginx, &BTreeMap<i32, Usage>),
) -> BTreeMap<i32, Usage> {
    sleep(Duration::from_millis(1500));
    leaks::wait_for_workers(nginx, WORKERS);
    let mut client = Client::new(world.port);
    for browser in browsers {
        if let Err(problem) = browser.look_again(&mut client, world) {
            world.fail(browser.id(), u64::MAX, problem);
        }
    }
    drop(client);
    leaks::check(nginx, before).unwrap_or_else(|problem| {
        world.fail(usize::MAX, u64::MAX, problem);
        leaks::measure(nginx)
    })
}

impl fmt::Display for Plan {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { storage, seed, requests, browsers, faults, kinds } = self;
        write!(formatter, "make torture STORAGE={storage} SEED={seed} REQUESTS={requests}")?;
        write!(formatter, " BROWSERS={browsers} FAULTS={faults}")?;
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
