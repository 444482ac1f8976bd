//! Keys that take long to derive: beside the worker where a request can wait, and in its place
//! where it cannot.

use std::io::Write;
use std::net::TcpStream;
use std::thread;

use super::http::Browser;
use resty_session_testing::redis_servers::Redis;
use resty_session_testing::server::{Nginx, Site, wait_for};

/// `site.run()` does what the request's arguments say, and returns what it came to and how much was
/// submitted for it.
const PROGRAM: &str = r#"
    local session, waiting = require "resty.session", require "resty.session.waiting"
    local records = {}
    local own = {
        set = function(_, name, key, value) records[name .. key] = value return true end,
        get = function(_, name, key) return records[name .. key] end,
        delete = function(_, name, key) records[name .. key] = nil return true end,
    }
    local function options()
        local arguments = ngx.req.get_uri_args()
        return {
            secret = "a secret of the tests", storage = arguments.storage == "own" and own or arguments.storage,
            redis = { port = REDIS }, remember = true, remember_safety = arguments.safety or "Low",
        }
    end
    local acts = {}
    function acts.sign_in()
        ngx.shared.sessions:set("busy", true)
        local s = session.new(options())
        s:set_subject("ada")
        local ok, err = s:save()
        ngx.shared.sessions:delete("busy")
        return ok and "saved" or err
    end
    function acts.open()
        local s, err, exists = session.open(options())
        return exists and s:get_subject() or err
    end
    local places = {}
    function places.plain(act)
        return act()
    end
    function places.thread(act)
        return select(2, ngx.thread.wait(ngx.thread.spawn(act)))
    end
    function places.coroutine(act)
        return coroutine.wrap(act)()
    end
    function places.callback(act)
        return (("x"):gsub("x", act))
    end
    function places.exit(act)
        ngx.thread.spawn(act)
        ngx.sleep(0.001)
        ngx.exit(204)
    end
    function places.killed(act)
        local thread = ngx.thread.spawn(act)
        ngx.sleep(0.001)
        ngx.thread.kill(thread)
        return "killed"
    end
    package.loaded.site = {}
    function package.loaded.site.run()
        local submitted = waiting.counts().submitted
        local result = places[ngx.var.arg_place](acts[ngx.var.arg_act])
        return result .. " " .. waiting.counts().submitted - submitted
    end
    function package.loaded.site.many(count)
        local threads, saved = {}, 0
        for i = 1, count do
            threads[i] = ngx.thread.spawn(acts.sign_in)
        end
        for i = 1, count do
            local _, result = ngx.thread.wait(threads[i])
            saved = saved + (result == "saved" and 1 or 0)
        end
        return saved
    end
"#;

const SERVER: &str = r#"
    lua_check_client_abort on;
    location /content { content_by_lua_block { ngx.print(require("site").run()) } }
    location /access {
        access_by_lua_block { ngx.ctx.result = require("site").run() }
        content_by_lua_block { ngx.print(ngx.ctx.result) }
    }
    location /header_filter {
        header_filter_by_lua_block {
            local ok, result = pcall(require("site").run)
            ngx.shared.sessions:set("result", result)
        }
        content_by_lua_block { ngx.print("sent") }
    }
    location /result { content_by_lua_block { ngx.print(ngx.shared.sessions:get("result")) } }
    location /busy { content_by_lua_block { ngx.print(ngx.shared.sessions:get("busy") and "busy" or "idle") } }
    location /many { content_by_lua_block { ngx.print(require("site").many(1000)) } }
    location /counts { content_by_lua_block {
        local counts = require("resty.session.status").counts()
        ngx.print(counts.waiting, " ", counts.in_flight)
    } }
"#;

fn nginx(redis: u16) -> Nginx {
    Nginx::start(&Site { init: &PROGRAM.replace("REDIS", &redis.to_string()), server: SERVER, ..Site::default() })
}

/// What an act came to that carries one cookie.
fn act(nginx: &Nginx, path: &str, arguments: &str, cookie: &str) -> String {
    let response = ureq::get(nginx.url(&format!("{path}?{arguments}"))).header("Cookie", cookie).call();
    let body = response.unwrap().body_mut().read_to_string().unwrap();
    if body == "sent" { Browser::new().get(nginx.url("/result")) } else { body }
}

/// The cookies of a browser that signs in with these arguments, and what the act came to.
fn sign_in(nginx: &Nginx, path: &str, arguments: &str) -> ([String; 2], String) {
    let browser = Browser::new();
    let body = browser.get(nginx.url(&format!("{path}?act=sign_in&{arguments}")));
    let result = if body == "sent" { browser.get(nginx.url("/result")) } else { body };
    (["session", "remember"].map(|name| browser.cookie(name).unwrap_or_default()), result)
}

#[test]
fn keys_are_derived_beside_the_worker_wherever_a_request_can_wait() {
    let redis = Redis::start(&[]);
    let nginx = nginx(redis.port);
    let waits = [
        ("/content", "plain"),
        ("/content", "thread"),
        ("/content", "coroutine"),
        ("/access", "plain"),
        ("/access", "coroutine"),
    ];
    let cannot = [("/content", "callback"), ("/header_filter", "plain")];
    for (storage, saves, opens) in [("cookie", 0, 0), ("own", 0, 0), ("shm", 0, 0), ("redis", 2, 3)] {
        let places = waits.iter().map(|place| (place, 1)).chain(cannot.iter().map(|place| (place, 0)));
        for ((path, place), derived) in places.filter(|(_, derived)| storage != "redis" || *derived > 0) {
            let what = format!("{storage}, {path}, {place}");
            let arguments = format!("storage={storage}&place={place}");
            let ([_, remember], result) = sign_in(&nginx, path, &arguments);
            assert_eq!(result, format!("saved {}", saves + derived), "{what}");
            let cookie = format!("remember={remember}");
            let result = act(&nginx, path, &format!("act=open&{arguments}"), &cookie);
            assert_eq!(result, format!("ada {}", opens + 2 * derived), "{what}");
        }
    }
    // What is no remember cookie, and what costs little, is not asked for.
    let plain = "storage=cookie&place=plain";
    let ([session, remember], _) = sign_in(&nginx, "/content", plain);
    let open = format!("act=open&{plain}");
    assert_eq!(act(&nginx, "/content", &open, &format!("session={session}; remember={remember}")), "ada 0");
    assert_eq!(act(&nginx, "/content", &open, &format!("remember={session}")), "missing session cookie 0");
    let none = "storage=cookie&place=plain&safety=None";
    let ([_, remember], result) = sign_in(&nginx, "/content", none);
    assert_eq!(result, "saved 0");
    let result = act(&nginx, "/content", &format!("act=open&{none}"), &format!("remember={remember}"));
    assert_eq!(result, "ada 0");
    let mut complaints = nginx.complaints();
    complaints.retain(|line| !line.contains(r#"remember_safety is "None""#));
    assert_eq!(complaints, [""; 0]);
}

#[test]
fn others_are_served_while_a_key_is_derived() {
    let nginx = nginx(0);
    // Whether another request sees the sign-in while it is under way.
    let seen = |place: &str| {
        let arguments = format!("storage=cookie&place={place}&safety=Very%20High");
        thread::scope(|scope| {
            let browser = scope.spawn(|| sign_in(&nginx, "/content", &arguments).1);
            let mut seen = false;
            while !browser.is_finished() {
                seen |= Browser::new().get(nginx.url("/busy")) == "busy";
            }
            (seen, browser.join().unwrap())
        })
    };
    assert_eq!(seen("plain"), (true, "saved 1".into()));
    assert_eq!(seen("callback"), (false, "saved 0".into()), "there it is the worker's own thread that derives");
}

#[test]
fn requests_that_end_early_leave_no_derivation_behind() {
    let nginx = nginx(0);
    // Each has no cookie yet.
    let get = |path: &str| Browser::new().get(nginx.url(path));
    let good = "/content?act=sign_in&storage=cookie&place=plain&safety=Low";
    for number in 0..300 {
        let place = ["plain", "thread", "coroutine", "exit", "killed"][number % 5];
        let mut stream = TcpStream::connect(("127.0.0.1", nginx.port)).unwrap();
        let safety = if number % 6 == 0 { "Medium" } else { "Low" };
        let path = format!("/content?act=sign_in&storage=cookie&place={place}&safety={safety}");
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n").unwrap();
        if number % 50 == 0 {
            assert!(get(good).starts_with("saved "));
        }
    }
    // The last of the aborted requests may be taken up only now.
    wait_for("the tickets that nobody waits for any more", || get(good) == "saved 1" && get("/counts") == "0 0");
    assert_eq!(nginx.complaints(), [""; 0]);
}

#[test]
fn a_thousand_sign_ins_at_once_all_end_well_or_with_a_clear_error() {
    let nginx = nginx(0);
    let browser = Browser::new();
    assert_eq!(browser.get(nginx.url("/many?storage=cookie&safety=Low")), "1000");
    assert_eq!(nginx.complaints(), [""; 0], "the line has room for them");
    assert_eq!(browser.get(nginx.url("/many?storage=cookie&safety=High")), "1000");
    let complaints = nginx.complaints();
    let told = |cause: &str| {
        let problem = format!("unable to derive the remember cookie's key ({cause})");
        complaints.iter().filter(|line| line.contains(&problem)).count()
    };
    let (crowded, late) = (told("too many keys are waiting to be derived"), told("timeout"));
    assert_eq!(crowded + late, complaints.len(), "{:?}", complaints.first());
    // The line has room for two hundred, and some may be done before the last ones come.
    assert!((1..=800).contains(&crowded), "{crowded} of a thousand");
    assert_eq!(browser.get(nginx.url("/counts")), "0 0");
    let ([_, remember], result) = sign_in(&nginx, "/content", "storage=cookie&place=plain");
    assert_eq!((result.as_str(), remember.is_empty()), ("saved 1", false));
}
