//! Sessions in Redis: what stands there, and what happens when it fails.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::faults::{Load, Spoil, id, open_records, recovery};
use super::http::Browser;
use super::specs;
use super::storages::{self, PATIENT, now, port_of};
use resty_session_testing::certificates::Authority;
use resty_session_testing::redis_servers::{Cluster, Group, Redis, Settings};
use resty_session_testing::server::{Nginx, Site, wait_for};

fn nginx(options: &str) -> Nginx {
    storages::nginx("redis", options)
}

#[test]
fn every_kind_of_redis_keeps_the_contract() {
    // As docs/storages.md says.
    const RIGHTS: &str = "+get +set +unlink +ttl +expire +eval +zadd +zrem +zremrangebyscore +zrangebyscore";
    let user: Vec<&str> = "--user sessions on >secret ~*".split(' ').chain(RIGHTS.split(' ')).collect();
    let (redis, group, cluster) = (Redis::start(&[]), Group::start(), Cluster::start());
    let limited = Redis::start(&user);
    let servers = format!("redis={}&limited={}", redis.port, limited.port);
    let arguments = format!("{servers}&sentinels={}&nodes={}", group.sentinel_ports(), cluster.ports());
    specs::run("redis_spec.lua", &arguments);
}

#[test]
fn records_are_those_of_the_reference() {
    let redis = Redis::start(&[]);
    let nginx = nginx(&port_of(&redis));
    let browser = Browser::new();
    assert_eq!(browser.get(nginx.url("/set?v=1")), "saved");
    let first = id(&browser);
    let record = format!("session:{first}");
    assert_eq!(redis.ask::<String>(&format!("TYPE {record}")), "string");
    assert!((3595..=3600).contains(&redis.ask::<i64>(&format!("TTL {record}"))));
    let value: String = redis.ask(&format!("GET {record}"));
    assert!(value.starts_with("[\"") && value.ends_with("\"]"));
    // base64url of "default" and "ada".
    let owner = "session:ZGVmYXVsdA:YWRh";
    assert_eq!(redis.ask::<String>(&format!("TYPE {owner}")), "zset");
    let members = |redis: &Redis| redis.ask::<Vec<(String, u64)>>(&format!("ZRANGE {owner} 0 -1 WITHSCORES"));
    let (key, expiry) = members(&redis).remove(0);
    assert_eq!(key, first);
    assert!((now() + 3595..=now() + 3600).contains(&expiry));
    assert!((3595..=3600).contains(&redis.ask::<i64>(&format!("TTL {owner}"))));

    assert_eq!(browser.get(nginx.url("/set?v=2")), "saved");
    let second = id(&browser);
    assert!((1..=10).contains(&redis.ask::<i64>(&format!("TTL {record}"))), "the old one for a while");
    let keys: Vec<String> = members(&redis).into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, std::slice::from_ref(&second));

    assert_eq!(browser.get(nginx.url("/destroy")), "destroyed");
    assert_eq!(redis.ask::<u8>(&format!("EXISTS session:{second} {owner}")), 0);
    assert_eq!(nginx.complaints(), [""; 0]);
}

#[test]
fn records_that_lua_resty_session_wrote_open() {
    let redis = Redis::start(&[]);
    open_records(&format!(r#"storage = "redis", redis = {{ port = {} }}"#, redis.port), |name, key, value| {
        redis::cmd("SET").arg(format!("{name}:{key}")).arg(value).exec(&mut redis.connect()).unwrap();
    });
}

/// Sends requests on one connection, a hundred at a time, whose answers each say `saved`.
fn ask(nginx: &Nginx, count: usize) {
    const BATCH: usize = 100;
    const REQUEST: &str = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut stream = TcpStream::connect(("127.0.0.1", nginx.port)).unwrap();
    for _ in 0..count / BATCH {
        stream.write_all(REQUEST.repeat(BATCH).as_bytes()).unwrap();
        let mut answers = Vec::new();
        while memchr::memmem::find_iter(&answers, b"saved").count() < BATCH {
            let mut bytes = [0; 1 << 16];
            let size = stream.read(&mut bytes).unwrap();
            assert!(size > 0, "{}", String::from_utf8_lossy(&answers));
            answers.extend_from_slice(&bytes[..size]);
        }
    }
}

#[test]
fn configuring_on_every_request_opens_no_connection_more() {
    const REQUESTS: usize = 100_000;
    const CLIENTS: usize = 4;
    let redis = Redis::start(&[]);
    let nginx = Nginx::start(&Site {
        server: &format!(
            r#"keepalive_requests 1000000;
            location / {{ content_by_lua_block {{
                local session = require("resty.session")
                session.init({{ secret = "x", storage = "redis", redis = {{ port = {0} }} }})
                local s = session.open({{ secret = "x", storage = "redis", redis = {{ port = {0}, prefix = "p" }} }})
                require("resty.session.redis").new({{ port = {0} }}):get("a", "b")
                local ok, err = s:save()
                ngx.say(ok and "saved" or err)
            }} }}"#,
            redis.port
        ),
        workers: 2,
        ..Site::default()
    });
    let mut clients = Vec::new();
    std::thread::scope(|scope| {
        let asking: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(|| ask(&nginx, REQUESTS / CLIENTS))).collect();
        while !asking.iter().all(|one| one.is_finished()) {
            clients.push(redis.clients());
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    clients.push(redis.clients());
    // Two storages a worker.
    assert!(clients.iter().all(|count| *count <= 4 + 1), "{clients:?}");
}

#[test]
fn a_unix_socket_a_database_and_a_password_will_do() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("redis.sock");
    let socket = socket.to_str().unwrap();
    let user = ["--user", "sessions", "on", ">secret", "~*", "&*", "+@all"];
    let redis = Redis::start(&[["--unixsocket", socket].as_slice(), &user].concat());
    let (_proxy, mut addresses) = storages::hosts(redis.port);
    addresses.push(format!(r#"host = "unix:{socket}", port = 1"#));
    storages::works_with("redis", addresses);
    storages::works_with(
        "redis",
        [
            format!(r#"socket = "unix:{socket}", database = 3, username = "sessions", password = "secret""#),
            format!(r#"port = {}, username = "sessions", password = "secret", prefix = "p", suffix = "s""#, redis.port),
        ],
    );
    let keys: Vec<String> = redis.ask("KEYS p:session:*:s");
    assert_eq!(keys.len(), 2);
    let wrong = nginx(&format!(r#"port = {}, username = "sessions", password = "wrong""#, redis.port));
    let answer = Browser::new().get(wrong.url("/set?v=1"));
    assert!(answer.contains("the server refuses the username or the password"), "{answer}");
}

#[test]
fn redis_may_hang() {
    storages::hangs("redis", &mut Redis::start(&[]));
}

#[test]
fn redis_may_refuse_and_start_again() {
    storages::refuses("redis", &mut Redis::start(&[]));
}

/// Ends the connections of all clients.
fn kill_clients(servers: &[Redis]) {
    for server in servers {
        server.ask::<u32>("CLIENT KILL TYPE normal");
    }
}

#[test]
fn redis_may_close_idle_connections() {
    let mut redis = Redis::start(&[]);
    {
        let timeout = || {
            redis.ask::<()>("CONFIG SET timeout 1");
            wait_for("the server's timeout", || redis.clients() == 0);
            redis.ask::<()>("CONFIG SET timeout 0");
        };
        let kill = || kill_clients(std::slice::from_ref(&redis));
        let mut closes: [storages::Close; 2] =
            [("killed", true, Box::new(kill)), ("idle too long", true, Box::new(timeout))];
        storages::outlives_closes(&nginx(&format!("{}, {PATIENT}", port_of(&redis))), &mut closes);
    }
    storages::outlives_cuts_and_restarts("redis", &mut redis);
}

#[test]
fn tls_is_verified_unless_the_program_says_not_to() {
    let authority = Authority::new();
    let tls = Some(authority.tls(&["redis.test", "::1"]));
    let redis = Redis::start_with(&Settings { tls, login: None }, &[]);
    storages::verifies_tls("redis", redis.port_for_clients(), &authority);
}

#[test]
fn redis_may_send_less_or_something_else() {
    storages::spoils("redis", &Redis::start(&[]), &[Spoil::Cut, Spoil::Garbage]);
}

#[test]
fn one_of_many_commands_that_fails_fails_alone() {
    let redis = Redis::start(&[]);
    let nginx = Nginx::start(&Site {
        server: &format!(
            r#"location / {{ content_by_lua_block {{
                local storage = require("resty.session.redis").new({{ port = {} }})
                local threads, answers = {{}}, {{}}
                for i = 1, 9 do
                    threads[i] = ngx.thread.spawn(function()
                        if i % 3 == 0 then
                            return storage:set("session", "s" .. i, "value", 60, ngx.time())
                        end
                        return storage:get("session", "k" .. i, ngx.time())
                    end)
                end
                for i = 1, 9 do
                    local _, value, err = ngx.thread.wait(threads[i])
                    answers[i] = tostring(value or err)
                end
                ngx.say(table.concat(answers, " "))
            }} }}"#,
            redis.port
        ),
        ..Site::default()
    });
    for key in [1, 2, 4, 5, 7] {
        redis.ask::<()>(&format!("SET session:k{key} v{key}"));
    }
    redis.ask::<()>("LPUSH session:k8 no text");
    for _ in 0..50 {
        let answer = Browser::new().get(nginx.url("/"));
        let (others, error) = answer.split_at("v1 v2 true v4 v5 true v7 ".len());
        assert_eq!(others, "v1 v2 true v4 v5 true v7 ");
        assert!(error.starts_with("WRONGTYPE ") && error.ends_with(" true"), "{answer}");
    }
    assert_eq!(redis.clients(), 1);
}

#[test]
fn a_full_or_read_only_server_says_so() {
    let redis = Redis::start(&[]);
    let nginx = nginx(&port_of(&redis));
    let browser = Browser::new();
    assert_eq!(browser.get(nginx.url("/set?v=1")), "saved");
    redis.ask::<()>("CONFIG SET maxmemory 1");
    let answer = browser.get(nginx.url("/set?v=2"));
    assert!(answer.starts_with("unable to store session data (OOM"), "{answer}");
    assert_eq!(browser.get(nginx.url("/get")), "1", "the old session is still good");
    redis.ask::<()>("CONFIG SET maxmemory 0");
    assert_eq!(browser.get(nginx.url("/set?v=2")), "saved");
    redis.ask::<()>("REPLICAOF 127.0.0.1 1");
    let answer = browser.get(nginx.url("/set?v=3"));
    assert!(answer.contains("READONLY"), "{answer}");
    assert_eq!(browser.get(nginx.url("/get")), "2");
    redis.ask::<()>("REPLICAOF NO ONE");
    assert_eq!(browser.get(nginx.url("/set?v=3")), "saved");
}

#[test]
fn phases_that_cannot_wait_say_so_and_a_timer_can() {
    let redis = Redis::start(&[]);
    let probe = format!(r#"require("resty.session.redis").new({{ port = {} }}):get("a", "b")"#, redis.port);
    let nginx = Nginx::start(&Site {
        http: &format!(
            r#"lua_shared_dict errors 1m;
               init_worker_by_lua_block {{ ngx.shared.errors:set("init_worker", tostring(select(2, {probe}))) }}"#
        ),
        init: &format!(r#"INIT_ERROR = select(2, {probe})"#),
        server: &format!(
            r#"location /phases {{
                header_filter_by_lua_block {{ ngx.shared.errors:set("header_filter", tostring(select(2, {probe}))) }}
                log_by_lua_block {{ ngx.shared.errors:set("log", tostring(select(2, {probe}))) }}
                content_by_lua_block {{ ngx.say("ok") }}
            }}
            location /timer {{ content_by_lua_block {{
                ngx.timer.at(0, function()
                    local value, err = {probe}
                    ngx.shared.errors:set("timer", tostring(value) .. " " .. tostring(err))
                end)
                ngx.sleep(0.3)
                ngx.say(ngx.shared.errors:get("timer"))
            }} }}
            location /errors {{ content_by_lua_block {{
                ngx.say(INIT_ERROR)
                for _, phase in ipairs {{ "init_worker", "header_filter", "log" }} do
                    ngx.say(ngx.shared.errors:get(phase))
                end
            }} }}"#
        ),
        ..Site::default()
    });
    let browser = Browser::new();
    assert_eq!(browser.get(nginx.url("/phases")), "ok");
    std::thread::sleep(Duration::from_millis(100));
    let expected = ["init", "init_worker", "header_filter", "log"]
        .map(|phase| format!("storages can't be waited for in the {phase} phase"));
    assert_eq!(browser.get(nginx.url("/errors")), expected.join("\n"));
    assert_eq!(browser.get(nginx.url("/timer")), "nil nil");
}

#[test]
fn functions_that_c_code_calls_cannot_wait_and_what_comes_after_can() {
    let redis = Redis::start(&[]);
    let server = format!(
        r#"location / {{ content_by_lua_block {{
            local storage = require("resty.session.redis").new({{ port = {} }})
            local sessions, said = require("resty.session"), nil
            local function get()
                local _, problem = storage:get("a", "b")
                local _, err = sessions.new({{ secret = "tests", storage = storage }}):save()
                said[#said + 1], said[#said + 2] = tostring(problem), tostring(err)
            end
            local function method() get() return 1 end
            local places = {{
                gsub = function() string.gsub("x", "x", get) end,
                sort = function() table.sort({{ 1, 2 }}, function(a, b) get() return a < b end) end,
                require = function() package.preload.odd, package.loaded.odd = get, nil require("odd") end,
                load = function() load(get) end,
                ["error handler"] = function() xpcall(function() local none = nil; none() end, get) end,
                finalizer = function()
                    getmetatable(newproxy(true)).__gc = get
                    collectgarbage() collectgarbage()
                end,
                callback = function()
                    require("ffi").cast("int(*)(int)", method)(1)
                end,
                ["metamethod is fine"] = function() return setmetatable({{}}, {{ __index = method }}).x end,
                ["iterator is fine"] = function() for _ in function() get() end do end end,
                ["pcall is fine"] = function() pcall(get) end,
                ["coroutine is fine"] = function() coroutine.wrap(get)() end,
                ["thread is fine"] = function() ngx.thread.wait(ngx.thread.spawn(get)) end,
            }}
            jit.off(true, true)
            local wrong = {{}}
            for name, place in pairs(places) do
                said = {{}}
                pcall(place)
                local refused = name:find("fine") and "nil" or "can't be waited for inside a function that C code calls"
                if #said ~= 2 or not said[1]:find(refused, 1, true) or not said[2]:find(refused, 1, true) then
                    wrong[#wrong + 1] = name .. ": " .. table.concat(said, ", ")
                end
                said = {{}}
                get()
                if said[1] ~= "nil" or said[2] ~= "nil" then
                    wrong[#wrong + 1] = "after " .. name .. ": " .. table.concat(said, ", ")
                end
            end
            ngx.say("end ", table.concat(wrong, "; "))
        }} }}"#,
        redis.port
    );
    let nginx = Nginx::start(&Site { init: r#"require "resty.session""#, server: &server, ..Site::default() });
    let browser = Browser::new();
    for _ in 0..3 {
        assert_eq!(browser.get(nginx.url("/")), "end");
    }
    assert_eq!(nginx.complaints(), [""; 0]);
}

/// An array of addresses, whose hosts are called as `host` says.
fn addresses(host: &str, ports: impl IntoIterator<Item = u16>) -> String {
    let address = |port| format!("{{ {host} = \"127.0.0.1\", port = {port} }}");
    format!("{{ {} }}", ports.into_iter().map(address).collect::<Vec<_>>().join(", "))
}

fn sentinels(ports: impl IntoIterator<Item = u16>) -> String {
    format!("master = \"sessions\", sentinels = {}", addresses("host", ports))
}

#[test]
fn sentinels_that_hang_keep_no_other_from_being_asked() {
    let group = Group::start();
    // Enough for a connection on a busy machine, once the third one has been asked.
    let nginx = nginx(&format!("{}, connect_timeout = 1500", sentinels(group.sentinels.iter().map(|one| one.port))));
    for hanging in &group.sentinels[..2] {
        hanging.process.signal(Signal::SIGSTOP);
    }
    let browser = Browser::new();
    assert_eq!(browser.get(nginx.url("/set?v=1")), "saved");
    assert_eq!(browser.get(nginx.url("/get")), "1");
}

#[test]
fn a_sentinel_that_hangs_does_not_hide_what_another_says() {
    let hanging = Redis::start(&[]);
    hanging.process.signal(Signal::SIGSTOP);
    const REFUSING: u16 = 1;
    for ports in [[hanging.port, REFUSING], [REFUSING, hanging.port]] {
        let nginx = nginx(&sentinels(ports));
        let answer = Browser::new().get(nginx.url("/set?v=1"));
        assert!(answer.starts_with("unable to store session data (") && answer.contains("refused"), "{answer}");
    }
}

/// Thirty browsers with a session each.
fn sign_in(nginx: &Nginx) -> Vec<Browser> {
    let browsers: Vec<Browser> = (0..30).map(|_| Browser::new()).collect();
    for browser in &browsers {
        assert_eq!(browser.get(nginx.url("/set?v=1")), "saved");
    }
    browsers
}

#[test]
fn a_sentinel_group_may_lose_its_master() {
    let mut group = Group::start();
    let options = sentinels(group.sentinels.iter().map(|one| one.port));
    let mut closes: [storages::Close; 1] = [("killed", true, Box::new(|| kill_clients(&group.servers)))];
    storages::outlives_closes(&nginx(&format!("{options}, {PATIENT}")), &mut closes);
    drop(closes);
    let (_proxy, hosts) = storages::hosts(group.sentinels[0].port);
    let asked = hosts.iter().map(|host| format!("master = \"sessions\", sentinels = {{ {{ {host} }} }}"));
    storages::works_with("redis", asked);
    let nginx = nginx(&options);
    let browsers = sign_in(&nginx);
    // What is replicated outlives the master.
    let replicas: u8 = group.servers[0].ask("WAIT 2 5000");
    assert_eq!(replicas, 2);
    let load = Load::start(&nginx, 4);
    std::thread::sleep(Duration::from_millis(300));
    let old = group.master();
    group.servers.iter_mut().find(|server| server.port == old).unwrap().process.kill();
    wait_for("a failover", || group.master() != old);
    let new = group.master();
    let promoted = group.servers.iter().find(|server| server.port == new).unwrap();
    wait_for("the new master", || promoted.ask::<String>("INFO replication").contains("role:master"));
    let took = recovery(&nginx);
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert!(browsers.iter().all(|browser| browser.get(nginx.url("/get")) == "1"));
    let problems = load.stop();
    assert!(!problems.is_empty(), "the master was never missed");
    assert!(!nginx.log().contains("exited on signal"));
}

fn nodes(cluster: &Cluster) -> String {
    format!("nodes = {}", addresses("ip", cluster.0.iter().map(|node| node.port)))
}

#[test]
fn a_cluster_may_be_resharded_meanwhile() {
    let cluster = Cluster::start();
    let half = || kill_clients(&cluster.0[..3]);
    let mut closes: [storages::Close; 2] =
        [("all killed", true, Box::new(|| kill_clients(&cluster.0))), ("half killed", true, Box::new(half))];
    storages::outlives_closes(&nginx(&format!("{}, {PATIENT}", nodes(&cluster))), &mut closes);
    let (_proxy, hosts) = storages::hosts(cluster.0[0].port);
    let known = hosts.iter().map(|host| format!("nodes = {{ {{ {} }} }}", host.replacen("host", "ip", 1)));
    storages::works_with("redis", known);
    let nginx = nginx(&nodes(&cluster));
    let load = Load::start(&nginx, 4);
    let id = |at: usize| cluster.0[at].ask::<String>("CLUSTER MYID");
    let node = format!("127.0.0.1:{}", cluster.0[0].port);
    for (from, to) in [(0, 1), (1, 2), (2, 0)] {
        wait_for("the nodes to agree", || {
            let check = std::process::Command::new("redis-cli").args(["--cluster", "check", &node]).output().unwrap();
            check.status.success()
        });
        let output = std::process::Command::new("redis-cli")
            .args(["--cluster", "reshard", &node])
            .args(["--cluster-from", &id(from), "--cluster-to", &id(to), "--cluster-slots", "1500", "--cluster-yes"])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
    assert_eq!(load.stop(), [""; 0]);
}

/// A master of the cluster falls silent; all sessions are back soon after its replica took over.
fn lose_a_master(signal: Signal) {
    let cluster = Cluster::start();
    let nginx = nginx(&nodes(&cluster));
    let browsers = sign_in(&nginx);
    for at in cluster.masters(None) {
        let _: u8 = cluster.0[at].ask("WAIT 1 5000");
    }
    let load = Load::start(&nginx, 4);
    let lost = cluster.masters(None)[1];
    cluster.0[lost].process.signal(signal);
    wait_for("a failover", || {
        let others = cluster.masters(Some(lost));
        let is_ok = |at: &usize| cluster.0[*at].ask::<String>("CLUSTER INFO").contains("cluster_state:ok");
        others.len() == 3 && others.iter().all(is_ok)
    });
    let start = Instant::now();
    for browser in &browsers {
        wait_for("every session", || browser.get(nginx.url("/get")) == "1");
    }
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    load.stop();
    assert!(!nginx.log().contains("exited on signal"));
}

#[test]
fn a_cluster_may_lose_a_master() {
    lose_a_master(Signal::SIGKILL);
}

#[test]
fn a_cluster_may_have_a_master_that_hangs() {
    lose_a_master(Signal::SIGSTOP);
}
