//! The commands of the operations.

use redis::{Cmd, Pipeline, cmd, pipe};

use crate::{Delete, Get, LiveSession, Lock, Naming, Owner, Sessions, Set, Unlock, Update};

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
if ARGV[6] ~= '' and redis.call('TTL', KEYS[2]) > tonumber(ARGV[3]) then
  redis.call('EXPIRE', KEYS[2], ARGV[3])
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

/// Lets a replaced record expire soon, if it would live longer. `KEYS`: the record. `ARGV`: stale
/// ttl.
const SHORTEN: &str = r"
if redis.call('TTL', KEYS[1]) > tonumber(ARGV[1]) then
  redis.call('EXPIRE', KEYS[1], ARGV[1])
end
return 1
";

/// Notes a session among its owner's. `KEYS`: the owner's set. `ARGV`: ttl, the time, the key, the
/// old key.
const NOTE: &str = r"
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', '(' .. ARGV[2])
redis.call('ZADD', KEYS[1], ARGV[2] + ARGV[1], ARGV[3])
if ARGV[4] ~= '' then
  redis.call('ZREM', KEYS[1], ARGV[4])
end
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

/// A record alone needs no script.
pub fn set_record(naming: &Naming, set: &Set) -> Cmd {
    let mut command = cmd("SET");
    command.arg(naming.record(&set.name, &set.key)).arg(&set.value[..]).arg("EX").arg(set.ttl);
    command
}

/// The whole of a set, for keys that one server holds.
pub fn set(naming: &Naming, set: &Set) -> Cmd {
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
    eval.arg(&set.value[..]).arg(set.ttl).arg(set.stale_ttl);
    eval.arg(set.current_time).arg(&set.key).arg(old_key);
    eval.arg(u8::from(set.required().is_some()));
    eval
}

pub fn update(naming: &Naming, update: &Update) -> Cmd {
    let mut eval = cmd("EVAL");
    eval.arg(UPDATE).arg(1).arg(naming.record(&update.name, &update.key)).arg(&update.value[..]).arg(update.ttl);
    eval
}

/// Shortens the life of the record that is replaced, if there is one.
pub fn shorten(naming: &Naming, set: &Set) -> Option<Cmd> {
    let old_key = set.old_key.as_ref()?;
    let mut eval = cmd("EVAL");
    eval.arg(SHORTEN).arg(1).arg(naming.record(&set.name, old_key)).arg(set.stale_ttl);
    Some(eval)
}

/// Notes a record among its owners' sessions, one owner a command.
pub fn notes(naming: &Naming, set: &Set) -> Vec<Cmd> {
    let old_key = set.old_key.as_deref().unwrap_or_default();
    let note = set.owners.iter().map(|owner| {
        let mut eval = cmd("EVAL");
        eval.arg(NOTE).arg(1).arg(naming.metadata(&set.name, owner));
        eval.arg(set.ttl).arg(set.current_time).arg(&set.key).arg(old_key);
        eval
    });
    note.collect()
}

pub fn get(naming: &Naming, get: &Get) -> Cmd {
    let key = naming.record(&get.name, &get.key);
    // Allocated once, because this is the most frequent command.
    let mut command = Cmd::with_capacity(2, "GET".len() + key.len());
    command.arg("GET").arg(key);
    command
}

pub fn unlink(naming: &Naming, delete: &Delete) -> Cmd {
    let mut unlink = cmd("UNLINK");
    unlink.arg(naming.record(&delete.name, &delete.key));
    unlink
}

/// Removes a session and all expired ones from its owner's set: two commands on one key.
pub fn forget(naming: &Naming, delete: &Delete, owner: &Owner) -> [Cmd; 2] {
    let set = naming.metadata(&delete.name, owner);
    let (mut expired, mut this) = (cmd("ZREMRANGEBYSCORE"), cmd("ZREM"));
    expired.arg(&set).arg("-inf").arg(format!("({}", delete.current_time));
    this.arg(&set).arg(&delete.key);
    [expired, this]
}

/// The whole of a delete with owners, for keys that one server holds.
pub fn delete(naming: &Naming, delete: &Delete) -> Pipeline {
    let mut pipeline = pipe();
    pipeline.atomic().add_command(unlink(naming, delete)).ignore();
    for command in delete.owners.iter().flat_map(|owner| forget(naming, delete, owner)) {
        pipeline.add_command(command).ignore();
    }
    pipeline
}

pub fn lock(naming: &Naming, lock: &Lock) -> Cmd {
    let mut eval = cmd("EVAL");
    eval.arg(LOCK).arg(1).arg(naming.record(&lock.name, &lock.key)).arg(&lock.holder).arg(lock.ttl_ms);
    eval
}

pub fn unlock(naming: &Naming, unlock: &Unlock) -> Cmd {
    let mut eval = cmd("EVAL");
    eval.arg(UNLOCK).arg(1).arg(naming.record(&unlock.name, &unlock.key)).arg(&unlock.holder);
    eval
}

/// Asks for an owner's sessions: [`live`] reads the reply.
pub fn sessions(naming: &Naming, sessions: &Sessions) -> Cmd {
    let mut range = cmd("ZRANGEBYSCORE");
    range.arg(naming.metadata(&sessions.name, &sessions.owner));
    // One that expires now is expired.
    range.arg(format!("({}", sessions.current_time)).arg("+inf").arg("WITHSCORES");
    range
}

/// The sessions from the members and scores of a sorted set.
pub fn live(found: Vec<(String, u64)>) -> Vec<LiveSession> {
    found.into_iter().map(|(key, expiry)| LiveSession { key, expiry }).collect()
}
