//! The item that holds an owner's sessions, to which many requests append at the same time.
//!
//! Appending loses nothing that others append, but it cannot change the item's time to live. A
//! request that finds that too short rewrites the item, compacted and with a longer one, unless
//! another request has changed the item since it was read. So an item never expires before the
//! sessions in it, and a time to live that was computed earlier never replaces a longer one.

use super::wire::{self, Expiry, ItemInfo, Meta, Mode, Name, Reply, Ttl};
use crate::pipeline::Client;
use crate::{Error, metadata};
use resty_session_core::time::{Seconds, Timestamp};

/// A text of at most this many bytes is not compacted because of its size.
const SMALL_TEXT: usize = 4096;

/// How often appending is tried. The text is compacted after each failure, to make room.
const APPEND_ATTEMPTS: usize = 3;

/// Adds items to the sessions of an owner, one of which lives for `ttl`.
pub(super) async fn add(
    client: &Client<Meta>,
    name: &Name,
    items: &[u8],
    ttl: Seconds,
    current_time: Timestamp,
) -> Result<(), Error> {
    loop {
        let kept = match append(client, name, items, current_time).await? {
            Some(info) if lives_for(&info, ttl) && !should_compact(info.size) => true,
            // This returns false if the item expires before it is rewritten.
            Some(_) => rewrite(client, name, Some(ttl), current_time).await?,
            None => false,
        };
        if kept {
            return Ok(());
        }
        let expiry = Expiry::after(with_reserve(ttl), current_time);
        match client.ask(&wire::store(name, items, expiry, Mode::Add)?).await? {
            Reply::Done(_) => return Ok(()),
            // Another request has just added the item: append to that one.
            Reply::NotStored => {}
            other => return other.unexpected(),
        }
    }
}

/// Appends the item that takes a session out, if the owner has any, and compacts the text.
pub(super) async fn remove(
    client: &Client<Meta>,
    name: &Name,
    item: &[u8],
    current_time: Timestamp,
) -> Result<(), Error> {
    if append(client, name, item, current_time).await?.is_some() {
        rewrite(client, name, None, current_time).await?;
    }
    Ok(())
}

/// Appends items to those of an owner. Returns the size and time to live of the text, or `None` if
/// the owner has no text, and then nothing was appended.
async fn append(
    client: &Client<Meta>,
    name: &Name,
    items: &[u8],
    current_time: Timestamp,
) -> Result<Option<ItemInfo>, Error> {
    for _ in 0..APPEND_ATTEMPTS {
        match client.ask_all([&wire::append(name, items)?, &wire::get_info(name)?]).await? {
            [Reply::Done(_), Reply::Done(info)] => return Ok(Some(info)),
            [Reply::Done(_) | Reply::NotStored, Reply::Absent] => return Ok(None),
            // The item exists, so it has become too large: memcached has no other reply for that.
            // Compacting may help.
            [Reply::NotStored, Reply::Done(_)] => rewrite(client, name, None, current_time).await?,
            [Reply::Done(_) | Reply::NotStored, other] | [other, _] => return other.unexpected(),
        };
    }
    Err(Error::Server("the server has no room for more sessions of this owner".into()))
}

/// Rewrites an owner's sessions: compacted, with the time to live that they need; deletes the item
/// if no session is left. If another request rewrites it at the same time, and now it lives for at
/// least `min_ttl`, leaves it as it is. Returns whether there was such an item.
async fn rewrite(
    client: &Client<Meta>,
    name: &Name,
    min_ttl: Option<Seconds>,
    current_time: Timestamp,
) -> Result<bool, Error> {
    let mut changed_by_another = false;
    loop {
        let (text, info) = match client.ask(&wire::get_with_info(name)?).await? {
            Reply::Value(text, info) => (text, info),
            Reply::Absent => return Ok(false),
            other => return other.unexpected(),
        };
        if changed_by_another && min_ttl.is_some_and(|ttl| lives_for(&info, ttl)) {
            return Ok(true);
        }
        match client.ask(&rewriting(name, &text, info.cas, min_ttl, current_time)?).await? {
            Reply::Done(_) => return Ok(true),
            Reply::Changed => changed_by_another = true,
            Reply::Absent => return Ok(false),
            other => return other.unexpected(),
        }
    }
}

/// The request that rewrites an owner's sessions, if `cas` is still the item's.
fn rewriting(
    name: &Name,
    text: &[u8],
    cas: u64,
    min_ttl: Option<Seconds>,
    current_time: Timestamp,
) -> Result<Vec<u8>, Error> {
    match metadata::compact(text, current_time) {
        Ok(metadata::Compact { text, expiry: Some(expiry) }) => {
            let expiry = Expiry::after(with_reserve(expiry.since(current_time)), current_time);
            wire::store(name, &text, expiry, Mode::IfUnchanged(cas))
        }
        Ok(metadata::Compact { expiry: None, .. }) => wire::delete_if_unchanged(name, cas),
        // A damaged text must not keep users from signing in. Reading it returns an error, until it
        // expires.
        Err(_) => {
            wire::touch(name, Expiry::after(with_reserve(min_ttl.unwrap_or(Seconds::from_secs(1))), current_time))
        }
    }
}

/// Adds a half to a time to live, so that not every later session has to lengthen it.
fn with_reserve(ttl: Seconds) -> Seconds {
    ttl + Seconds::from_secs(ttl.as_secs() / 2)
}

/// Whether an item lives for at least `ttl`. Items of lua-resty-session never expire and
/// are to be rewritten, so the result is false for them.
fn lives_for(info: &ItemInfo, ttl: Seconds) -> bool {
    info.ttl >= Some(Ttl::Seconds(ttl)) && info.ttl < Some(Ttl::Endless)
}

/// Whether to compact a text of this size now. This happens less often the larger the text is, so
/// that the cost of a session does not grow with the number of its owner's sessions.
fn should_compact(size: usize) -> bool {
    size > SMALL_TEXT && getrandom::u32().is_ok_and(|random| random as usize % size < SMALL_TEXT / 8)
}
