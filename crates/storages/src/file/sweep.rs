//! Removes expired files in the background, in bounded steps. Of all workers that share a
//! directory, one does so at a time. Only files with names that the storages create are removed.

use std::fs::{self, DirEntry, Metadata, ReadDir};
use std::io::ErrorKind;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::time::sleep;

use super::lock::{self, FileLock};
use super::names::{self, Kind};
use super::sweeper::{Sweeper, locked};
use super::threads::Share;
use super::{Directory, Error, directory, held, owners, private};
use crate::Naming;
use crate::cleanup::CLOCK_SKEW;
use resty_session_core::time::Timestamp;

/// How many names one job looks at. After each job the thread rests for as long as the job took.
const STRIDE_SIZE: usize = 1000;
/// The age at which a temporary file is abandoned. No write takes that long.
const ABANDONED_AFTER: Duration = Duration::from_secs(2 * 3600);

/// What a pass does, for the words of errors.
const ACT: &str = "look for expired sessions";

/// A pass over a directory.
struct Sweep {
    /// How the storages name their files that the pass is for.
    namings: Vec<Naming>,
    /// The directories that are left. The pass is over the last one.
    parts: Vec<Part>,
    /// Why the first file stayed that should have been removed.
    problem: Option<Error>,
    _lock: FileLock,
}

/// One of the directories of a pass: the sessions', or that of the locks inside.
struct Part {
    directory: Arc<Directory>,
    metadata: Metadata,
    entries: ReadDir,
}

/// The result of one job of a pass.
struct Stride {
    removed: u64,
    finished: bool,
}

/// Passes over the directory once, unless another worker is still doing so. Files that cannot be
/// removed stay, and the others are removed nevertheless.
///
/// # Errors
///
/// The directory cannot be read, or one of the files cannot be removed.
pub(super) async fn pass(sweeper: &Sweeper, namings: Vec<Naming>) -> Result<(), crate::Error> {
    let (directory, threads) = (sweeper.directory().clone(), sweeper.threads());
    let Some(sweep) = threads.run(move || Sweep::start(&directory, namings)).await?? else { return Ok(()) };
    let sweep = Arc::new(Mutex::new(sweep));
    sweeper.cleanup().round(|limit| remove(threads.clone(), sweep.clone(), limit)).await?;
    let problem = locked(&sweep).problem.take();
    problem.map_or(Ok(()), |problem| Err(problem.into()))
}

/// Removes files until it has removed `limit` or the pass is over. Returns how many it has removed.
async fn remove(threads: Arc<Share>, sweep: Arc<Mutex<Sweep>>, limit: u64) -> Result<u64, crate::Error> {
    let mut removed = 0;
    loop {
        let (start, sweep, left) = (Instant::now(), sweep.clone(), limit - removed);
        let stride = threads.run(move || locked(&sweep).stride(left)).await?;
        removed += stride.removed;
        if stride.finished || removed >= limit {
            return Ok(removed);
        }
        sleep(start.elapsed()).await;
    }
}

impl Sweep {
    fn start(directory: &Arc<Directory>, namings: Vec<Naming>) -> Result<Option<Self>, Error> {
        let Some(lock) = lock::try_lock(directory, &names::cleanup_lock())? else { return Ok(None) };
        let mut parts = vec![Part::new(directory.clone())?];
        let locks = lock.directory().path();
        if locks != directory.path() {
            parts.push(Part::new(Arc::new(Directory::new(locks.to_owned())))?);
        }
        Ok(Some(Self { namings, parts, problem: None, _lock: lock }))
    }

    fn stride(&mut self, limit: u64) -> Stride {
        let now = SystemTime::now();
        let mut removed = 0;
        for _ in 0..STRIDE_SIZE {
            let Some(part) = self.parts.last_mut() else { return Stride { removed, finished: true } };
            let Some(entry) = part.entries.next() else {
                self.parts.pop();
                continue;
            };
            let done = entry.map_err(part.directory.io(ACT)).and_then(|entry| part.clean(&entry, &self.namings, now));
            match done {
                Ok(done) => removed += u64::from(done),
                // The others say that the file is not one of ours after all.
                Err(problem @ Error::Io { .. }) => self.problem = self.problem.take().or(Some(problem)),
                Err(_) => {}
            }
            if removed >= limit {
                break;
            }
        }
        Stride { removed, finished: false }
    }
}

impl Part {
    fn new(directory: Arc<Directory>) -> Result<Self, Error> {
        let metadata = fs::metadata(directory.path()).map_err(directory.io(ACT))?;
        let entries = fs::read_dir(directory.path()).map_err(directory.io(ACT))?;
        Ok(Self { directory, metadata, entries })
    }

    /// Removes a file if it is one of these storages' and has expired. Returns whether it was
    /// removed. The system is asked only about files whose names are ours.
    fn clean(&self, entry: &DirEntry, namings: &[Naming], now: SystemTime) -> Result<bool, Error> {
        let name = entry.file_name();
        let Some(name) = name.to_str() else { return Ok(false) };
        let Some(kind) = namings.iter().find_map(|naming| names::kind(naming, name)) else { return Ok(false) };
        // The type is known from the directory itself, as a rule.
        let found =
            entry.file_type().and_then(|found| if found.is_file() { entry.metadata().map(Some) } else { Ok(None) });
        match found {
            Ok(Some(metadata)) if !private::is_foreign(&metadata, &self.metadata) => {
                self.remove_expired(name, kind, &metadata, now)
            }
            Ok(_) => Ok(false),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(self.directory.io(ACT)(error)),
        }
    }

    fn remove_expired(&self, name: &str, kind: Kind, metadata: &Metadata, now: SystemTime) -> Result<bool, Error> {
        let (end, margin) = match kind {
            Kind::Temporary(made) => (made, ABANDONED_AFTER),
            _ => (UNIX_EPOCH + Duration::from_secs(directory::expiry(metadata).as_secs()), CLOCK_SKEW),
        };
        if now.duration_since(end).unwrap_or_default() < margin {
            return Ok(false);
        }
        let now = Timestamp::from_secs(now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs());
        let directory = &*self.directory;
        match kind {
            Kind::Metadata => owners::remove_expired(directory, name, now),
            Kind::Held => held::remove_expired(directory, name, now),
            Kind::Record | Kind::Temporary(_) => directory.remove(name).map(|()| true),
        }
    }
}
