//! The Redis server that Sentinels name: the master, or a replica, whichever that is when a
//! connection is made.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use redis::{FromRedisValue, Value, cmd};
use tokio::time::Instant;

use super::access::{Access, Connection};
use super::errors::{connect_error, converted};
use super::options::{Sentinel, Sentinels};
use crate::Error;
use crate::network::{Address, Node, Pace, race, race_until};

/// Asks the Sentinels for the server, and connects to it. Each has a share of the time before the
/// next one is asked beside it. It ends before the link does, whose error says less.
pub(super) async fn connect(sentinels: &Sentinels, access: &Access) -> Result<Connection, Error> {
    let each: Vec<_> = sentinels.sentinels.iter().collect();
    let time = access.timeouts.connect * 19 / 20;
    let share = time / each.len().max(1) as u32;
    let pace = Pace { first: share, others: share, end: Some(Instant::now() + time) };
    race_until(each, pace, |sentinel| async {
        let mut asked = access.connect_to_sentinel(&Address::Tcp(sentinel.node.clone()), &sentinel.login).await?;
        match sentinels.replica {
            true => connect_to_any(replicas(&mut asked, sentinels).await?, access).await,
            false => connect_to(master(&mut asked, sentinels, sentinel).await?, access, "master").await,
        }
    })
    .await
}

async fn ask<T: FromRedisValue>(sentinel: &mut Connection, what: &str, group: &str) -> Result<T, Error> {
    let mut command = cmd("SENTINEL");
    command.arg(what).arg(group);
    let reply = sentinel.send(&command).await.and_then(Value::extract_error).map_err(connect_error)?;
    converted(reply)
}

/// Returns the master that a Sentinel names.
async fn master(asked: &mut Connection, sentinels: &Sentinels, sentinel: &Sentinel) -> Result<Node, Error> {
    match ask::<Option<(String, u16)>>(asked, "get-master-addr-by-name", &sentinels.master).await? {
        Some((host, port)) => Ok(Node { host, port }),
        None => Err(Error::Connect(format!("the Sentinel {} does not know this master's name", sentinel.node).into())),
    }
}

/// Returns the replicas that a Sentinel names, without those that it cannot reach.
async fn replicas(asked: &mut Connection, sentinels: &Sentinels) -> Result<Vec<Node>, Error> {
    // Redis 5 and later also call them `replicas`; users may have the right to this command alone.
    let found: Vec<HashMap<String, String>> = ask(asked, "slaves", &sentinels.master).await?;
    Ok(found.into_iter().filter_map(usable).collect())
}

fn usable(mut replica: HashMap<String, String>) -> Option<Node> {
    let flags = replica.get("flags")?;
    let is_down = flags.split(',').any(|flag| matches!(flag, "s_down" | "o_down" | "disconnected"));
    let is_linked = replica.get("master-link-status").is_none_or(|status| status == "ok");
    let port = replica.get("port")?.parse().ok().filter(|_| !is_down && is_linked)?;
    Some(Node { host: replica.remove("ip")?, port })
}

/// Connects to one of the replicas, each time to another.
async fn connect_to_any(mut replicas: Vec<Node>, access: &Access) -> Result<Connection, Error> {
    static TURN: AtomicUsize = AtomicUsize::new(0);
    if replicas.is_empty() {
        return Err(Error::Connect("the Sentinels know no replica that is usable".into()));
    }
    let turn = TURN.fetch_add(1, Ordering::Relaxed) % replicas.len();
    replicas.rotate_left(turn);
    race(replicas, |node| connect_to(node, access, "slave")).await
}

/// Connects to a server, which must confirm its role: a Sentinel may not know yet that it has
/// changed.
async fn connect_to(node: Node, access: &Access, role: &str) -> Result<Connection, Error> {
    let name = node.to_string();
    let mut connection = access.connect(&Address::Tcp(node)).await?;
    let reply = connection.send(&cmd("ROLE")).await.and_then(Value::extract_error).map_err(connect_error)?;
    let parts: Vec<Value> = converted(reply)?;
    match parts.into_iter().next().map(converted::<String>) {
        Some(Ok(found)) if found == role => Ok(connection),
        _ => Err(Error::Connect(format!("{name}, which a Sentinel names, is not a {role}").into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_that_are_down_or_cut_off_are_left_out() {
        for (flags, status, is_usable) in [
            ("slave", Some("ok"), true),
            ("slave", None, true),
            ("slave", Some("err"), false),
            ("s_down,slave", Some("ok"), false),
            ("slave,disconnected", Some("ok"), false),
        ] {
            let fields =
                [("ip", Some("::1")), ("port", Some("7")), ("flags", Some(flags)), ("master-link-status", status)];
            let fields = fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())));
            let node = Node { host: "::1".into(), port: 7 };
            assert_eq!(usable(fields.collect()), is_usable.then_some(node), "{flags} {status:?}");
        }
        assert_eq!(usable(HashMap::new()), None);
    }
}
