//! Loops over tables in finalizers, where LuaJIT before its rolling releases may run a compiled one
//! for ever; see `docs/architecture.md`, "Loops over tables".

use std::time::Duration;

use resty_session_testing::server::{Nginx, Site, root};

/// What a location answers, if it does within some seconds.
fn answer(nginx: &Nginx, path: &str) -> String {
    let request = ureq::get(nginx.url(path)).config().timeout_global(Some(Duration::from_secs(10))).build();
    let answer = request.call().and_then(|mut response| response.body_mut().read_to_string());
    answer.unwrap_or_else(|error| panic!("{path}: {error}\n{}", nginx.log()))
}

/// Each location has the loops compiled for values of one type, and then meets others in a
/// finalizer.
const SERVER: &str = r#"
    location /options { content_by_lua_block {
        local texts = { secret = "tests", cookie_name = "a", cookie_path = "/", cookie_domain = "a.test", audience = "b" }
        local others = { secret = "tests", idling_timeout = 5, cookie_secure = false, request_headers = { "id" } }
        run(function(other)
            assert(sessions.new(other and others or texts))
        end)
    } }
    location /json { content_by_lua_block {
        local json = require "resty.session.json"
        local numbers = '{"a":100000000000001,"b":100000000000002,"c":[],"d":100000000000003,"e":100000000000004}'
        local others = '{"a":"x","b":true,"c":[],"d":[100000000000001],"e":{"f":false}}'
        run(function(other)
            assert(json.encode(assert(json.decode(other and others or numbers))))
        end)
    } }
    location /shm { content_by_lua_block {
        local storage = require("resty.session.shm").new({ zone = "sessions" })
        local now = ngx.time()
        local function store(owner, count)
            for number = 1, count do
                local metadata = { audiences = { "a" }, subjects = { owner } }
                assert(storage:set("session", owner .. ("x"):rep(42) .. number, "value", 60, now, nil, nil, metadata))
            end
        end
        store("u", 3)
        run(function(other)
            assert(storage:read_metadata("session", "a", other and "nobody" or "u", now))
            assert(storage:read_metadata("session", "a", "u", now))
        end)
    } }
    location /session { content_by_lua_block {
        local options = { secret = "tests", storage = "shm", store_metadata = true, remember = true }
        run(function(other)
            local s = sessions.new(options)
            s:set_subject(other and 5 or "ada")
            for number = 1, 5 do
                s:set("a" .. number, other and number % 2 == 0 or "text")
                s.info:set("b" .. number, other and number or "text")
            end
            -- In a finalizer it cannot be told where the response is.
            local ok, err = s:save()
            assert(ok or other, err)
        end)
    } }
"#;

const INIT: &str = r#"
    sessions = require "resty.session"
    -- No exit becomes a trace of its own, so none is spared.
    require("jit.opt").start("hotloop=2", "hotexit=60000")
    function run(loops)
        loops(true)
        for _ = 1, 50 do
            loops(false)
        end
        local ended, problem = false, nil
        getmetatable(newproxy(true)).__gc = function()
            ended, problem = pcall(loops, true)
        end
        collectgarbage()
        collectgarbage()
        ngx.print(tostring(ended), " ", tostring(problem))
    end
"#;

/// The library's files, but for those that are not compiled, that hold the instructions of LuaJIT's
/// own table loops.
const WITH_TABLE_LOOPS: &str = r#"
    local util, bit = require "jit.util", require "bit"
    local function add_instructions(found, code)
        for pc = 1, util.funcinfo(code).bytecodes - 1 do
            found[bit.band(util.funcbc(code, pc), 0xff)] = true
        end
        local at = -1
        while util.funck(code, at) ~= nil do
            if type(util.funck(code, at)) == "proto" then
                add_instructions(found, util.funck(code, at))
            end
            at = at - 1
        end
        return found
    end
    local table_loop = add_instructions({}, load "local t = ... for _ in pairs(t) do end")
    for instruction in pairs(add_instructions({}, load "local t = ... for _ in ipairs(t) do end")) do
        table_loop[instruction] = nil
    end
    assert(next(table_loop))
    for file in io.popen("find " .. lua .. " -name '*.lua' ! -name options.lua"):lines() do
        local found = add_instructions({}, assert(loadfile(file)))
        for instruction in pairs(table_loop) do
            if found[instruction] then
                ngx.say(file)
                break
            end
        end
        checked = (checked or 0) + 1
    end
    ngx.print(checked > 15 and "checked" or checked)
"#;

#[test]
fn no_file_has_loops_that_may_not_end_when_they_are_compiled() {
    let lua = format!("local lua, checked = {:?}", root().join("lua").display().to_string());
    let server = format!("location / {{ content_by_lua_block {{ {lua} {WITH_TABLE_LOOPS} }} }}");
    let nginx = Nginx::start(&Site { server: &server, ..Site::default() });
    assert_eq!(answer(&nginx, "/"), "checked");
}

#[test]
fn compiled_loops_end_in_finalizers() {
    for path in ["/options", "/json", "/shm", "/session"] {
        let nginx = Nginx::start(&Site { init: INIT, server: SERVER, ..Site::default() });
        assert_eq!(answer(&nginx, path), "true nil", "{path}");
    }
}
