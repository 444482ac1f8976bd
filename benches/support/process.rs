//! What sessions in cookies cost in one nginx process, in microseconds.

use resty_session_testing::server::Nginx;

/// For `init_by_lua_block`.
pub const INIT: &str = r#"
    require("resty.session").init({ secret = "bench" })
    DATA = { user = "ada.lovelace@example.com", roles = { "admin", "editor" }, csrf = "Zm9vYmFyYmF6cXV4" }
    CONFIGURATION = {
        secret = "bench", cookie_name = "session", cookie_path = "/", cookie_http_only = true, cookie_same_site = "Lax",
        cookie_secure = false, audience = "default", remember = false, stale_ttl = 10, idling_timeout = 900,
        rolling_timeout = 3600, absolute_timeout = 86400, touch_threshold = 60, compression_threshold = 1024,
        store_metadata = false, hash_subject = false, bind = {}, request_headers = { "id" }, storage = "cookie",
    }
    function sign_in(options)
        local s = require("resty.session").new(options)
        s:set_data(DATA)
        s:set_subject("ada")
        return assert(s:save())
    end
"#;

/// For the `server` block.
pub const SERVER: &str = r#"
    location /process { content_by_lua_block {
        local session = require("resty.session")
        local header = {}
        session.__set_ngx_header(header)
        local function time(count, f)
            for _ = 1, count / 10 do f() end
            collectgarbage()
            ngx.update_time()
            local start = ngx.now()
            for _ = 1, count do f() end
            ngx.update_time()
            return (ngx.now() - start) / count * 1e6
        end
        local s = session.open()
        local results = {
            time(200000, function() return session.open() end),
            time(200000, function() header["Set-Cookie"] = nil return sign_in() end),
            time(200000, function() header["Set-Cookie"] = nil return s:touch() end),
            time(200000, function() return session.open(CONFIGURATION) end),
        }
        session.__set_ngx_header(ngx.header)
        ngx.print(table.concat(results, " "))
    } }
"#;

/// Microseconds of `open`; of `new`, `set` and `save`; of `touch`; and of `open` with a table of 20
/// options.
pub fn micros(nginx: &Nginx, cookie: &str) -> [f64; 4] {
    let text = super::get(nginx, "/process", cookie);
    let mut values = text.split(' ').map(|value| value.parse().unwrap_or_else(|_| panic!("{text}")));
    std::array::from_fn(|_| values.next().unwrap())
}
