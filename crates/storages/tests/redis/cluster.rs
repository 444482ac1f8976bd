//! A Cluster whose slots move, and of which one node hangs.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use nix::sys::signal::Signal;
use resty_session_core::storage::Sessions;
use resty_session_testing::now;
use resty_session_testing::redis_servers::Redis;
use resty_session_testing::server::free_port;
use serde_json::json;
use tokio::time::sleep;

use super::*;

/// Two masters, each with half of the slots, and a replica of the first.
fn start() -> [Redis; 3] {
    const CONFIGURATION: &str = "--cluster-enabled yes --cluster-node-timeout 3000 --repl-ping-replica-period 1";
    let node = || Redis::start(&CONFIGURATION.split(' ').collect::<Vec<_>>());
    let nodes = [node(), node(), node()];
    nodes[0].ask::<()>("CLUSTER ADDSLOTSRANGE 0 8191");
    nodes[1].ask::<()>("CLUSTER ADDSLOTSRANGE 8192 16383");
    for (at, other) in nodes[1..].iter().enumerate() {
        other.ask::<()>(&format!("CLUSTER SET-CONFIG-EPOCH {}", at + 2));
        for node in &nodes[..=at] {
            node.ask::<()>(&format!("CLUSTER MEET 127.0.0.1 {}", other.port));
        }
    }
    let knows_all = |node: &Redis| node.ask::<String>("CLUSTER INFO").contains("cluster_known_nodes:3");
    wait_for("the nodes to meet", || nodes.iter().all(knows_all));
    let is_ok = |node: &Redis| node.ask::<String>("CLUSTER INFO").contains("cluster_state:ok");
    wait_for("the cluster", || nodes.iter().all(is_ok));
    nodes[2].ask::<()>(&format!("CLUSTER REPLICATE {}", id(&nodes[0])));
    wait_for("the replica", || nodes[2].ask::<String>("INFO replication").contains("master_link_status:up"));
    let lists_it = |node: &Redis| {
        let slots: Vec<Vec<redis::Value>> = node.ask("CLUSTER SLOTS");
        slots.iter().map(Vec::len).max() == Some(4)
    };
    wait_for("the replica to be known", || nodes.iter().all(lists_it));
    nodes
}

fn id(node: &Redis) -> String {
    node.ask("CLUSTER MYID")
}

fn options(nodes: &[Redis]) -> serde_json::Value {
    let nodes: Vec<_> = nodes.iter().map(|node| json!({ "ip": "127.0.0.1", "port": node.port })).collect();
    json!({
        "nodes": nodes, "read_timeout": 500, "send_timeout": 500, "connect_timeout": 1000,
        "username": "sessions", "password": "secret",
    })
}

/// What a user in a Cluster must be allowed to do, as docs/storages.md says.
const RIGHTS: &str = "+get +set +unlink +ttl +expire +eval +zadd +zrem +zremrangebyscore +zrangebyscore \
                      +cluster|slots +asking +readonly";

/// A key whose record lies on the first node, or on the second.
fn key_on(node: &Redis, is_first: bool) -> String {
    loop {
        let key = unique("k");
        if (node.ask::<u16>(&format!("CLUSTER KEYSLOT {NAME}:{key}")) < 8192) == is_first {
            return key;
        }
    }
}

#[test]
fn a_cluster_moves_slots_and_has_a_node_that_hangs() {
    let nodes = start();
    for node in &nodes {
        node.ask::<()>(&format!("ACL SETUSER sessions on >secret ~* -@all {RIGHTS}"));
    }
    run(async {
        follows_slots(&nodes).await;
        reads_from_replicas(&nodes).await;
        one_node_hangs_alone(&nodes).await;
        a_record_that_lives_on_is_listed(&nodes).await;
    });
}

async fn follows_slots(nodes: &[Redis; 3]) {
    let [from, to, _] = nodes;
    let storage = alone(options(&nodes[..1]));
    let key = key_on(from, true);
    let slot: u16 = from.ask(&format!("CLUSTER KEYSLOT {NAME}:{key}"));
    get(&*storage, &key).await.unwrap();
    to.ask::<()>(&format!("CLUSTER SETSLOT {slot} IMPORTING {}", id(from)));
    from.ask::<()>(&format!("CLUSTER SETSLOT {slot} MIGRATING {}", id(to)));
    // The first node asks the sender to ask the second one.
    storage.set(&Set { owners: Vec::new(), ..record(&key) }).await.unwrap();
    assert_eq!(calls(to, "asking"), 1, "it follows");
    assert_eq!(get(&*storage, &key).await.unwrap(), Some(key.clone()));
    for node in [to, from] {
        node.ask::<()>(&format!("CLUSTER SETSLOT {slot} NODE {}", id(to)));
    }
    for _ in 0..3 {
        assert_eq!(get(&*storage, &key).await.unwrap(), Some(key.clone()));
    }
    let errors: String = from.ask("INFO errorstats");
    assert!(errors.contains("errorstat_MOVED:count=1\r"), "it is remembered: {errors}");
}

async fn reads_from_replicas(nodes: &[Redis; 3]) {
    let mut options = options(&nodes[..1]);
    let writer = alone(options.clone());
    options["read_from"] = "replica".into();
    let storage = alone(options);
    let key = key_on(&nodes[0], true);
    writer.set(&Set { owners: Vec::new(), ..record(&key) }).await.unwrap();
    wait_for_replica(&nodes[0], &nodes[2]);
    let before = [calls(&nodes[0], "get"), calls(&nodes[2], "get")];
    // The first read learns the slots.
    get(&*storage, &key).await.unwrap();
    for _ in 0..3 {
        assert_eq!(get(&*storage, &key).await.unwrap(), Some(key.clone()));
    }
    assert_eq!(calls(&nodes[2], "get") - before[1], 3);
    assert_eq!(calls(&nodes[0], "get") - before[0], 1);
    storage.delete(&Delete { owners: Vec::new(), ..deletion(&key) }).await.unwrap();
    assert_eq!(get(&*storage, &key).await.unwrap(), None);
}

async fn one_node_hangs_alone(nodes: &[Redis; 3]) {
    let storage = alone(options(&nodes[..2]));
    let (good, hanging) = (key_on(&nodes[0], true), key_on(&nodes[0], false));
    storage.set(&Set { owners: Vec::new(), ..record(&good) }).await.unwrap();
    join_all([get(&*storage, &good), get(&*storage, &hanging)]).await;
    nodes[1].process.signal(Signal::SIGSTOP);
    let start = Instant::now();
    let (mut slowest, mut count) = (Duration::ZERO, 0);
    let hangs = async {
        let error = get(&*storage, &hanging).await.unwrap_err();
        assert_eq!(error, Error::Timeout);
        assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
        let after = Instant::now();
        let error = get(&*storage, &hanging).await.unwrap_err();
        assert!(matches!(error, Error::Unavailable(_)) && after.elapsed() < Duration::from_millis(50), "{error}");
        // What the other node has is read all the same: it may be the mark of a session that was
        // revoked.
        let gets = [&good, &hanging].map(|key| Get { name: NAME.into(), key: key.clone(), current_time: now() });
        let found = storage.get_each(&gets).await.unwrap();
        assert!(matches!(found[..], [Ok(Some(_)), Err(Error::Unavailable(_))]), "{found:?}");
    };
    let goes_on = async {
        while start.elapsed() < Duration::from_secs(1) {
            let begin = Instant::now();
            get(&*storage, &good).await.unwrap();
            slowest = slowest.max(begin.elapsed());
            count += 1;
        }
    };
    futures_util::join!(hangs, goes_on);
    nodes[1].process.signal(Signal::SIGCONT);
    assert!(slowest < Duration::from_millis(400) && count > 100, "{slowest:?} {count}");
}

/// Otherwise nobody could end the session, which the browser still has.
async fn a_record_that_lives_on_is_listed(nodes: &[Redis; 3]) {
    let storage = alone(options(&nodes[..2]));
    let listed = (0..).map(|number| Owner::new(b"shop", format!("u{number}").as_bytes(), false)).find(|owner| {
        let name = format!("{NAME}:{}:{}", owner.audience, owner.subject);
        nodes[0].ask::<u16>(&format!("CLUSTER KEYSLOT {name}")) < 8192
    });
    let owners = vec![listed.unwrap()];
    let old = Set { owners: owners.clone(), ..record(&key_on(&nodes[0], false)) };
    storage.set(&old).await.unwrap();
    nodes[1].process.signal(Signal::SIGSTOP);
    let new = Set { old_key: Some(old.key.clone()), owners: owners.clone(), ..record(&key_on(&nodes[0], true)) };
    assert!(storage.set(&new).await.is_err());
    nodes[1].process.signal(Signal::SIGCONT);
    let sessions = Sessions { name: NAME.into(), owner: owners[0].clone(), current_time: now() };
    let listed = storage.sessions(&sessions).await.unwrap();
    assert!(listed.iter().any(|session| session.key == old.key));
    assert_eq!(get(&*alone(options(&nodes[..2])), &old.key).await.unwrap(), Some(old.key.clone()));
}

#[test]
fn while_no_node_can_be_reached_operations_fail_at_once() {
    let nodes = json!([{ "ip": "127.0.0.1", "port": free_port() }]);
    run(async {
        let storage = alone(json!({ "nodes": nodes }));
        assert!(get(&*storage, "k").await.is_err());
        let (start, mut count) = (Instant::now(), 0);
        while start.elapsed() < Duration::from_millis(500) {
            let error = get(&*storage, "k").await.unwrap_err().to_string();
            assert!(error.contains("refused"), "{error}");
            count += 1;
            sleep(Duration::from_millis(5)).await;
        }
        // If each waited for the next question for the slots, it would be four.
        assert!(count > 10, "{count}");
    });
}
