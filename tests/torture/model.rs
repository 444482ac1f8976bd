//! What a browser may see: its cookies, what was saved in each, and what has ended.

use std::time::{Duration, Instant};

use fastrand::Rng;
use resty_session_core::cookie::Header;
use resty_session_testing::server::slowness;

use super::world::{Damage, World};

/// The sessions' timeouts, in seconds.
pub const IDLING: u64 = 12;
pub const ROLLING: u64 = 20;
/// For how long a record works that was replaced. In seconds.
pub const STALE: u64 = 10;
/// Times are in whole seconds, which are rounded.
const ROUNDING: Duration = Duration::from_millis(1100);
/// How late a time's end may be noticed.
const LATE: Duration = Duration::from_millis(2500);

/// A cookie that a browser was given.
#[derive(Clone)]
pub struct Cookie {
    pub value: String,
    /// The session's id, which is also the record's.
    sid: Vec<u8>,
    /// The number of the sign-in that it comes from.
    pub sign: u64,
    /// What the session holds.
    pub counter: u64,
    /// When it was saved, and when it was touched.
    saved: Instant,
    touched: Instant,
    /// Since when its record may have been replaced.
    replaced: Option<Instant>,
    /// When its record was deleted.
    ended: Option<Instant>,
    /// Whether its record may have been deleted.
    uncertain: bool,
    /// Whether it was saved while bits were flipped.
    tainted: bool,
    /// When its record was rewritten, with other info.
    rewritten: Vec<Interval>,
}

impl Cookie {
    pub fn is_tainted(&self) -> bool {
        self.tainted
    }

    /// Whether another cookie is of the same session, touched.
    pub fn is_same_session(&self, value: &str) -> bool {
        Header::decode(value.as_bytes()).is_ok_and(|header| header.sid() == &self.sid[..])
    }
}

/// A sign-in of a browser.
pub struct SignIn {
    pub number: u64,
    pub began: Instant,
    /// When a sign-out was acknowledged that ended it.
    ended: Option<Instant>,
    /// Whether it may have ended.
    uncertain: bool,
}

/// The time from when a request was sent to when its reply had come.
#[derive(Clone, Copy)]
pub struct Interval {
    pub start: Instant,
    pub end: Instant,
}

impl Interval {
    pub fn since(start: Instant) -> Self {
        Self { start, end: Instant::now() }
    }

    pub fn is_tainted(self, world: &World) -> bool {
        world.was(Damage::Corruption, self.start, self.end)
    }

    /// Whether what was acknowledged in this time may be undone.
    fn may_be_undone(self, world: &World) -> bool {
        world.was(Damage::Undoing, self.start, self.end + Duration::from_secs(2))
    }

    /// Whether the storage lost something then.
    pub fn has_loss(self, world: &World) -> bool {
        world.was(Damage::Loss, self.start, self.end)
    }
}

/// What is known of a browser's sessions.
#[derive(Default)]
pub struct Model {
    /// The newest last.
    cookies: Vec<Cookie>,
    /// The value of the cookie in the jar.
    jar: Option<String>,
    signs: Vec<SignIn>,
    /// Sign-ins before that moment may be ended by a sign-out from before.
    fragile_until: Option<Instant>,
}

/// How many old cookies a browser keeps.
const KEPT: usize = 16;

impl Model {
    pub fn current(&self) -> Option<Cookie> {
        let jar = self.jar.as_ref()?;
        self.cookies.iter().rfind(|cookie| cookie.value == *jar).cloned()
    }

    /// The cookies whose session was signed out while their record is still there: only marks keep
    /// them from opening.
    pub fn marked(&self) -> Vec<&Cookie> {
        let live = |cookie: &Cookie| cookie.replaced.is_none_or(|at| at.elapsed() < Duration::from_secs(STALE));
        let is_marked = |cookie: &&Cookie| cookie.ended.is_none() && self.has_ended(cookie) && live(cookie);
        self.cookies.iter().filter(is_marked).collect()
    }

    /// A cookie to try again: mostly one of those that only marks keep from opening.
    pub fn cookie_of_before(&self, rng: &mut Rng) -> Option<Cookie> {
        let (marked, recent) = (self.marked(), self.cookies.iter().rev().take(8).collect());
        let choices: Vec<&Cookie> = if rng.u32(..4) > 0 && !marked.is_empty() { marked } else { recent };
        rng.choice(choices).cloned()
    }

    pub fn clear_jar(&mut self) {
        self.jar = None;
    }

    pub fn begin_sign_in(&mut self, number: u64, interval: Interval) {
        let uncertain = self.fragile_until.is_some_and(|until| interval.start < until);
        self.signs.push(SignIn { number, began: interval.start, ended: None, uncertain });
    }

    /// Takes a cookie that was set. Returns what is wrong with it.
    pub fn take(
        &mut self,
        value: &str,
        sign: u64,
        counter: u64,
        (interval, tainted): (Interval, bool),
    ) -> Option<String> {
        let Ok(header) = Header::decode(value.as_bytes()) else {
            return Some(format!("a cookie without a header: {value}"));
        };
        let sid = header.sid().to_vec();
        let known = self.cookies.iter().rfind(|cookie| cookie.sid == sid).cloned();
        if known.as_ref().is_some_and(|known| known.counter != counter || known.sign != sign) {
            return Some("a save did not change the session's id".to_owned());
        }
        let fresh = Cookie {
            value: value.to_owned(),
            sid,
            sign,
            counter,
            saved: interval.start,
            touched: interval.start,
            replaced: None,
            ended: None,
            // What ends all of a user's sessions may not be done yet.
            uncertain: self.fragile_until.is_some_and(|until| interval.start < until),
            tainted,
            rewritten: Vec::new(),
        };
        let touched = |known: Cookie| Cookie { value: value.to_owned(), touched: interval.start, ..known };
        self.cookies.push(known.map_or(fresh, touched));
        if self.cookies.len() > KEPT {
            self.cookies.remove(0);
        }
        self.jar = Some(value.to_owned());
        None
    }

    fn of_record<'a>(&'a mut self, cookie: &Cookie) -> impl Iterator<Item = &'a mut Cookie> + use<'a> {
        let sid = cookie.sid.clone();
        self.cookies.iter_mut().filter(move |one| one.sid == sid)
    }

    /// The cookie's record may have been replaced by a save that was sent then.
    pub fn replace(&mut self, cookie: &Cookie, at: Instant) {
        self.of_record(cookie).for_each(|one| one.replaced = one.replaced.or(Some(at)));
    }

    /// The cookie's record was rewritten, or will be soon if there was no reply.
    pub fn rewrite(&mut self, cookie: &Cookie, interval: Interval, replied: bool) {
        let end = if replied { interval.end } else { interval.end + LATE };
        self.of_record(cookie).for_each(|one| one.rewritten.push(Interval { end, ..interval }));
    }

    /// Whether the cookie's record may have other bits than were saved.
    pub fn may_be_spoiled(&self, cookie: &Cookie, world: &World) -> bool {
        let same = self.cookies.iter().filter(|one| one.sid == cookie.sid);
        cookie.tainted || same.flat_map(|one| &one.rewritten).any(|interval| interval.is_tainted(world))
    }

    fn sign(&self, number: u64) -> Option<&SignIn> {
        self.signs.iter().find(|sign| sign.number == number)
    }

    /// The sign-in of a cookie was ended, or may have been.
    pub fn sign_out(&mut self, cookie: &Cookie, interval: Interval, certain: bool, world: &World) {
        let certain = certain && !interval.is_tainted(world) && !interval.may_be_undone(world);
        if certain {
            self.of_record(cookie).for_each(|one| one.ended = one.ended.or(Some(interval.end)));
        }
        let own = |sign: &SignIn| sign.number == cookie.sign;
        self.end_sign_ins(own, interval, certain);
    }

    /// All sign-ins were ended, or may have been.
    pub fn sign_out_everywhere(&mut self, interval: Interval, certain: bool, world: &World) {
        let certain = certain && !interval.is_tainted(world) && !interval.may_be_undone(world);
        self.end_sign_ins(|sign| sign.began < interval.start, interval, certain);
        // Marks of users are of whole seconds, and what was not acknowledged may be done later.
        let until = interval.end + if certain { ROUNDING } else { Duration::from_secs(6) };
        self.fragile_until = self.fragile_until.max(Some(until));
    }

    fn end_sign_ins(&mut self, which: impl Fn(&SignIn) -> bool, interval: Interval, certain: bool) {
        for sign in self.signs.iter_mut().filter(|sign| which(sign)) {
            if certain {
                sign.ended = sign.ended.or(Some(interval.end));
            }
            sign.uncertain = true;
        }
    }

    /// Another session of this user has ended all others, or may have. Only records that were
    /// neither replaced nor saved while bits were flipped are certainly listed. `except` is the
    /// cookie of the one that has, if this browser has it.
    pub fn end_by_other(&mut self, except: Option<&Cookie>, interval: Interval, certain: bool, world: &World) {
        // Saves that ran side by side have made several sessions of a sign-in.
        let own = except.map(|cookie| &cookie.sid);
        for cookie in self.cookies.iter_mut().filter(|cookie| Some(&cookie.sid) != own) {
            cookie.uncertain = true;
        }
        let certain = certain && world.lists_all && !interval.is_tainted(world) && !interval.may_be_undone(world);
        if let Some(cookie) = self.current().filter(|_| certain && except.is_none())
            && cookie.replaced.is_none()
            && !cookie.tainted
        {
            self.of_record(&cookie).for_each(|one| one.ended = one.ended.or(Some(interval.end)));
        }
        if !certain {
            self.fragile_until = self.fragile_until.max(Some(interval.end + Duration::from_secs(6)));
        }
    }

    /// Whether a sign-out was acknowledged that has ended the session.
    pub fn has_ended(&self, cookie: &Cookie) -> bool {
        cookie.ended.is_some() || self.sign(cookie.sign).is_some_and(|sign| sign.ended.is_some())
    }

    /// Returns why a session that opened must not have.
    pub fn may_open(&self, cookie: &Cookie, interval: Interval, world: &World) -> Result<(), String> {
        // A worker may have read a mark wrongly, and trust that for a while.
        let cache = Duration::from_secs(world.plan.cache_ttl());
        let grace = if cache.is_zero() { cache } else { cache + Duration::from_millis(300) };
        let tainted = Interval { start: interval.start.checked_sub(grace).unwrap_or(interval.start), ..interval };
        if tainted.is_tainted(world) || cookie.tainted {
            return Ok(());
        }
        let ended_before = |ended: Option<Instant>, grace| ended.is_some_and(|at| interval.start > at + grace);
        // A session in a cookie has no record, but a mark of its own.
        let own = if world.plan.storage == "cookie" { grace } else { Duration::ZERO };
        if ended_before(cookie.ended, own) {
            return Err("a session opens whose record was deleted".to_owned());
        }
        if ended_before(self.sign(cookie.sign).and_then(|sign| sign.ended), grace) {
            return Err("a session opens that was signed out".to_owned());
        }
        let age = |since: Instant| interval.start.saturating_duration_since(since);
        let late = LATE * slowness();
        if age(cookie.touched) > Duration::from_secs(IDLING) + late
            || age(cookie.saved) > Duration::from_secs(ROLLING) + late
        {
            return Err("a session opens after its timeouts".to_owned());
        }
        Ok(())
    }

    /// Returns why a session that is gone must still be there.
    pub fn may_be_gone(&self, cookie: &Cookie, interval: Interval, world: &World) -> Result<(), String> {
        let over = |since: Instant, seconds| since + Duration::from_secs(seconds) < interval.end + ROUNDING;
        let expired = over(cookie.touched, IDLING)
            || over(cookie.saved, ROLLING)
            || cookie.replaced.is_some_and(|since| over(since, STALE));
        let ended =
            cookie.uncertain || cookie.ended.is_some() || self.sign(cookie.sign).is_none_or(|sign| sign.uncertain);
        // A failover may lose what was saved shortly before it.
        let saving = Interval { start: cookie.saved, end: cookie.saved + LATE };
        let life = Interval { start: cookie.saved, end: interval.end };
        let lost = life.has_loss(world) || saving.may_be_undone(world);
        if expired || ended || lost || self.may_be_spoiled(cookie, world) || interval.is_tainted(world) {
            return Ok(());
        }
        let age = interval.end - cookie.saved;
        Err(format!("a save that was acknowledged {age:?} ago is lost (counter {})", cookie.counter))
    }
}
