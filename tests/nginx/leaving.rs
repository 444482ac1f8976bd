//! Browsers with a remember cookie, and every way of leaving: through nginx, with a cookie jar.

use super::http::Browser;
use resty_session_testing::server::{Nginx, Site};

/// `/do?steps=open.forget.save&storage=…&remember=on`: takes these steps in one request, and says
/// which one failed.
const PROGRAM: &str = r#"
    location /do { content_by_lua_block {
        local session, arg, s = require "resty.session", ngx.req.get_uri_args(), nil
        local options = { storage = arg.storage, remember = arg.remember == "on", remember_safety = "Low",
                          audience = arg.audience, idling_timeout = 0, rolling_timeout = tonumber(arg.rolling) }
        local function method(name)
            return function() return s[name](s) end
        end
        local steps = {
            new = function() s = session.new(options) s:set_subject("ada") s:set("name", "Ada") return true end,
            open = function() local _, err, exists s, err, exists = session.open(options) return exists, err end,
            join = function() s = session.open(options) s:set_subject("ada") return true end,
            start = function() local _, err, exists, ok s, err, exists, ok = session.start(options) return exists and ok, err end,
            forget = function() s:set_remember(false) return true end,
            remember = function() s:set_remember(true) return true end,
            info = function() s.info:set("code", "123456") return s.info:save() end,
            reopen = function() s:close() return s:open() end,
            end_it = function() return session.destroy(options) end,
            leave = function() return session.logout(options) end,
        }
        for _, name in ipairs { "save", "touch", "refresh", "logout", "destroy", "hide" } do
            steps[name] = method(name)
        end
        for name in arg.steps:gmatch("[^.]+") do
            local ok, err = steps[name]()
            if not ok then
                ngx.say(name, ": ", err)
                return
            end
        end
        ngx.say(s and s.state ~= "closed" and s:get("name") or "done")
    } }
    location /collide { content_by_lua_block {
        local session = require "resty.session"
        local a, b = session.new(), session.new({ cookie_name = "session2" })
        ngx.say(a:save(), b:save())
    } }
"#;

/// A user in front of a browser, at a site that keeps sessions in a storage.
struct User<'a> {
    nginx: &'a Nginx,
    storage: &'a str,
    browser: Browser,
}

impl User<'_> {
    /// The steps of a request, by a program with these options.
    fn does(&self, steps: &str, options: &str) -> String {
        self.browser.get(self.nginx.url(&format!("/do?steps={steps}&storage={}&{options}", self.storage)))
    }

    /// Closes the browser and opens it again. Returns whom the next visitor is signed in as.
    fn next(&self) -> String {
        for name in ["session", "session2"] {
            self.browser.forget(name);
        }
        self.does("open", ON)
    }
}

const ON: &str = "remember=on";
const OFF: &str = "remember=off";

/// The requests of those who leave: steps, and the options of the program that takes them.
const WAYS: [&[(&str, &str)]; 20] = [
    &[("open.forget.save", ON)],
    &[("open.forget.save.destroy", ON)],
    &[("open.forget.save.logout", ON)],
    &[("open.forget.save", ON), ("open.destroy", ON)],
    &[("open.forget.save", ON), ("end_it", OFF)],
    &[("open.forget.save", ON), ("leave", ON)],
    &[("open.forget.save", ON), ("start", ON), ("open.save", ON), ("open.touch.info.save", OFF)],
    &[("open.forget.touch.info.save", ON)],
    &[("open.forget.save.remember.save", ON)],
    &[("open.forget.reopen.save", ON)],
    &[("open.forget.save.reopen.destroy", ON)],
    &[("open.forget.destroy", ON)],
    &[("open.hide.destroy", ON)],
    &[("open.hide.forget.save", ON)],
    &[("open.destroy", OFF)],
    &[("open.logout", OFF)],
    &[("end_it", OFF)],
    &[("leave", OFF)],
    &[("end_it", ON)],
    &[("open.save.logout", ON)],
];

#[test]
fn who_leaves_is_gone_however_they_leave() {
    let nginx = Nginx::start(&Site {
        init: r#"require("resty.session").init({ secret = "tests of leaving" })"#,
        server: PROGRAM,
        ..Site::default()
    });
    for storage in ["cookie", "shm"] {
        let user = || User { nginx: &nginx, storage, browser: Browser::new() };
        let signed_in = |audience: &str| {
            let user = user();
            assert_eq!(user.does("new.save", &format!("{ON}{audience}")), "Ada");
            assert_eq!(user.browser.cookies(), ["remember", "session"]);
            user
        };
        // It works at all: a user who stays is remembered.
        let stays = signed_in("");
        assert_eq!(stays.does("open.save.refresh.info", OFF), "Ada");
        assert_eq!(stays.next(), "Ada");
        for closed_before in [false, true] {
            for way in WAYS {
                let user = signed_in("");
                let copy = user.browser.cookie("remember").unwrap();
                // Reopening reads the request's session cookie, which a request with only a
                // remember cookie lacks.
                if closed_before && way[0].1 == ON && !way[0].0.contains("reopen") {
                    user.browser.forget("session");
                }
                for (steps, options) in way {
                    let answer = user.does(steps, options);
                    assert!(["Ada", "done"].contains(&&*answer), "{storage} {way:?}: {answer}");
                }
                assert_eq!(user.browser.cookie("remember"), None, "{storage} {way:?}");
                assert_eq!(user.next(), "open: missing session cookie", "{storage} {way:?}");
                if storage == "shm" && !closed_before {
                    user.browser.put("remember", &copy, &nginx.url("/"));
                    assert_eq!(user.next(), "open: missing session cookie", "{storage} {way:?}: a copy opens");
                }
            }
        }

        // A program without remember cookies signs out where the session is over.
        let user_without = signed_in("");
        user_without.browser.forget("session");
        assert_eq!(user_without.does("end_it", OFF), "end_it: missing session cookie");
        assert!(user_without.browser.cookies().is_empty());

        // One of several audiences leaves, and does not come back; the other one may.
        for (options, stays) in [(ON, true), (OFF, false)] {
            let user = signed_in("&audience=shop");
            assert_eq!(user.does("join.save", ON), "done");
            assert_eq!(user.does("leave", &format!("{options}&audience=shop")), "done");
            user.browser.forget("session");
            assert_ne!(user.does("open", &format!("{ON}&audience=shop")), "Ada");
            assert_eq!(user.next() == "done", stays, "{storage}");
        }
    }
    assert_eq!(nginx.complaints(), [""; 0]);

    let answers: Vec<String> = (0..2).map(|_| Browser::new().get(nginx.url("/collide"))).collect();
    assert_eq!(answers, ["truetrue", "truetrue"]);
    let complaints = nginx.complaints();
    assert!(complaints.len() == 1 && complaints[0].contains(r#"cookies "session" and "session2""#), "{complaints:?}");
}
