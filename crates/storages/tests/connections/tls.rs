//! TLS with a private authority, to servers that ask clients for certificates.

use std::sync::Arc;
use std::time::{Duration, Instant};

use resty_session_storages::connections::Servers;
use resty_session_storages::{Error, Storage};
use resty_session_testing::certificates::{Authority, ServerTls};
use resty_session_testing::dshm_server::Dshm;
use resty_session_testing::memcached_server::Memcached;
use resty_session_testing::redis_servers::{Redis, Settings};
use resty_session_testing::server::Server as _;
use resty_session_testing::sql_servers::Database;
use resty_session_testing::tls_front::tls_front;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::Report;
use super::subjects::{dshm, get, memcached, mysql, postgres, redis, with};

/// The name in the servers' certificates.
pub const NAME: &str = "server.test";

/// Makes a storage of options.
type Make = fn(&Servers, Value) -> Arc<dyn Storage>;

/// What a server speaks TLS with that asks clients for certificates.
fn asking(authority: &Authority) -> ServerTls {
    ServerTls { asks_clients: true, ..authority.tls(&[NAME]) }
}

/// Options that suffice.
fn options(authority: &Authority, port: u16) -> Value {
    let client = authority.client("app");
    json!({
        "port": port, "ssl": true, "server_name": NAME, "connect_timeout": 2000,
        "ssl_ca": authority.ca(), "ssl_cert": client.certificate, "ssl_key": client.key,
    })
}

async fn attempt(make: Make, options: Value) -> Result<(), Error> {
    get(&*make(&Servers::default(), options)).await
}

async fn fails(make: Make, options: Value) -> String {
    attempt(make, options).await.expect_err("it connects").to_string()
}

/// `good` has the options that suffice, for a server that asks clients for certificates.
async fn checks(authority: &Authority, good: Value, make: Make) {
    // Servers that speak TLS may close and open their port once while they start.
    let start = Instant::now();
    while let Err(error) = attempt(make, good.clone()).await {
        assert!(start.elapsed() < Duration::from_secs(3), "{error}");
        sleep(Duration::from_millis(50)).await;
    }
    let unverified = json!({ "ssl_verify": false, "ssl_ca": Value::Null, "server_name": "other.test" });
    attempt(make, with(good.clone(), unverified)).await.unwrap();
    let error = fails(make, with(good.clone(), json!({ "server_name": "other.test" }))).await;
    assert!(error.contains("certificate"), "{error}");
    let error = fails(make, with(good.clone(), json!({ "ssl_ca": Value::Null }))).await;
    assert!(error.contains("certificate"), "{error}");
    let another = Authority::new();
    let error = fails(make, with(good.clone(), json!({ "ssl_ca": another.ca() }))).await;
    assert!(error.contains("certificate"), "{error}");
    // Of the program's own file every certificate must be good.
    let error = fails(make, with(good.clone(), json!({ "ssl_ca": authority.among_bad_ones() }))).await;
    assert!(error.contains("ssl_ca "), "{error}");
    // Servers say in different ways that they want one.
    fails(make, with(good, json!({ "ssl_cert": Value::Null, "ssl_key": Value::Null }))).await;
}

/// A server behind one that speaks TLS for it, with a certificate that has expired.
async fn expired(authority: &Authority, server: u16, make: Make) {
    let tls = ServerTls { identity: authority.expired(&[NAME]), ca: authority.ca(), asks_clients: false };
    let error = fails(make, options(authority, tls_front(&tls, server))).await;
    assert!(error.contains("certificate") && error.contains("expired"), "{error}");
}

pub fn check_redis(report: &mut Report) {
    let authority = Authority::new();
    let server = Redis::start_with(&Settings { tls: Some(asking(&authority)), login: None }, &[]);
    report.check("TLS", checks(&authority, options(&authority, server.port_for_clients()), redis));
    report.check("an expired certificate", expired(&authority, server.port, redis));
}

pub fn check_memcached(report: &mut Report) {
    let authority = Authority::new();
    let server = Memcached::start_with(&asking(&authority));
    report.check("TLS", checks(&authority, options(&authority, server.port), memcached));
    let server = Memcached::start(&[]);
    report.check("an expired certificate", expired(&authority, server.port, memcached));
}

pub fn check_dshm(report: &mut Report) {
    let authority = Authority::new();
    let server = Dshm::start();
    let front = tls_front(&asking(&authority), server.port());
    report.check("TLS", checks(&authority, options(&authority, front), dshm));
    report.check("an expired certificate", expired(&authority, server.port(), dshm));
}

pub fn check_postgres(report: &mut Report) {
    let authority = Authority::new();
    let server = Database::postgres_with(Some(&asking(&authority)), &[]);
    report.check("TLS", checks(&authority, options(&authority, server.port), postgres));
}

/// The server is one whose user `certified` needs a certificate.
pub fn check_mysql(report: &mut Report, server: &Database, authority: &Authority) {
    let good = with(options(authority, server.port), json!({ "username": "certified" }));
    report.check("TLS", checks(authority, good, mysql));
}

/// A server without TLS does not get a password in clear from a program that wants TLS.
pub async fn refuses_clear_text(server: &Database) {
    let login = json!({ "username": "postgres", "password": "secret" });
    let error = fails(postgres, with(options(&Authority::new(), server.port), login)).await;
    assert!(error.contains("TLS"), "{error}");
}
