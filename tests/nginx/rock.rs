//! The rock, as `luarocks make` builds and installs it.

use std::process::Command;

use resty_session_testing::server::{Nginx, Site, root};

#[test]
fn luarocks_make_installs_what_nginx_needs() {
    let tree = tempfile::tempdir().unwrap();
    let tree_path = tree.path().to_str().unwrap();
    let mut luarocks = Command::new("luarocks");
    // Cargo tells a test about its package. Its own build would see that, and compile some crates
    // anew.
    for (name, _) in std::env::vars_os() {
        if ["CARGO_PKG_", "CARGO_MANIFEST_", "OUT_DIR"].iter().any(|prefix| name.to_string_lossy().starts_with(prefix))
        {
            luarocks.env_remove(name);
        }
    }
    let output = luarocks
        .current_dir(root())
        .args(["--lua-version=5.1", "--tree", tree_path, "make", "rockspec/lua-resty-session-rs-dev-1.rockspec"])
        .output()
        .unwrap();
    let messages = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{messages}");
    // The tree was built before: compiling it anew would take minutes, here and at the next `make
    // run`.
    assert!(!messages.contains("Compiling "), "{messages}");
    // Only the rock's own files: the tree that was built is not on the path.
    let nginx = Nginx::start(&Site {
        lualib: Some((&tree.path().join("share/lua/5.1"), &tree.path().join("lib/lua/5.1"))),
        server: r#"location / { content_by_lua_block {
            local s = require("resty.session").new()
            require("resty.session.utils")
            s:set("a", 1)
            ngx.say(tostring(s:save()), " ", package.searchpath("resty.session.native", package.cpath))
        } }"#,
        ..Site::default()
    });
    let answer = ureq::get(nginx.url("/")).call().unwrap().body_mut().read_to_string().unwrap();
    assert_eq!(answer, format!("true {tree_path}/lib/lua/5.1/resty/session/native.so\n"));
}
