//! How programs sign in to Postgres and MariaDB.

use super::http::Browser;
use super::storages::hosts;
use resty_session_testing::certificates::Authority;
use resty_session_testing::server::{Nginx, Site};
use resty_session_testing::sql_servers::Database;

#[test]
fn postgres_takes_every_way_in() {
    let authority = Authority::new();
    let database = Database::postgres_with(Some(&authority.tls(&["database.test", "::1"])), &[]);
    database.ask(
        "SET password_encryption = 'md5'; CREATE ROLE md5_user LOGIN PASSWORD 'secret'; \
         SET password_encryption = 'scram-sha-256'; CREATE ROLE scram_user LOGIN PASSWORD 'secret'; \
         CREATE ROLE clear_user LOGIN PASSWORD 'secret' IN ROLE scram_user; CREATE SCHEMA app; CREATE TABLE app.s (LIKE sessions INCLUDING ALL); \
         CREATE TABLE \"My Sessions\" (LIKE sessions INCLUDING ALL); \
         GRANT ALL ON SCHEMA app TO scram_user, md5_user; GRANT ALL ON ALL TABLES IN SCHEMA app TO scram_user, md5_user",
    );
    let tcp = format!("port = {}, database = \"postgres\"", database.port);
    let app = r#"table = "app.s", password = "secret", application = "tests""#;
    let good = [
        format!(r#"{tcp}, username = "md5_user", {app}"#),
        format!(
            r#"{tcp}, username = "scram_user", {app}, ssl = true, ssl_required = true, server_name = "database.test""#
        ),
        format!(r#"{tcp}, username = "scram_user", {app}, ssl = true, ssl_verify = false"#),
        format!(r#"{tcp}, username = "clear_user", {app}, ssl = true, server_name = "database.test""#),
        format!(r#"{tcp}, username = "clear_user", {app}, socket = "{}""#, database.socket()),
        format!(r#"{tcp}, socket = "{}", table_name = "\"My Sessions\"""#, database.socket()),
        format!(r#"{tcp}, socket = "unix:{0}/.s.PGSQL.{1}""#, database.socket(), database.port),
        format!(r#"{tcp}, host = "unix:{}""#, database.socket()),
    ];
    let (proxy, mut hosts) = hosts(database.port);
    hosts.push(format!(r#"host = "[::1]:{}", ssl = true"#, proxy.port));
    let good = good
        .into_iter()
        .chain(hosts.iter().map(|host| format!(r#"database = "postgres", {host}"#)))
        .collect::<Vec<_>>();
    let plain = Database::postgres(&[]);
    let bad = [
        (format!(r#"{tcp}, username = "scram_user", {app}, ssl = true"#), "certificate"),
        (
            format!(r#"{tcp}, username = "scram_user", table = "app.s", password = "wrong""#),
            "password authentication failed",
        ),
        (format!(r#"{tcp}, username = "clear_user", {app}"#), "asks for the password in clear text"),
        (
            format!(r#"{tcp}, username = "clear_user", {app}, ssl = true, ssl_verify = false"#),
            "asks for the password in clear text",
        ),
        (
            format!(r#"port = {}, username = "clear_user", {app}, ssl = true, ssl_verify = false"#, plain.port),
            "asks for the password in clear text",
        ),
        (format!(r#"port = {}, ssl = true"#, plain.port), "does not support TLS"),
        (
            format!(r#"port = {}, ssl = true, ssl_verify = false, ssl_required = true"#, plain.port),
            "does not support TLS",
        ),
        (format!(r#"{tcp}, database = "none""#), "database \"none\" does not exist"),
    ];
    check_ways_in("postgres", &authority, &good, &bad);
    assert_eq!(database.ask("SELECT count(*) FROM app.s WHERE name = 'session'"), "1");
}

#[test]
fn mariadb_takes_every_way_in() {
    let authority = Authority::new();
    let database = Database::mariadb_with(&authority.tls(&["database.test", "::1"]));
    database.ask(
        "CREATE USER native@127.0.0.1 IDENTIFIED VIA mysql_native_password USING PASSWORD('secret'); \
         CREATE USER ed@127.0.0.1 IDENTIFIED VIA ed25519 USING PASSWORD('secret'); \
         CREATE USER tls@127.0.0.1 IDENTIFIED BY 'secret' REQUIRE SSL; \
         GRANT ALL ON sessions.* TO native@127.0.0.1, ed@127.0.0.1, tls@127.0.0.1; \
         CREATE DATABASE app; CREATE TABLE app.s LIKE sessions; CREATE TABLE `My Sessions` LIKE sessions",
    );
    let tcp = format!("port = {}, database = \"sessions\"", database.port);
    let user = |name: &str| format!(r#"{tcp}, username = "{name}", password = "secret""#);
    let good = [
        format!(r#"{}, charset = "utf8mb4", max_packet_size = 1048576"#, user("native")),
        user("ed"),
        format!(r#"{}, ssl = true, server_name = "database.test""#, user("tls")),
        format!(r#"{}, ssl = true, ssl_verify = false"#, user("tls")),
        format!(r#"{tcp}, username = "root", socket = "{}", table_name = "app.s""#, database.socket()),
        format!(r#"{tcp}, username = "root", table_name = "`My Sessions`""#),
        format!(r#"{tcp}, username = "root", host = "unix:{}""#, database.socket()),
    ];
    let (proxy, mut hosts) = hosts(database.port);
    hosts.push(format!(r#"host = "[::1]:{}", ssl = true"#, proxy.port));
    let good = good
        .into_iter()
        .chain(hosts.iter().map(|host| format!(r#"database = "sessions", username = "root", {host}"#)))
        .collect::<Vec<_>>();
    let bad = [
        (format!(r#"{}, ssl = true"#, user("tls")), "certificate"),
        (user("tls"), "Access denied"),
        (format!(r#"{tcp}, username = "native", password = "wrong""#), "Access denied"),
        (format!(r#"{}, max_packet_size = 16384"#, user("native")), "packet"),
    ];
    check_ways_in("mysql", &authority, &good, &bad);
    assert_eq!(database.ask("SELECT count(*) FROM app.s WHERE name = 'session'"), "1");
}

/// Saves and reads with each of the good options; the bad ones' errors hold what they are to say.
fn check_ways_in(storage: &str, authority: &Authority, good: &[String], bad: &[(String, &str)]) {
    let options: Vec<&String> = good.iter().chain(bad.iter().map(|(options, _)| options)).collect();
    let tables: Vec<String> =
        options.iter().map(|options| format!("{{ connect_timeout = 2000, read_timeout = 2000, {options} }}")).collect();
    let nginx = Nginx::start(&Site {
        // Among the system's authorities, bad ones are left out.
        main: &format!("env SSL_CERT_FILE={};", authority.among_bad_ones().display()),
        server: &format!(
            r#"location / {{ content_by_lua_block {{
                local options = ({{ {} }})[tonumber(ngx.var.arg_n)]
                local storage = require("resty.session.{storage}").new(options)
                local key = ("k"):rep(43)
                local value = ("v"):rep(20000)
                local ok, err = storage:set("session", key, value, 60, ngx.time())
                ngx.say(ok and (storage:get("session", key) == value and "same" or "another") or err)
            }} }}"#,
            tables.join(", ")
        ),
        ..Site::default()
    });
    let answer = |number: usize| Browser::new().get(nginx.url(&format!("/?n={}", number + 1)));
    for (number, options) in good.iter().enumerate() {
        assert_eq!(answer(number), "same", "{options}");
    }
    for (number, (options, said)) in bad.iter().enumerate() {
        let answer = answer(good.len() + number);
        assert!(answer.contains(said), "{options}: {answer}");
    }
}
