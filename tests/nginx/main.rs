//! The whole library in a real nginx. Needs `make build` before: run it with `make test`.
#![allow(clippy::too_many_lines, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bridge;
mod chromium;
mod credentials;
mod demo;
mod derivations;
mod devices;
mod dshm_storage;
mod faults;
mod file_storage;
mod http;
mod leaving;
mod loops;
mod memcached_storage;
mod memory;
mod recipes;
mod redis_storage;
mod revocation;
mod rock;
mod specs;
mod sql_storage;
mod sql_ways_in;
mod status;
mod storages;
mod stress;
mod subjects;
mod synchronize;
mod upgrades;
mod workers;
