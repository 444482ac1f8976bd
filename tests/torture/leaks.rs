//! What the workers hold, and what the log says of them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use resty_session_testing::server::{slowness, wait_for};
use resty_session_testing::usage::{self, Usage};
use serde_json::Value;

use super::client::Client;
use super::site::{Site, WORKERS};

/// How many descriptors a worker may have open in the end: its own, and the connections to the
/// storage.
const MAX_DESCRIPTORS: usize = 80;
/// By how much a worker may grow in the second half, in KiB: more under a tool, which keeps notes
/// on each piece of memory, and translates code when it first runs.
const MAX_GROWTH: u64 = 16 * 1024;

/// What each worker holds, by process id.
pub fn measure(site: &Site) -> BTreeMap<i32, Usage> {
    site.workers().into_iter().filter_map(|pid| Some((pid, usage::of(pid)?))).collect()
}

/// Checks that the workers have let everything go. Returns what they hold.
pub fn check(site: &Site, before: &BTreeMap<i32, Usage>) -> Result<BTreeMap<i32, Usage>, String> {
    wait_for_tickets(site)?;
    let after = measure(site);
    for (pid, usage) in &after {
        if usage.descriptors > MAX_DESCRIPTORS {
            return Err(format!("worker {pid} has {} descriptors open", usage.descriptors));
        }
        let Some(before) = before.get(pid) else { continue };
        if usage.threads > before.threads {
            return Err(format!("worker {pid} had {} threads, and has {}", before.threads, usage.threads));
        }
        if usage.memory > before.memory + MAX_GROWTH * u64::from(slowness()) {
            return Err(format!("worker {pid} had {} KiB, and has {}", before.memory, usage.memory));
        }
    }
    Ok(after)
}

/// Waits until nothing is in flight in any worker, and nobody waits.
fn wait_for_tickets(site: &Site) -> Result<(), String> {
    let deadline = Instant::now() + Duration::from_secs(20);
    let workers = site.workers();
    loop {
        let counts = counts(site);
        let busy: Vec<&Value> =
            counts.values().filter(|counts| counts["in_flight"] != 0 || counts["waiting"] != 0).collect();
        if busy.is_empty() && workers.iter().all(|worker| counts.contains_key(worker)) {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(format!("tickets are left, or a worker does not reply: {counts:?} of {workers:?}"));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What workers count, by process id.
fn counts(site: &Site) -> BTreeMap<i32, Value> {
    let ports = site.ports();
    let mut client = Client::new(&ports);
    let mut found = BTreeMap::new();
    for port in ports.into_iter().cycle().take(100) {
        let reply = client.send(port, "/counts", "", true).and_then(|sent| client.receive(sent));
        let Ok(response) = reply else { continue };
        if let Some(pid) = response.body["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()) {
            found.insert(pid, response.body);
        }
    }
    found
}

/// Checks that no worker has ended but those that were killed, and that the log has no alerts.
pub fn check_log(site: &Site, killed: &[i32]) -> Result<(), String> {
    let is_expected = |line: &str| {
        let of_killed = |pid: &i32| line.contains(&format!(" {pid} exited on signal 9"));
        killed.iter().any(of_killed)
    };
    let serious = ["[alert]", "[emerg]", "exited on signal", "panicked", "attempt to", "fatal"];
    let log = site.log();
    match log.lines().find(|line| serious.iter().any(|text| line.contains(text)) && !is_expected(line)) {
        Some(line) => Err(format!("the log says: {line}")),
        None => Ok(()),
    }
}

/// Waits until the workers from before a reload have left.
pub fn wait_for_workers(site: &Site) {
    wait_for("the last reload", || site.workers().len() == WORKERS * site.servers.len());
}
