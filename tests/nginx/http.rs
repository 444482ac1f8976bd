//! Sessions over HTTP, with a real cookie jar.

use resty_session_testing::server::{Nginx, Site};
use resty_session_testing::vectors;
use serde_json::Value;

/// Every test's program: `/set?key=…&value=…` and so on.
const PROGRAM: &str = r#"
    location /set { content_by_lua_block {
        local s = require("resty.session").open()
        s:set(ngx.var.arg_key, ngx.var.arg_value)
        local ok, err = s:save()
        ngx.say(ok and "saved" or err)
    } }
    location /get { content_by_lua_block {
        local s, err, exists, refreshed = require("resty.session").start()
        ngx.say(exists and tostring(s:get(ngx.var.arg_key)) or err)
    } }
    location /big { content_by_lua_block {
        local s = require("resty.session").open()
        s:set("big", require("resty.session.utils").encode_base64url(require("resty.session.utils").rand_bytes(12000)))
        local ok, err = s:save()
        ngx.say(ok and #s:get("big") or err)
    } }
    location /destroy { content_by_lua_block {
        local ok, err, exists, destroyed = require("resty.session").destroy()
        ngx.say(ok and "destroyed" or err)
    } }
    location /hidden {
        access_by_lua_block {
            local s = require("resty.session").open()
            s:hide()
            local ok, err = s:set_request_headers("id", "audience", "subject")
            if not ok then
                ngx.req.set_header("X-Error", err)
            end
        }
        proxy_pass http://127.0.0.1:$server_port/upstream;
    }
    location /upstream { content_by_lua_block {
        ngx.say(ngx.var.http_cookie or "no cookie", " ", #(ngx.var.http_session_id or ""), " ", ngx.var.http_session_audience or "", " ",
            ngx.var.http_session_subject or "", ngx.var.http_x_error or "")
    } }
    location /twice { content_by_lua_block {
        local session = require("resty.session")
        ngx.header["Set-Cookie"] = { "theme=dark; Path=/" }
        local a, b = session.new({ cookie_name = "a" }), session.new({ cookie_name = "b" })
        for i = 1, 3 do
            a:set("n", i)
            b:set("n", -i)
            assert(a:save())
            assert(b:save())
        end
        ngx.say("ok")
    } }
    location /header_filter {
        header_filter_by_lua_block {
            local s = require("resty.session").new()
            s:set("saved in", "header_filter")
            assert(s:save())
        }
        content_by_lua_block { ngx.say("ok") }
    }
    location /stored { content_by_lua_block {
        local s = require("resty.session").open({ storage = "shm" })
        s:set("name", ngx.var.arg_name)
        ngx.say(s:save())
    } }
    location /stored_name { content_by_lua_block {
        local s, err, exists = require("resty.session").open({ storage = "shm" })
        ngx.say(exists and s:get("name") or err)
    } }
    location /late {
        content_by_lua_block {
            local session = require("resty.session")
            local s = session.open({ storage = ngx.var.arg_storage })
            s.info:set("seen", 1)
            ngx.say("sent")
            ngx.flush(true)
            for _, method in ipairs { "save", "touch", "refresh", "info" } do
                if method == "info" then
                    ngx.say("info: ", s.info:save())
                else
                    ngx.say(method, ": ", s[method](s))
                end
            end
            local _, err, exists, refreshed = session.start({ storage = ngx.var.arg_storage, idling_timeout = 9, touch_threshold = 0 })
            ngx.say(err or "no error", " ", exists, " ", refreshed)
            if ngx.var.arg_destroy then
                ngx.say("destroy: ", s:destroy())
            end
        }
        log_by_lua_block {
            local _, err = require("resty.session").new():save()
            ngx.shared.sessions:set("logged", err)
        }
    }
    location /timer { content_by_lua_block {
        local s, answer = require("resty.session").open({ storage = "shm" }), nil
        local semaphore = require("ngx.semaphore").new()
        assert(ngx.timer.at(0, function()
            answer = { select(2, s:save()), s:destroy() }
            semaphore:post()
        end))
        assert(semaphore:wait(5))
        ngx.say(answer[1], " ", answer[2], "; ", ngx.shared.sessions:get("logged"))
    } }
    location /cookie { content_by_lua_block {
        local s, err, exists = require("resty.session").open()
        ngx.say(exists and "a session" or err)
    } }
"#;

fn nginx() -> Nginx {
    Nginx::start(&Site {
        init: r#"require("resty.session").init({ secret = "http tests", idling_timeout = 0 })"#,
        server: PROGRAM,
        workers: 2,
        ..Site::default()
    })
}

pub struct Browser(ureq::Agent);

impl Browser {
    pub fn new() -> Self {
        Self(
            ureq::Agent::config_builder()
                .max_response_header_size(256 << 10)
                .http_status_as_error(false)
                .build()
                .into(),
        )
    }

    pub fn get(&self, url: String) -> String {
        self.0.get(url).call().unwrap().body_mut().read_to_string().unwrap().trim_end().to_owned()
    }

    pub fn cookie(&self, name: &str) -> Option<String> {
        let jar = self.0.cookie_jar_lock();
        jar.iter().find(|cookie| cookie.name() == name).map(|cookie| cookie.value().to_owned())
    }

    /// Drops a cookie.
    pub fn forget(&self, name: &str) {
        self.0.cookie_jar_lock().remove("127.0.0.1", "/", name);
    }

    /// Puts a cookie in.
    pub fn put(&self, name: &str, value: &str, url: &str) {
        let url = url.parse().unwrap();
        let cookie = ureq::Cookie::parse(format!("{name}={value}; Path=/"), &url).unwrap();
        self.0.cookie_jar_lock().insert(cookie, &url).unwrap();
    }

    pub fn cookies(&self) -> Vec<String> {
        let mut names: Vec<String> = self.0.cookie_jar_lock().iter().map(|cookie| cookie.name().to_owned()).collect();
        names.sort();
        names
    }
}

/// The Set-Cookie lines of a response to a request with this Cookie header.
fn set_cookie(nginx: &Nginx, path: &str, cookie: &str) -> Vec<String> {
    let response = ureq::get(nginx.url(path)).header("Cookie", cookie).call().unwrap();
    response.headers().get_all("set-cookie").iter().map(|line| line.to_str().unwrap().to_owned()).collect()
}

#[test]
fn a_browser_keeps_its_session_and_loses_it_when_it_is_destroyed() {
    let nginx = nginx();
    let browser = Browser::new();
    assert_eq!(browser.get(nginx.url("/get?key=a")), "missing session cookie");
    assert_eq!(browser.get(nginx.url("/set?key=a&value=1")), "saved");
    for _ in 0..10 {
        assert_eq!(browser.get(nginx.url("/get?key=a")), "1");
    }
    assert_eq!(browser.get(nginx.url("/big")), "16000");
    assert_eq!(browser.cookies(), ["session", "session2", "session3", "session4"]);
    assert_eq!(browser.get(nginx.url("/get?key=a")), "1");
    assert_eq!(browser.get(nginx.url("/set?key=big&value=small")), "saved");
    assert_eq!(browser.cookies(), ["session"]);
    assert_eq!(browser.get(nginx.url("/destroy")), "destroyed");
    assert!(browser.cookies().is_empty());
    assert_eq!(browser.get(nginx.url("/destroy")), "missing session cookie");
    assert_eq!(nginx.complaints(), [""; 0]);
}

#[test]
fn an_upstream_sees_headers_instead_of_cookies() {
    let nginx = nginx();
    let browser = Browser::new();
    browser.get(nginx.url("/set?key=a&value=1"));
    let cookie = format!("session={}", browser.cookie("session").unwrap());
    // What the client says of itself does not pass for the session's: this one has no subject.
    let request = ureq::get(nginx.url("/hidden")).header("Cookie", cookie).header("Session-Subject", "eve");
    let answer = request.call().unwrap().body_mut().read_to_string().unwrap();
    assert_eq!(answer.trim(), "no cookie 43 default");
    let request = ureq::get(nginx.url("/hidden")).header("Session-Id", "mine").header("Session-Subject", "eve");
    let answer = request.call().unwrap().body_mut().read_to_string().unwrap();
    assert_eq!(answer.trim(), "no cookie 0  unable to set request headers on nonexistent session");
}

#[test]
fn several_saves_in_one_request_send_each_cookie_once() {
    let nginx = nginx();
    let lines = set_cookie(&nginx, "/twice", "x=y");
    let names: Vec<&str> = lines.iter().map(|line| line.split('=').next().unwrap()).collect();
    assert_eq!(names, ["theme", "a", "b"]);
}

#[test]
fn a_cookie_session_can_be_saved_in_header_filter() {
    let nginx = nginx();
    let browser = Browser::new();
    assert_eq!(browser.get(nginx.url("/header_filter")), "ok");
    assert_eq!(browser.get(nginx.url("/get?key=saved+in")), "nil");
    assert_eq!(browser.get(nginx.url("/cookie")), "a session");
}

/// Saving after the header was sent would store a record that no cookie names, and end the one that
/// the browser has.
#[test]
fn a_save_that_comes_too_late_is_refused_and_a_destroy_is_not() {
    const SENT: &str = "session (the response header was sent already)";
    let nginx = Nginx::start(&Site {
        init: r#"require("resty.session").init({ secret = "http tests", idling_timeout = 0, stale_ttl = 1 })"#,
        server: PROGRAM,
        ..Site::default()
    });
    let browser = Browser::new();
    assert_eq!(browser.get(nginx.url("/stored?name=Ada")), "true");
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let refused = format!("save: nilunable to save {SENT}\ntouch: nilunable to touch {SENT}\nrefresh: true");
    let due = format!("unable to refresh {SENT} true false");
    assert_eq!(browser.get(nginx.url("/late?storage=shm")), format!("sent\n{refused}\ninfo: true\n{due}"));
    std::thread::sleep(std::time::Duration::from_millis(2100));
    assert_eq!(browser.get(nginx.url("/stored_name")), "Ada", "the record that the browser has lives on");
    assert_eq!(
        browser.get(nginx.url("/timer")),
        format!(
            "unable to save session (this phase has no response that could set a cookie) true; unable to save {SENT}"
        )
    );
    assert_eq!(browser.get(nginx.url("/stored_name")), "unable to load session");

    assert_eq!(browser.get(nginx.url("/stored?name=Grace")), "true");
    let answer = browser.get(nginx.url("/late?storage=shm&destroy=1"));
    assert!(answer.ends_with("\ndestroy: true"), "{answer}");
    assert_eq!(browser.get(nginx.url("/stored_name")), "unable to load session");

    browser.get(nginx.url("/destroy"));
    assert_eq!(browser.get(nginx.url("/set?key=a&value=1")), "saved");
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let answer = browser.get(nginx.url("/late?destroy=1"));
    let refused =
        format!("sent\n{refused}\ninfo: nilunable to save {SENT}\n{due}\ndestroy: nilunable to destroy {SENT}");
    assert_eq!(answer, refused);
    assert_eq!(browser.get(nginx.url("/get?key=a")), "1");
    assert_eq!(nginx.complaints(), [""; 0]);
}

/// Light threads of a request share its response.
#[test]
fn a_save_that_another_threads_response_overtakes_is_an_error() {
    let nginx = Nginx::start(&Site {
        init: r#"
            require("resty.session").init({ secret = "http tests" })
            local slow, store = {}, require("resty.session.shm").new()
            SLOW = {
                set = function(_, ...) if slow.set then ngx.sleep(0.2) end return store:set(...) end,
                get = function(_, ...) if slow.get then ngx.sleep(0.2) end return store:get(...) end,
                delete = function(_, ...) if slow.delete then ngx.sleep(0.2) end return store:delete(...) end,
                becomes = function(names) slow = names end,
            }
        "#,
        server: r#"
            location /overtaken { content_by_lua_block {
                local session = require "resty.session"
                local options = { storage = SLOW, remember = true, remember_safety = "None" }
                local s = session.new(options)
                s:set_subject("ada")
                if ngx.var.arg_act == "logout" or ngx.var.arg_act == "destroy" then
                    s:set_audience("other")
                    s.data[2] = { {}, "default", "ada" }
                    assert(s:save())
                end
                local function method(name)
                    return function() return s[name](s) end
                end
                local acts = {
                    save = method("save"), logout = method("logout"), destroy = method("destroy"),
                    open = function() local _, err, exists = session.open(options) return exists, err end,
                    start = function() local _, err, _, fine = session.start(options) return fine, err end,
                    end_one = function() return session.logout(options) end,
                    end_all = function() return session.destroy(options) end,
                }
                local act = acts[ngx.var.arg_act]
                SLOW.becomes({ [ngx.var.arg_slow] = true })
                local thread = ngx.thread.spawn(act)
                ngx.sleep(0.05)
                ngx.say("sent")
                ngx.flush(true)
                local _, ok, err = ngx.thread.wait(thread)
                SLOW.becomes({})
                ngx.say(tostring(ok), " ", err)
            } }
            location /signed_in { content_by_lua_block {
                local s = require("resty.session").new({ storage = SLOW, remember = true, remember_safety = "None" })
                s:set_subject("ada")
                s.data[2] = { {}, "other", "ada" }
                ngx.say(tostring(s:save()))
            } }
        "#,
        ..Site::default()
    });
    const MEANWHILE: &str = "unable to set the session's cookies (the response header was sent meanwhile)";
    let browser = Browser::new();
    let acts = [("save", "set"), ("logout", "set"), ("destroy", "delete"), ("end_one", "set"), ("end_all", "delete")];
    for (act, slow) in acts {
        assert_eq!(browser.get(nginx.url("/signed_in")), "true");
        let expected = if slow == "set" { format!("nil {MEANWHILE}") } else { "true nil".to_owned() };
        let answer = browser.get(nginx.url(&format!("/overtaken?act={act}&slow={slow}")));
        assert_eq!(answer, format!("sent\n{expected}"), "{act}");
    }
    assert_eq!(nginx.complaints(), [""; 0]);
    assert_eq!(browser.get(nginx.url("/signed_in")), "true");
    browser.forget("session");
    let answer = browser.get(nginx.url("/overtaken?act=start&slow=get"));
    assert_eq!(answer, format!("sent\nfalse {MEANWHILE}"), "it was opened by the remember cookie");
    assert_eq!(nginx.complaints(), [""; 0]);
    assert_eq!(browser.get(nginx.url("/signed_in")), "true");
    browser.forget("session");
    assert_eq!(browser.get(nginx.url("/overtaken?act=open&slow=get")), "sent\ntrue nil", "it is open all the same");
    let complaints = nginx.complaints();
    assert!(complaints.len() == 1 && complaints[0].contains(MEANWHILE), "{complaints:?}");
}

#[test]
fn cookies_are_read_and_hidden_by_their_exact_names() {
    let nginx = nginx();
    let set = |value: &str| {
        let line = set_cookie(&nginx, &format!("/set?key=a&value={value}"), "x=y").remove(0);
        line.split(['=', ';']).nth(1).unwrap().to_owned()
    };
    let (mine, theirs) = (set("mine"), set("theirs"));
    let get = |path: &str, cookies: &[&str]| {
        let request = ureq::get(nginx.url(path));
        let request = cookies.iter().fold(request, |request, cookie| request.header("Cookie", *cookie));
        request.call().unwrap().body_mut().read_to_string().unwrap().trim().to_owned()
    };
    for (cookies, expected) in [
        (&[&*format!("session={mine}")][..], "mine"),
        (&["a=1", &*format!("session={mine}")], "mine"),
        (&[&*format!("Session={theirs}; a=1,session={theirs}; session={mine}")], "mine"),
        (&[&*format!("session=junk; session={mine}; session={theirs}")], "mine"),
        (&[&*format!("Session={theirs}; a=1,session={theirs}")], "missing session cookie"),
    ] {
        assert_eq!(get("/get?key=a", cookies), expected, "{cookies:?}");
    }
    let cookie = format!(
        "Session={theirs}; a=1,session={theirs}; b=2; session={theirs}x; session={mine}; session4=AAAA; SESSION=spring"
    );
    assert_eq!(get("/hidden", &[&cookie]), "a=1; b=2; SESSION=spring 43 default");
    assert_eq!(nginx.complaints(), [""; 0]);
}

/// A payload's entries, in which null and false both stand for a missing value, and are left out at
/// the end.
fn without_what_is_missing(data: &Value) -> Value {
    let mut data = data.clone();
    for entry in data.as_array_mut().unwrap().iter_mut().map(|entry| entry.as_array_mut().unwrap()) {
        entry.iter_mut().filter(|value| **value == Value::Bool(false)).for_each(|value| *value = Value::Null);
        while entry.last() == Some(&Value::Null) {
            entry.pop();
        }
    }
    data
}

#[test]
fn every_vector_opens_in_nginx() {
    let nginx = Nginx::start(&Site {
        init: r#"
            VECTORS = {}
            for _, name in ipairs { "sessions", "with_sid" } do
                local file = assert(io.open(vectors .. "/" .. name .. ".json"))
                for _, vector in ipairs(require("cjson").decode(file:read("*a")).vectors) do
                    table.insert(VECTORS, vector)
                end
            end
        "#
        .replace(
            "vectors ..",
            &format!("{:?} ..", resty_session_testing::server::root().join("crates/testing/vectors")),
        )
        .as_str(),
        server: r#"location /open { content_by_lua_block {
            local vector = VECTORS[tonumber(ngx.var.arg_number)]
            local configuration = vector.configuration
            if vector.name == "written under an old secret" then
                configuration = { secret = "new secret", secret_fallbacks = { "older still", "old secret" } }
            elseif vector.name == "written under an old ikm" then
                configuration = { ikm = "5ixIW4QVMk0dPtoIhn41Eh1I9enP2060", ikm_fallbacks = { "QvPtlPKxOKdP5MCu1oI3lOEXIVuDckp7" } }
            end
            for _, timeout in ipairs { "idling_timeout", "rolling_timeout", "absolute_timeout" } do
                configuration[timeout] = 0
            end
            if vector.records then
                local records = {}
                for _, record in ipairs(vector.records) do
                    records[record.name .. ":" .. record.key] = record.value
                end
                configuration.storage = { get = function(_, name, key) return records[name .. ":" .. key] end }
            end
            -- The vectors were bound to another request's values.
            local request = vector.request or {}
            require("resty.session").__set_ngx_var(setmetatable({
                remote_addr = request.remote_addr or false, scheme = request.scheme or false,
                http_user_agent = request.http_user_agent or false,
            }, { __index = function(_, name) return ngx.var[name] end }))
            local s, err, exists = require("resty.session").open(configuration)
            if not exists then
                ngx.say(err)
                return
            end
            local meta = s.meta
            ngx.print(require("cjson").encode({
                data = s.data, info = s.info.data or nil, flags = meta.flags, creation_time = meta.creation_time,
                rolling_offset = meta.rolling_offset, idling_offset = meta.idling_offset, data_size = meta.data_size,
            }))
        } }"#,
        ..Site::default()
    });
    let mut opened = 0;
    for (number, vector) in (1..).zip([vectors::all(), vectors::with_sid()].concat()) {
        if vector.cookies.is_empty() {
            continue;
        }
        let cookies: Vec<String> = vector.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let request = ureq::get(nginx.url(&format!("/open?number={number}"))).header("Cookie", cookies.join("; "));
        let answer = request.call().unwrap().body_mut().read_to_string().unwrap();
        let answer: Value = serde_json::from_str(&answer).unwrap_or_else(|_| panic!("{}: {answer}", vector.name));
        let [ours, theirs] = [&answer["data"], &vector.data].map(without_what_is_missing);
        assert!(vectors::same(&ours, &theirs), "{}: {answer}", vector.name);
        assert!(vectors::same(&answer["info"], &vector.info.into()), "{}", vector.name);
        let field = |name: &str| answer[name].as_f64().unwrap() as u64;
        assert_eq!(field("flags"), u64::from(vector.header.flags));
        assert_eq!(field("creation_time"), vector.header.creation_time);
        assert_eq!(field("rolling_offset"), vector.header.rolling_offset);
        assert_eq!(field("idling_offset"), vector.header.idling_offset);
        assert_eq!(field("data_size"), vector.header.data_size as u64);
        opened += 1;
    }
    assert_eq!(opened, 51);
    let complaints = nginx.complaints();
    assert!(complaints.len() == 1 && complaints[0].contains("remember_safety is \"None\""), "{complaints:?}");
}

/// A good session's cookies in parts, and how requests with tampered ones end.
#[test]
fn hostile_cookies_are_refused_and_nothing_is_logged() {
    let nginx = nginx();
    let small = set_cookie(&nginx, "/set?key=a&value=1", "x=y").remove(0);
    let value = small.split(['=', ';']).nth(1).unwrap().to_owned();
    let open = |cookie: &str| {
        ureq::get(nginx.url("/cookie")).header("Cookie", cookie).call().unwrap().body_mut().read_to_string().unwrap()
    };
    assert_eq!(open(&format!("session={value}")), "a session\n");
    let mut tried = 0;
    for at in 0..value.len() {
        let mut bytes = value.clone().into_bytes();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(bytes).unwrap();
        for cookie in [&changed, &value[..at]] {
            let answer = open(&format!("session={cookie}"));
            assert_ne!(answer, "a session\n", "{cookie}");
            tried += 1;
        }
    }
    let parts: Vec<String> =
        set_cookie(&nginx, "/big", "x=y").iter().map(|line| line.split(';').next().unwrap().to_owned()).collect();
    assert_eq!(open(&parts.join("; ")), "a session\n");
    for missing in 0..parts.len() {
        let mut others = parts.clone();
        others.remove(missing);
        assert_ne!(open(&others.join("; ")), "a session\n");
    }
    let swap = |text: &str| text.replace("session2", "x").replace("session3", "session2").replace("x=", "session3=");
    let swapped: Vec<String> = parts.iter().map(|part| swap(part)).collect();
    assert_eq!(open(&swapped.join("; ")), "unable to decrypt session data (authentication tag mismatch)\n");
    assert!(tried > 250);
    assert_eq!(nginx.complaints(), [""; 0]);
}
