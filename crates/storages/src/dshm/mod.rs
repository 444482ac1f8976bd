//! Sessions in ngx-distributed-shm, a memory that several servers share.
//!
//! Each record is an entry with the session's time to live. The server does not return the
//! remaining time, so a second entry with the same time to live holds the expiry. An owner's
//! sessions are one entry that holds the text of [`super::metadata`]. The server cannot append to
//! an entry, so each change reads and rewrites the text, one change after another within a worker.

mod locks;
mod options;
#[doc(hidden)]
pub mod wire;

use std::slice;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::try_join_all;
use tokio::time::{Instant, sleep};

use super::connections::Servers;
use super::metadata::{Departure, Departures};
use super::pipeline::{Client, ServerOf};
use super::repeating::Repeating;
use super::{
    Delete, Error, Get, LiveSession, Lock, Naming, Operation, Options, Owner, Sessions, Set, Storage, Unlock, Update,
    metadata, one_by_one,
};
use locks::Locks;
pub use options::DshmOptions;
use resty_session_core::time::{Seconds, Timestamp};
use wire::{Lines, Name};

impl Options for DshmOptions {
    fn limit(&self) -> Duration {
        self.target.timeouts.limit()
    }

    fn storage(self, servers: &Servers) -> Arc<dyn Storage> {
        let client = servers.get(&ServerOf::new(self.target));
        Repeating::new(Arc::new(Dshm { client, naming: self.naming, locks: Locks::new() }))
    }
}

/// The storage.
pub struct Dshm {
    client: Arc<Client<Lines>>,
    naming: Naming,
    locks: Locks,
}

impl Dshm {
    fn record_name(&self, name: &str, key: &str) -> Name {
        Name::new(&self.naming.record(name, key))
    }

    /// Stores a record and the entry that holds its expiry.
    async fn store(&self, name: &Name, value: &[u8], ttl: Seconds, current_time: Timestamp) -> Result<(), Error> {
        let expiry = (current_time + ttl).to_string();
        let value = wire::set(name, value, ttl)?;
        let beside = wire::set(&name.expiry(), expiry.as_bytes(), ttl)?;
        self.client.ask_all([&value, &beside]).await.map(|_| ())
    }

    /// Lets a replaced record expire in `stale_ttl`, unless it expires earlier. The expiry
    /// of a record that lua-resty-session wrote is not known; it is always changed.
    async fn shorten(&self, name: &Name, set: &Set) -> Result<(), Error> {
        if set.stale_ttl.is_zero() {
            return self.delete_record(name).await;
        }
        let beside = name.expiry();
        let known = self.client.ask(&wire::get(&beside)).await?.value()?;
        let stale = set.stale_expiry();
        if expiry(known.as_deref()).is_some_and(|expiry| expiry <= stale) {
            return Ok(());
        }
        let stale = stale.to_string();
        let noted = wire::set(&beside, stale.as_bytes(), set.stale_ttl)?;
        self.client.ask_all([&wire::touch(name, set.stale_ttl), &noted]).await.map(|_| ())
    }

    async fn delete_record(&self, name: &Name) -> Result<(), Error> {
        self.client.ask_all([&wire::delete(name), &wire::delete(&name.expiry())]).await.map(|_| ())
    }

    /// Adds items to an owner's sessions.
    async fn note(&self, name: &str, items: &[u8], current_time: Timestamp) -> Result<(), Error> {
        let _turn = self.locks.lock(name).await;
        let name = Name::new(name);
        let mut text = self.client.ask(&wire::get(&name)).await?.value()?.unwrap_or_default();
        text.extend_from_slice(items);
        // A damaged text must not keep users from signing in: the list starts anew with this
        // session.
        let compact = metadata::compact(&text, current_time).or_else(|_| metadata::compact(items, current_time))?;
        let request = match compact.expiry {
            Some(expiry) => wire::set(&name, &compact.text, expiry.since(current_time))?,
            None => wire::delete(&name),
        };
        self.client.ask(&request).await.map(|_| ())
    }

    /// Adds items to the sessions of several owners.
    async fn note_all(&self, name: &str, owners: &[Owner], items: &[u8], current_time: Timestamp) -> Result<(), Error> {
        let names: Vec<String> = owners.iter().map(|owner| self.naming.metadata(name, owner)).collect();
        try_join_all(names.iter().map(|name| self.note(name, items, current_time))).await.map(|_| ())
    }
}

/// How long a worker waits before it reads back a lock that it has written.
const LOCK_PAUSE: Duration = Duration::from_millis(100);

const TOO_SLOW: &str = "the server is too slow to lock anything";

impl Dshm {
    /// Takes a lock. The server writes whatever it is told to. So whoever finds a lock free writes
    /// its name, waits, and looks whose name is there: of several that wrote, the last one has the
    /// lock. This is Fischer's algorithm. It is right if nobody takes longer than the pause from
    /// finding the lock free to having written; a holder whose own request took longer fails.
    async fn take_lock(&self, lock: &Lock) -> Result<bool, Error> {
        let (name, holder) = (self.naming.record(&lock.name, &lock.key), lock.holder.as_bytes());
        let entry = Name::new(&name);
        let write = wire::set(&entry, holder, lock.whole_seconds())?;
        {
            let _turn = self.locks.lock(&name).await;
            let (start, held_by) = self.read_quickly(&entry).await?;
            if held_by.is_some_and(|held_by| held_by != holder) {
                return Ok(false);
            }
            // A holder that finds its own name confirms it, too: it may have written it just now,
            // and lost the connection before the reply.
            self.client.ask(&write).await?;
            if start.elapsed() >= LOCK_PAUSE {
                return Err(Error::Server(TOO_SLOW.into()));
            }
        }
        sleep(LOCK_PAUSE).await;
        let held_by = self.client.ask(&wire::get(&entry)).await?.value()?;
        Ok(held_by.is_some_and(|held_by| held_by == holder))
    }

    /// Reads an entry, once more if that took so long, with connecting perhaps, that no time is
    /// left to write it. Returns when it began, and the value.
    async fn read_quickly(&self, entry: &Name) -> Result<(Instant, Option<Vec<u8>>), Error> {
        const ATTEMPTS: usize = 4;
        for _ in 0..ATTEMPTS {
            let start = Instant::now();
            let value = self.client.ask(&wire::get(entry)).await?.value()?;
            if start.elapsed() < LOCK_PAUSE / 2 {
                return Ok((start, value));
            }
        }
        Err(Error::Server(TOO_SLOW.into()))
    }
}

/// The expiry in a record's second entry; `None` if it is missing or not a number.
fn expiry(text: Option<&[u8]>) -> Option<Timestamp> {
    str::from_utf8(text?).ok()?.parse().ok().map(Timestamp::from_secs)
}

impl Storage for Dshm {
    /// The record that is replaced is shortened last, because it must go on working if anything
    /// before fails.
    fn set<'a>(&'a self, set: &'a Set) -> Operation<'a, ()> {
        Box::pin(async move {
            let items = if set.owners.is_empty() { Vec::new() } else { metadata::written(set)? };
            let name = self.record_name(&set.name, &set.key);
            self.store(&name, &set.value, set.ttl, set.current_time).await?;
            self.note_all(&set.name, &set.owners, &items, set.current_time).await?;
            match &set.old_key {
                Some(key) => self.shorten(&self.record_name(&set.name, key), set).await,
                None => Ok(()),
            }
        })
    }

    /// The server cannot do this atomically: what other requests do to the record between reading
    /// and writing is lost.
    fn update<'a>(&'a self, update: &'a Update) -> Operation<'a, bool> {
        Box::pin(async move {
            let name = self.record_name(&update.name, &update.key);
            let [present, known] = self.client.ask_all([&wire::get(&name), &wire::get(&name.expiry())]).await?;
            let (present, known) = (present.value()?, known.value()?);
            if present.is_none() {
                return Ok(false);
            }
            let left =
                expiry(known.as_deref()).map(|expiry| expiry.since(update.current_time).max(Seconds::from_secs(1)));
            let ttl = left.map_or(update.ttl, |left| left.min(update.ttl));
            self.store(&name, &update.value, ttl, update.current_time).await.map(|()| true)
        })
    }

    fn get<'a>(&'a self, get: &'a Get) -> Operation<'a, Option<Vec<u8>>> {
        Box::pin(async move { self.client.ask(&wire::get(&self.record_name(&get.name, &get.key))).await?.value() })
    }

    fn delete<'a>(&'a self, delete: &'a Delete) -> Operation<'a, ()> {
        Box::pin(async move {
            let Delete { name, key, current_time, owners } = delete;
            let item = if owners.is_empty() { Vec::new() } else { metadata::deleted(key)? };
            self.delete_record(&self.record_name(name, key)).await?;
            self.note_all(name, owners, &item, *current_time).await
        })
    }

    fn delete_each<'a>(&'a self, deletes: &'a [Delete]) -> Operation<'a, ()> {
        Box::pin(async move {
            let Departures { records, owners } = metadata::departures(deletes)?;
            one_by_one(&records, |delete| self.delete(delete)).await?;
            for Departure { name, owner, items, current_time } in &owners {
                self.note_all(name, slice::from_ref(owner), items, *current_time).await?;
            }
            Ok(())
        })
    }

    fn sessions<'a>(&'a self, sessions: &'a Sessions) -> Operation<'a, Vec<LiveSession>> {
        Box::pin(async move {
            let name = Name::new(&self.naming.metadata(&sessions.name, &sessions.owner));
            match self.client.ask(&wire::get(&name)).await?.value()? {
                Some(text) => metadata::live(&text, sessions.current_time),
                None => Ok(Vec::new()),
            }
        })
    }

    fn lock<'a>(&'a self, lock: &'a Lock) -> Operation<'a, bool> {
        Box::pin(self.take_lock(lock))
    }

    fn unlock<'a>(&'a self, unlock: &'a Unlock) -> Operation<'a, ()> {
        Box::pin(async move {
            let name = self.naming.record(&unlock.name, &unlock.key);
            let _turn = self.locks.lock(&name).await;
            let name = Name::new(&name);
            match self.client.ask(&wire::get(&name)).await?.value()? {
                Some(holder) if holder == unlock.holder.as_bytes() => {
                    self.client.ask(&wire::delete(&name)).await.map(|_| ())
                }
                _ => Ok(()),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connections::Timeouts;
    use crate::network::{Address, Node, Target};
    use crate::pipeline::Protocol as _;
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    const SECOND: Duration = Duration::from_secs(1);

    /// Runs an operation against a server that expects these requests and sends these replies.
    fn exchange<T>(dialogue: &'static [(&str, &str)], run: impl AsyncFnOnce(&Dshm) -> T) -> T {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let node = Node { host: "127.0.0.1".into(), port: listener.local_addr().unwrap().port() };
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let greeting = (str::from_utf8(Lines::GREETING).unwrap(), "ERROR not_found\r\n");
            for (request, reply) in std::iter::once(&greeting).chain(dialogue) {
                let mut bytes = vec![0; request.len()];
                stream.read_exact(&mut bytes).unwrap();
                assert_eq!(&String::from_utf8(bytes).unwrap(), request);
                stream.write_all(reply.as_bytes()).unwrap();
            }
            assert_eq!(stream.read(&mut [0]).unwrap(), 0, "there is another request");
        });
        let timeouts = Timeouts { connect: SECOND, response: SECOND, keepalive: SECOND, lifetime: SECOND };
        let target = Target { address: Address::Tcp(node), tls: None, timeouts, pool: None };
        let naming = Naming { prefix: Some("p q".into()), suffix: None };
        let storage = Dshm { client: Servers::default().get(&ServerOf::new(target)), naming, locks: Locks::new() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let result = runtime.block_on(run(&storage));
        drop((storage, runtime));
        server.join().unwrap();
        result
    }

    fn record(old_key: Option<&str>) -> Set {
        let (name, key, value) = ("s".into(), "k".into(), b"[\"v\"]".to_vec());
        let old_key = old_key.map(str::to_owned);
        Set {
            name,
            key,
            value,
            ttl: Seconds::from_secs(60),
            current_time: Timestamp::from_secs(1000),
            old_key,
            old_must_exist: false,
            stale_ttl: Seconds::from_secs(10),
            owners: Vec::new(),
        }
    }

    const STORED: (&str, &str) = (
        "set p%20q:s:k 60 5\r\n[\"v\"]set p%20q:s:k:expiry 60 4\r\n1060",
        "LEN 5\r\n[\"v\"]\r\nDONE\r\nLEN 4\r\n1060\r\nDONE\r\n",
    );
    const SHORTENED: (&str, &str) =
        ("touch p%20q:s:o 10\r\nset p%20q:s:o:expiry 10 4\r\n1010", "DONE\r\nLEN 4\r\n1010\r\nDONE\r\n");

    #[test]
    fn a_record_is_stored_before_the_one_that_it_replaces_is_shortened() {
        const LONG: &[(&str, &str)] = &[STORED, ("get p%20q:s:o:expiry\r\n", "LEN 4\r\n1011\r\nDONE\r\n"), SHORTENED];
        const UNKNOWN: &[(&str, &str)] = &[STORED, ("get p%20q:s:o:expiry\r\n", "ERROR not_found\r\n"), SHORTENED];
        const SHORT: &[(&str, &str)] = &[STORED, ("get p%20q:s:o:expiry\r\n", "LEN 4\r\n1010\r\nDONE\r\n")];
        for dialogue in [LONG, UNKNOWN, SHORT] {
            exchange(dialogue, async |storage| storage.set(&record(Some("o"))).await).unwrap();
        }
    }

    #[test]
    fn a_record_that_is_not_stored_leaves_the_one_that_it_replaces() {
        const WRONG: &[(&str, &str)] = &[(STORED.0, "LEN 5\r\n[\"w\"]\r\nDONE\r\nLEN 4\r\n1060\r\nDONE\r\n")];
        exchange(WRONG, async |storage| storage.set(&record(Some("o"))).await).unwrap_err();
    }

    #[test]
    fn an_absent_record_is_not_an_error() {
        const ABSENT: &[(&str, &str)] = &[
            ("get p%20q:s:k\r\n", "ERROR not_found\r\n"),
            ("delete p%20q:s:k\r\ndelete p%20q:s:k:expiry\r\n", "DONE\r\nERROR not_found\r\n"),
        ];
        exchange(ABSENT, async |storage| {
            assert_eq!(
                storage
                    .get(&Get { name: "s".into(), key: "k".into(), current_time: Timestamp::from_secs(0) })
                    .await
                    .unwrap(),
                None
            );
            let delete =
                Delete { name: "s".into(), key: "k".into(), current_time: Timestamp::from_secs(0), owners: Vec::new() };
            storage.delete(&delete).await.unwrap();
        });
    }

    const FREE: (&str, &str) = ("get p%20q:s:k\r\n", "ERROR not_found\r\n");
    const TAKING: (&str, &str) = ("set p%20q:s:k 3 1\r\na", "LEN 1\r\na\r\nDONE\r\n");
    const OWN: (&str, &str) = ("get p%20q:s:k\r\n", "LEN 1\r\na\r\nDONE\r\n");
    const OTHERS: (&str, &str) = ("get p%20q:s:k\r\n", "LEN 1\r\nb\r\nDONE\r\n");

    /// Others that found the lock free have time to write, and the last of them has the lock.
    #[test]
    fn a_lock_is_had_by_whoever_is_named_after_the_pause() {
        let (name, key, holder): (_, String, String) = ("s".into(), "k".into(), "a".into());
        let lock = &Lock {
            name,
            key: key.clone(),
            holder: holder.clone(),
            ttl: Duration::from_millis(1500),
            current_time: Timestamp::from_secs(1000),
        };
        const TAKEN: &[(&str, &str)] = &[FREE, TAKING, OWN];
        const RENEWED: &[(&str, &str)] = &[OWN, TAKING, OWN];
        const OVERTAKEN: &[(&str, &str)] = &[FREE, TAKING, OTHERS];
        for (dialogue, held) in [(TAKEN, true), (RENEWED, true), (OVERTAKEN, false)] {
            let start = std::time::Instant::now();
            assert_eq!(exchange(dialogue, async |storage| storage.lock(lock).await).unwrap(), held);
            assert!(start.elapsed() >= LOCK_PAUSE);
        }
        assert!(!exchange(&[OTHERS], async |storage| storage.lock(lock).await).unwrap());
        let unlock = &Unlock { name: "s".into(), key, holder };
        const FREED: &[(&str, &str)] = &[OWN, ("delete p%20q:s:k\r\n", "DONE\r\n")];
        for dialogue in [FREED, &[OTHERS], &[FREE]] {
            exchange(dialogue, async |storage| storage.unlock(unlock).await).unwrap();
        }
    }

    #[test]
    fn an_owners_sessions_are_changed_one_after_another() {
        // Keys of 43 characters; the second text is sorted by key, and lives as long as the longer
        // session.
        const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
        const B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";
        const NOTES: &[(&str, &str)] = &[
            ("get p%20q:s:au:su\r\n", "ERROR not_found\r\n"),
            (
                "set p%20q:s:au:su 60 52\r\nbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb:JAQAAAA;",
                "LEN 52\r\nbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb:JAQAAAA;\r\nDONE\r\n",
            ),
            ("get p%20q:s:au:su\r\n", "LEN 52\r\nbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb:JAQAAAA;\r\nDONE\r\n"),
            (
                "set p%20q:s:au:su 60 104\r\naaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa:8gMAAAA;\
                 bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb:JAQAAAA;",
                "LEN 104\r\naaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa:8gMAAAA;\
                 bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb:JAQAAAA;\r\nDONE\r\n",
            ),
        ];
        let owners = vec![Owner { audience: "au".into(), subject: "su".into() }];
        let note = |key: &str, ttl| {
            let ttl = Seconds::from_secs(ttl);
            metadata::written(&Set { key: key.into(), ttl, ..record(None) }).unwrap()
        };
        exchange(NOTES, async |server| {
            let (first, second) = (note(B, 60), note(A, 10));
            let (first, second) = futures_util::future::join(
                server.note_all("s", &owners, &first, Timestamp::from_secs(1000)),
                server.note_all("s", &owners, &second, Timestamp::from_secs(1000)),
            )
            .await;
            first.and(second)
        })
        .unwrap();
    }
}
