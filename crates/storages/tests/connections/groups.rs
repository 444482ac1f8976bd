//! Servers that belong together: a Sentinel group, and a Cluster.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use nix::sys::signal::Signal;
use resty_session_storages::Storage;
use resty_session_storages::connections::Servers;
use resty_session_testing::redis_servers::{Cluster, Group, Redis};
use resty_session_testing::server::Server as _;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::Report;
use super::faults::{all_fail_at_once, works_soon};
use super::subjects::{RESPONSE, get, redis, set, timeouts, with};

/// Where programs find servers.
fn addresses<'a>(servers: impl IntoIterator<Item = &'a Redis>) -> Vec<Value> {
    servers.into_iter().map(|server| json!({ "host": "127.0.0.1", "port": server.port })).collect()
}

pub fn check_sentinels(report: &mut Report) {
    let group = Group::start();
    let options = json!({ "master": "sessions", "sentinels": addresses(&group.sentinels) });
    let options = with(timeouts(), options);
    report.check("idle connections are closed", closed_while_idle(&group.servers, &options));
    report.check("a thousand tenants", a_thousand_tenants(&group.servers, &options));
    report.check("the master hangs", a_master_hangs(&group, &options));
    report.check("the master changes", the_master_changes(&group, &options));
}

pub fn check_cluster(report: &mut Report) {
    let cluster = Cluster::start();
    let options = with(timeouts(), json!({ "nodes": addresses(&cluster.0[..3]) }));
    report.check("idle connections are closed", closed_while_idle(&cluster.0, &options));
    report.check("a thousand tenants", a_thousand_tenants(&cluster.0, &options));
}

/// Operations on many keys, and so on all nodes.
async fn failures(storage: &dyn Storage) -> Vec<String> {
    let results = join_all((0..40).map(|_| set(storage))).await;
    results.into_iter().filter_map(Result::err).map(|error| error.to_string()).collect()
}

async fn closed_while_idle(servers: &[Redis], options: &Value) {
    let storage = redis(&Servers::default(), options.clone());
    for pause in [0, 50, 50] {
        assert_eq!(failures(&*storage).await, [""; 0], "{pause} ms later");
        for server in servers {
            server.ask::<u32>("CLIENT KILL TYPE normal");
        }
        sleep(Duration::from_millis(pause)).await;
    }
}

/// Each server has one connection, and a few for asking where the slots are.
async fn a_thousand_tenants(nodes: &[Redis], options: &Value) {
    let servers = Servers::default();
    let tenant = |number| redis(&servers, with(options.clone(), json!({ "suffix": number })));
    let tenants: Vec<_> = (0..1000).map(|number| tenant(format!("{number}"))).collect();
    let received = || nodes.iter().map(connections).collect::<Vec<_>>();
    let before = received();
    for some in tenants.chunks(100) {
        let results = join_all(some.iter().map(|storage| set(&**storage))).await;
        assert!(results.iter().all(Result::is_ok), "{results:?}");
    }
    // The second question counts itself.
    let made: Vec<u64> = received().iter().zip(before).map(|(after, before)| after - before - 1).collect();
    assert!(made.iter().all(|made| *made <= 4) && made.iter().sum::<u64>() >= 1, "{made:?}");
}

/// How many connections a server has accepted.
fn connections(server: &Redis) -> u64 {
    let stats: String = server.ask("INFO stats");
    let count = stats.lines().find_map(|line| line.strip_prefix("total_connections_received:"));
    count.unwrap().parse().unwrap()
}

/// For less time than the sentinels take to notice.
async fn a_master_hangs(group: &Group, options: &Value) {
    let storage = redis(&Servers::default(), options.clone());
    works_soon(&*storage).await;
    let master = group.master_server();
    master.signal(Signal::SIGSTOP);
    let start = Instant::now();
    let (first, took) = (get(&*storage).await, start.elapsed());
    assert!(first.is_err() && took < Duration::from_millis(2 * RESPONSE), "{first:?} after {took:?}");
    all_fail_at_once(&*storage, Duration::from_millis(200)).await;
    master.signal(Signal::SIGCONT);
    works_soon(&*storage).await;
}

/// The old master takes no more writes, and the new one is found by itself.
async fn the_master_changes(group: &Group, options: &Value) {
    let storage = redis(&Servers::default(), options.clone());
    set(&*storage).await.unwrap();
    group.fail_over();
    let start = Instant::now();
    while let Err(error) = set(&*storage).await {
        assert!(start.elapsed() < Duration::from_secs(2), "{error}");
        sleep(Duration::from_millis(5)).await;
    }
}
