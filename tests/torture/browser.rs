//! A browser: what it does in each step, and what it makes of the replies.

use std::fmt::Write as _;
use std::io::ErrorKind;
use std::thread::sleep;
use std::time::{Duration, Instant};

use fastrand::Rng;
use serde_json::Value;

use super::client::{Client, Response, Sent};
use super::errors::{Class, classify, ended_before_turn};
use super::model::{Cookie, Interval, Model};
use super::plan::{Action, WAYS};
use super::visit::Visit;
use super::world::World;

/// What is wrong with a reply.
pub type Check = Result<(), String>;

/// One of two browsers of a user.
pub struct Browser {
    id: usize,
    user: String,
    pub model: Model,
    /// What it writes next, also the number of its next sign-in.
    counter: u64,
    /// Steps for which it does nothing.
    rest: u64,
    /// Its session at another site, where two versions of the library run.
    visit: Visit,
}

/// A request of an act, and what the act needs to know of it later.
struct Request {
    act: &'static str,
    /// The number by which its reply is known.
    number: u64,
    counter: u64,
    cookie: Option<Cookie>,
}

/// A request's end: its reply, or none.
struct Outcome {
    request: Request,
    interval: Interval,
    response: Option<Response>,
}

/// How long a browser waits while the server is unavailable.
const PAUSE: Duration = Duration::from_millis(20);
/// The acts that save the session.
const SAVES: [&str; 3] = ["write", "roll", "synchronize"];

impl Browser {
    pub fn new(id: usize) -> Self {
        Self {
            id,
            user: format!("user-{}", id / 2),
            model: Model::default(),
            counter: 0,
            rest: 0,
            visit: Visit::new(id),
        }
    }

    pub fn id(&self) -> usize {
        self.id
    }

    fn next_counter(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    /// Does a step. `other` is the user's other browser.
    pub fn step(
        &mut self,
        action: Action,
        rng: &mut Rng,
        (other, client, world): (&mut Self, &mut Client, &World),
    ) -> Check {
        if self.rest > 0 {
            self.rest -= 1;
            return Ok(());
        }
        let current = self.model.current();
        // One that is signed out mostly signs in, or somebody who has a copy of a cookie comes.
        let action = match action {
            Action::Visit => action,
            _ if rng.u32(..4) == 0 && !self.model.marked().is_empty() => Action::Replay,
            Action::SignIn | Action::Everywhere | Action::Store | Action::Replay | Action::List => action,
            _ if current.is_none() && rng.u32(..10) > 0 => Action::SignIn,
            action => action,
        };
        world.count(&format!("{action:?}"));
        match action {
            Action::Rest => {
                self.rest = rng.u64(1..60);
                Ok(())
            }
            Action::Burst => self.burst(rng, client, world),
            Action::Replay => self.replay(rng, client, world),
            Action::Forge => self.forge(rng, client, world),
            Action::Visit => self.visit.step(rng, client, world),
            _ => {
                // A save before a sign-out leaves a cookie that only a mark keeps from opening.
                if action == Action::SignOut && rng.u32(..4) > 0 && current.is_some() {
                    self.ask_alone("write", rng, (other, client, world))?;
                }
                self.ask_alone(act(action, rng), rng, (other, client, world))
            }
        }
    }

    /// Sends one request with the cookie in the jar, and settles it.
    fn ask_alone(
        &mut self,
        act: &'static str,
        rng: &mut Rng,
        (other, client, world): (&mut Self, &mut Client, &World),
    ) -> Check {
        let request = self.request(act, self.model.current());
        let Some(outcome) = self.ask(request, rng, (client, world)) else { return Ok(()) };
        self.settle(outcome, other, world)
    }

    fn request(&mut self, act: &'static str, cookie: Option<Cookie>) -> Request {
        Request { act, number: 0, counter: self.next_counter(), cookie }
    }

    fn path(&self, request: &Request, rng: &mut Rng) -> String {
        let way = WAYS[rng.usize(..WAYS.len())];
        let location = match (way, rng.bool()) {
            ("subrequest", _) => "subrequest",
            (_, true) => "on/act",
            (_, false) => "off/act",
        };
        let Request { act, number, counter, .. } = request;
        let (user, device) = (&self.user, self.id);
        let mut path = format!("/{location}?act={act}&way={way}&number={number}&user={user}&device={device}");
        let _ = write!(path, "&counter={counter}&sign={counter}&value={user}/{device}/{counter}");
        if rng.u32(..10) == 0 {
            let _ = write!(path, "&size={}", rng.u32(..4000));
        }
        path
    }

    fn send(&self, request: &mut Request, rng: &mut Rng, (client, world): (&mut Client, &World)) -> Option<Sent> {
        request.number = world.next_request();
        let path = self.path(request, rng);
        let cookie = request.cookie.as_ref().map(|cookie| format!("session={}", cookie.value)).unwrap_or_default();
        let fresh = rng.u32(..4) == 0 || world.plan.has_versions();
        let port = client.choose(rng);
        client.send(port, &path, &cookie, fresh).ok()
    }

    /// Sends a request, and returns its outcome. Some requests are broken off. Returns
    /// `None` if only half a request was sent.
    fn ask(&self, mut request: Request, rng: &mut Rng, (client, world): (&mut Client, &World)) -> Option<Outcome> {
        let (halves, aborts, patience) = (rng.u32(..60) == 0, rng.u32(..16) == 0, rng.u64(..3000));
        if halves {
            world.next_request();
            world.count("broken off half way");
            let path = self.path(&request, rng);
            let _ = client.send_half(client.choose(rng), &path);
            return None;
        }
        let start = Instant::now();
        let sent = self.send(&mut request, rng, (client, world));
        if aborts {
            sleep(Duration::from_micros(patience));
            world.count("broken off");
            return Some(Outcome { request, interval: Interval::since(start), response: None });
        }
        Some(receive(request, sent, client, world))
    }

    fn burst(&mut self, rng: &mut Rng, client: &mut Client, world: &World) -> Check {
        let cookie = self.model.current();
        let sent: Vec<_> = (0..rng.usize(2..7))
            .map(|_| {
                let mut request = self.request(["write", "roll", "read", "info"][rng.usize(..4)], cookie.clone());
                let sent = self.send(&mut request, rng, (client, world));
                (request, sent)
            })
            .collect();
        let outcomes: Vec<_> = sent.into_iter().map(|(request, sent)| receive(request, sent, client, world)).collect();
        outcomes.into_iter().try_for_each(|outcome| self.settle_own(outcome, world))
    }

    /// Reads with an old cookie.
    fn replay(&mut self, rng: &mut Rng, client: &mut Client, world: &World) -> Check {
        let Some(cookie) = self.model.cookie_of_before(rng) else { return Ok(()) };
        let mut request = self.request("read", Some(cookie));
        let sent = self.send(&mut request, rng, (client, world));
        let outcome = receive(request, sent, client, world);
        let Outcome { request: Request { cookie: Some(cookie), .. }, interval, response: Some(response) } = outcome
        else {
            return Ok(());
        };
        // What it sets or clears is not for the jar.
        let is_current = self.model.current().is_some_and(|current| current.value == cookie.value);
        if is_current {
            for line in &response.cookies {
                self.absorb(line, &cookie, cookie.counter, (interval, world))?;
            }
        }
        self.see("read", &response.body, (&cookie, interval, world)).map(drop)
    }

    /// Sends a cookie whose authentication code is not the right one.
    fn forge(&mut self, rng: &mut Rng, client: &mut Client, world: &World) -> Check {
        let Some(mut cookie) = self.model.current() else { return Ok(()) };
        let at = cookie.value.len() - 2 - rng.usize(..16);
        let replacement = if cookie.value.as_bytes()[at] == b'A' { "B" } else { "A" };
        cookie.value.replace_range(at..=at, replacement);
        let mut request = self.request("read", Some(cookie));
        let sent = self.send(&mut request, rng, (client, world));
        match receive(request, sent, client, world).response {
            Some(response) if response.body["exists"] == true => Err("a cookie opens that is not authentic".to_owned()),
            _ => Ok(()),
        }
    }

    /// Reads the session until the storage does not fail, when there are no faults any more.
    pub fn look_again(&mut self, client: &mut Client, world: &World) -> Check {
        let deadline = Instant::now() + Duration::from_secs(15);
        let mut rng = Rng::with_seed(0);
        while let Some(cookie) = self.model.current() {
            let mut request = self.request("read", Some(cookie.clone()));
            let sent = self.send(&mut request, &mut rng, (client, world));
            let outcome = receive(request, sent, client, world);
            let error =
                outcome.response.as_ref().map_or("no reply".into(), |response| response.body["err"].to_string());
            let seen = outcome.response.as_ref().is_some_and(|response| {
                response.body["exists"] == true || classify(response.body["err"].as_str()) != Class::Fault
            });
            self.settle_own(outcome, world)?;
            if seen {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("the session does not open although all faults are over: {error}"));
            }
            sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Makes of an outcome what it means for this browser alone.
    fn settle_own(&mut self, outcome: Outcome, world: &World) -> Check {
        let Outcome { request, interval, response } = outcome;
        let Request { act, number, counter, cookie } = request;
        world.trace(self.id, || {
            let shown = response.as_ref().map(|response| format!("{} {:?}", response.text, response.cookies));
            let sent = cookie.as_ref().map(|cookie| &cookie.value);
            format!("{:?} {act} {counter} with {sent:?}: {shown:?}", interval.start)
        });
        if let Some(cookie) = cookie.as_ref().filter(|_| act == "info") {
            self.model.rewrite(cookie, interval, response.is_some());
        }
        let Some(response) = response else {
            if let Some(cookie) = cookie.filter(|_| SAVES.contains(&act)) {
                self.model.replace(&cookie, interval.start);
            }
            return Ok(());
        };
        let reply = &response.body;
        check_form(&response, number)?;
        if world.plan.has_versions() {
            world.count(&format!("served by {}", reply["version"]));
        }
        if act == "sign_in" {
            return self.signed_in(&response, counter, (interval, world));
        }
        // These do not open the session.
        let Some(cookie) = cookie.filter(|_| !matches!(act, "everywhere" | "list")) else { return Ok(()) };
        let saves = SAVES.contains(&act);
        let counter = if matches!(act, "write" | "synchronize") { counter } else { cookie.counter };
        for line in &response.cookies {
            self.absorb(line, &cookie, counter, (interval, world))?;
        }
        let seen = self.see(act, reply, (&cookie, interval, world))?;
        if saves && seen && (reply["ok"] != true || !response.cookies.is_empty()) {
            self.model.replace(&cookie, interval.start);
        }
        Ok(())
    }

    fn signed_in(&mut self, response: &Response, sign: u64, (interval, world): (Interval, &World)) -> Check {
        if response.body["ok"] != true {
            return self.complain(&response.body, (interval, world));
        }
        self.model.begin_sign_in(sign, interval);
        let [line] = &response.cookies[..] else { return Err(format!("a sign-in set {:?}", response.cookies)) };
        let value = value_of(line).ok_or("a sign-in set no session")?;
        let tainted = interval.is_tainted(world);
        self.model.take(value, sign, sign, (interval, tainted)).map_or(Ok(()), Err)
    }

    /// Takes a cookie into the jar, or out of it.
    fn absorb(&mut self, line: &str, base: &Cookie, counter: u64, (interval, world): (Interval, &World)) -> Check {
        match value_of(line) {
            Some("") => self.model.clear_jar(),
            Some(value) => {
                let tainted = interval.is_tainted(world) || base.is_tainted();
                // A touch keeps the session's id and what it holds.
                let counter = if base.is_same_session(value) { base.counter } else { counter };
                return self.model.take(value, base.sign, counter, (interval, tainted)).map_or(Ok(()), Err);
            }
            None => return Err(format!("a cookie of another name: {line}")),
        }
        Ok(())
    }

    /// Checks what a request has seen of a session. Returns whether it has seen it.
    fn see(
        &mut self,
        act: &str,
        reply: &Value,
        (cookie, interval, world): (&Cookie, Interval, &World),
    ) -> Result<bool, String> {
        if reply["exists"] != true {
            return self.miss(reply, (cookie, interval, world)).map(|()| false);
        }
        if !matches!(act, "sign_out" | "log_out") {
            self.check_content(reply, cookie)?;
        }
        self.model.may_open(cookie, interval, world)?;
        world.count(if reply["ok"] == true { "checked: saved or ended" } else { "checked: opened" });
        if reply["ok"] == false {
            self.miss(reply, (cookie, interval, world))?;
        }
        Ok(true)
    }

    fn check_content(&self, reply: &Value, cookie: &Cookie) -> Check {
        let mine = |field: &str| reply[field].is_null() || reply[field] == *self.user;
        let whole = reply["subject"] == *self.user && reply["who"] == *self.user && reply["device"] == self.id;
        let info = reply["info"].is_null() || reply["info"] == format!("{}/{}", self.user, self.id);
        if !whole || !mine("beside") || !mine("whose") || !info {
            return Err(format!("{} (browser {}) sees another's session: {reply}", self.user, self.id));
        }
        if reply["sign"] != cookie.sign || reply["counter"] != cookie.counter {
            return Err(format!(
                "sign-in {} with {} was saved, and this is read: {reply}",
                cookie.sign, cookie.counter
            ));
        }
        if reply["before"].as_u64().is_some_and(|before| before < cookie.counter || before > self.counter) {
            return Err(format!("a turn begins before {}: {reply}", cookie.counter));
        }
        Ok(())
    }

    /// A session did not open, or was not saved. Checks whether that may be.
    fn miss(&mut self, reply: &Value, (cookie, interval, world): (&Cookie, Interval, &World)) -> Check {
        let error = reply["err"].as_str();
        let class = classify(error);
        // It was stored with other bits.
        let is_spoiled = class == Class::Wrong && self.model.may_be_spoiled(cookie, world);
        if class != Class::Gone && !is_spoiled {
            return self.complain(reply, (interval, world));
        }
        world.count(if self.model.has_ended(cookie) { "checked: signed out" } else { "checked: gone" });
        if !is_spoiled {
            let verdict = self.model.may_be_gone(cookie, interval, world);
            verdict.map_err(|problem| format!("{problem}: {reply}"))?;
        }
        // Bits of the reply may have been flipped: it is there, perhaps.
        let is_current = self.model.current().is_some_and(|current| current.value == cookie.value);
        if is_current && !interval.is_tainted(world) {
            self.model.clear_jar();
        }
        Ok(())
    }

    /// Counts an error of the storage. Others are wrong, unless bits were flipped.
    fn complain(&self, reply: &Value, (interval, world): (Interval, &World)) -> Check {
        let error = reply["err"].as_str();
        let late = ["synchronize session (timeout)", "(the server is too slow to lock anything)"];
        let no_turn =
            error.is_some_and(|error| late.iter().any(|text| error.ends_with(text)) || ended_before_turn(error));
        let explained = match classify(error) {
            Class::Wrong => interval.is_tainted(world),
            // Waiting for a turn ends after a second, and dshm's locks depend on how fast it is.
            _ => !world.plan.has_versions() || no_turn,
        };
        if !explained {
            return Err(format!("an error that no fault explains: {reply}"));
        }
        world.count(&format!("error: {}", shorten(error.unwrap_or_default())));
        if error.is_some_and(|error| error.contains("unavailable")) {
            // As people do who see an error. Otherwise most requests would fail.
            sleep(PAUSE);
        }
        Ok(())
    }

    /// Makes of an outcome what it means for both browsers of the user.
    fn settle(&mut self, outcome: Outcome, other: &mut Self, world: &World) -> Check {
        let (act, interval) = (outcome.request.act, outcome.interval);
        let cookie = outcome.request.cookie.clone();
        let reply = outcome.response.as_ref().map(|response| response.body.clone()).unwrap_or_default();
        if act == "store" {
            return self.check_stored(outcome, world);
        }
        let ok = reply["ok"] == true;
        let tells = outcome.response.is_some();
        self.settle_own(outcome, world)?;
        let certainly_not = tells && !ok && classify(reply["err"].as_str()) == Class::Gone;
        match (act, cookie) {
            ("sign_out" | "log_out", Some(cookie)) if !certainly_not => {
                self.model.sign_out(&cookie, interval, ok, world);
            }
            ("everywhere", _) => {
                self.complain_if(!ok && tells, &reply, (interval, world))?;
                for one in [self, other] {
                    one.model.sign_out_everywhere(interval, ok, world);
                }
            }
            ("list", _) => self.complain_if(!ok && tells, &reply, (interval, world))?,
            ("others", Some(cookie)) if !certainly_not => {
                self.model.end_by_other(Some(&cookie), interval, ok, world);
                other.model.end_by_other(None, interval, ok, world);
            }
            _ => (),
        }
        Ok(())
    }

    fn complain_if(&self, wrong: bool, reply: &Value, place: (Interval, &World)) -> Check {
        if wrong { self.complain(reply, place) } else { Ok(()) }
    }

    fn check_stored(&self, outcome: Outcome, world: &World) -> Check {
        let Outcome { request: Request { number, counter, .. }, interval, response: Some(response) } = outcome else {
            return Ok(());
        };
        check_form(&response, number)?;
        let reply = &response.body;
        let value = format!("{}/{}/{counter}", self.user, self.id);
        let excused = interval.is_tainted(world) || interval.has_loss(world);
        if reply["read"] == true && reply["value"] != value && !(excused && reply["value"].is_null()) {
            let tainted = interval.is_tainted(world);
            return if tainted { Ok(()) } else { Err(format!("{value} was stored, and this is read: {reply}")) };
        }
        self.complain_if(reply["ok"] != true, reply, (interval, world))
    }
}

/// The program's name of an action.
fn act(action: Action, rng: &mut Rng) -> &'static str {
    match action {
        Action::Write => "write",
        Action::Roll => "roll",
        Action::Synchronize => "synchronize",
        Action::Info => "info",
        Action::SignIn => "sign_in",
        Action::SignOut => ["sign_out", "log_out"][rng.usize(..2)],
        Action::Everywhere => "everywhere",
        Action::Others => "others",
        Action::List => "list",
        Action::Store => "store",
        _ => "read",
    }
}

fn receive(request: Request, sent: Option<Sent>, client: &mut Client, world: &World) -> Outcome {
    let start = sent.as_ref().map_or_else(Instant::now, |sent| sent.start);
    let response = match sent.map(|sent| client.receive(sent)) {
        Some(Ok(response)) => Some(response),
        Some(Err(error)) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            world.fail(usize::MAX, 0, format!("no reply came to {} {}", request.act, request.number));
            None
        }
        _ => {
            // A worker that leaves finishes its requests.
            if world.plan.has_versions() {
                world.fail(usize::MAX, 0, format!("the connection of {} {} was lost", request.act, request.number));
            }
            world.count("connection lost");
            None
        }
    };
    Outcome { request, interval: Interval::since(start), response }
}

/// Checks that a reply is the program's, to this request.
fn check_form(response: &Response, number: u64) -> Check {
    let Response { status, body, text, .. } = response;
    if *status != 200 || body["number"] != number {
        return Err(format!("a reply to request {number} with the status {status}: {text}"));
    }
    Ok(())
}

/// The session's value in a line that sets cookies.
fn value_of(line: &str) -> Option<&str> {
    line.strip_prefix("session=").and_then(|rest| rest.split(';').next())
}

/// An error without the numbers that make each of them another.
fn shorten(error: &str) -> String {
    error.chars().filter(|letter| !letter.is_ascii_digit()).take(90).collect()
}
