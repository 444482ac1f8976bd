//! Removes expired files in the background, in bounded steps. Of all workers that share a
//! directory, one does so at a time. Only files with names that this storage creates are removed.

use std::fs::{self, File, ReadDir};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::time::sleep;

use super::names::{self, Kind};
use super::threads::Share;
use super::{Error, Files, directory, held, lock, owners};
use crate::cleanup::CLOCK_SKEW;

/// How many names one job looks at. After each job the thread rests for as long as the job took.
const STRIDE_SIZE: usize = 1000;
/// The age at which a temporary file is abandoned. No write takes that long.
const ABANDONED_AFTER: Duration = Duration::from_secs(2 * 3600);

/// A pass over a directory.
struct Sweep {
    files: Arc<Files>,
    entries: ReadDir,
    _lock: File,
}

/// The result of one job of a pass.
struct Stride {
    removed: u64,
    finished: bool,
}

/// Passes over the directory once, unless another worker is doing so.
pub async fn round(files: Arc<Files>) -> Result<(), crate::Error> {
    let cleanup = files.cleanup();
    let threads = files.threads.clone();
    let Some(sweep) = threads.run(move || Sweep::start(files)).await?? else { return Ok(()) };
    let sweep = Arc::new(Mutex::new(sweep));
    cleanup.round(|limit| remove(threads.clone(), sweep.clone(), limit)).await
}

/// Removes files until it has removed `limit` or the pass is over. Returns how many it has removed.
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
        for _ in 0..STRIDE_SIZE {
            let Some(entry) = self.entries.next() else { return Stride { removed, finished: true } };
            // A file that cannot be read or removed stays, and the pass continues with the next
            // one.
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

    /// Removes a file of this storage if it has expired. Returns whether it was removed.
    fn remove_expired(&self, name: &str, now: SystemTime) -> Result<bool, Error> {
        let Some(kind) = names::kind(self.files.naming(), name) else { return Ok(false) };
        let directory = self.files.directory();
        let metadata = fs::symlink_metadata(directory.join(name)).map_err(directory.io("look for expired sessions"))?;
        let (end, margin) = match kind {
            Kind::Temporary(made) => (made, ABANDONED_AFTER),
            _ => (UNIX_EPOCH + Duration::from_secs(directory::expiry(&metadata)), CLOCK_SKEW),
        };
        if !metadata.is_file() || now.duration_since(end).unwrap_or_default() < margin {
            return Ok(false);
        }
        let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        match kind {
            Kind::Metadata => owners::remove_expired(directory, name, seconds),
            Kind::Held => held::remove_expired(directory, name, seconds),
            Kind::Record | Kind::Temporary(_) => directory.remove(name).map(|()| true),
        }
    }
}
