//! An owner's sessions: one item, which many append to at once.
//!
//! Appending loses nobody's note, and does not change the item's time to live. Whoever finds that too short writes the text
//! anew, compact, with a longer one, if nobody changed it meanwhile. So an item never expires before the sessions in it,
//! and a longer time is never replaced by a shorter one that was thought of earlier.

use super::wire::{self, Answer, Expiry, Facts, Meta, Mode, Name, Ttl};
use crate::pipeline::Client;
use crate::{Error, metadata};

/// Bytes of a text that is not worth tidying up.
const SMALL: usize = 4096;

/// How often a text that is as large as an item can be is tidied up for an item more.
const TRIES: usize = 3;

/// Adds items to an owner's, one of which lives for `ttl` seconds.
pub async fn add(client: &Client<Meta>, name: &Name, items: &[u8], ttl: u64, current_time: u64) -> Result<(), Error> {
    loop {
        let kept = match append(client, name, items, current_time).await? {
            Some(facts) if will_do(&facts, ttl) && !has_grown(facts.size) => true,
            // None are left where they expired right then.
            Some(_) => tidy(client, name, Some(ttl), current_time).await?,
            None => false,
        };
        if kept {
            return Ok(());
        }
        let expiry = Expiry::after(spare(ttl), current_time);
        match client.ask(&wire::store(name, items, expiry, Mode::Add)).await? {
            Answer::Done(_) => return Ok(()),
            // Another was faster.
            Answer::NotStored => {}
            other => return other.unexpected(),
        }
    }
}

/// Adds an item that takes a session out, where there are any, and tidies up.
pub async fn remove(client: &Client<Meta>, name: &Name, item: &[u8], current_time: u64) -> Result<(), Error> {
    if append(client, name, item, current_time).await?.is_some() {
        tidy(client, name, None, current_time).await?;
    }
    Ok(())
}

/// Adds items, where there are any. Answers what is known of them then, or that there are none.
async fn append(client: &Client<Meta>, name: &Name, items: &[u8], current_time: u64) -> Result<Option<Facts>, Error> {
    for _ in 0..TRIES {
        match client.ask_all([&wire::append(name, items), &wire::look(name)]).await? {
            [Answer::Done(_), Answer::Done(facts)] => return Ok(Some(facts)),
            [Answer::Done(_) | Answer::NotStored, Answer::Absent] => return Ok(None),
            // There is no room, which memcached says in no other way: perhaps not all of it is needed.
            [Answer::NotStored, Answer::Done(_)] => tidy(client, name, None, current_time).await?,
            [Answer::Done(_) | Answer::NotStored, other] | [other, _] => return other.unexpected(),
        };
    }
    Err(Error::Server("the server has no room for more sessions of this owner".into()))
}

/// Writes an owner's sessions anew: in as few items as can be, with the time to live that they need, or none at all.
/// Where they lived for `enough` seconds, another did so meanwhile, and it is left. Answers whether there were any.
async fn tidy(client: &Client<Meta>, name: &Name, enough: Option<u64>, current_time: u64) -> Result<bool, Error> {
    let mut others = false;
    loop {
        let (text, facts) = match client.ask(&wire::get_for_change(name)).await? {
            Answer::Value(text, facts) => (text, facts),
            Answer::Absent => return Ok(false),
            other => return other.unexpected(),
        };
        if others && enough.is_some_and(|ttl| will_do(&facts, ttl)) {
            return Ok(true);
        }
        match client.ask(&rewrite(name, &text, &facts, enough, current_time)).await? {
            Answer::Done(_) => return Ok(true),
            Answer::Changed => others = true,
            Answer::Absent => return Ok(false),
            other => return other.unexpected(),
        }
    }
}

fn rewrite(name: &Name, text: &[u8], facts: &Facts, enough: Option<u64>, current_time: u64) -> Vec<u8> {
    match metadata::compact(text, current_time) {
        Ok(metadata::Compact { text, expiry: Some(expiry) }) => {
            let expiry = Expiry::after(spare(expiry.saturating_sub(current_time)), current_time);
            wire::store(name, &text, expiry, Mode::IfUnchanged(facts.change))
        }
        Ok(metadata::Compact { expiry: None, .. }) => wire::delete_if_unchanged(name, facts.change),
        // Who reads it is told; it keeps nobody from signing in, and is gone some day.
        Err(_) => wire::touch(name, Expiry::after(spare(enough.unwrap_or(1)), current_time)),
    }
}

/// Half as long again, so that not every session that is a little younger must lengthen it.
fn spare(ttl: u64) -> u64 {
    ttl.saturating_add(ttl / 2)
}

/// Whether an item lives for `ttl` seconds, and not for ever, as those of lua-resty-session do.
fn will_do(facts: &Facts, ttl: u64) -> bool {
    facts.ttl >= Some(Ttl::Seconds(ttl)) && facts.ttl < Some(Ttl::Endless)
}

/// Whether a text is to be tidied up: the longer it is, the more seldom, so that an owner with many sessions pays no more
/// for each.
fn has_grown(size: usize) -> bool {
    size > SMALL && getrandom::u32().is_ok_and(|random| random as usize % size < SMALL / 8)
}
