//! The commands of the operations.

use redis::{Arg, Cmd, cmd};

use crate::{Delete, LiveSession, Lock, Naming, Sessions, Set, Unlock, Update};
use resty_session_core::time::{Seconds, Timestamp};

/// Stores a record, lists it among its owners' sessions, and shortens the life of the record that
/// it replaces: in one round trip, with no other command in between. The replaced record comes
/// last, because it must still work if anything before fails.
///
/// `KEYS`: the record, the replaced one, the owners' sets. `ARGV`: value, ttl, stale ttl, the time,
/// the key, the old key, and 1 if nothing may be stored when the old key is gone: then the script
/// returns 0. Without an old key the second of `KEYS` is the first again, and stays alone.
const SET: &str = r"
if ARGV[7] == '1' and redis.call('TTL', KEYS[2]) == -2 then
  return 0
end
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
for i = 3, #KEYS do
  redis.call('ZREMRANGEBYSCORE', KEYS[i], '-inf', '(' .. ARGV[4])
  redis.call('ZADD', KEYS[i], ARGV[4] + ARGV[2], ARGV[5])
  if ARGV[6] ~= '' then
    redis.call('ZREM', KEYS[i], ARGV[6])
  end
  if redis.call('TTL', KEYS[i]) < tonumber(ARGV[2]) then
    redis.call('EXPIRE', KEYS[i], ARGV[2])
  end
end
if ARGV[6] ~= '' then
  local left = redis.call('TTL', KEYS[2])
  if left == -1 or left > tonumber(ARGV[3]) then
    redis.call('EXPIRE', KEYS[2], ARGV[3])
  end
end
return 1
";

/// Rewrites a record if it exists, without lengthening its life. `KEYS`: the record. `ARGV`: value,
/// ttl.
const UPDATE: &str = r"
local left = redis.call('TTL', KEYS[1])
if left == -2 then
  return 0
end
if left == -1 or left > tonumber(ARGV[2]) then
  left = ARGV[2]
end
redis.call('SET', KEYS[1], ARGV[1], 'EX', math.max(left, 1))
return 1
";

/// Lets a replaced record expire soon, if it would live longer. Returns 0 if it is gone. `KEYS`:
/// the record. `ARGV`: stale ttl.
const SHORTEN: &str = r"
local left = redis.call('TTL', KEYS[1])
if left == -2 then
  return 0
end
if left == -1 or left > tonumber(ARGV[1]) then
  redis.call('EXPIRE', KEYS[1], ARGV[1])
end
return 1
";

/// Notes a session among its owner's. `KEYS`: the owner's set. `ARGV`: ttl, the time, the key.
const NOTE: &str = r"
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', '(' .. ARGV[2])
redis.call('ZADD', KEYS[1], ARGV[2] + ARGV[1], ARGV[3])
if redis.call('TTL', KEYS[1]) < tonumber(ARGV[1]) then
  redis.call('EXPIRE', KEYS[1], ARGV[1])
end
return 1
";

/// Takes a lock that is free, or starts its time anew for its holder. Returns 0 if another has it.
/// `KEYS`: the lock. `ARGV`: the holder, milliseconds.
const LOCK: &str = r"
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then
  return 0
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
";

/// Frees a lock if this holder has it. `KEYS`: the lock. `ARGV`: the holder.
const UNLOCK: &str = r"
if redis.call('GET', KEYS[1]) == ARGV[1] then
  redis.call('UNLINK', KEYS[1])
end
return 1
";

/// The `TTL` of a key that is not there.
pub(super) const GONE: i64 = -2;
/// The `TTL` of a key that does not expire.
const FOREVER: i64 = -1;

/// Whether a key with this `TTL` would outlive a time.
pub(super) fn outlives(left: i64, ttl: Seconds) -> bool {
    left == FOREVER || u64::try_from(left).is_ok_and(|left| left > ttl.as_secs())
}

/// A command on one key, which is its first argument: [`key`] finds it.
fn on(name: &str, key: impl AsRef<str>) -> Cmd {
    let key = key.as_ref();
    // Allocated once, because most commands have no more.
    let mut command = Cmd::with_capacity(2, name.len() + key.len());
    command.arg(name).arg(key);
    command
}

/// A script on one key.
fn eval(script: &str, key: impl AsRef<str>) -> Cmd {
    let mut eval = cmd("EVAL");
    eval.arg(script).arg(1).arg(key.as_ref());
    eval
}

/// The key of a command for one key.
pub(super) fn key(command: &Cmd) -> Option<&[u8]> {
    let mut arguments = command.args_iter().map(|argument| match argument {
        Arg::Simple(bytes) => bytes,
        _ => b"",
    });
    match arguments.next()? {
        b"EVAL" => arguments.nth(2),
        _ => arguments.next(),
    }
}

/// Stores a record.
fn set_record(naming: &Naming, set: &Set) -> Cmd {
    let mut command = on("SET", naming.record(&set.name, &set.key));
    command.arg(&set.value[..]).arg("EX").arg(set.ttl.as_secs());
    command
}

/// The whole of a set, for keys that one server holds. Returns 0 if the replaced record had to
/// exist and does not.
pub(super) fn set(naming: &Naming, set: &Set) -> Cmd {
    if set.old_key.is_none() && set.owners.is_empty() {
        return set_record(naming, set);
    }
    let name = |key: &str| naming.record(&set.name, key);
    let old_key = set.old_key.as_deref().unwrap_or_default();
    let mut eval = cmd("EVAL");
    eval.arg(SET).arg(2 + set.owners.len()).arg(name(&set.key));
    eval.arg(name(set.old_key.as_ref().unwrap_or(&set.key)));
    for owner in &set.owners {
        eval.arg(naming.metadata(&set.name, owner));
    }
    eval.arg(&set.value[..]).arg(set.ttl.as_secs()).arg(set.stale_ttl.as_secs());
    eval.arg(set.current_time.as_secs()).arg(&set.key).arg(old_key);
    eval.arg(u8::from(set.required().is_some()));
    eval
}

/// Stores a record and notes it among its owners' sessions.
pub(super) fn store(naming: &Naming, set: &Set) -> Vec<Cmd> {
    let note = set.owners.iter().map(|owner| {
        let mut note = eval(NOTE, naming.metadata(&set.name, owner));
        note.arg(set.ttl.as_secs()).arg(set.current_time.as_secs()).arg(&set.key);
        note
    });
    std::iter::once(set_record(naming, set)).chain(note).collect()
}

/// Shortens the life of the replaced record. The reply is 0 if the record is gone.
pub(super) fn shorten(naming: &Naming, set: &Set, old_key: &str) -> Cmd {
    let mut shorten = eval(SHORTEN, naming.record(&set.name, old_key));
    shorten.arg(set.stale_ttl.as_secs());
    shorten
}

/// As [`store`], without scripts. The last replies are the `TTL` of each owner's set, and that of
/// the replaced record if there is one.
pub(super) fn store_plainly(naming: &Naming, set: &Set) -> Vec<Cmd> {
    let mut commands = vec![set_record(naming, set)];
    for owner in &set.owners {
        let owner = naming.metadata(&set.name, owner);
        let mut add = on("ZADD", &owner);
        add.arg(set.expiry().as_secs()).arg(&set.key);
        commands.extend([remove_expired(&owner, set.current_time), add]);
    }
    let owners = set.owners.iter().map(|owner| naming.metadata(&set.name, owner));
    let old = set.old_key.iter().map(|old_key| naming.record(&set.name, old_key));
    commands.extend(owners.chain(old).map(|key| on("TTL", key)));
    commands
}

/// As [`shorten`], without scripts, after the replies to [`store_plainly`]; the last reply is then
/// 0 if the record is gone. Also lets the owners' sets live as long as the new record.
pub(super) fn shorten_plainly(naming: &Naming, set: &Set, ttls: &[i64]) -> Vec<Cmd> {
    let prolong = set.owners.iter().zip(ttls).filter(|(_, left)| **left != FOREVER && !outlives(**left, set.ttl));
    let prolong = prolong.map(|(owner, _)| expire(naming.metadata(&set.name, owner), set.ttl));
    let mut commands: Vec<Cmd> = prolong.collect();
    if let (Some(old_key), Some(left)) = (&set.old_key, ttls.get(set.owners.len()))
        && outlives(*left, set.stale_ttl)
    {
        commands.push(expire(naming.record(&set.name, old_key), set.stale_ttl));
    }
    commands
}

/// Takes the replaced record from its owners' sessions.
pub(super) fn unlist(naming: &Naming, set: &Set) -> Vec<Cmd> {
    let Some(old_key) = &set.old_key else { return Vec::new() };
    set.owners.iter().map(|owner| remove(&naming.metadata(&set.name, owner), old_key)).collect()
}

/// Takes a session from an owner's set.
fn remove(owner: &str, key: &str) -> Cmd {
    let mut remove = on("ZREM", owner);
    remove.arg(key);
    remove
}

fn remove_expired(owner: &str, current_time: Timestamp) -> Cmd {
    let mut remove = on("ZREMRANGEBYSCORE", owner);
    remove.arg("-inf").arg(format!("({current_time}"));
    remove
}

fn expire(key: String, ttl: Seconds) -> Cmd {
    let mut expire = on("EXPIRE", key);
    expire.arg(ttl.as_secs());
    expire
}

/// Asks how long a record has to live.
pub(super) fn ttl(naming: &Naming, name: &str, key: &str) -> Cmd {
    on("TTL", naming.record(name, key))
}

/// Writes a record anew. Returns 0 if it is gone.
pub(super) fn update(naming: &Naming, update: &Update) -> Cmd {
    let mut eval = eval(UPDATE, naming.record(&update.name, &update.key));
    eval.arg(&update.value[..]).arg(update.ttl.as_secs());
    eval
}

/// As [`update`], without a script, for a record with this `TTL`. Returns nil if it is gone.
pub(super) fn update_plainly(naming: &Naming, update: &Update, left: i64) -> Cmd {
    let ttl = u64::try_from(left).map_or(update.ttl, |left| Seconds::from_secs(left).min(update.ttl)).as_secs();
    let mut set = on("SET", naming.record(&update.name, &update.key));
    set.arg(&update.value[..]).arg("XX").arg("EX").arg(ttl.max(1));
    set
}

/// Reads the value of a key.
pub(super) fn get(key: &str) -> Cmd {
    on("GET", key)
}

/// Reads the values of keys that one server holds. The value of one that holds no string is nil,
/// where [`get`] is refused.
pub(super) fn get_all(keys: &[String]) -> Cmd {
    let mut command = Cmd::with_capacity(1 + keys.len(), keys.iter().map(String::len).sum::<usize>() + 4);
    command.arg("MGET").arg(keys);
    command
}

/// Deletes a record, and takes it and all that have expired from its owners' sessions.
pub(super) fn delete(naming: &Naming, delete: &Delete) -> Vec<Cmd> {
    let forget = delete.owners.iter().flat_map(|owner| {
        let owner = naming.metadata(&delete.name, owner);
        [remove_expired(&owner, delete.current_time), remove(&owner, &delete.key)]
    });
    std::iter::once(unlink(naming.record(&delete.name, &delete.key))).chain(forget).collect()
}

fn unlink(key: String) -> Cmd {
    on("UNLINK", key)
}

/// Takes a lock, or renews it. Returns 0 if another holder has it.
pub(super) fn lock(naming: &Naming, lock: &Lock) -> Cmd {
    let mut eval = eval(LOCK, naming.record(&lock.name, &lock.key));
    eval.arg(&lock.holder).arg(lock.ttl_ms());
    eval
}

/// Takes a lock that is free, without a script. Then returns who has it.
pub(super) fn lock_plainly(naming: &Naming, lock: &Lock) -> Vec<Cmd> {
    let mut set = on("SET", naming.record(&lock.name, &lock.key));
    set.arg(&lock.holder).arg("NX").arg("PX").arg(lock.ttl_ms());
    vec![set, holder(naming, &lock.name, &lock.key)]
}

/// Starts the time of a lock anew, in whole seconds, without a script. Then returns who has it.
pub(super) fn renew_plainly(naming: &Naming, lock: &Lock) -> Vec<Cmd> {
    let key = naming.record(&lock.name, &lock.key);
    vec![expire(key, Seconds::from_secs(lock.ttl_ms().div_ceil(1000))), holder(naming, &lock.name, &lock.key)]
}

/// Returns who has a lock.
pub(super) fn holder(naming: &Naming, name: &str, key: &str) -> Cmd {
    on("GET", naming.record(name, key))
}

/// Frees a lock if this holder has it.
pub(super) fn unlock(naming: &Naming, unlock: &Unlock) -> Cmd {
    let mut eval = eval(UNLOCK, naming.record(&unlock.name, &unlock.key));
    eval.arg(&unlock.holder);
    eval
}

/// Frees a lock, whoever has it.
pub(super) fn free(naming: &Naming, lock: &Unlock) -> Cmd {
    unlink(naming.record(&lock.name, &lock.key))
}

/// Asks for an owner's sessions: [`live`] reads the reply.
pub(super) fn sessions(naming: &Naming, sessions: &Sessions) -> Cmd {
    let mut range = on("ZRANGEBYSCORE", naming.metadata(&sessions.name, &sessions.owner));
    // One that expires now is expired.
    range.arg(format!("({}", sessions.current_time)).arg("+inf").arg("WITHSCORES");
    range
}

/// The sessions from the members and scores of a sorted set.
pub(super) fn live(found: Vec<(String, u64)>) -> Vec<LiveSession> {
    found.into_iter().map(|(key, expiry)| LiveSession { key, expiry: Timestamp::from_secs(expiry) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_of_each_command_is_found() {
        for command in [on("GET", "k"), eval(SHORTEN, "k"), remove("k", "x"), expire("k".into(), Seconds::from_secs(5))]
        {
            assert_eq!(key(&command), Some(&b"k"[..]));
        }
        assert_eq!(key(&cmd("PING")), None);
        assert_eq!(key(&cmd("EVAL")), None);
    }

    #[test]
    fn what_does_not_expire_outlives_everything() {
        let outliving = [(FOREVER, 10), (11, 10)];
        assert!(outliving.into_iter().all(|(left, seconds)| outlives(left, Seconds::from_secs(seconds))));
        assert!(
            [(GONE, 0), (10, 10), (0, 0)]
                .into_iter()
                .all(|(left, seconds)| !outlives(left, Seconds::from_secs(seconds)))
        );
    }
}
