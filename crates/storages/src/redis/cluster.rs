//! A Redis Cluster. A command goes to the node that holds its key's slot. Each node has a
//! connection of its own: one that fails or hangs keeps no other from being used.

use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use redis::{Cmd, RedisError, ServerError, ServerErrorKind, Value, cmd};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::access::Access;
use super::commands;
use super::errors::failed;
use super::options::ClusterNodes;
use super::replicas::read_any;
use super::scripts::{Learnt, Scripts};
use super::server::{Location, Place, RedisServer};
use super::slots::{SlotMap, redirected, slot};
use super::storage::Commands;
use crate::Error;
use crate::connections::{Endpoint, Identity, Server};
use crate::journal::{Journal, Level};
use crate::network::{Address, Node, race};
use crate::recent::RecentWrites;

/// The pause between two questions for the slots: they are asked for a few times a second at most.
const REFRESH_PAUSE: Duration = Duration::from_millis(200);
/// The pauses before a command is sent again that the Cluster cannot carry out at the moment.
const RETRY_PAUSES: [Duration; 2] = [Duration::from_millis(10), Duration::from_millis(100)];

/// The servers of a Cluster, and how to connect to them.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct ClusterPlace {
    pub configured: ClusterNodes,
    pub access: Access,
    /// Whether replicas are read from.
    pub reads_replicas: bool,
}

/// The servers of a Cluster.
pub(super) struct Cluster(Arc<Shared>);

struct Shared {
    place: ClusterPlace,
    journal: Arc<dyn Journal>,
    /// What is known of the nodes. Never locked across an await.
    known: Mutex<Known>,
    /// How many times the slots have been asked for.
    refreshes: watch::Sender<u64>,
    learnt: Learnt,
    changes: RecentWrites,
    turn: AtomicUsize,
}

#[derive(Default)]
struct Known {
    slots: SlotMap,
    /// The connections, by node and by whether it is a replica that is read from.
    nodes: HashMap<(Node, bool), Arc<RedisServer>>,
    is_refreshing: bool,
    refreshed: Option<Instant>,
    /// Why the slots were not found when they were asked for last.
    problem: Option<Error>,
}

/// What a reply asks the sender of a command to do.
enum Next {
    /// Nothing: this is the reply.
    Done(Value),
    /// Send it to another node.
    Moved(Node),
    /// Send it to another node once, with `ASKING`.
    Ask(Node),
    /// Send it again after a while.
    Wait(ServerError),
}

impl Identity for ClusterPlace {
    type Server = Cluster;

    fn server(&self, journal: Arc<dyn Journal>) -> Arc<Cluster> {
        let learnt = Learnt::default();
        learnt.learn(Scripts::SingleKey);
        Arc::new(Cluster(Arc::new(Shared {
            place: self.clone(),
            journal,
            known: Mutex::default(),
            refreshes: watch::Sender::default(),
            learnt,
            changes: RecentWrites::default(),
            turn: AtomicUsize::new(0),
        })))
    }
}

impl Cluster {
    /// Sends a command to the node of its key, and follows it where it has moved to.
    async fn run(&self, command: Cmd) -> Result<Value, Error> {
        let shared = &self.0;
        let slot = slot(commands::key(&command).unwrap_or_default());
        let (mut node, mut is_asking) = (shared.master(slot).await?, false);
        let (mut pause, mut refusal) = (RETRY_PAUSES[0], None);
        for _ in 0..=shared.place.configured.max_redirections {
            let result = shared.send(&node, command.clone(), is_asking).await;
            is_asking = false;
            match result.map(|value| next(value, &node)) {
                Ok(Next::Done(value)) => return Ok(value),
                Ok(Next::Moved(to)) => {
                    shared.known().slots.note_move(slot, to.clone());
                    shared.refresh();
                    node = to;
                }
                Ok(Next::Ask(to)) => (node, is_asking) = (to, true),
                Ok(Next::Wait(error)) => {
                    refusal = Some(failed(error));
                    shared.refresh();
                    sleep(pause).await;
                    pause = (pause * 2).min(RETRY_PAUSES[1]);
                    node = shared.master(slot).await?;
                }
                Err(error) => {
                    shared.refresh();
                    return Err(error);
                }
            }
        }
        Err(refusal.unwrap_or_else(|| Error::Server("the Cluster redirects the command too often".into())))
    }
}

/// Says what to do after a node's reply.
fn next(value: Value, asked: &Node) -> Next {
    let Value::ServerError(error) = &value else { return Next::Done(value) };
    let redirection = RedisError::from(error.clone());
    let to = redirection.redirect_node().and_then(|(address, _)| redirected(address, asked));
    match (error.kind(), to) {
        (Some(ServerErrorKind::Moved), Some(to)) => Next::Moved(to),
        (Some(ServerErrorKind::Ask), Some(to)) => Next::Ask(to),
        (Some(kind), _) if is_passing(kind) => Next::Wait(error.clone()),
        _ => Next::Done(value),
    }
}

/// Whether an error is one of a Cluster that is about to change.
fn is_passing(kind: ServerErrorKind) -> bool {
    use ServerErrorKind::{BusyLoading, ClusterDown, MasterDown, ReadOnly, TryAgain};
    matches!(kind, TryAgain | ClusterDown | MasterDown | BusyLoading | ReadOnly)
}

impl Shared {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the connection to a node.
    fn server(&self, node: &Node, is_replica: bool) -> Arc<RedisServer> {
        let connect = || {
            let address = Address::Tcp(node.clone());
            let location = if is_replica { Location::ClusterReplica } else { Location::ClusterMaster };
            let place = Place { location: location(address), access: self.place.access.clone() };
            Arc::new(RedisServer::new(place, self.journal.clone()))
        };
        self.known().nodes.entry((node.clone(), is_replica)).or_insert_with(connect).clone()
    }

    async fn send(&self, node: &Node, command: Cmd, is_asking: bool) -> Result<Value, Error> {
        let server = self.server(node, false);
        match is_asking {
            true => server.all(vec![cmd("ASKING"), command]).await?.pop().ok_or(Error::Broken),
            false => server.one(command).await,
        }
    }

    /// Returns the master of a slot. Waits for the slots if they are not known yet, unless they
    /// could not be found a moment ago.
    async fn master(self: &Arc<Self>, slot: u16) -> Result<Node, Error> {
        let mut refreshes = self.refreshes.subscribe();
        let found = self.known().master(slot);
        if let Some(found) = found {
            if found.is_err() {
                self.refresh();
            }
            return found;
        }
        self.refresh();
        // The sender is part of `self`.
        let _ = refreshes.changed().await;
        self.known().master(slot).unwrap_or(Err(Error::Broken))
    }

    /// Asks for the slots, if nobody does yet.
    fn refresh(self: &Arc<Self>) {
        let mut known = self.known();
        if !std::mem::replace(&mut known.is_refreshing, true) {
            let start = known.refreshed.map(|last| last + REFRESH_PAUSE);
            let mut refreshing = Refreshing { shared: self.clone(), found: Err(Error::Broken) };
            tokio::spawn(async move {
                if let Some(start) = start {
                    sleep_until(start).await;
                }
                let found = refreshing.shared.ask_for_slots().await;
                refreshing.end(found);
            });
        }
    }

    /// Asks the nodes for the slots: those that have some first.
    async fn ask_for_slots(&self) -> Result<SlotMap, Error> {
        let mut nodes: Vec<Node> = self.known().slots.masters().into_iter().cloned().collect();
        let others = self.place.configured.nodes.iter().filter(|node| !nodes.contains(node)).cloned();
        nodes.extend(others.collect::<Vec<_>>());
        race(nodes, |node| async move {
            let mut ask = cmd("CLUSTER");
            ask.arg("SLOTS");
            let reply = self.server(&node, false).one(ask).await?.extract_error().map_err(failed)?;
            let slots = SlotMap::read(&reply, &node).filter(|slots| !slots.is_empty());
            slots.ok_or_else(|| Error::Server("a node of the Cluster knows no slots".into()))
        })
        .await
    }

    /// Notes the slots, and forgets nodes that hold none.
    fn refreshed(&self, found: Result<SlotMap, Error>) {
        let mut known = self.known();
        known.is_refreshing = false;
        known.refreshed = Some(Instant::now());
        known.problem = found.as_ref().err().cloned();
        if let Ok(slots) = found {
            known.nodes.retain(|(node, _), _| slots.contains(node) || self.place.configured.nodes.contains(node));
            known.slots = slots;
        }
        drop(known);
        self.refreshes.send_modify(|count| *count += 1);
    }
}

impl Known {
    /// Returns the master of a slot, or why it could not be found a moment ago. `None` if nobody
    /// has asked since.
    fn master(&self, slot: u16) -> Option<Result<Node, Error>> {
        if let Some(node) = self.slots.master(slot) {
            return Some(Ok(node.clone()));
        }
        let none = || Error::Server("no node of the Cluster holds the key's slot".into());
        let is_recent = self.refreshed.is_some_and(|last| last.elapsed() < REFRESH_PAUSE);
        is_recent.then(|| Err(self.problem.clone().unwrap_or_else(none)))
    }
}

/// A question for the slots. It ends when this is dropped, even by a panic.
struct Refreshing {
    shared: Arc<Shared>,
    found: Result<SlotMap, Error>,
}

impl Refreshing {
    fn end(&mut self, found: Result<SlotMap, Error>) {
        self.found = found;
    }
}

impl Drop for Refreshing {
    fn drop(&mut self) {
        let found = std::mem::replace(&mut self.found, Err(Error::Broken));
        self.shared.refreshed(found);
    }
}

impl Commands for Cluster {
    fn one(&self, command: Cmd) -> impl Future<Output = Result<Value, Error>> + Send {
        self.run(command)
    }

    /// Commands to one node are in one pipeline. A node that fails keeps no other from running its
    /// commands.
    async fn all(&self, commands: Vec<Cmd>) -> Result<Vec<Value>, Error> {
        join_all(commands.into_iter().map(|command| self.run(command))).await.into_iter().collect()
    }

    fn values(&self, keys: Vec<String>) -> impl Future<Output = Vec<Result<Value, Error>>> + Send {
        join_all(keys.into_iter().map(|key| self.run(commands::get(&key))))
    }

    async fn read(&self, command: Cmd) -> Option<Value> {
        let slot = slot(commands::key(&command)?);
        let replicas = self.0.known().slots.replicas(slot).to_vec();
        let turn = self.0.turn.fetch_add(1, Ordering::Relaxed);
        read_any(&replicas, turn, |node| self.0.server(node, true), &command).await
    }

    fn changes(&self) -> Option<&RecentWrites> {
        Some(&self.0.changes).filter(|_| self.0.place.reads_replicas)
    }

    fn scripts(&self) -> Scripts {
        self.0.learnt.scripts()
    }

    /// The line names one of the nodes, which is enough.
    fn learn(&self, scripts: Scripts) {
        if let (Some(news), Some(node)) = (self.0.learnt.learn(scripts), self.endpoints().first()) {
            node.tell(Level::Notice, format_args!("{news}"));
        }
    }
}

impl Server for Cluster {
    fn endpoints(&self) -> Vec<Arc<Endpoint>> {
        self.0.known().nodes.values().flat_map(|node| node.endpoints()).collect()
    }

    fn close_idle(&self) {
        self.0.known().nodes.values().for_each(|node| node.close_idle());
    }
}
