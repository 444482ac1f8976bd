//! Data directories of databases as the databases' own programs make them. Making one takes seconds
//! and 100 MB, so it is made once and copied.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::server::root;

/// Fills a data directory that does not exist yet. `make` makes one, for the first time that one of
/// this name is needed; the name has the version of the program. The copy belongs to the same user.
pub fn fill(data: &Path, name: &str, make: impl FnOnce(&Path)) {
    copy(&made(name, make), data);
}

fn made(name: &str, make: impl FnOnce(&Path)) -> PathBuf {
    let directory = root().join("target/tmp/data");
    fs::create_dir_all(&directory).unwrap();
    // Another user could not read it.
    let name = format!("{name}-{}", nix::unistd::geteuid());
    let made = directory.join(&name);
    let lock = File::create(directory.join("lock")).unwrap();
    lock.lock().unwrap();
    if !made.is_dir() {
        let fresh = tempfile::tempdir().unwrap();
        fs::set_permissions(fresh.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        let data = fresh.path().join("data");
        make(&data);
        // It takes its place when it is whole.
        let partial = directory.join(format!("{name}.partial"));
        let _ = fs::remove_dir_all(&partial);
        copy(&data, &partial);
        fs::rename(partial, &made).unwrap();
    }
    made
}

/// Copies a directory with its owners. What is nothing but zeros, as most of a new database's log,
/// takes no room.
fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").args(["--archive", "--sparse=always"]).args([from, to]).output().unwrap();
    assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
}
