//! Sessions in files beside sessions in the cookie itself: requests per second that open one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use resty_session_testing::server::{Nginx, Site};
use support::{ROUNDS, Row, median, show, wrk};

fn nginx(directory: &std::path::Path) -> Nginx {
    let init = format!(
        r#"require("resty.session").init({{ secret = "bench" }})
           FILES = {{ storage = "file", cookie_name = "files", file = {{ path = "{}" }} }}"#,
        directory.display()
    );
    let server = r#"
        keepalive_requests 1000000000;
        location /empty { content_by_lua_block { ngx.print("ok") } }
        location /save { content_by_lua_block {
            for _, options in ipairs { {}, FILES } do
                local s = require("resty.session").new(options)
                s:set_data({ user = "ada.lovelace@example.com", roles = { "admin", "editor" }, csrf = "Zm9vYmFyYmF6cXV4" })
                s:set_subject("ada")
                assert(s:save())
            end
            ngx.print("ok")
        } }
        location /cookie { content_by_lua_block {
            local s, err, exists = require("resty.session").open()
            ngx.print(exists and "ok" or err)
        } }
        location /files { content_by_lua_block {
            local s, err, exists = require("resty.session").open(FILES)
            ngx.print(exists and "ok" or err)
        } }
    "#;
    Nginx::start(&Site { init: &init, server, ..Site::default() })
}

fn main() {
    let directory = tempfile::tempdir().unwrap();
    let nginx = nginx(directory.path());
    let response = ureq::get(nginx.url("/save")).call().unwrap();
    let pairs = response.headers().get_all("set-cookie").iter().map(|line| line.to_str().unwrap().split(';').next());
    let cookie = pairs.map(Option::unwrap).collect::<Vec<_>>().join("; ");
    for path in ["/cookie", "/files"] {
        let answer = ureq::get(nginx.url(path)).header("Cookie", &cookie).call().unwrap().body_mut().read_to_string();
        assert_eq!(answer.unwrap(), "ok");
    }
    let [mut empty, mut cookies, mut files] = [const { Vec::new() }; 3];
    for _ in 0..ROUNDS {
        empty.push(wrk(&nginx, "/empty", &cookie));
        cookies.push(wrk(&nginx, "/cookie", &cookie));
        files.push(wrk(&nginx, "/files", &cookie));
    }
    let (empty, cookies, files) = (median(empty), median(cookies), median(files));
    println!("open from the cookie: {cookies:.0} requests/s; from files: {files:.0}");
    let row = Row {
        what: "open from files, over open from the cookie",
        value: files / cookies,
        unit: "",
        budget: Some(0.5),
        at_least: true,
    };
    show(&[row], empty, "bench-files.svg");
}
