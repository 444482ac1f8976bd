//! The stress of `tests/nginx/stress.rs` on all storages of the bridge: `make stress`.
//! `STRESS_SECONDS` is the time that each takes. And a subject with thousands of sessions.
#![allow(clippy::too_many_lines, clippy::unwrap_used, clippy::expect_used, clippy::panic, dead_code)]

#[path = "../nginx/faults.rs"]
mod faults;
#[path = "../nginx/http.rs"]
mod http;
#[path = "../nginx/storages.rs"]
mod storages;
#[path = "../nginx/stress.rs"]
mod stress;
mod subjects;

mod other_storages {
    use super::storages::port_of;
    use super::stress::stress;
    use resty_session_testing::dshm_server::Dshm;
    use resty_session_testing::memcached_server::Memcached;
    use resty_session_testing::redis_servers::{Cluster, Group};
    use resty_session_testing::sql_servers::Database;

    /// An array of addresses, whose hosts are called as `host` says.
    fn addresses(host: &str, ports: &str) -> String {
        let addresses: Vec<String> =
            ports.split(',').map(|port| format!("{{ {host} = '127.0.0.1', port = {port} }}")).collect();
        format!("{{ {} }}", addresses.join(", "))
    }

    #[test]
    fn sentinel() {
        let group = Group::start();
        stress("redis", &format!("master = 'sessions', sentinels = {}", addresses("host", &group.sentinel_ports())));
    }

    #[test]
    fn cluster() {
        let cluster = Cluster::start();
        stress("redis", &format!("nodes = {}", addresses("ip", &cluster.ports())));
    }

    #[test]
    fn postgres() {
        let database = Database::postgres(&[]);
        stress("postgres", &database.options());
    }

    #[test]
    fn mysql() {
        let database = Database::mariadb(&[]);
        stress("mysql", &database.options());
    }

    #[test]
    fn memcached() {
        let server = Memcached::start(&[]);
        stress("memcached", &format!("port = {}", server.port));
    }

    #[test]
    fn dshm() {
        let server = Dshm::start();
        stress("dshm", &port_of(&server));
    }
}
