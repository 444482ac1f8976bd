//! The control of `make sanitize`, which runs nginx under valgrind.

use resty_session_testing::server::{Nginx, Site};

/// A fault on purpose: the test passes, and valgrind has to report it with a frame of the native
/// module.
#[test]
#[ignore = "the control of `make sanitize`, a fault on purpose"]
fn the_native_module_reads_what_nobody_wrote() {
    let server = r#"
        location /control { content_by_lua_block {
            local ffi = require "ffi"
            ffi.cdef "void *malloc(size_t size);"
            local text = ffi.string(ffi.C.malloc(64), 64)
            ngx.print(tostring(pcall(require("resty.session.utils").inflate, text)))
        } }"#;
    let nginx = Nginx::start(&Site { server, ..Site::default() });
    ureq::get(nginx.url("/control")).call().unwrap();
}
