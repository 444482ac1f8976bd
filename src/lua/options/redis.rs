//! The options of the Redis storages.

use mlua::prelude::*;

use super::{ENDPOINT, LOGIN, NAMING, Names, Reader, TIMEOUTS};
use resty_session_storages::redis::{Options, Sentinels, Target};

const SENTINEL: &[&str] = &["sentinels", "master", "role", "sentinel_username", "sentinel_password"];
const CLUSTER: &[&str] = &["nodes", "max_redirections"];
const UNNEEDED_NUMBERS: &[&str] = &["pool_size", "backlog", "max_connection_attempts", "max_connection_timeout"];
const UNNEEDED_TEXTS: &[&str] = &["name", "lock_zone", "lock_prefix"];

pub(super) const NAMES: Names =
    &[ENDPOINT, TIMEOUTS, NAMING, LOGIN, SENTINEL, CLUSTER, UNNEEDED_NUMBERS, UNNEEDED_TEXTS, &["force_auth"]];

/// The options of a Redis storage: with `nodes` a cluster's, with `sentinels` a Sentinel group's.
pub fn redis(table: Option<&LuaTable>) -> Result<Options, String> {
    let reader = Reader::new("redis", table);
    reader.unneeded(UNNEEDED_NUMBERS, UNNEEDED_TEXTS)?;
    reader.switch("force_auth")?;
    let username = reader.text("username")?;
    let password = reader.password("password")?;
    if username.is_some() && password.is_none() {
        return Err(reader.invalid("username", "a username needs a password"));
    }
    let database = reader.whole("database")?.unwrap_or_default();
    let target = target(&reader)?;
    let mut tls = reader.tls()?;
    if let (Some(tls), Target::Sentinel(_) | Target::Cluster { .. }) = (&mut tls, &target) {
        // Several servers have no one name: each certificate must bear its own server's.
        tls.server_name = None;
    }
    Ok(Options {
        target,
        naming: reader.naming()?,
        username,
        password,
        database: i64::try_from(database).map_err(|_| reader.invalid("database", "too large"))?,
        tls,
        timeouts: reader.timeouts()?,
        pool: reader.text("pool")?,
    })
}

fn target(reader: &Reader) -> Result<Target, String> {
    const PORT: u16 = 6379;
    const SENTINEL_PORT: u16 = 26379;
    const REDIRECTIONS: u32 = 16;
    let redirections = reader.number("max_redirections")?.map_or(REDIRECTIONS, |number| number.min(1000) as u32);
    let replica = match reader.text("role")?.as_deref() {
        None | Some("master") => false,
        Some("slave" | "replica") => true,
        Some(_) => return Err(reader.invalid("role", "\"master\" or \"slave\" expected")),
    };
    let master = reader.text("master")?.unwrap_or_else(|| "mymaster".into());
    let (username, password) = (reader.text("sentinel_username")?, reader.password("sentinel_password")?);
    let address = reader.address(PORT)?;
    if let Some(nodes) = reader.nodes("nodes", PORT)? {
        return Ok(Target::Cluster { nodes, max_redirections: redirections });
    }
    if let Some(nodes) = reader.nodes("sentinels", SENTINEL_PORT)? {
        return Ok(Target::Sentinel(Sentinels { nodes, master, replica, username, password }));
    }
    Ok(Target::Single(address))
}
