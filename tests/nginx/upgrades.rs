//! Another version of the library comes while nginx runs.

use std::fs;
use std::path::Path;
use std::process::Command;

use resty_session_testing::server::{self, Nginx, Site, wait_for};

fn copy(lualib: &Path) {
    let from = server::lualib();
    let status = Command::new("cp").arg("-r").args([&from, lualib]).status().unwrap();
    assert!(status.success());
}

/// Puts a file in the place of the native module, as installing does.
fn replace_module(lualib: &Path, more: &[u8]) {
    let module = lualib.join("resty/session/native.so");
    let content = [fs::read(&module).unwrap(), more.to_vec()].concat();
    let fresh = module.with_extension("new");
    fs::write(&fresh, content).unwrap();
    fs::rename(&fresh, &module).unwrap();
}

fn reload(nginx: &Nginx, what: &str, happens: impl Fn(&Nginx) -> bool) {
    nginx.reload();
    wait_for(what, || happens(nginx));
}

fn version(nginx: &Nginx) -> String {
    ureq::get(nginx.url("/version")).call().unwrap().body_mut().read_to_string().unwrap()
}

#[test]
fn a_reload_does_not_mix_two_versions() {
    let directory = tempfile::tempdir().unwrap();
    let (lualib, other) = (directory.path().join("first"), directory.path().join("second"));
    copy(&lualib);
    let server = r#"location /version { content_by_lua_block {
        ngx.print(package.searchpath("resty.session.native", package.cpath), " ", session._NATIVE_VERSION)
    } }"#;
    let init = r#"session = require "resty.session""#;
    let site = |lualib| Site { init, server, lualib: Some((lualib, lualib)), ..Site::default() };
    let nginx = Nginx::start(&site(&lualib));
    let first = nginx.workers();

    // The same file again, as when the same version is installed once more.
    replace_module(&lualib, b"");
    reload(&nginx, "a reload", |nginx| !nginx.workers().iter().any(|worker| first.contains(worker)));
    let second = nginx.workers();

    replace_module(&lualib, b"another version");
    let refused = "native.so was replaced while nginx ran, which still has the former module: restart nginx";
    reload(&nginx, "a reload that is refused", |nginx| nginx.log().contains(refused));
    assert_eq!(nginx.workers(), second, "the old workers go on");
    assert!(version(&nginx).contains("first"));

    // A version in a directory of its own needs no restart.
    copy(&other);
    replace_module(&other, b"another version");
    nginx.reload_as(&site(&other));
    wait_for("the other version", || version(&nginx).contains("second"));
}
