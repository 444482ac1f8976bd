//! Reading from replicas.

use std::time::Duration;

use resty_session_core::time::Seconds;
use resty_session_storages::{Lock, Update};
use resty_session_testing::now;
use resty_session_testing::redis_servers::Redis;
use serde_json::json;

use super::*;

fn with_replica() -> (Redis, Redis) {
    let master = Redis::start(&[]);
    let replica = Redis::start(&["--replicaof", "127.0.0.1", &master.port.to_string()]);
    wait_for("the replica", || replica.ask::<String>("INFO replication").contains("master_link_status:up"));
    (master, replica)
}

fn options(master: &Redis, replica: &Redis) -> serde_json::Value {
    let replicas = json!([{ "host": "127.0.0.1", "port": replica.port }]);
    json!({ "port": master.port, "replicas": replicas, "read_from": "replica", "connect_timeout": 500 })
}

/// Whoever has taken a lock sees what others have changed before.
async fn sees_all_under_a_lock(reader: &dyn Storage, writer: &dyn Storage, other: &Set) {
    assert_eq!(get(reader, &other.key).await.unwrap(), Some(other.key.clone()));
    writer.delete(&deletion(&other.key)).await.unwrap();
    assert_eq!(get(reader, &other.key).await.unwrap(), Some(other.key.clone()));
    let (name, key, holder) = (NAME.into(), unique("lock"), "me".into());
    assert_eq!(
        reader.lock(&Lock { name, key, holder, ttl: Duration::from_millis(1000), current_time: now() }).await,
        Ok(true)
    );
    assert_eq!(get(reader, &other.key).await.unwrap(), None);
}

#[test]
fn a_replica_is_read_from_and_the_master_knows_the_rest() {
    let (master, mut replica) = with_replica();
    run(async {
        let writer = alone(json!({ "port": master.port }));
        let reader = alone(options(&master, &replica));
        let [set, replaced, other] = ["k", "replaced", "other"].map(|key| record(&unique(key)));
        for set in [&set, &replaced, &other] {
            writer.set(set).await.unwrap();
        }
        wait_for_replica(&master, &replica);
        assert_eq!(get(&*reader, &set.key).await.unwrap(), Some(set.key.clone()));
        assert_eq!((calls(&replica, "get"), calls(&master, "get")), (1, 0));

        // The replica lags: what it does not have comes from the master.
        replica.ask::<()>("REPLICAOF 127.0.0.1 1");
        let new = record(&unique("k"));
        writer.set(&new).await.unwrap();
        assert_eq!(get(&*reader, &new.key).await.unwrap(), Some(new.key.clone()));
        assert_eq!((calls(&replica, "get"), calls(&master, "get")), (2, 1));
        let gets =
            [&set.key, "absent", &new.key].map(|key| Get { name: NAME.into(), key: key.into(), current_time: now() });
        let values = [Some(set.value.clone()), None, Some(new.value.clone())].map(Ok);
        assert_eq!(reader.get_each(&gets).await.unwrap(), values);

        // What this process has changed comes from the master too.
        let (name, key) = (NAME.into(), set.key.clone());
        let update = Update { name, key, value: b"updated".to_vec(), ttl: Seconds::from_secs(60), current_time: now() };
        assert_eq!(reader.update(&update).await, Ok(true));
        assert_eq!(get(&*reader, &set.key).await.unwrap(), Some("updated".into()));
        reader.delete(&deletion(&set.key)).await.unwrap();
        assert_eq!(get(&*reader, &set.key).await.unwrap(), None);
        let replacing = Set { stale_ttl: Seconds::ZERO, ..replacing(&replaced.key) };
        reader.set(&replacing).await.unwrap();
        assert_eq!(get(&*reader, &replaced.key).await.unwrap(), None);

        sees_all_under_a_lock(&*reader, &*writer, &other).await;

        replica.process.kill();
        for _ in 0..3 {
            assert_eq!(get(&*reader, &new.key).await.unwrap(), Some(new.key.clone()));
        }
    });
}

#[test]
fn a_replica_that_hangs_holds_up_one_read() {
    let (master, replica) = with_replica();
    run(async {
        let mut options = options(&master, &replica);
        options["read_timeout"] = 200.into();
        options["send_timeout"] = 200.into();
        let storage = alone(options);
        let set = record(&unique("k"));
        alone(json!({ "port": master.port })).set(&set).await.unwrap();
        wait_for_replica(&master, &replica);
        get(&*storage, &set.key).await.unwrap();
        replica.process.signal(nix::sys::signal::Signal::SIGSTOP);
        let start = std::time::Instant::now();
        for _ in 0..10 {
            assert_eq!(get(&*storage, &set.key).await.unwrap(), Some(set.key.clone()));
        }
        assert!(start.elapsed() < Duration::from_millis(400), "{:?}", start.elapsed());
    });
}
