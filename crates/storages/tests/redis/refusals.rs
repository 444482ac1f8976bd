//! Servers that refuse scripts, and records that do not expire.

use std::sync::Mutex;

use resty_session_core::time::Seconds;
use resty_session_storages::journal::{Journal, Level};
use resty_session_storages::{Sessions, Update};
use resty_session_testing::now;
use resty_session_testing::redis_servers::Redis;
use serde_json::json;

use super::*;

/// The lines that operators are told.
#[derive(Default)]
struct Lines(Mutex<Vec<String>>);

impl Journal for Lines {
    fn note(&self, _: Level, line: String) {
        self.0.lock().unwrap().push(line);
    }
}

/// Saves, and saves again over that, on a server that refuses the first script.
async fn no_save_fails(storage: &dyn Storage) {
    let first = record(&unique("first"));
    storage.set(&first).await.unwrap();
    let second = replacing(&first.key);
    storage.set(&second).await.unwrap();
    assert_eq!(get(storage, &second.key).await.unwrap(), Some(second.key.clone()));
    let ada = Sessions { name: NAME.into(), owner: ada(), current_time: now() };
    let sessions = storage.sessions(&ada).await.unwrap();
    assert_eq!(sessions.iter().map(|session| &session.key).collect::<Vec<_>>(), [&second.key]);
    storage.delete(&deletion(&second.key)).await.unwrap();
    let gone = replacing(&second.key);
    assert_eq!(storage.set(&gone).await, Err(Error::Gone));
    assert_eq!(get(storage, &gone.key).await.unwrap(), None);
    assert!(storage.sessions(&ada).await.unwrap().is_empty());
}

#[test]
fn a_user_without_the_right_to_run_scripts_can_save() {
    let server = Redis::start_for_plain_commands();
    run(async {
        let storage = alone(json!({ "port": server.port, "username": "plain", "password": "secret" }));
        no_save_fails(&*storage).await;
        let (name, key) = (NAME.into(), unique("none"));
        let update = Update { name, key, value: b"v".to_vec(), ttl: Seconds::from_secs(9), current_time: now() };
        assert_eq!(storage.update(&update).await, Ok(false));
    });
    let text: String = server.ask("INFO commandstats");
    let eval = text.lines().find(|line| line.starts_with("cmdstat_eval:")).unwrap();
    assert!(eval.contains("rejected_calls=1,"), "it is tried once: {eval}");
}

#[test]
fn a_server_that_knows_no_scripts_can_be_saved_to() {
    let server = Redis::start(&["--rename-command", "EVAL", ""]);
    run(async {
        no_save_fails(&*alone(json!({ "port": server.port }))).await;
    });
}

#[test]
fn a_cluster_of_one_shard_is_a_single_server() {
    let server = Redis::start_shard();
    run(async {
        let lines = Arc::new(Lines::default());
        let servers = Servers::new(lines.clone());
        for prefix in ["a", "b"] {
            no_save_fails(&*storage(&servers, json!({ "port": server.port, "prefix": prefix }))).await;
        }
        let told = lines.0.lock().unwrap().clone();
        assert!(matches!(&told[..], [line] if line.contains("it refuses scripts for several keys")), "{told:?}");
        let before = calls(&server, "eval");
        no_save_fails(&*alone(json!({ "port": server.port, "scripts": "none" }))).await;
        assert_eq!(calls(&server, "eval"), before);
    });
}

/// Reads three keys at once, twice, of which the second is not there.
async fn reads_three(options: serde_json::Value) {
    let storage = alone(options);
    let there = [record(&unique("there")), record(&unique("there"))];
    for set in &there {
        storage.set(&Set { owners: Vec::new(), ..set.clone() }).await.unwrap();
    }
    let keys = [&there[0].key, "absent", &there[1].key];
    let gets = keys.map(|key| Get { name: NAME.into(), key: key.into(), current_time: now() });
    let expected = [Ok(Some(there[0].value.clone())), Ok(None), Ok(Some(there[1].value.clone()))];
    for _ in 0..2 {
        assert_eq!(storage.get_each(&gets).await.unwrap(), expected);
    }
}

#[test]
fn several_keys_are_read_with_one_command_or_as_the_server_allows() {
    let servers = [
        (Redis::start(&[]), json!({}), (2, 0), Some(0)),
        (Redis::start_for_plain_commands(), json!({ "username": "plain", "password": "secret" }), (0, 6), Some(1)),
        (Redis::start(&["--rename-command", "MGET", ""]), json!({}), (0, 6), None),
        (Redis::start_shard(), json!({}), (0, 6), Some(1)),
    ];
    run(async {
        for (server, mut options, expected, refused) in servers {
            options["port"] = server.port.into();
            reads_three(options).await;
            assert_eq!((calls(&server, "mget"), calls(&server, "get")), expected);
            if let Some(refused) = refused {
                let text: String = server.ask("INFO commandstats");
                let mget = text.lines().find(|line| line.starts_with("cmdstat_mget:")).unwrap();
                assert!(mget.contains(&format!("rejected_calls={refused},")), "it is tried once: {mget}");
            }
        }
    });
}

#[test]
fn a_replaced_record_expires_even_if_it_never_would_have() {
    let server = Redis::start(&[]);
    run(async {
        for scripts in ["all", "single-key", "none"] {
            let storage = alone(json!({ "port": server.port, "scripts": scripts }));
            let endless = record(&unique("endless"));
            storage.set(&endless).await.unwrap();
            let name = format!("{NAME}:{}", endless.key);
            server.ask::<u8>(&format!("PERSIST {name}"));
            storage.set(&replacing(&endless.key)).await.unwrap();
            let left: i64 = server.ask(&format!("TTL {name}"));
            assert!((1..=10).contains(&left), "{scripts}: {left}");
        }
    });
}
