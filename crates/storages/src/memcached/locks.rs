//! Locks: items that hold the name of their holder.
//!
//! Only `add` takes a lock. Renewing and freeing one compares the item's holder, and then changes
//! the item only if nobody has changed it since it was read. So a holder that comes back after its
//! time never touches the lock of another.

use super::wire::{self, Expiry, Meta, Mode, Name, Reply};
use crate::pipeline::Client;
use crate::{Error, Lock};

/// Takes a lock that is free, or renews it for its holder. Returns whether the holder has it.
pub(super) async fn lock(client: &Client<Meta>, name: &Name, lock: &Lock) -> Result<bool, Error> {
    let expiry = Expiry::after(lock.whole_seconds(), lock.current_time);
    let store = |mode| wire::store(name, lock.holder.as_bytes(), expiry, mode);
    loop {
        match client.ask(&store(Mode::Add)?).await? {
            Reply::Done(_) => return Ok(true),
            Reply::NotStored => {}
            other => return other.unexpected(),
        }
        let cas = match holder(client, name).await? {
            Some((held_by, cas)) if held_by == lock.holder.as_bytes() => cas,
            Some(_) => return Ok(false),
            None => continue,
        };
        match client.ask(&store(Mode::IfUnchanged(cas))?).await? {
            Reply::Done(_) => return Ok(true),
            // It has expired, or was renewed or taken, since it was read.
            Reply::Changed | Reply::Absent => {}
            other => return other.unexpected(),
        }
    }
}

/// Frees a lock if this holder has it.
pub(super) async fn unlock(client: &Client<Meta>, name: &Name, by: &str) -> Result<(), Error> {
    loop {
        let cas = match holder(client, name).await? {
            Some((held_by, cas)) if held_by == by.as_bytes() => cas,
            _ => return Ok(()),
        };
        match client.ask(&wire::delete_if_unchanged(name, cas)?).await? {
            Reply::Done(_) | Reply::Absent => return Ok(()),
            Reply::Changed => {}
            other => return other.unexpected(),
        }
    }
}

/// Returns who has a lock, and the item's `cas`; or `None` if it is free.
async fn holder(client: &Client<Meta>, name: &Name) -> Result<Option<(Vec<u8>, u64)>, Error> {
    match client.ask(&wire::get_with_info(name)?).await? {
        Reply::Value(holder, info) => Ok(Some((holder, info.cas))),
        Reply::Absent => Ok(None),
        other => other.unexpected(),
    }
}
