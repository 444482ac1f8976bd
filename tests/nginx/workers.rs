//! What workers share, and must not.

use std::collections::HashSet;

use super::faults::note_with_two_workers;
use resty_session_testing::server::{Nginx, Site, wait_for};

/// The module is loaded, and a session made, in the master: nothing of it may be repeated by the
/// workers that are forked.
#[test]
fn workers_forked_after_init_never_repeat_a_session_id() {
    let nginx = Nginx::start(&Site {
        init: r#"
            local session = require("resty.session")
            session.init({ secret = "workers" })
            session.__set_ngx_header({})
            assert(session.new():save())
            session.__set_ngx_header(ngx.header)
        "#,
        server: r#"
            location /ids { content_by_lua_block {
                local session = require("resty.session")
                session.__set_ngx_header({})
                local ids = {}
                for i = 1, 10000 do
                    local s = session.new()
                    assert(s:save())
                    ids[i] = s:get_property("id")
                end
                ngx.say(ngx.worker.pid(), "\n", table.concat(ids, "\n"))
            } }
        "#,
        workers: 2,
        ..Site::default()
    });
    let (mut pids, mut ids) = (HashSet::new(), HashSet::new());
    // Each request on a connection of its own, at the same time: both workers take part.
    std::thread::scope(|scope| {
        let requests: Vec<_> = (0..40)
            .map(|_| scope.spawn(|| ureq::get(nginx.url("/ids")).call().unwrap().body_mut().read_to_string().unwrap()))
            .collect();
        let mut count = 0;
        for request in requests {
            let answer = request.join().unwrap();
            let mut lines = answer.lines();
            pids.insert(lines.next().unwrap().to_owned());
            for id in lines {
                count += 1;
                assert!(ids.insert(id.to_owned()), "{id} twice");
            }
        }
        assert!(count >= 100_000);
    });
    assert_eq!(pids.len(), 2, "one worker did all the work");
    assert_eq!(nginx.complaints(), [""; 0]);
}

/// Loading the library is no use of it, and what the master says while it starts does not silence
/// the workers.
#[test]
fn each_worker_says_once_that_there_is_no_secret() {
    let count = |nginx: &Nginx| nginx.log().matches("no secret is configured").count();
    for (init, before) in [("init()", 0), ("init() require('resty.session').new()", 1)] {
        let nginx = Nginx::start(&Site {
            init: &format!("require('resty.session').{init}"),
            server: r#"
                location /open { content_by_lua_block {
                    require("resty.session").init()
                    require("resty.session").open({ cookie_name = "a", idel_timeout = 900 })
                    require("resty.session").open({ idel_timeout = 800 })
                    ngx.sleep(0.05)
                    ngx.print(ngx.worker.pid())
                } }
            "#,
            workers: 2,
            ..Site::default()
        });
        assert_eq!(count(&nginx), before);
        let open = || ureq::get(nginx.url("/open")).call().unwrap().body_mut().read_to_string().unwrap();
        let mut pids = HashSet::new();
        wait_for("both workers to take part", || {
            pids.extend(std::thread::scope(|scope| {
                let requests: Vec<_> = (0..40).map(|_| scope.spawn(open)).collect();
                requests.into_iter().map(|request| request.join().unwrap()).collect::<Vec<String>>()
            }));
            pids.len() == 2
        });
        assert_eq!(count(&nginx), before + 2);
        assert_eq!(nginx.log().matches("unknown option \"idel_timeout\"").count(), 2);
    }
}

/// A Lua VM for each request: slower, but right.
#[test]
fn the_code_cache_may_be_off() {
    let nginx = Nginx::start(&Site {
        http: "lua_code_cache off;",
        init: r#"require("resty.session").init({ secret = "x" })"#,
        server: r#"
            location /set { content_by_lua_block {
                local session = require("resty.session")
                session.init({ secret = "x" })
                local s = session.new()
                s:set("a", 1)
                ngx.say(tostring(s:save()))
            } }
            location /get { content_by_lua_block {
                local session = require("resty.session")
                session.init({ secret = "x", remember = true })
                ngx.say(session.open():get("a"))
            } }
        "#,
        ..Site::default()
    });
    let browser = super::http::Browser::new();
    for _ in 0..20 {
        assert_eq!(browser.get(nginx.url("/set")), "true");
        assert_eq!(browser.get(nginx.url("/get")), "1");
    }
}

#[test]
fn workers_that_share_memory_lose_no_metadata() {
    note_with_two_workers("shm", "");
}

/// Requests of two workers that take one lock again and again, for a second. Returns the errors
/// of those that were not alone while they had it, and how often it was taken.
fn contend(storage: &str, options: &str) -> (Vec<String>, usize) {
    let nginx = Nginx::start(&Site {
        server: &format!(
            r#"location /lock {{ content_by_lua_block {{
                local storage = require("resty.session.{storage}").new({{ {options} }})
                local inside, holder, taken = ngx.shared.sessions, ngx.var.arg_holder, 0
                local deadline = ngx.now() + 1
                while ngx.now() < deadline do
                    local held, err = storage:lock("s", "lock", holder, 30)
                    if err then return ngx.say(err) end
                    if held then
                        taken = taken + 1
                        local holders = inside:incr("inside", 1, 0)
                        ngx.sleep(0.001)
                        inside:incr("inside", -1)
                        if holders ~= 1 then return ngx.say(holders, " holders") end
                        assert(storage:unlock("s", "lock", holder))
                    end
                    ngx.sleep(0)
                end
                ngx.say("taken ", taken, " ", ngx.worker.pid())
            }} }}"#
        ),
        workers: 2,
        ..Site::default()
    });
    let ask = |holder: usize| {
        let url = nginx.url(&format!("/lock?holder=h{holder}"));
        ureq::get(url).call().unwrap().body_mut().read_to_string().unwrap()
    };
    let ask = &ask;
    let said: Vec<String> = std::thread::scope(|scope| {
        let requests: Vec<_> = (0..16).map(|holder| scope.spawn(move || ask(holder))).collect();
        requests.into_iter().map(|request| request.join().unwrap()).collect()
    });
    let count = |line: &String| line.split(' ').nth(1)?.parse::<usize>().ok().filter(|_| line.starts_with("taken "));
    let pids: HashSet<&str> = said.iter().filter_map(|line| line.split_whitespace().nth(2)).collect();
    assert_eq!(pids.len(), 2, "one worker did all the work: {said:?}");
    (said.iter().filter(|line| count(line).is_none()).cloned().collect(), said.iter().filter_map(count).sum())
}

#[test]
fn a_lock_has_one_holder_in_all_workers() {
    let directory = tempfile::tempdir().unwrap();
    for (storage, options) in [("shm", String::new()), ("file", format!("path = '{}'", directory.path().display()))] {
        let (errors, taken) = contend(storage, &options);
        assert_eq!(errors, [""; 0], "{storage}");
        assert!(taken > 20, "{storage}: {taken}");
    }
}

/// A worker that is bound to one processor binds none of the bridge's threads there.
#[test]
fn the_bridge_s_threads_run_wherever_the_master_may() {
    let directory = tempfile::tempdir().unwrap();
    let storage = format!("file = {{ path = '{}' }}", directory.path().display());
    let nginx = Nginx::start(&Site {
        main: "worker_cpu_affinity 1;",
        init: &format!(
            r#"require("resty.session").init({{ secret = "workers", storage = "file", remember = true, {storage} }})"#
        ),
        server: r#"location / { content_by_lua_block { ngx.print(require("resty.session").new():save()) } }"#,
        ..Site::default()
    });
    let allowed = |status: String| {
        let status = std::fs::read_to_string(status).unwrap();
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
        (field("Name:"), field("Cpus_allowed_list:"))
    };
    assert_eq!(ureq::get(nginx.url("/")).call().unwrap().body_mut().read_to_string().unwrap(), "true");
    let worker = nginx.workers()[0];
    let threads = std::fs::read_dir(format!("/proc/{worker}/task")).unwrap();
    let threads: HashSet<(String, String)> =
        threads.map(|thread| allowed(thread.unwrap().path().join("status").display().to_string())).collect();
    let master = allowed("/proc/self/status".to_owned()).1;
    let names: HashSet<&str> = threads.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, HashSet::from(["nginx", "resty-session", "resty-files", "resty-keys"]));
    for (name, processors) in &threads {
        assert_eq!(*processors, if name == "nginx" { "0" } else { &master }, "{name}");
    }
}
