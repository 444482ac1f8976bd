//! What Chromium sends as cookies is read back as Chromium means it.

use resty_session_core::cookie::request;

use super::demo::Browser;
use resty_session_testing::server::{Nginx, Site};

/// `/plant` sets cookies that are hard to read around Ada's session, and Eve's sessions in places
/// where other parsers find them. `/deep/show` says whose session it opens; `/seen` is the Cookie
/// header that it got.
const PROGRAM: &str = r#"
    location /plant { content_by_lua_block {
        local session = require "resty.session"
        local function cookie(who, options)
            ngx.header["Set-Cookie"] = nil
            local s = session.new(options)
            s:set("who", who)
            assert(s:save())
            return ngx.header["Set-Cookie"]:match("^session=([^;]*)")
        end
        local ada, eve, foreign = cookie("Ada"), cookie("Eve"), cookie("Mallory", { secret = "another" })
        ngx.header["Set-Cookie"] = {
            "comma=a,b, c", "quoted=\"a, b\"; Path=/", "quote=a\"b", "space=a b  c", "empty=", "equals=a=b==", "slash=a\\b",
            "utf8=\195\164\226\130\172", "trimmed=  x  ", "flag", "colon=a:b", "name.with-odd!chars#$%&'*+^`|~=1",
            "theme=dark,session=" .. eve, "quotedtheme=\"x,session=" .. eve .. "\"", "Session=" .. eve, "SESSION=" .. eve,
            "asession=" .. eve, "session2=" .. eve, "nested=session=" .. eve, "session =" .. ada .. "; Path=/",
            "session=" .. foreign .. "; Path=/deep; Domain=site.test", "session=junk; Path=/deep",
            "session=; Path=/deep/show", "dup=root", "dup=deepest; Path=/deep/show", "dup=deep; Path=/deep",
            "dup=domain; Domain=site.test; Path=/deep", "dup=elsewhere; Path=/other",
        }
        ngx.say("planted")
    } }
    location /deep/show { content_by_lua_block {
        ngx.shared.sessions:set("seen", ngx.var.http_cookie)
        local s, err, exists = require("resty.session").open()
        ngx.say(exists and s:get("who") or err)
    } }
    location /deep/hidden {
        access_by_lua_block { require("resty.session").open():hide() }
        content_by_lua_block { ngx.say(ngx.var.http_cookie) }
    }
    location /seen { content_by_lua_block { ngx.print(ngx.shared.sessions:get("seen")) } }
"#;

#[test]
fn what_chromium_sends_is_read_as_chromium_means_it() {
    let nginx = Nginx::start(&Site {
        init: r#"require("resty.session").init({ secret = "browser tests" })"#,
        server: PROGRAM,
        ..Site::default()
    });
    let browser = Browser::start(&format!("http://app.site.test:{}", nginx.port));
    browser.go("/plant");
    browser.go("/deep/show");
    assert_eq!(browser.text("body").trim(), "Ada");
    let seen = ureq::get(nginx.url("/seen")).call().unwrap().body_mut().read_to_vec().unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();

    // Chromium's own list says which cookies the page has; one without a name is sent as its value
    // alone.
    let mut meant = browser.all_cookies();
    let read = request::pairs(&seen).map(|(name, value, _)| match value {
        Some(value) => (text(name), text(value)),
        None => (String::new(), text(name)),
    });
    let mut read: Vec<(String, String)> = read.collect();
    meant.sort();
    read.sort();
    assert_eq!(read, meant, "{}", text(&seen));

    let values = |name: &str| request::values(&seen, name).map(text).collect::<Vec<_>>();
    for (name, expected) in [
        ("comma", &["a,b, c"][..]),
        ("quoted", &["\"a, b\""]),
        ("quote", &["a\"b"]),
        ("space", &["a b  c"]),
        ("empty", &[""]),
        ("equals", &["a=b=="]),
        ("slash", &["a\\b"]),
        ("utf8", &["ä€"]),
        ("trimmed", &["x"]),
        ("flag", &[]),
        ("name.with-odd!chars#$%&'*+^`|~", &["1"]),
        ("dup", &["deepest", "deep", "domain", "root"]),
    ] {
        assert_eq!(values(name), expected, "{name}");
    }
    let sessions = values("session");
    assert_eq!(sessions.len(), 4, "{sessions:?}");
    assert_eq!(sessions[0], "");

    browser.go("/deep/hidden");
    let rest = browser.text("body");
    let eve = &values("Session")[0];
    assert_eq!(rest.matches(&**eve).count(), 3, "what nginx does not read as the session stays: {rest}");
    assert!(
        rest.contains("comma=a,b, c; quoted=\"a, b\"; ") && rest.contains(&format!("nested=session={eve}")),
        "{rest}"
    );
    assert!(!sessions[1..].iter().any(|session| rest.contains(&**session)), "{rest}");
}
