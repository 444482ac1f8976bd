//! Visits of a browser to a site where two versions of the library serve in turn: a session with
//! audiences, long data, info and a remember cookie. A visit has one request at a time and no
//! faults, so what it sees is known exactly.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::thread::sleep;
use std::time::Duration;

use fastrand::Rng;
use serde_json::Value;

use super::browser::Check;
use super::client::{Client, Sent};
use super::errors::{Class, classify};
use super::plan::weighted;
use super::world::World;

const AUDIENCES: [&str; 2] = ["books", "music"];
/// An option for each of five users' browsers.
const OPTIONS: [&str; 5] = ["", "hash_storage_key", "separate_keys", "hash_subject", "remember_theft&setting=revoke"];
const WAYS: [&str; 4] = ["plain", "coroutine", "thread", "subrequest"];
/// How often a request does what.
const STEPS: [(&str, u32); 15] = [
    ("read", 20),
    ("write", 14),
    ("join", 8),
    ("touch", 8),
    ("info", 8),
    ("turn", 4),
    ("count", 6),
    ("close", 8),
    ("expire", 1),
    ("list", 4),
    ("log_out", 5),
    ("sign_out", 3),
    ("everywhere", 2),
    ("forget", 2),
    ("copy", 11),
];

type Jar = BTreeMap<String, String>;

/// What an audience's part of a session holds.
#[derive(Clone, Copy)]
struct Part {
    number: u64,
    info: Option<u64>,
}

/// A sign-in that lasts.
struct SignedIn {
    parts: BTreeMap<&'static str, Part>,
    remembered: bool,
}

/// A browser's visits.
pub struct Visit {
    id: usize,
    jar: Jar,
    state: Option<SignedIn>,
    /// What it writes next.
    counter: u64,
    /// How often it signed in, each time as another user: marks of users are of whole seconds.
    signs: u64,
    /// A copy of its cookies that somebody else made.
    copy: Option<Jar>,
}

impl Visit {
    pub fn new(id: usize) -> Self {
        Self { id, jar: Jar::new(), state: None, counter: 0, signs: 0, copy: None }
    }

    /// The option of its session.
    fn option(&self) -> &'static str {
        OPTIONS[self.id / 2 % OPTIONS.len()]
    }

    /// Whether an old remember cookie ends its session, if it comes late enough.
    fn notices_theft(&self) -> bool {
        self.option().starts_with("remember_theft")
    }

    fn subject(&self) -> String {
        format!("visitor-{}-{}", self.id, self.signs)
    }

    /// Does a step.
    pub fn step(&mut self, rng: &mut Rng, client: &mut Client, world: &World) -> Check {
        let net = &mut (rng, client, world);
        let Some(state) = &self.state else { return self.sign_in(net) };
        let (own, other) = if net.0.bool() { (AUDIENCES[0], AUDIENCES[1]) } else { (AUDIENCES[1], AUDIENCES[0]) };
        let audience = if state.parts.contains_key(own) { own } else { other };
        let step = weighted(net.0, &STEPS).unwrap_or("read");
        self.counter += 1;
        world.count(&format!("visit: {step}"));
        match step {
            "read" => self.read(own, "read", net),
            // Its locks may have two holders, or none, if the machine is slow.
            "turn" | "count" if net.2.plan.storage == "dshm" => self.read(own, "read", net),
            "write" | "turn" | "info" | "forget" | "touch" => self.change(audience, step, net),
            "count" => self.count(audience, net),
            "join" => self.join(own, net),
            "close" => {
                self.close();
                self.read(audience, "read", net)
            }
            "expire" => self.expire(audience, net),
            "list" => self.list(audience, net),
            "log_out" => self.log_out(audience, net),
            "sign_out" | "everywhere" => self.leave(audience, step, net),
            _ => {
                self.copy = Some(self.jar.clone());
                Ok(())
            }
        }
        .map_err(|problem| format!("{step} of {own}: {problem}"))
    }

    /// Sends a request with the browser's cookies. Returns what the program replied.
    fn ask(&mut self, audience: &str, what: &str, net: &mut Net) -> Result<Value, String> {
        let sent = self.send(&self.jar, (audience, what), net)?;
        let (reply, lines) = self.receive(sent, net)?;
        self.keep(&lines);
        Ok(reply)
    }

    /// Keeps the cookies that lines set.
    fn keep(&mut self, lines: &[String]) {
        for (name, value) in lines.iter().filter_map(|line| line.split(';').next()?.split_once('=')) {
            match value {
                "" => self.jar.remove(name),
                value => self.jar.insert(name.to_owned(), value.to_owned()),
            };
        }
    }

    /// Sends a request with any cookies. Returns its number with it.
    fn send(
        &self,
        jar: &Jar,
        (audience, what): (&str, &str),
        (rng, client, world): &mut Net,
    ) -> Result<(u64, Sent), String> {
        let number = world.next_request();
        let way = WAYS[rng.usize(..WAYS.len())];
        let location = if way == "subrequest" { way } else { "on/act" };
        let (subject, counter) = (self.subject(), self.counter);
        let mut path = format!("/{location}?act=visit&what={what}&way={way}&number={number}&audience={audience}");
        let _ = write!(path, "&subject={subject}&counter={counter}");
        match self.option() {
            // Sessions in cookies do not have it.
            _ if self.notices_theft() && world.plan.storage == "cookie" => (),
            "" => (),
            option => write!(path, "&option={option}").unwrap_or_default(),
        }
        if what == "expired" {
            path = path.replace("what=expired", "what=read&idling=1");
        }
        let cookies: Vec<_> = jar.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let port = client.choose(rng);
        world.trace(self.id, || format!("{number} to {port}: {path} with {jar:?}"));
        let sent = client.send(port, &path, &cookies.join("; "), true);
        Ok((number, sent.map_err(|error| format!("nothing was sent: {error}"))?))
    }

    /// Returns the reply to a request, and the lines that set cookies.
    fn receive(&self, (number, sent): (u64, Sent), net: &mut Net) -> Result<(Value, Vec<String>), String> {
        let response = net.1.receive(sent).map_err(|error| format!("no reply: {error}"))?;
        net.2.trace(self.id, || format!("{number}: {} {:?}", response.text, response.cookies));
        let mut reply = response.body["visit"].clone();
        if response.body["number"] != number || reply.is_null() {
            return Err(format!("a reply with the status {}: {}", response.status, response.text));
        }
        reply["version"] = response.body["version"].clone();
        Ok((reply, response.cookies))
    }

    fn sign_in(&mut self, net: &mut Net) -> Check {
        self.signs += 1;
        self.counter += 1;
        let audience = AUDIENCES[net.0.usize(..2)];
        is_done(&self.ask(audience, "sign_in", net)?)?;
        let part = Part { number: self.counter, info: None };
        self.state = Some(SignedIn { parts: BTreeMap::from([(audience, part)]), remembered: true });
        self.copy = None;
        Ok(())
    }

    /// Opens the session, and compares all that is seen with what is known.
    fn read(&mut self, audience: &str, what: &str, net: &mut Net) -> Check {
        let reply = self.ask(audience, what, net)?;
        self.compare(audience, &reply)
    }

    fn compare(&self, audience: &str, reply: &Value) -> Check {
        let Some(part) = self.state.as_ref().and_then(|state| state.parts.get(audience)) else {
            return is_absent(reply);
        };
        let expected = [part.number == reply["number"], reply["whole"] == true, reply["subject"] == self.subject()];
        if reply["exists"] == true && expected == [true; 3] && part.info == reply["info"].as_u64() {
            return Ok(());
        }
        Err(format!(
            "{} {} with info {:?} was saved, and this is read: {reply}",
            self.subject(),
            part.number,
            part.info
        ))
    }

    /// An act on a session that is there.
    fn change(&mut self, audience: &'static str, step: &str, net: &mut Net) -> Check {
        let before = self.jar.clone();
        let reply = self.ask(audience, step, net)?;
        self.compare(audience, &reply)?;
        is_done(&reply)?;
        let Some(state) = &mut self.state else { return Ok(()) };
        let Some(part) = state.parts.get_mut(audience) else { return Ok(()) };
        match step {
            "write" | "turn" => part.number = self.counter,
            "info" => part.info = Some(self.counter),
            "forget" => state.remembered = false,
            _ => (),
        }
        if step == "forget" {
            if self.jar.keys().any(|name| name.starts_with("visitor")) {
                return Err("the browser still has the remember cookie".to_owned());
            }
            let copies = [Some(&before), self.copy.as_ref().filter(|_| !self.notices_theft())];
            let mut copies = copies.into_iter().flatten().map(remembered);
            copies.try_for_each(|jar| self.try_copy(&jar, &[audience], net))?;
        }
        self.read(audience, "read", net)
    }

    /// Counts in several requests at once, each of which has its turn.
    fn count(&mut self, audience: &'static str, net: &mut Net) -> Check {
        let requests: Vec<_> =
            (0..3).map(|_| self.send(&self.jar, (audience, "count"), net)).collect::<Result<_, _>>()?;
        let replies = requests.into_iter().map(|sent| self.receive(sent, net));
        let mut replies: Vec<_> = replies.collect::<Result<_, _>>()?;
        replies.sort_by_key(|(reply, _)| reply["counted"].as_u64());
        for (reply, lines) in replies {
            is_done(&reply)?;
            self.keep(&lines);
            let Some(part) = self.state.as_mut().and_then(|state| state.parts.get_mut(audience)) else { continue };
            part.number += 1;
            if reply["counted"] != part.number {
                return Err(format!("the turn in which {} was counted is missing: {reply}", part.number));
            }
        }
        self.read(audience, "read", net)
    }

    fn join(&mut self, audience: &'static str, net: &mut Net) -> Check {
        is_done(&self.ask(audience, "join", net)?)?;
        let number = self.counter;
        let Some(state) = &mut self.state else { return Ok(()) };
        state.parts.entry(audience).and_modify(|part| part.number = number).or_insert(Part { number, info: None });
        AUDIENCES.into_iter().try_for_each(|each| self.read(each, "read", net))
    }

    /// The browser is closed, and forgets what is only for the session.
    fn close(&mut self) {
        self.jar = remembered(&self.jar);
        self.forget_if_not_remembered();
    }

    fn forget_if_not_remembered(&mut self) {
        if self.state.as_ref().is_some_and(|state| !state.remembered) {
            self.state = None;
        }
    }

    /// The session was idle for too long.
    fn expire(&mut self, audience: &str, net: &mut Net) -> Check {
        sleep(Duration::from_millis(2100));
        self.forget_if_not_remembered();
        self.read(audience, "expired", net)
    }

    fn list(&mut self, audience: &str, net: &mut Net) -> Check {
        if net.2.plan.storage == "cookie" {
            return Ok(());
        }
        let reply = self.ask(audience, "list", net)?;
        is_done(&reply)?;
        // Another version, or another worker, may hold the newest session of a browser that was
        // closed.
        let is_listed = reply["listed"] == true || !net.2.lists_all || !self.jar.contains_key("visit");
        if is_listed { Ok(()) } else { Err(format!("the session is not listed: {reply}")) }
    }

    fn log_out(&mut self, audience: &'static str, net: &mut Net) -> Check {
        let before = self.jar.clone();
        is_done(&self.ask(audience, "log_out", net)?)?;
        let Some(state) = &mut self.state else { return Ok(()) };
        state.parts.remove(audience);
        if state.parts.is_empty() {
            self.state = None;
        }
        AUDIENCES.into_iter().try_for_each(|each| self.read(each, "read", net))?;
        self.try_copies(before, &[audience], net)
    }

    fn leave(&mut self, audience: &str, how: &str, net: &mut Net) -> Check {
        let before = self.jar.clone();
        is_done(&self.ask(audience, how, net)?)?;
        self.state = None;
        AUDIENCES.into_iter().try_for_each(|each| self.read(each, "read", net))?;
        self.try_copies(before, &AUDIENCES, net)
    }

    /// Tries cookies that somebody has copied: those of just before the sign-out, those of earlier,
    /// and the remember cookie alone.
    fn try_copies(&self, before: Jar, audiences: &[&str], net: &mut Net) -> Check {
        let alone = remembered(&before);
        let jars = [Some(&before), Some(&alone), self.copy.as_ref()];
        jars.into_iter().flatten().try_for_each(|jar| self.try_copy(jar, audiences, net))
    }

    fn try_copy(&self, jar: &Jar, audiences: &[&str], net: &mut Net) -> Check {
        audiences.iter().try_for_each(|audience| {
            let sent = self.send(jar, (audience, "read"), net)?;
            let (reply, _) = self.receive(sent, net)?;
            net.2.count("checked: a visitor's copy");
            is_absent(&reply).map_err(|problem| format!("a copy of cookies that have ended: {problem}"))
        })
    }
}

/// The remember cookie alone.
fn remembered(jar: &Jar) -> Jar {
    jar.iter()
        .filter(|(name, _)| name.starts_with("visitor"))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// What a request needs.
type Net<'a> = (&'a mut Rng, &'a mut Client, &'a World);

fn is_done(reply: &Value) -> Check {
    if reply["ok"] == true { Ok(()) } else { Err(format!("this fails: {reply}")) }
}

/// Checks that there is no session, and that the reason is not an error of another kind.
fn is_absent(reply: &Value) -> Check {
    let error = reply["err"].as_str();
    let gone = classify(error) == Class::Gone || error.is_some_and(|error| error.ends_with("missing session audience"));
    if reply["exists"] == false && gone { Ok(()) } else { Err(format!("no session must be there: {reply}")) }
}
