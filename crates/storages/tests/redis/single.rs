//! One server that closes connections, refuses, hangs, and comes back.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use nix::sys::signal::Signal;
use resty_session_testing::proxy::{Accept, Cut, Proxy};
use resty_session_testing::redis_servers::Redis;
use serde_json::json;
use tokio::time::sleep;

use super::*;

#[test]
fn a_connection_that_was_closed_while_idle_costs_no_operation() {
    let server = Redis::start(&[]);
    run(async {
        let storage = alone(json!({ "port": server.port }));
        get(&*storage, "k").await.unwrap();
        for _ in 0..3 {
            let clients = server.clients();
            server.ask::<u32>("CLIENT KILL TYPE normal");
            assert!(clients >= 1);
            // The runtime hears of it. Without this, the operation is repeated.
            sleep(Duration::from_millis(20)).await;
            let results = join_all((0..40).map(|_| get(&*storage, "k"))).await;
            assert!(results.iter().all(|result| *result == Ok(None)), "{results:?}");
        }
    });
}

#[test]
fn storages_with_other_names_share_a_connection() {
    let server = Redis::start(&[]);
    run(async {
        let servers = Servers::default();
        let storages: Vec<_> =
            (0..200).map(|at| storage(&servers, json!({ "port": server.port, "prefix": format!("p{at}") }))).collect();
        let results = join_all(storages.iter().map(|storage| get(&**storage, "k"))).await;
        assert!(results.iter().all(Result::is_ok));
        assert_eq!(server.clients(), 1);
        let another = storage(&servers, json!({ "port": server.port, "pool": "another" }));
        get(&*another, "k").await.unwrap();
        assert_eq!(server.clients(), 2);
    });
}

#[test]
fn a_server_with_too_many_connections_says_so() {
    let server = Redis::start(&[]);
    let mut only = server.connect();
    redis::cmd("CONFIG").arg(&["SET", "maxclients", "1"]).exec(&mut only).unwrap();
    run(async {
        for _ in 0..20 {
            let error = get(&*alone(json!({ "port": server.port })), "k").await.unwrap_err().to_string();
            assert_eq!(error, "unable to connect: ERR max number of clients reached");
        }
        let storage = alone(json!({ "port": server.port, "password": "hush", "database": 1 }));
        let error = get(&*storage, "k").await.unwrap_err();
        assert!(matches!(&error, Error::Connect(cause) if cause.to_string().starts_with("ERR max ")), "{error}");
        let storage = alone(json!({ "port": server.port }));
        get(&*storage, "k").await.unwrap_err();
        drop(only);
        let start = Instant::now();
        while get(&*storage, "k").await.is_err() {
            assert!(start.elapsed() < Duration::from_secs(1), "it is not found again");
            sleep(Duration::from_millis(10)).await;
        }
    });
}

#[test]
fn a_password_is_refused_by_those_who_know_it() {
    let server = Redis::start(&["--requirepass", "secret"]);
    let ignorant = Redis::start(&["--rename-command", "AUTH", ""]);
    run(async {
        let ask = async |port: u16, more: serde_json::Value| {
            let mut options = json!({ "port": port });
            options.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            get(&*alone(options), "k").await
        };
        let refused = Error::SignIn("the server refuses the username or the password".into());
        for more in [json!({ "password": "hush" }), json!({ "username": "ada", "password": "hush", "database": 2 })] {
            assert_eq!(ask(server.port, more.clone()).await, Err(refused.clone()));
            let error = ask(ignorant.port, more).await.unwrap_err();
            assert_eq!(error.to_string(), "unable to connect: ERR unknown command 'AUTH'");
            assert!(matches!(error, Error::Connect(_)));
        }
        assert!(matches!(ask(server.port, json!({})).await, Err(Error::SignIn(_))));
        assert_eq!(ask(server.port, json!({ "password": "secret", "database": 2 })).await, Ok(None));
        let error = ask(server.port, json!({ "password": "secret", "database": 99 })).await.unwrap_err();
        assert_eq!(error.to_string(), "unable to connect: ERR DB index is out of range");
    });
}

#[test]
fn a_demoted_master_says_why_it_refuses() {
    let server = Redis::start(&[]);
    run(async {
        let storage = alone(json!({ "port": server.port }));
        let set = record(&unique("k"));
        storage.set(&set).await.unwrap();
        server.ask::<()>("REPLICAOF 127.0.0.1 1");
        let before = info(&server, "stats", "total_connections_received");
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(900) {
            let error = storage.delete(&deletion(&set.key)).await.unwrap_err().to_string();
            assert!(error.starts_with("READONLY "), "{error}");
            let error = storage.set(&replacing(&set.key)).await.unwrap_err().to_string();
            assert!(error.contains("READONLY"), "{error}");
        }
        let connected = info(&server, "stats", "total_connections_received") - before;
        // One of them is this question's.
        assert!((2..=4).contains(&connected), "{connected}");
        server.ask::<()>("REPLICAOF NO ONE");
        storage.delete(&deletion(&set.key)).await.unwrap();
    });
}

#[test]
fn a_proxy_whose_server_is_gone_gets_no_storm() {
    let server = Redis::start(&[]);
    let proxy = Proxy::start(server.port);
    run(async {
        let storage = alone(json!({ "port": proxy.port }));
        get(&*storage, "k").await.unwrap();
        proxy.set(|behaviour| behaviour.accept = Accept::Cut(Cut::Finished));
        proxy.cut(Cut::Finished);
        proxy.forget();
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(1500) {
            assert!(get(&*storage, "k").await.is_err());
            sleep(Duration::from_millis(1)).await;
        }
        assert!((2..=3).contains(&proxy.most_in_a_second()), "{}", proxy.most_in_a_second());
        proxy.pass();
        let start = Instant::now();
        while get(&*storage, "k").await.is_err() {
            assert!(start.elapsed() < Duration::from_secs(1), "it is not found again");
            sleep(Duration::from_millis(10)).await;
        }
    });
}

#[test]
fn a_server_without_enough_replicas_is_read_from() {
    let server = Redis::start(&[]);
    run(async {
        let storage = alone(json!({ "port": server.port }));
        let set = record(&unique("k"));
        storage.set(&set).await.unwrap();
        server.ask::<()>("CONFIG SET min-replicas-to-write 1");
        let before = info(&server, "stats", "total_connections_received");
        for _ in 0..200 {
            let error = storage.set(&replacing(&set.key)).await.unwrap_err().to_string();
            assert!(error.starts_with("NOREPLICAS "), "{error}");
            assert_eq!(get(&*storage, &set.key).await.unwrap(), Some(set.key.clone()));
        }
        let connected = info(&server, "stats", "total_connections_received") - before;
        assert!((1..=4).contains(&connected), "{connected}");
    });
}

#[test]
fn while_a_server_hangs_operations_fail_at_once() {
    let server = Redis::start(&[]);
    run(async {
        let storage = alone(json!({ "port": server.port, "read_timeout": 200, "send_timeout": 200 }));
        get(&*storage, "k").await.unwrap();
        server.process.signal(Signal::SIGSTOP);
        assert_eq!(get(&*storage, "k").await, Err(Error::Timeout));
        let start = Instant::now();
        for _ in 0..20 {
            let error = get(&*storage, "k").await.unwrap_err();
            assert!(matches!(error, Error::Unavailable(_)), "{error}");
        }
        assert!(start.elapsed() < Duration::from_millis(50), "{:?}", start.elapsed());
        sleep(Duration::from_millis(300)).await;
        server.process.signal(Signal::SIGCONT);
        let start = Instant::now();
        while get(&*storage, "k").await.is_err() {
            assert!(start.elapsed() < Duration::from_secs(1), "it is not found again");
            sleep(Duration::from_millis(10)).await;
        }
    });
}

#[test]
fn a_server_that_loads_its_data_counts_as_failing() {
    let mut server = Redis::start(&["--key-load-delay", "5000", "--loading-process-events-interval-bytes", "1024"]);
    for at in 0..200 {
        server.ask::<()>(&format!("SET k{at} {}", "v".repeat(1000)));
    }
    server.ask::<()>("SAVE");
    run(async {
        let storage = alone(json!({ "port": server.port }));
        get(&*storage, "k").await.unwrap();
        server.process.kill();
        server.process.start_again();
        let mut errors = Vec::new();
        let start = Instant::now();
        while let Err(error) = get(&*storage, "k").await {
            assert!(start.elapsed() < Duration::from_secs(5), "{errors:?}");
            errors.push(error);
            sleep(Duration::from_millis(10)).await;
        }
        let says_so = |error: &Error| matches!(error, Error::Unavailable(_)) && error.to_string().contains("LOADING");
        assert!(errors.iter().any(says_so), "{errors:?}");
    });
    wait_for("the data", || server.ask::<u32>("DBSIZE") == 200);
}
