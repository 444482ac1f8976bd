//! Millions of requests, half of them for sessions in cookies and half for sessions in Redis: what
//! a worker holds in the end is what it held after the first 100,000. `make long REQUESTS=5000000`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod load;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use resty_session_testing::redis_servers::Redis;
use resty_session_testing::server::{Nginx, Site};
use resty_session_testing::usage::{self, Usage};

use load::{Load, PER_CONNECTION};

const WORKERS: usize = 2;
/// Threads that send requests, each on a connection.
const THREADS: usize = 16;
/// After how many requests what workers hold is what they must hold in the end.
const FIRST: u64 = 100_000;
/// After how many requests it is shown.
const STEP: u64 = 500_000;
/// By how much a worker may have grown, in KiB.
const MAX_GROWTH: u64 = 2048;

type Usages = BTreeMap<i32, Usage>;

fn start_nginx(redis: &Redis) -> Nginx {
    let init = format!("redis_port = {}\n{}", redis.port, include_str!("program.lua"));
    let server = format!(
        "keepalive_requests {PER_CONNECTION};
        location /act {{ content_by_lua_block {{ long.act() }} }}
        location /collect {{ content_by_lua_block {{ long.collect() }} }}"
    );
    Nginx::start(&Site { init: &init, server: &server, workers: WORKERS, ..Site::default() })
}

/// What the workers hold when nothing is under way and no garbage is left.
fn measure(nginx: &Nginx) -> Usages {
    sleep(Duration::from_millis(300));
    let mut found = BTreeMap::new();
    for _ in 0..1000 {
        let pid = ureq::get(nginx.url("/collect")).call().unwrap().body_mut().read_to_string().unwrap();
        found.insert(pid.parse::<i32>().unwrap(), ());
        if found.len() == WORKERS {
            break;
        }
    }
    sleep(Duration::from_millis(300));
    found.into_keys().map(|pid| (pid, usage::of(pid).unwrap())).collect()
}

/// Sends so many requests.
fn run(loads: &mut [Load], port: u16, requests: u64) {
    let share = requests.div_ceil(THREADS as u64);
    scope(|scope| {
        for load in loads {
            scope.spawn(move || load.run(port, share));
        }
    });
}

fn compare(first: &Usages, last: &Usages) -> Result<(), String> {
    if first.len() != WORKERS || first.keys().ne(last.keys()) {
        return Err("a worker has ended".to_owned());
    }
    for (first, (pid, last)) in first.values().zip(last) {
        if last.memory > first.memory + MAX_GROWTH {
            return Err(format!("worker {pid} has grown by {} KiB", last.memory - first.memory));
        }
        if (last.descriptors, last.threads) != (first.descriptors, first.threads) {
            return Err(format!("worker {pid} had {first:?}, and has {last:?}"));
        }
    }
    Ok(())
}

/// The cells of the workers in a row.
fn show(workers: &Usages) -> String {
    let show = |Usage { memory, descriptors, threads }: &Usage| {
        format!("{:.1}, {descriptors}, {threads}", *memory as f64 / 1024.0)
    };
    workers.values().map(show).collect::<Vec<_>>().join("; ")
}

fn main() -> ExitCode {
    let requests: u64 = std::env::var("REQUESTS").map_or(5_000_000, |text| text.parse().expect("REQUESTS"));
    assert!(requests > FIRST, "REQUESTS must be more than {FIRST}, after which the workers are first looked at");
    let redis = Redis::start(&[]);
    let nginx = start_nginx(&redis);
    let mut loads: Vec<Load> = (0..THREADS).map(Load::new).collect();
    let start = Instant::now();
    println!("| requests | seconds | of each worker: MiB, descriptors, threads |\n| --- | --- | --- |");
    let (mut sent, mut next, mut first) = (0, FIRST, None);
    let last = loop {
        run(&mut loads, nginx.port, next - sent);
        sent = next;
        let now = measure(&nginx);
        println!("| {sent} | {:.0} | {} |", start.elapsed().as_secs_f64(), show(&now));
        first.get_or_insert_with(|| now.clone());
        if sent == requests {
            break now;
        }
        next = (sent / STEP * STEP + STEP).min(requests);
    };
    let counts = loads.iter().fold(BTreeMap::new(), |mut all: BTreeMap<_, u64>, load| {
        load.counts().iter().for_each(|(act, count)| *all.entry(*act).or_default() += count);
        all
    });
    println!("{counts:?}");
    let complaints = nginx.complaints();
    let verdict = compare(&first.unwrap_or_default(), &last).and_then(|()| match complaints.first() {
        Some(line) => Err(format!("the log says: {line}")),
        None => Ok(()),
    });
    match verdict {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            println!("{problem}");
            ExitCode::FAILURE
        }
    }
}
