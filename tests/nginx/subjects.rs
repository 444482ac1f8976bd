//! The sessions of a subject: listing them, ending them, and limiting how many there are.

use super::http::Browser;
use super::storages::port_of;
use resty_session_testing::dshm_server::Dshm;
use resty_session_testing::memcached_server::Memcached;
use resty_session_testing::redis_servers::Redis;
use resty_session_testing::server::{Nginx, Site};
use resty_session_testing::sql_servers::Database;

/// A site whose programs take their options from the request: `?hashed=1`, `?max=2`, and so on.
const PROGRAM: &str = r#"
    location / { content_by_lua_block {
        local session, args = require("resty.session"), ngx.req.get_uri_args()
        local subject = args.subject or "ada"
        local options = {
            hash_subject = args.hashed and true or nil, hash_storage_key = args.hashed and true or nil,
            max_sessions = tonumber(args.max), remember = args.remember and true or nil, audience = args.audience,
            rolling_timeout = tonumber(args.ttl), idling_timeout = args.ttl and 0 or nil, subject = args.owner,
        }
        local acts = {}
        function acts.enter()
            local s = session.open(options)
            s:set_subject(subject ~= "none" and subject or nil)
            local ok, err = s:save()
            return ok and s:get_property("id") or err
        end
        function acts.whoami()
            local s, err, exists = session.open(options)
            return exists and s:get_subject() or err
        end
        function acts.list()
            local sessions, err = session.list(subject, options)
            if not sessions then
                return err
            end
            local texts = { #sessions }
            for i, one in ipairs(sessions) do
                assert(i == 1 or one.expires <= sessions[i - 1].expires)
                assert(math.abs(one.expires - ngx.time() - (tonumber(args.ttl) or 3600)) < 100 or args.mixed)
                texts[#texts + 1] = one.audience .. (one.current and " current " or " ") .. one.id
            end
            return table.concat(texts, "\n")
        end
        function acts.revoke()
            return tostring(select(2, session.revoke_subject(subject, 60, options)) or "revoked")
        end
        function acts.revoke_id()
            return tostring(select(2, session.revoke_id(args.id, options)) or "revoked")
        end
        function acts.others()
            local s = session.open(options)
            local count, err = s:revoke_others()
            return tostring(count or err)
        end
        function acts.timer()
            local result
            ngx.timer.at(0, function()
                local ok, sessions = pcall(session.list, subject, options)
                result = ok and #sessions .. tostring(sessions[1].current) or sessions
            end)
            while not result do ngx.sleep(0.001) end
            return result
        end
        function acts.coroutine()
            return coroutine.wrap(acts.list)()
        end
        local ok, answer = pcall(acts[ngx.var.uri:sub(2)])
        ngx.say(answer)
    } }
"#;

fn site(storage: &str, options: &str) -> Nginx {
    let init = format!(
        r#"require("resty.session").init({{
            secret = "the secret of these tests", storage = {storage}, store_metadata = true, {options}
        }})"#
    );
    Nginx::start(&Site { init: &init, server: PROGRAM, ..Site::default() })
}

/// A browser that was signed in, and the id of its session.
fn entered(nginx: &Nginx, query: &str) -> (Browser, String) {
    let browser = Browser::new();
    let id = browser.get(nginx.url(&format!("/enter?{query}")));
    assert_eq!(id.len(), 43, "{id}");
    (browser, id)
}

/// The lines of a list, without their count.
fn list(browser: &Browser, nginx: &Nginx, query: &str) -> Vec<String> {
    let list = browser.get(nginx.url(&format!("/list?{query}")));
    let mut lines = list.lines().map(str::to_owned);
    let count = lines.next().unwrap();
    let lines: Vec<String> = lines.collect();
    assert_eq!(count, lines.len().to_string(), "{list}");
    lines
}

fn subject(browser: &Browser, nginx: &Nginx, query: &str) -> String {
    browser.get(nginx.url(&format!("/whoami?{query}")))
}

/// Listing, ending one by its listed id and by its own, ending the others, ending all. `query` is
/// part of each request.
fn lists_and_ends(nginx: &Nginx, query: &str) {
    let [(ada, id), (phone, phone_id), (tablet, _), (stranger, _), (blog, _)] = [
        query.to_owned(),
        query.to_owned(),
        query.to_owned(),
        format!("{query}&subject=eve"),
        format!("{query}&audience=blog"),
    ]
    .map(|query| entered(nginx, &query));
    let stranger_is_there = || {
        assert_eq!(subject(&stranger, nginx, query), "eve", "{query}");
        assert_eq!(subject(&blog, nginx, &format!("{query}&audience=blog")), "ada", "{query}");
    };
    let lines = list(&ada, nginx, query);
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert!(lines.iter().all(|line| line.starts_with("default ")));
    let current: Vec<&String> = lines.iter().filter(|line| line.contains(" current ")).collect();
    assert_eq!(current.len(), 1, "{lines:?}");
    assert_eq!(current[0].ends_with(&id), !query.contains("hashed"), "{lines:?}");
    assert_eq!(list(&Browser::new(), nginx, query).iter().filter(|line| line.contains("current")).count(), 0);
    assert_eq!(list(&stranger, nginx, &format!("{query}&subject=nobody")), [""; 0]);

    assert_eq!(ada.get(nginx.url(&format!("/revoke_id?{query}&id={phone_id}&owner=ada"))), "revoked");
    assert!(subject(&phone, nginx, query).starts_with("unable to load session"), "{query}");
    let left = list(&ada, nginx, query);
    assert_eq!(left.len(), 2, "{query}: {left:?}");
    let other = left.iter().find(|line| !line.contains("current")).unwrap().rsplit(' ').next().unwrap();
    assert_eq!(ada.get(nginx.url(&format!("/revoke_id?{query}&id={other}&owner=ada"))), "revoked");
    assert!(subject(&tablet, nginx, query).starts_with("unable to load session"), "{query}");
    assert_eq!(list(&ada, nginx, query).len(), 1, "{query}");

    let others: Vec<Browser> = (0..3).map(|_| entered(nginx, query).0).collect();
    assert_eq!(ada.get(nginx.url(&format!("/others?{query}"))), "3", "{query}");
    assert!(others.iter().all(|browser| subject(browser, nginx, query) != "ada"), "{query}");
    assert_eq!((subject(&ada, nginx, query).as_str(), list(&ada, nginx, query).len()), ("ada", 1), "{query}");
    assert_eq!(ada.get(nginx.url(&format!("/others?{query}"))), "0", "{query}");

    let phone = entered(nginx, query).0;
    assert_eq!(Browser::new().get(nginx.url(&format!("/revoke?{query}"))), "revoked");
    assert!([&ada, &phone].iter().all(|browser| subject(browser, nginx, query) != "ada"), "{query}");
    assert_eq!(list(&ada, nginx, query), [""; 0], "{query}");
    stranger_is_there();
}

/// Remember cookies end with what they would bring back, except for this browser's own.
fn ends_remembered(nginx: &Nginx) {
    let query = "remember=1&subject=grace";
    let [(grace, _), (phone, _)] = [entered(nginx, query), entered(nginx, query)];
    assert_eq!(grace.get(nginx.url(&format!("/others?{query}"))), "1");
    assert!(subject(&phone, nginx, query).starts_with("unable to load session"));
    let without_session = |browser: &Browser| {
        let other = Browser::new();
        other.put("remember", &browser.cookie("remember").unwrap(), &nginx.url("/"));
        subject(&other, nginx, query)
    };
    assert_eq!(without_session(&grace), "grace", "its own remember cookie is left");
    let (phone, _) = entered(nginx, query);
    assert_eq!(phone.get(nginx.url(&format!("/revoke?{query}"))), "revoked");
    assert_ne!(without_session(&phone), "grace");
}

/// The sessions that expire first end when there are too many, and never the one that was saved.
fn keeps_the_limit(nginx: &Nginx, query: &str) {
    let query = &format!("{query}&subject=linus&mixed=1&max=2");
    let enter = |ttl: u32| entered(nginx, &format!("{query}&ttl={ttl}")).0;
    let (long, short, middle) = (enter(3000), enter(1000), enter(2000));
    let live = |browser: &Browser| subject(browser, nginx, query) == "linus";
    assert_eq!([&long, &short, &middle].map(live), [true, false, true], "{query}");
    let shortest = enter(500);
    assert_eq!([&long, &middle, &shortest].map(live), [true, false, true], "{query}");
    assert_eq!(list(&long, nginx, query).len(), 2, "{query}");
}

fn works(storage: &str, options: &str) {
    let nginx = site(storage, options);
    for query in ["a=1", "hashed=1"] {
        lists_and_ends(&nginx, query);
    }
    ends_remembered(&nginx);
    keeps_the_limit(&nginx, "hashed=1");
    assert_eq!(nginx.complaints(), [""; 0]);
}

#[test]
fn works_with_redis() {
    let server = Redis::start(&[]);
    works(r#""redis""#, &format!("redis = {{ port = {} }}", server.port));
}

#[test]
fn works_with_memcached() {
    let server = Memcached::start(&[]);
    works(r#""memcached""#, &format!("memcached = {{ {} }}", port_of(&server)));
}

#[test]
fn works_with_postgres() {
    let database = Database::postgres(&[]);
    works(r#""postgres""#, &format!("postgres = {{ {} }}", database.options()));
}

#[test]
fn works_with_mariadb() {
    let database = Database::mariadb(&[]);
    works(r#""mysql""#, &format!("mysql = {{ {} }}", database.options()));
}

#[test]
fn works_with_dshm() {
    let server = Dshm::start();
    works(r#""dshm""#, &format!("dshm = {{ {} }}", port_of(&server)));
}

#[test]
fn works_with_files() {
    let directory = tempfile::tempdir().unwrap();
    works(r#""file""#, &format!("file = {{ path = '{}' }}", directory.path().display()));
}

#[test]
fn works_with_shm() {
    works(r#""shm""#, "");
}

/// A storage that a program wrote, with other entries among its metadata, and then without
/// `read_metadata`.
const OWN: &str = r#"(function()
    local records, metadata = {}, {}
    local storage = {}
    function storage:set(name, key, value, ttl, now, old_key, stale_ttl, owners)
        ngx.sleep(0.001)
        records[name .. key] = value
        for i = 1, #(owners and owners.audiences or {}) do
            local place = name .. owners.audiences[i] .. owners.subjects[i]
            metadata[place] = metadata[place] or { [5] = "x", [{}] = false, expired = ngx.time(), odd = "later" }
            metadata[place][old_key or ""], metadata[place][key] = nil, ngx.time() + ttl
        end
        return true
    end
    function storage:get(name, key) return records[name .. key] end
    function storage:delete(name, key, now, owners)
        records[name .. key] = nil
        for i = 1, #(owners and owners.audiences or {}) do
            local place = metadata[name .. owners.audiences[i] .. owners.subjects[i]]
            if place then place[key] = nil end
        end
        return true
    end
    function storage:read_metadata(name, audience, subject)
        if subject == "YnJva2Vu" then return nil, "it is broken" end
        if subject == "b2Rk" then return "text" end
        return metadata[name .. audience .. subject] or {}
    end
    without_metadata = { set = storage.set, get = storage.get, delete = function() return nil, "it refuses" end }
    return storage
end)()"#;

#[test]
fn works_with_a_programs_own_storage() {
    works(OWN, "");
    let nginx = site(OWN, "");
    let browser = Browser::new();
    for (path, expected) in [
        ("/list?subject=broken", "unable to list sessions (it is broken)"),
        ("/list?subject=odd", "unable to list sessions (table expected, got string)"),
        ("/revoke?subject=broken", "unable to revoke sessions (it is broken)"),
    ] {
        assert_eq!(browser.get(nginx.url(path)), expected);
    }
    let nginx = site(&format!("{OWN} and without_metadata"), "");
    let (browser, id) = entered(&nginx, "");
    for (path, expected) in [
        ("/list", "unable to list sessions (the storage has no method read_metadata)"),
        ("/revoke", "unable to revoke sessions (the storage has no method read_metadata)"),
        ("/others", "unable to revoke other sessions (the storage has no method read_metadata)"),
        (&format!("/revoke_id?id={id}"), "unable to revoke session (it refuses)"),
    ] {
        assert_eq!(browser.get(nginx.url(path)), expected);
    }
    assert_eq!(nginx.complaints(), [""; 0]);
    assert_eq!(browser.get(nginx.url("/enter?max=1")).len(), 43);
    assert_eq!(nginx.complaints(), [""; 0], "a session that goes on ends no other");
    assert_eq!(Browser::new().get(nginx.url("/enter?max=1")).len(), 43, "the save counts");
    let complaints = nginx.complaints();
    let warning = "unable to end the sessions beyond max_sessions (the storage has no method read_metadata)";
    assert!(complaints.len() == 1 && complaints[0].contains(warning), "{complaints:?}");
}

#[test]
fn what_cannot_be_done_is_told() {
    let server = Redis::start(&[]);
    let with = |more: &str| site(r#""redis""#, &format!("redis = {{ port = {} }}, {more}", server.port));
    let (nginx, plain, cookie) = (with(""), with("store_metadata = false"), site(r#""cookie""#, ""));
    let (browser, _) = entered(&nginx, "");
    let (plain_browser, id) = entered(&plain, "");
    let (cookie_browser, _) = entered(&cookie, "");
    let nobody = Browser::new();
    let own = format!("/revoke_id?id={id}");
    let long = format!("/revoke_id?id={id}A");
    let [subject_mark, sid_mark] =
        ["c3ViamVjdDpZV1JoWVdSaFlXUmhZV1JoWVdSaFlXUmg", "c2lkOjEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg"]
            .map(|id| format!("/revoke_id?id={id}"));
    for (browser, nginx, path, expected) in [
        (&nobody, &nginx, "/others", "unable to revoke other sessions of nonexistent session"),
        (&browser, &nginx, "/list?subject=", "invalid subject"),
        (&browser, &nginx, "/revoke?subject=", "invalid subject"),
        (&browser, &nginx, "/revoke_id", "invalid session id"),
        (&browser, &nginx, "/revoke_id?id=../../etc/passwd", "invalid session id"),
        (&browser, &nginx, &long, "invalid session id"),
        (&browser, &nginx, &subject_mark, "invalid session id"),
        (&cookie_browser, &cookie, &sid_mark, "invalid session id"),
        (&plain_browser, &plain, "/list", "unable to list sessions (store_metadata is off)"),
        (&plain_browser, &plain, "/others", "unable to revoke other sessions (store_metadata is off)"),
        (&plain_browser, &plain, "/revoke", "session revocation is not enabled"),
        (&plain_browser, &plain, "/enter?max=2", "invalid max_sessions (it needs store_metadata = true)"),
        (&plain_browser, &plain, &own, "revoked"),
        (&plain_browser, &plain, "/whoami", "unable to load session"),
        (
            &cookie_browser,
            &cookie,
            "/list",
            "unable to list sessions (nothing lists the sessions that are kept in cookies: it needs a storage)",
        ),
        (
            &cookie_browser,
            &cookie,
            "/others",
            "unable to revoke other sessions (nothing lists the sessions that are kept in cookies: it needs a storage)",
        ),
        (&cookie_browser, &cookie, "/revoke", "session revocation is not enabled"),
        (&cookie_browser, &cookie, &own, "session revocation is not enabled"),
    ] {
        assert_eq!(browser.get(nginx.url(path)), expected, "{path}");
    }
    let anonymous = entered(&nginx, "subject=none").0;
    let no_subject = "unable to revoke other sessions (the session has no subject)";
    assert_eq!(anonymous.get(nginx.url("/others")), no_subject);
    assert_eq!(browser.get(nginx.url("/timer")), "1nil", "a timer has no request");
    assert!(browser.get(nginx.url("/coroutine")).starts_with("1\ndefault current "));
    for nginx in [nginx, plain, cookie] {
        assert_eq!(nginx.complaints(), [""; 0]);
    }
}
