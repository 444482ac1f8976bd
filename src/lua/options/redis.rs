//! The options of the Redis storages.

use mlua::prelude::*;

use super::Reader;
use crate::storage::redis::{Options, Sentinels, Target};

/// The options of a Redis storage: with `nodes` a cluster's, with `sentinels` a Sentinel group's.
pub fn redis(table: Option<&LuaTable>) -> Result<Options, String> {
    let reader = Reader { storage: "redis", table };
    let username = reader.text("username")?;
    let password = reader.text("password")?;
    if username.is_some() && password.is_none() {
        return Err(reader.invalid("username", "a username needs a password"));
    }
    let database = reader.number("database")?.unwrap_or_default();
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
    if let Some(nodes) = reader.nodes("nodes", PORT)? {
        let redirections = reader.number("max_redirections")?.map_or(REDIRECTIONS, |number| number.min(1000) as u32);
        return Ok(Target::Cluster { nodes, max_redirections: redirections });
    }
    if let Some(nodes) = reader.nodes("sentinels", SENTINEL_PORT)? {
        let replica = match reader.text("role")?.as_deref() {
            None | Some("master") => false,
            Some("slave" | "replica") => true,
            Some(_) => return Err(reader.invalid("role", "\"master\" or \"slave\" expected")),
        };
        return Ok(Target::Sentinel(Sentinels {
            nodes,
            master: reader.text("master")?.unwrap_or_else(|| "mymaster".into()),
            replica,
            username: reader.text("sentinel_username")?,
            password: reader.text("sentinel_password")?,
        }));
    }
    Ok(Target::Single(reader.address(PORT)?))
}
