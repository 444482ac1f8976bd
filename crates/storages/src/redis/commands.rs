//! The commands of the operations.

use redis::{Cmd, Pipeline, cmd, pipe};

use crate::{Naming, Owner, Record, Update};

/// Stores a record, shortens the life of the one that it replaces, and notes it among its owners' sessions: in one round
/// trip, and as a whole. The replaced record comes last: where something fails, it must go on working.
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

/// Writes a record anew if it is there; it lives no longer than it would have. `KEYS`: the record. `ARGV`: value, ttl.
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

/// Lets a replaced record expire soon, if it would live longer. `KEYS`: the record. `ARGV`: stale ttl.
const SHORTEN: &str = r"
if redis.call('TTL', KEYS[1]) > tonumber(ARGV[1]) then
  redis.call('EXPIRE', KEYS[1], ARGV[1])
end
return 1
";

/// Notes a session among its owner's. `KEYS`: the owner's set. `ARGV`: ttl, the time, the key, the old key.
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

/// A record alone needs no script.
pub fn set_record(naming: &Naming, record: &Record) -> Cmd {
    let mut set = cmd("SET");
    set.arg(naming.record(&record.name, &record.key)).arg(&record.value[..]).arg("EX").arg(record.ttl);
    set
}

/// The whole of a set, for keys that one server holds.
pub fn set(naming: &Naming, record: &Record) -> Cmd {
    if record.old_key.is_none() && record.owners.is_empty() {
        return set_record(naming, record);
    }
    let name = |key: &str| naming.record(&record.name, key);
    let old_key = record.old_key.as_deref().unwrap_or_default();
    let mut eval = cmd("EVAL");
    eval.arg(SET).arg(2 + record.owners.len()).arg(name(&record.key));
    eval.arg(name(record.old_key.as_ref().unwrap_or(&record.key)));
    for owner in &record.owners {
        eval.arg(naming.metadata(&record.name, owner));
    }
    eval.arg(&record.value[..]).arg(record.ttl).arg(record.stale_ttl);
    eval.arg(record.current_time).arg(&record.key).arg(old_key);
    eval.arg(u8::from(record.required().is_some()));
    eval
}

pub fn update(naming: &Naming, update: &Update) -> Cmd {
    let mut eval = cmd("EVAL");
    eval.arg(UPDATE).arg(1).arg(naming.record(&update.name, &update.key)).arg(&update.value[..]).arg(update.ttl);
    eval
}

/// Shortens the life of the record that is replaced, if there is one.
pub fn shorten(naming: &Naming, record: &Record) -> Option<Cmd> {
    let old_key = record.old_key.as_ref()?;
    let mut eval = cmd("EVAL");
    eval.arg(SHORTEN).arg(1).arg(naming.record(&record.name, old_key)).arg(record.stale_ttl);
    Some(eval)
}

/// Notes a record among its owners' sessions, one owner a command.
pub fn notes(naming: &Naming, record: &Record) -> Vec<Cmd> {
    let old_key = record.old_key.as_deref().unwrap_or_default();
    let note = record.owners.iter().map(|owner| {
        let mut eval = cmd("EVAL");
        eval.arg(NOTE).arg(1).arg(naming.metadata(&record.name, owner));
        eval.arg(record.ttl).arg(record.current_time).arg(&record.key).arg(old_key);
        eval
    });
    note.collect()
}

pub fn get(naming: &Naming, name: &str, key: &str) -> Cmd {
    let key = naming.record(name, key);
    // With room for all of it at once: it is what is sent most.
    let mut get = Cmd::with_capacity(2, "GET".len() + key.len());
    get.arg("GET").arg(key);
    get
}

pub fn unlink(naming: &Naming, name: &str, key: &str) -> Cmd {
    let mut unlink = cmd("UNLINK");
    unlink.arg(naming.record(name, key));
    unlink
}

/// Takes a session from its owner's, expired ones along with it: two commands on one key.
pub fn forget(naming: &Naming, name: &str, key: &str, owner: &Owner, current_time: u64) -> [Cmd; 2] {
    let set = naming.metadata(name, owner);
    let (mut expired, mut this) = (cmd("ZREMRANGEBYSCORE"), cmd("ZREM"));
    expired.arg(&set).arg("-inf").arg(format!("({current_time}"));
    this.arg(&set).arg(key);
    [expired, this]
}

/// The whole of a delete with owners, for keys that one server holds.
pub fn delete(naming: &Naming, name: &str, key: &str, owners: &[Owner], current_time: u64) -> Pipeline {
    let mut pipeline = pipe();
    pipeline.atomic().add_command(unlink(naming, name, key)).ignore();
    for command in owners.iter().flat_map(|owner| forget(naming, name, key, owner, current_time)) {
        pipeline.add_command(command).ignore();
    }
    pipeline
}

pub fn sessions(naming: &Naming, name: &str, owner: &Owner, current_time: u64) -> Cmd {
    let mut range = cmd("ZRANGEBYSCORE");
    // One that expires now is expired.
    range.arg(naming.metadata(name, owner)).arg(format!("({current_time}")).arg("+inf").arg("WITHSCORES");
    range
}
