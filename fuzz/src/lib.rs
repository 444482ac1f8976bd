//! Targets for fuzzing: functions that take any bytes, and panic if a reader of untrusted bytes
//! does what it must not.
//!
//! Most compare a reader with a second, obvious one that is written here, after docs/formats.md.
//! See the README.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

pub mod obvious;
pub mod seeds;
mod targets;

use std::path::{Path, PathBuf};
use std::{fs, io};

/// A target.
pub struct Target {
    pub name: &'static str,
    /// Panics if it finds something.
    pub run: fn(&[u8]),
    /// Inputs to start from.
    seeds: fn() -> Vec<Vec<u8>>,
}

macro_rules! targets {
    ($($name:ident),* $(,)?) => {
        /// All targets.
        pub const TARGETS: &[Target] =
            &[$(Target { name: stringify!($name), run: targets::$name::run, seeds: targets::$name::seeds }),*];
    };
}

targets! {
    address, chunks, cookie_header, dshm, forwarded_proto, header, inflate, info, marks, memcached, metadata, note,
    payload, record, redis_slots, seal, session, settings_json, settings_values,
}

/// The target of that name.
pub fn named(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

impl Target {
    /// The folder of the inputs that once found something.
    pub fn corpus(&self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(self.name)
    }

    /// The seeds, and the inputs that once found something.
    pub fn inputs(&self) -> Vec<Vec<u8>> {
        let kept = fs::read_dir(self.corpus()).into_iter().flatten();
        let kept = kept.map(|file| fs::read(file.unwrap().path()).unwrap());
        (self.seeds)().into_iter().chain(kept).collect()
    }

    /// Writes the seeds into a folder, each into a file.
    ///
    /// # Errors
    ///
    /// A file cannot be written.
    pub fn write_seeds(&self, folder: &Path) -> io::Result<()> {
        (self.seeds)()
            .iter()
            .enumerate()
            .try_for_each(|(number, seed)| fs::write(folder.join(format!("seed-{number}")), seed))
    }
}
