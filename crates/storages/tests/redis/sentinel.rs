//! Servers that Sentinels name, which speak TLS and want passwords.

use std::time::{Duration, Instant};

use resty_session_testing::certificates::Authority;
use resty_session_testing::proxy::Proxy;
use resty_session_testing::redis_servers::{Group, Settings};
use serde_json::json;

use super::*;

fn login(user: &str) -> Option<(String, String)> {
    Some((user.into(), format!("secret of {user}").replace(' ', "-")))
}

/// What a group's servers and Sentinels are reached with, but for the Sentinels' login.
fn options(group: &Group, authority: &Authority) -> serde_json::Value {
    let sentinels: Vec<_> = group
        .sentinels
        .iter()
        .map(|sentinel| json!({ "host": "127.0.0.1", "port": sentinel.port_for_clients() }))
        .collect();
    json!({
        "sentinels": sentinels, "master": "sessions", "username": "sessions", "password": "secret-of-sessions",
        "ssl": true, "ssl_ca": authority.ca(), "server_name": "redis.test",
    })
}

#[test]
fn sentinels_speak_tls_and_have_logins_of_their_own() {
    let authority = Authority::new();
    let tls = Some(authority.tls(&["redis.test"]));
    let servers = Settings { tls: tls.clone(), login: login("app") };
    let group = Group::start_with(&servers, &Settings { tls, login: login("watch") });
    // As docs/storages.md says.
    for sentinel in &group.sentinels {
        let rights = "-@all +sentinel|get-master-addr-by-name +sentinel|slaves";
        sentinel.ask::<()>(&format!("ACL SETUSER asks on >secret-of-asks {rights}"));
    }
    for server in &group.servers {
        let rights = "-@all +role +get +set +expire +eval +ttl +zadd +zrem +zremrangebyscore";
        server.ask::<()>(&format!("ACL SETUSER sessions on >secret-of-sessions ~* {rights}"));
    }
    run(use_logins(&group, options(&group, &authority)));
}

async fn use_logins(group: &Group, options: serde_json::Value) {
    let mut shared = options.clone();
    shared["sentinel_username"] = "asks".into();
    shared["sentinel_password"] = "secret-of-asks".into();
    let set = record(&unique("k"));
    alone(shared.clone()).set(&set).await.unwrap();
    group.servers[1..].iter().for_each(|replica| wait_for_replica(&group.servers[0], replica));

    let mut own = options;
    for sentinel in own["sentinels"].as_array_mut().unwrap() {
        sentinel["username"] = "asks".into();
        sentinel["password"] = "secret-of-asks".into();
    }
    own["role"] = "slave".into();
    let replica = alone(own.clone());
    assert_eq!(get(&*replica, &set.key).await.unwrap(), Some(set.key.clone()));
    assert!(replica.set(&record(&unique("k"))).await.unwrap_err().to_string().contains("READONLY"));

    own["role"] = "master".into();
    own["read_from"] = "replica".into();
    let before: u64 = group.servers[1..].iter().map(|server| calls(server, "get")).sum();
    assert_eq!(get(&*alone(own), &set.key).await.unwrap(), Some(set.key.clone()));
    assert_eq!(group.servers[1..].iter().map(|server| calls(server, "get")).sum::<u64>(), before + 1);

    shared["server_name"] = "another.test".into();
    let error = alone(shared.clone()).set(&set).await.unwrap_err().to_string();
    assert!(error.contains("certificate"), "{error}");
    shared["server_name"] = "redis.test".into();
    shared["sentinel_password"] = "wrong".into();
    let error = alone(shared).set(&set).await.unwrap_err().to_string();
    assert!(error.contains("the server refuses the username or the password"), "{error}");
}

#[test]
fn a_slow_sentinel_has_the_whole_time_for_connecting() {
    let group = Group::start();
    let proxy = Proxy::start(group.sentinels[0].port);
    proxy.set(|behaviour| behaviour.to_client.delay = Duration::from_millis(600));
    run(async {
        let sentinels = json!([{ "host": "127.0.0.1", "port": proxy.port }]);
        let storage =
            alone(json!({ "sentinels": sentinels, "master": "sessions", "connect_timeout": 10000, "pool": "slow" }));
        let start = Instant::now();
        storage.set(&record(&unique("k"))).await.unwrap();
        assert!(start.elapsed() > Duration::from_millis(600));
        // The connection stays.
        let start = Instant::now();
        storage.set(&record(&unique("k"))).await.unwrap();
        assert!(start.elapsed() < Duration::from_millis(100), "{:?}", start.elapsed());
    });
}
