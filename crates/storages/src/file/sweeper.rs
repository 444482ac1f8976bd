//! What the storages of a directory do together: they remove expired files in one pass, and warn of
//! a directory that is open to all.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::threads::Share;
use super::{Directory, FileOptions, Files, private, sweep};
use crate::Error;
use crate::cleanup::{Cleaner, Cleanup, Round};
use crate::journal::{Journal, Level};

/// What the storages of a directory have in common, in this process.
#[derive(Default)]
pub(super) struct Common {
    sweepers: Mutex<Vec<Weak<Sweeper>>>,
    /// Whether somebody has looked who may write in the directory.
    looked: AtomicBool,
}

/// Removes the expired files of the storages of a directory that do so equally often and fast.
pub(super) struct Sweeper {
    directory: Arc<Directory>,
    threads: Arc<Share>,
    storages: Mutex<Vec<Weak<Files>>>,
    cleaner: Cleaner,
    this: Weak<Self>,
}

impl Common {
    /// Returns the sweeper for these options, which other storages of the directory may have, too.
    pub(super) fn sweeper(
        &self,
        options: &FileOptions,
        threads: &Arc<Share>,
        journal: &Arc<dyn Journal>,
    ) -> Arc<Sweeper> {
        let mut sweepers = locked(&self.sweepers);
        let same = |sweeper: &Arc<Sweeper>| sweeper.cleaner.cleanup() == options.cleanup;
        if let Some(sweeper) = sweepers.iter().filter_map(Weak::upgrade).find(same) {
            return sweeper;
        }
        sweepers.retain(|sweeper| sweeper.strong_count() > 0);
        let what = format!("files in {}", options.path.display());
        let sweeper = Arc::new_cyclic(|this| Sweeper {
            directory: Arc::new(Directory::new(options.path.clone())),
            threads: threads.clone(),
            storages: Mutex::default(),
            cleaner: Cleaner::new(options.cleanup, what, journal.clone()),
            this: this.clone(),
        });
        sweepers.push(Arc::downgrade(&sweeper));
        sweeper
    }

    /// Looks, once in this process, whether all users of the system may write in a directory, and
    /// warns if so. Blocks.
    pub(super) fn look(&self, directory: &Directory, journal: &dyn Journal) {
        if self.looked.load(Ordering::Relaxed) {
            return;
        }
        let Ok(found) = fs::metadata(directory.path()) else { return };
        if !self.looked.swap(true, Ordering::Relaxed) && private::is_open_to_all(&found) {
            let removing = if private::lets_all_remove(&found) {
                ", and remove and rename all files because it lacks the sticky bit"
            } else {
                ""
            };
            let warning = format!(
                "all users of this system may write in {}, and so can keep sessions from being saved{removing}; \
                 sessions should have a directory of their own",
                directory.path().display()
            );
            journal.note(Level::Warning, warning);
        }
    }
}

impl Sweeper {
    pub(super) fn directory(&self) -> &Arc<Directory> {
        &self.directory
    }

    pub(super) fn threads(&self) -> &Arc<Share> {
        &self.threads
    }

    pub(super) fn cleanup(&self) -> Cleanup {
        self.cleaner.cleanup()
    }

    /// Adds a storage, whose files are removed as long as it exists.
    pub(super) fn add(&self, files: &Arc<Files>) {
        let mut storages = locked(&self.storages);
        storages.retain(|files| files.strong_count() > 0);
        storages.push(Arc::downgrade(files));
    }

    /// Starts the rounds, because one of the storages is used.
    pub(super) fn start(&self) {
        self.cleaner.start(&self.this, Self::round);
    }

    /// Passes over the directory once, for those storages that no other worker does it for.
    async fn round(self: Arc<Self>) -> Result<Round, Error> {
        let storages: Vec<Arc<Files>> = locked(&self.storages).iter().filter_map(Weak::upgrade).collect();
        let (mut led, mut namings, mut problem) = (Vec::new(), Vec::new(), None);
        for files in storages {
            match self.cleaner.lead(&*files).await {
                Ok(true) => {
                    namings.push(files.naming().clone());
                    led.push(Arc::downgrade(&files));
                }
                Ok(false) => {}
                Err(error) => problem = problem.or(Some(error)),
            }
        }
        let done = if led.is_empty() { Round::Others } else { Round::Done };
        let swept = if led.is_empty() { Ok(()) } else { sweep::pass(&self, namings).await };
        if swept.is_err() {
            for files in led.iter().filter_map(Weak::upgrade) {
                self.cleaner.leave(&*files).await;
            }
        }
        swept.and(problem.map_or(Ok(done), Err))
    }
}

pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
