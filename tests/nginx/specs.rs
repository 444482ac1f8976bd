//! Runs the busted specs inside nginx.

use resty_session_testing::server::{Nginx, Site, root, slowness};

/// Runs a spec file in an nginx of its own; `arguments` go into the request's. The variable
/// `SPEC_FILTER`, a Lua pattern, picks the specs to run by their names.
pub fn run(file: &str, arguments: &str) {
    let nginx = Nginx::start(&Site {
        init: r#"require "resty.session""#,
        server: r#"location /spec { content_by_lua_block { require("spec.runner").run() } }"#,
        ..Site::default()
    });
    let path = root().join("spec").join(file);
    let url = nginx.url(&format!("/spec?file={}&slowness={}&{arguments}", path.display(), slowness()));
    let filter = std::env::var("SPEC_FILTER").ok();
    let report = ureq::get(url)
        .query_pairs(filter.iter().map(|filter| ("filter", filter)))
        .call()
        .unwrap()
        .body_mut()
        .read_to_string()
        .unwrap();
    let last = report.lines().last().unwrap_or_default();
    println!("{file}: {last}");
    let (passed, failed) = last.split_once(" passed, ").unwrap_or_else(|| panic!("{report}\n{}", nginx.log()));
    assert_eq!(failed, "0 failed", "{report}");
    assert!(filter.is_some() || passed.parse::<usize>().unwrap() > 0, "no spec ran");
}

/// Those that are run where their servers, or their files, are.
const WITH_SERVERS: [&str; 5] =
    ["dshm_spec.lua", "file_spec.lua", "memcached_spec.lua", "redis_spec.lua", "sql_spec.lua"];

macro_rules! specs {
    ($($name:ident)*) => {
        $(#[test] fn $name() { run(concat!(stringify!($name), ".lua"), ""); })*

        /// A spec file that nobody runs tests nothing.
        #[test]
        fn all_spec_files_are_run() {
            let mut files: Vec<String> = std::fs::read_dir(root().join("spec")).unwrap()
                .map(|file| file.unwrap().file_name().into_string().unwrap())
                .filter(|name| name.ends_with("_spec.lua")).collect();
            files.sort();
            let mut run: Vec<&str> = [$(concat!(stringify!($name), ".lua"),)*].into_iter().chain(WITH_SERVERS).collect();
            run.sort();
            assert_eq!(files, run);
        }
    };
}

specs! {
    compiled_spec configuration_spec cookies_spec json_spec native_spec phases_spec promises_spec protection_spec revocation_spec session_spec
    shm_spec sign_in_spec stages_spec status_spec storage_spec synchronize_spec tenants_spec utils_spec
}
