//! What a run does. All of it follows from the seed and from the numbers of browsers, steps and
//! faults, never from time: the same seed makes the same plan, and a smaller plan is a part of it.

use std::time::Duration;

use fastrand::Rng;

/// Requests from one phase of faults to the next.
pub const CYCLE: u64 = 2000;
/// Requests of a cycle during which faults are put in. The rest is calm.
const FAULTY: u64 = 1200;
/// Requests for each fault, over a whole cycle.
const REQUESTS_PER_FAULT: u64 = 36;

/// What a run does, and how much of it.
#[derive(Clone, Debug)]
pub struct Plan {
    pub storage: String,
    pub seed: u64,
    /// About how many requests are sent: a step that was begun is finished.
    pub requests: u64,
    pub browsers: usize,
    /// How many faults are put in.
    pub faults: u64,
    /// The names of the faults' kinds; all kinds if it is empty.
    pub kinds: Vec<String>,
    /// The commit whose build runs beside this one, in `target/before`; empty if none does. Then
    /// the only fault is that nginx reloads with the other version.
    pub before: String,
    /// The names of what browsers do; everything if it is empty.
    pub actions: Vec<String>,
}

/// A fault that is put in, for some time or at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Bytes arrive later.
    Delay,
    /// Bytes do not arrive until the fault is over.
    Stall,
    /// Connections are cut after some bytes.
    CutAfter,
    /// A bit of each connection is flipped.
    Flip,
    /// Nobody listens.
    Refuse,
    /// New connections are accepted, and nothing else happens on them.
    Hang,
    /// New connections are accepted and cut.
    AcceptAndCut,
    /// New connections are not accepted until the fault is over.
    SlowAccept,
    /// Open connections are cut.
    Cut,
    /// Half of the open connections are cut.
    CutHalf,
    /// Open connections carry nothing any more, and nobody is told.
    Forget,
    /// The server is stopped, and goes on.
    Stop,
    /// The server is killed and starts again.
    Restart,
    /// Another server becomes the master.
    FailOver,
    /// A worker of nginx is killed.
    KillWorker,
    /// nginx reads its configuration again.
    Reload,
    /// nginx reads its configuration again, and finds the other version of the library.
    Switch,
}

impl Kind {
    pub const ALL: [Self; 17] = [
        Self::Delay,
        Self::Stall,
        Self::CutAfter,
        Self::Flip,
        Self::Refuse,
        Self::Hang,
        Self::AcceptAndCut,
        Self::SlowAccept,
        Self::Cut,
        Self::CutHalf,
        Self::Forget,
        Self::Stop,
        Self::Restart,
        Self::FailOver,
        Self::KillWorker,
        Self::Reload,
        Self::Switch,
    ];

    /// How often it comes, compared with the others.
    fn weight(self) -> u32 {
        match self {
            Self::Delay | Self::CutAfter | Self::Cut => 16,
            Self::Stall | Self::Flip | Self::Refuse | Self::AcceptAndCut | Self::CutHalf => 10,
            Self::Hang | Self::SlowAccept | Self::Stop => 6,
            Self::Forget | Self::Restart | Self::KillWorker => 1,
            Self::FailOver | Self::Reload | Self::Switch => 1,
        }
    }

    /// The shortest and the longest time that it lasts, in milliseconds.
    fn times(self) -> (u64, u64) {
        match self {
            Self::Delay => (20, 80),
            Self::Stall | Self::Stop => (10, 60),
            Self::Hang | Self::SlowAccept => (5, 30),
            _ => (5, 40),
        }
    }

    /// Whether a worker that connects meanwhile fails.
    pub fn breaks_connecting(self) -> bool {
        matches!(self, Self::Refuse | Self::Hang | Self::AcceptAndCut | Self::SlowAccept | Self::Stop | Self::Restart)
    }

    pub fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }
}

/// A fault of the schedule.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    pub number: u64,
    /// The request before which it begins.
    pub at: u64,
    pub kind: Kind,
    pub time: Duration,
    /// Whatever else the kind needs.
    pub detail: u64,
}

impl Fault {
    /// Picks one of `count` targets.
    pub fn choose(&self, count: usize) -> usize {
        (self.detail >> 32) as usize % count.max(1)
    }
}

/// What a browser does in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Action {
    Read,
    Write,
    /// Starts the session, which refreshes it if that is due.
    Roll,
    /// Writes in `synchronize`.
    Synchronize,
    /// Saves info in the record.
    Info,
    /// Several requests at once.
    Burst,
    SignIn,
    SignOut,
    /// Signs the user out everywhere.
    Everywhere,
    /// Signs the user's other browser out.
    Others,
    List,
    /// Sends an old cookie.
    Replay,
    /// Sends a cookie that is not authentic.
    Forge,
    /// Uses a storage object in a timer.
    Store,
    /// Does nothing for some steps.
    Rest,
    /// Uses a session with audiences, long data and a remember cookie, at another site.
    Visit,
}

const ACTIONS: [(Action, u32); 15] = [
    (Action::Read, 24),
    (Action::Write, 16),
    (Action::Roll, 12),
    (Action::Synchronize, 4),
    (Action::Info, 5),
    (Action::Burst, 5),
    (Action::SignIn, 3),
    (Action::SignOut, 3),
    (Action::Everywhere, 1),
    (Action::Others, 2),
    (Action::List, 2),
    (Action::Replay, 12),
    (Action::Forge, 3),
    (Action::Store, 6),
    (Action::Rest, 1),
];

/// What browsers do besides where two versions run.
const VISITS: (Action, u32) = (Action::Visit, 60);
/// Actions that need records.
const OF_STORAGES: [Action; 2] = [Action::Others, Action::List];
/// After how many requests the versions change places.
const REQUESTS_PER_SWITCH: u64 = 1000;

/// In what a request's program runs it.
pub const WAYS: [&str; 5] = ["plain", "coroutine", "thread", "subrequest", "both"];

/// A generator for one place of the plan.
pub fn random(seed: u64, what: u64, first: u64, second: u64) -> Rng {
    let mut rng = Rng::with_seed(seed);
    for number in [what, first, second] {
        rng = Rng::with_seed(rng.u64(..) ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    }
    rng
}

/// One of the choices, more often one of more weight.
pub fn weighted<T: Copy>(rng: &mut Rng, choices: &[(T, u32)]) -> Option<T> {
    let all: u32 = choices.iter().map(|(_, weight)| weight).sum();
    let mut left = rng.u32(..all.max(1));
    choices.iter().find_map(|(choice, weight)| {
        if left < *weight {
            return Some(*choice);
        }
        left -= weight;
        None
    })
}

impl Plan {
    /// What a browser does in a step, and the generator for the rest of that step's decisions.
    pub fn step(&self, browser: usize, step: u64) -> (Action, Rng) {
        let mut rng = random(self.seed, 1, browser as u64, step);
        let action = weighted(&mut rng, &self.choices()).unwrap_or(Action::Read);
        (if step == 0 { Action::SignIn } else { action }, rng)
    }

    /// Whether two versions of the library run.
    pub fn has_versions(&self) -> bool {
        !self.before.is_empty()
    }

    fn choices(&self) -> Vec<(Action, u32)> {
        let visits = Some(VISITS).filter(|_| self.has_versions());
        let all = ACTIONS.into_iter().chain(visits);
        let wanted = |action: Action| {
            let name = format!("{action:?}").to_lowercase();
            (self.actions.is_empty() || self.actions.contains(&name))
                && !(self.storage == "cookie" && OF_STORAGES.contains(&action))
        };
        all.filter(|(action, _)| wanted(*action)).collect()
    }

    /// The seconds for which workers trust what they know of marks.
    pub fn cache_ttl(&self) -> u64 {
        self.seed % 2
    }

    /// The schedule's faults of the kinds that `possible` has, without those of other kinds than
    /// this plan's.
    pub fn schedule(&self, possible: &[Kind]) -> Vec<Fault> {
        if self.has_versions() {
            return (0..self.faults).map(|number| self.switch(number)).collect();
        }
        let faults = (0..self.faults).filter_map(|number| self.fault(number, possible));
        let wanted = |fault: &Fault| self.kinds.is_empty() || self.kinds.contains(&fault.kind.name());
        faults.filter(wanted).collect()
    }

    fn switch(&self, number: u64) -> Fault {
        let at = number * REQUESTS_PER_SWITCH + REQUESTS_PER_SWITCH / 2;
        Fault { number, at, kind: Kind::Switch, time: Duration::ZERO, detail: 0 }
    }

    fn fault(&self, number: u64, possible: &[Kind]) -> Option<Fault> {
        let mut rng = random(self.seed, 2, number, 0);
        let per_cycle = CYCLE / REQUESTS_PER_FAULT;
        let (cycle, place) = (number / per_cycle, number % per_cycle);
        let at = cycle * CYCLE + place * FAULTY / per_cycle;
        let choices: Vec<(Kind, u32)> = possible.iter().map(|kind| (*kind, kind.weight())).collect();
        let kind = weighted(&mut rng, &choices)?;
        // In the second half workers live, so that it can be seen what they leak.
        if at >= self.requests || at >= self.requests / 2 && matches!(kind, Kind::KillWorker | Kind::Reload) {
            return None;
        }
        let (shortest, longest) = kind.times();
        // A few last longer than the storage's time limits.
        let factor = if rng.u32(..200) == 0 { 20 } else { 1 };
        let time = Duration::from_millis(rng.u64(shortest..=longest) * factor);
        Some(Fault { number, at, kind, time, detail: rng.u64(..) })
    }
}

/// How many faults belong to so many requests, where two versions run or one does.
pub fn faults_for(requests: u64, versions: bool) -> u64 {
    requests / if versions { REQUESTS_PER_SWITCH } else { REQUESTS_PER_FAULT }
}
