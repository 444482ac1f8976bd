//! Expired files, removed in the background: bounded, by one worker of all that share a directory, and only files whose
//! names this storage makes.

use std::fs::{self, File, ReadDir};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::time::sleep;

use super::names::{self, Kind};
use super::threads::Share;
use super::{Error, Files, directory, lock, owners};
use crate::cleanup::GRACE;

/// Names that are looked at in one go. Between two, the thread rests for as long as the first took.
const STRIDE: usize = 1000;
/// Nobody writes for longer than that: what was not renamed by then never will be.
const ABANDONED: Duration = Duration::from_secs(2 * 3600);

/// A directory that is gone through.
struct Sweep {
    files: Arc<Files>,
    entries: ReadDir,
    _lock: File,
}

/// What a stride came to.
struct Stride {
    removed: u64,
    finished: bool,
}

/// Goes through the directory once, unless another worker does.
pub async fn round(files: Arc<Files>) -> Result<(), crate::Error> {
    let cleanup = files.cleanup();
    let threads = files.threads.clone();
    let Some(sweep) = threads.run(move || Sweep::start(files)).await?? else { return Ok(()) };
    let sweep = Arc::new(Mutex::new(sweep));
    cleanup.round(|limit| remove(threads.clone(), sweep.clone(), limit)).await
}

/// Removes files until it has removed `limit`, or there are no more; answers how many.
async fn remove(threads: Arc<Share>, sweep: Arc<Mutex<Sweep>>, limit: u64) -> Result<u64, crate::Error> {
    let mut removed = 0;
    loop {
        let (start, sweep, left) = (Instant::now(), sweep.clone(), limit - removed);
        let job = move || sweep.lock().unwrap_or_else(PoisonError::into_inner).stride(left);
        let stride = threads.run(job).await?;
        removed += stride.removed;
        if stride.finished || removed >= limit {
            return Ok(removed);
        }
        sleep(start.elapsed()).await;
    }
}

impl Sweep {
    fn start(files: Arc<Files>) -> Result<Option<Self>, Error> {
        let directory = files.directory();
        let Some(lock) = lock::try_lock(directory, &names::cleanup_lock())? else { return Ok(None) };
        let entries = fs::read_dir(directory.path()).map_err(directory.io("look for expired sessions"))?;
        Ok(Some(Self { files, entries, _lock: lock }))
    }

    fn stride(&mut self, limit: u64) -> Stride {
        let now = SystemTime::now();
        let mut removed = 0;
        for _ in 0..STRIDE {
            let Some(entry) = self.entries.next() else { return Stride { removed, finished: true } };
            // What cannot be read or removed now stays, and others are gone on with.
            let name = entry.ok().and_then(|entry| entry.file_name().into_string().ok());
            if name.is_some_and(|name| self.remove_expired(&name, now).unwrap_or(false)) {
                removed += 1;
            }
            if removed >= limit {
                break;
            }
        }
        Stride { removed, finished: false }
    }

    /// Removes a file that is one of ours and has expired; whether it did.
    fn remove_expired(&self, name: &str, now: SystemTime) -> Result<bool, Error> {
        let Some(kind) = names::kind(self.files.naming(), name) else { return Ok(false) };
        let directory = self.files.directory();
        let metadata = fs::symlink_metadata(directory.join(name)).map_err(directory.io("look for expired sessions"))?;
        let (end, patience) = match kind {
            Kind::Temporary(made) => (made, ABANDONED),
            _ => (UNIX_EPOCH + Duration::from_secs(directory::expiry(&metadata)), GRACE),
        };
        if !metadata.is_file() || now.duration_since(end).unwrap_or_default() < patience {
            return Ok(false);
        }
        if kind == Kind::Metadata {
            let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            return owners::remove_expired(directory, name, seconds);
        }
        directory.remove(name).map(|()| true)
    }
}
