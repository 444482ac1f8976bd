//! The recipes in docs/recipes.md, whose code is taken from the page, in nginx.

use std::fs;
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use resty_session_core::cookie::base64url;
use resty_session_testing::redis_servers::Redis;
use resty_session_testing::server::{Nginx, Site, root, wait_for};
use serde_json::{Value, json};

/// The page's blocks of a language.
fn blocks(language: &str) -> Vec<String> {
    let page = fs::read_to_string(root().join("docs/recipes.md")).unwrap();
    let start = format!("```{language}\n");
    page.split(&start).skip(1).map(|rest| rest.split_once("\n```").unwrap().0.to_owned()).collect()
}

/// Writes the page's modules into a directory. Their Redis is this one, and workers remember no
/// marks, so that the tests need not wait.
fn write_modules(directory: &tempfile::TempDir, redis: &Redis) {
    let blocks = blocks("lua");
    assert_eq!(blocks.len(), 8, "modules on the page");
    for block in blocks {
        let name = block.split(|c: char| c.is_whitespace()).nth(1).unwrap();
        assert!(block.starts_with("-- ") && name.ends_with(".lua"), "a block without a file's name: {block}");
        let here = format!("revocation_cache_ttl = 0, redis = {{ port = {} }}", redis.port);
        let block = block.replace(r#"redis = { host = "redis.internal" }"#, &here);
        fs::write(directory.path().join(name), block).unwrap();
    }
}

/// What a site has beside the recipes. `/token` is the provider's: it takes each refresh token
/// once.
const PROGRAM: &str = r#"
    location /signed-in { content_by_lua_block {
        local arg, s = ngx.req.get_uri_args(), require("resty.session").open()
        s:set_remember(arg.remember == "yes")
        ngx.say(require("resty.openidc").signed_in(require("openidc_options")(), s, { sub = arg.sub, sid = arg.sid },
            { access_token = "access 0", refresh_token = "refresh 0", expires_in = tonumber(arg.expires_in) or 60 }))
    } }
    location /who { content_by_lua_block {
        local s, err, exists = require("resty.session").start()
        ngx.say(exists and s:get_subject() or err)
    } }
    location /token { content_by_lua_block {
        local count = ngx.shared.provider:incr("refreshes", 1, 0)
        ngx.sleep(0.2)
        if ngx.var.arg_refresh_token ~= "refresh%20" .. count - 1 then
            return ngx.exit(400)
        end
        ngx.say(('{"access_token":"access %d","refresh_token":"refresh %d","expires_in":60}'):format(count, count))
    } }
    location /standby { content_by_lua_block { -- is down
        ngx.say(select(2, require("resty.session.redis").new({ port = 1 }):get("session", "absent")))
    } }
    location /refreshes { content_by_lua_block { ngx.say(ngx.shared.provider:get("refreshes")) } }
    location /change-password { content_by_lua_block {
        ngx.say(require("change_password")(function(subject, password)
            return subject == "ada" and password == "new", "refused"
        end, ngx.var.arg_password))
    } }
    location /devices { content_by_lua_block {
        local devices = require "your_devices"
        local act, id = ngx.var.arg_act, ngx.var.arg_id
        if act then
            local ok, problem = devices[act](id)
            return ngx.say(ok or problem)
        end
        local list, err = devices.list()
        for _, device in ipairs(list or { { id = err } }) do
            ngx.say(device.current and "this " or "other ", device.id)
        end
    } }
"#;

/// A site that has all recipes, and its sessions in cookies or in Redis.
struct Shop {
    nginx: Nginx,
    redis: Redis,
    _modules: tempfile::TempDir,
}

impl Shop {
    fn open(sessions: &str) -> Self {
        let (redis, modules) = (Redis::start(&[]), tempfile::tempdir().unwrap());
        write_modules(&modules, &redis);
        let init = format!(
            r#"
            package.path = "{}/?.lua;" .. package.path
            package.preload["resty.openidc"] = function() return require("spec.openidc") end
            require "{sessions}"
            "#,
            modules.path().display()
        );
        let locations = blocks("nginx");
        assert_eq!(locations.len(), 3, "locations on the page");
        let upstream = "location / { content_by_lua_block { ngx.say(ngx.var.http_authorization) }";
        let locations = locations.join("\n").replace("location / {", upstream);
        let nginx = Nginx::start(&Site {
            init: &init,
            http: "lua_shared_dict provider 1m;",
            server: &format!("{PROGRAM}{locations}"),
            workers: 2,
            ..Site::default()
        });
        Self { nginx, redis, _modules: modules }
    }

    fn user(&self, arguments: &str) -> User<'_> {
        let user = User { shop: self, agent: agent() };
        assert_eq!(user.get(&format!("/signed-in?{arguments}")), "true");
        user
    }

    /// What the provider gets back for a logout token.
    fn log_out(&self, token: &str) -> u16 {
        let url = self.nginx.url("/backchannel-logout");
        let mut response = agent().post(url).send_form([("logout_token", token)]).unwrap();
        assert_eq!(response.headers()["cache-control"], "no-store");
        let body = response.body_mut().read_to_string().unwrap();
        let status = response.status().as_u16();
        assert_eq!(body.trim(), if status == 200 { "" } else { r#"{"error":"invalid_request"}"# });
        status
    }

    /// No worker opens any of these cookies.
    fn are_dead(&self, cookies: &[String]) {
        for cookie in cookies.iter().cycle().take(4 * cookies.len()) {
            let who = fetch(&agent(), &self.nginx.url("/who"), Some(cookie));
            assert!(is_error(&who), "{who}");
        }
    }
}

/// An agent that keeps no connection, so that each worker gets requests.
fn agent() -> ureq::Agent {
    let config = ureq::Agent::config_builder().http_status_as_error(false).max_redirects(0);
    config.max_idle_connections(0).build().into()
}

struct User<'a> {
    shop: &'a Shop,
    agent: ureq::Agent,
}

impl User<'_> {
    fn get(&self, path: &str) -> String {
        fetch(&self.agent, &self.shop.nginx.url(path), None)
    }

    fn is(&self, who: &str) {
        for _ in 0..4 {
            assert_eq!(self.get("/who"), who);
        }
    }

    /// The cookies, each as a Cookie header.
    fn cookies(&self) -> Vec<String> {
        let jar = self.agent.cookie_jar_lock();
        jar.iter().map(|cookie| format!("{}={}", cookie.name(), cookie.value())).collect()
    }

    /// Neither the user nor who has a copy of a cookie is signed in.
    fn is_out(&self) {
        self.shop.are_dead(&self.cookies());
        for _ in 0..2 {
            assert!(is_error(&self.get("/who")));
        }
    }
}

/// Whether it is not the name of a user.
fn is_error(who: &str) -> bool {
    who.contains(' ')
}

fn fetch(agent: &ureq::Agent, url: &str, cookie: Option<&str>) -> String {
    let request = agent.get(url);
    let request = cookie.into_iter().fold(request, |request, cookie| request.header("Cookie", cookie));
    request.call().unwrap().body_mut().read_to_string().unwrap().trim_end().to_owned()
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn token(header: &Value, claims: &Value, signature: &str) -> String {
    let encode = |part: &Value| base64url::encode(part.to_string().as_bytes());
    format!("{}.{}.{signature}", encode(header), encode(claims))
}

/// A provider's logout token of Ada's session "one" with these claims instead of its own; null
/// leaves one out.
fn logout_token(changes: &Value) -> String {
    let events = json!({"http://schemas.openid.net/event/backchannel-logout": {}});
    let mut claims = json!({
        "iss": "https://id.example", "aud": "shop", "iat": now(), "exp": now() + 120, "jti": "1", "events": events,
        "sid": "one", "sub": "ada",
    });
    for (name, value) in changes.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    token(&json!({"alg": "RS256", "typ": "logout+jwt"}), &claims, "signed")
}

fn a_provider_logs_users_out(sessions: &str) {
    let shop = Shop::open(sessions);
    let [one, two, other] = ["one", "two", "three"].map(|sid| {
        let subject = if sid == "three" { "grace" } else { "ada" };
        shop.user(&format!("sub={subject}&sid={sid}&remember=yes"))
    });

    let events = json!({"http://schemas.openid.net/event/backchannel-logout": "yes"});
    for changes in [
        json!({"iss": "https://other.example"}),
        json!({"iss": null}),
        json!({"aud": "another shop"}),
        json!({"aud": ["another shop"]}),
        json!({"aud": null}),
        json!({"iat": null}),
        json!({"iat": now() + 1000}),
        json!({"exp": now() - 1000}),
        json!({"exp": null}),
        json!({"events": null}),
        json!({"events": {}}),
        json!({"events": events}),
        json!({"nonce": "n"}),
        json!({"sid": null, "sub": null}),
        json!({"sid": 1}),
        json!({"sid": ""}),
    ] {
        assert_eq!(shop.log_out(&logout_token(&changes)), 400, "{changes}");
    }
    let forged = logout_token(&json!({})).replace(".signed", ".forged");
    let unsigned = token(&json!({"alg": "none"}), &json!({"sid": "one"}), "");
    for token in [&*forged, &unsigned, "", "a.b", "a.b.c"] {
        assert_eq!(shop.log_out(token), 400, "{token}");
    }
    for user in [&one, &two] {
        user.is("ada");
    }

    assert_eq!(shop.log_out(&logout_token(&json!({"aud": ["another shop", "shop"]}))), 200);
    one.is_out();
    two.is("ada");
    assert_eq!(shop.log_out(&logout_token(&json!({"sid": null}))), 200);
    two.is_out();
    other.is("grace");
}

#[test]
fn a_provider_logs_users_out_in_cookies() {
    a_provider_logs_users_out("sessions_in_cookies");
}

#[test]
fn a_provider_logs_users_out_in_redis() {
    a_provider_logs_users_out("sessions_in_redis");
}

fn requests_refresh_a_token_once(sessions: &str) {
    let shop = Shop::open(sessions);
    let user = shop.user("sub=ada&sid=one&expires_in=-1");
    let cookie = user.cookies().join("; ");
    let url = shop.nginx.url("/");
    let mut answers: Vec<String> = thread::scope(|scope| {
        let ask = || scope.spawn(|| fetch(&agent(), &url, Some(&cookie)));
        let threads: Vec<_> = (0..64).map(|_| ask()).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    answers.dedup();
    assert_eq!(answers, ["Bearer access 1"], "{:?}", shop.nginx.complaints().first());
    assert_eq!(user.get("/refreshes"), "1");
}

#[test]
fn requests_refresh_a_token_once_in_cookies() {
    requests_refresh_a_token_once("sessions_in_cookies");
}

#[test]
fn requests_refresh_a_token_once_in_redis() {
    requests_refresh_a_token_once("sessions_in_redis");
}

fn a_new_password_signs_out_everywhere_else(sessions: &str) {
    let shop = Shop::open(sessions);
    let [one, two] = ["one", "two"].map(|sid| shop.user(&format!("sub=ada&sid={sid}&remember=yes")));
    let other = shop.user("sub=grace&sid=three");
    assert_eq!(one.get("/change-password?password=old"), "nilrefused");
    for user in [&one, &two] {
        user.is("ada");
    }
    let old = one.cookies();
    assert_eq!(old.len(), 2);
    assert_eq!(one.get("/change-password?password=new"), "true");
    shop.are_dead(&old);
    two.is_out();
    other.is("grace");
    one.is("ada");
    let new = one.cookies();
    assert_eq!(new.len(), 2, "is the user remembered?");
    for cookie in new {
        assert_eq!(fetch(&agent(), &shop.nginx.url("/who"), Some(&cookie)), "ada");
    }
}

#[test]
fn a_new_password_signs_out_everywhere_else_in_cookies() {
    a_new_password_signs_out_everywhere_else("sessions_in_cookies");
}

#[test]
fn a_new_password_signs_out_everywhere_else_in_redis() {
    a_new_password_signs_out_everywhere_else("sessions_in_redis");
}

#[test]
fn a_user_sees_and_ends_the_sessions_of_other_devices() {
    let shop = Shop::open("sessions_in_redis");
    let [one, two, three] = ["yes", "no", "yes"].map(|remember| shop.user(&format!("sub=ada&remember={remember}")));
    let other = shop.user("sub=grace");
    let ids = [&one, &two, &three, &other].map(|user| {
        let list = user.get("/devices");
        list.lines().find_map(|line| line.strip_prefix("this ")).unwrap().to_owned()
    });
    let list = one.get("/devices");
    assert_eq!(list.lines().count(), 3, "{list}");
    assert_eq!(list.matches("this ").count(), 1, "{list}");
    assert!(list.contains(&format!("other {}", ids[1])), "{list}");
    for foreign in [&*ids[0], &ids[3], "", "x"] {
        assert_eq!(one.get(&format!("/devices?act=sign_out&id={foreign}")), "no such session");
    }
    assert_eq!(one.get(&format!("/devices?act=sign_out&id={}", ids[1])), "true");
    two.is_out();
    three.is("ada");
    assert_eq!(one.get("/devices").lines().count(), 2);

    assert_eq!(one.get("/devices?act=sign_out_others"), "1");
    three.is_out();
    assert_eq!(one.get("/devices").lines().count(), 1);
    one.is("ada");
    other.is("grace");
}

#[test]
fn a_health_page_fails_only_when_no_server_of_a_storage_is_left() {
    let mut shop = Shop::open("sessions_in_redis");
    let cookies = shop.user("sub=ada").cookies();
    // Each request may get to another worker.
    let health_is = |shop: &Shop, status: u16, states: &[&str]| {
        let mut response = agent().get(shop.nginx.url("/session-health")).call().unwrap();
        let page: Value = serde_json::from_str(&response.body_mut().read_to_string().unwrap()).unwrap();
        let found = page["endpoints"].as_array().into_iter().flatten().map(|endpoint| endpoint["state"].as_str());
        response.status().as_u16() == status && found.eq(states.iter().map(|state| Some(*state)))
    };
    wait_for("a worker that has used the server", || health_is(&shop, 200, &["connected"]));
    wait_for("a worker that has used both", || {
        fetch(&agent(), &shop.nginx.url("/standby"), None);
        fetch(&agent(), &shop.nginx.url("/who"), Some(&cookies[0]));
        health_is(&shop, 200, &["failing", "connected"])
    });
    shop.redis.process.kill();
    wait_for("a worker that knows", || {
        fetch(&agent(), &shop.nginx.url("/who"), Some(&cookies[0]));
        health_is(&shop, 503, &["failing", "failing"])
    });
}
