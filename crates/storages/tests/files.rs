//! What the workers that share a directory of sessions do to each other, and what other users of
//! the system can do to them. Each worker is a storage that reaches the directory by a path of its
//! own, because the storages of one path in one process work together.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs::{self, File, FileTimes, Permissions};
use std::future::Future;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use nix::unistd::geteuid;
use resty_session_core::settings::{self, Value};
use resty_session_core::time::Seconds;
use resty_session_storages::file::{FileOptions, Files};
use resty_session_storages::journal::{Journal, Level};
use resty_session_storages::{Delete, Get, Lock, Owner, Sessions, Set, Storage, Unlock};
use resty_session_testing::now;
use serde_json::json;
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

/// The user that has nothing.
const NOBODY: u32 = 65534;

/// Remembers its lines.
#[derive(Default)]
struct Lines(Mutex<Vec<(Level, String)>>);

impl Journal for Lines {
    fn note(&self, level: Level, line: String) {
        self.0.lock().unwrap().push((level, line));
    }
}

impl Lines {
    fn of(&self, wanted: Level) -> Vec<String> {
        let lines = self.0.lock().unwrap();
        lines.iter().filter(|(level, _)| *level == wanted).map(|(_, line)| line.clone()).collect()
    }
}

fn files(path: &Path, more: &serde_json::Value, journal: &Arc<Lines>) -> Arc<Files> {
    let mut options = json!({ "path": path });
    options.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let (options, hints) = settings::parse::<FileOptions>(Value::from_json(options).as_ref()).unwrap();
    assert_eq!(hints, [""; 0]);
    Files::new(options, journal.clone())
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

fn key(name: char) -> String {
    name.to_string().repeat(43)
}

fn get(name: char) -> Get {
    Get { name: "session".into(), key: key(name), current_time: now() }
}

fn set(name: char, subject: Option<&[u8]>) -> Set {
    Set {
        name: "session".into(),
        key: key(name),
        value: b"value".to_vec(),
        ttl: Seconds::from_secs(100),
        current_time: now(),
        old_key: None,
        old_must_exist: false,
        stale_ttl: Seconds::ZERO,
        owners: subject.iter().map(|subject| Owner::new(b"shop", subject, false)).collect(),
    }
}

fn sessions() -> Sessions {
    Sessions { name: "session".into(), owner: Owner::new(b"shop", b"ada", false), current_time: now() }
}

/// Makes a record that expired long ago.
fn plant(path: &Path) {
    fs::write(path, "[]").unwrap();
    let time = SystemTime::now() - Duration::from_secs(3600);
    File::open(path).unwrap().set_times(FileTimes::new().set_modified(time)).unwrap();
}

/// Paths that lead to one directory.
fn paths_to(directory: &Path, links: &Path, count: usize) -> Vec<PathBuf> {
    let link = |number: usize| {
        let link = links.join(number.to_string());
        symlink(directory, &link).unwrap();
        link
    };
    (0..count).map(link).collect()
}

/// Each round removes the expired records, which are there again at once, so they count rounds: one
/// is of a storage without a prefix, the other of one with a prefix.
#[test]
fn workers_that_share_a_directory_clean_it_once_an_interval() {
    const WORKERS: usize = 4;
    const TIME: Duration = Duration::from_millis(4500);
    run(async {
        let (directory, links) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let journal = Arc::new(Lines::default());
        let mut workers = Vec::new();
        for path in paths_to(directory.path(), links.path(), WORKERS) {
            for more in [json!({ "cleanup_interval": 1 }), json!({ "cleanup_interval": 1, "prefix": "p" })] {
                workers.push(files(&path, &more, &journal));
            }
        }
        let expired = [format!("s_{}", key('e')), format!("p_s_{}", key('e'))].map(|name| directory.path().join(name));
        let mut removed = [0; 2];
        let start = Instant::now();
        while start.elapsed() < TIME {
            for (path, removed) in expired.iter().zip(&mut removed) {
                if !path.exists() {
                    plant(path);
                    *removed += 1;
                }
            }
            for worker in &workers {
                worker.get(&get('n')).await.unwrap();
            }
            sleep(Duration::from_millis(10)).await;
        }
        // The first planting counts too. A record without a prefix may look like one with a prefix.
        assert!((3..=6).contains(&removed[0]), "{removed:?} rounds");
        assert!((3..=11).contains(&removed[1]), "{removed:?} rounds");
        assert!(journal.0.lock().unwrap().is_empty());
    });
}

#[test]
fn a_directory_that_cannot_be_cleaned_is_told_of_once() {
    run(async {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("sessions");
        let journal = Arc::new(Lines::default());
        let workers =
            ["", "p", "q"].map(|prefix| files(&path, &json!({ "cleanup_interval": 1, "prefix": prefix }), &journal));
        let use_for = async |time: Duration| {
            let start = Instant::now();
            while start.elapsed() < time {
                for worker in &workers {
                    let _ = worker.get(&get('n')).await;
                }
                sleep(Duration::from_millis(20)).await;
            }
        };
        use_for(Duration::from_millis(3400)).await;
        let told = journal.of(Level::Error);
        let expected = format!("unable to remove expired files in {}, ", path.display());
        assert!(told.len() == 1 && told[0].starts_with(&expected), "{told:?}");
        assert!(told[0].contains("No such file or directory"), "{told:?}");
        fs::create_dir(&path).unwrap();
        use_for(Duration::from_millis(2300)).await;
        assert_eq!(journal.of(Level::Notice), [format!("expired files in {} are removed again", path.display())]);
        assert_eq!(journal.of(Level::Error), told);
    });
}

/// A directory in which all users may write, as in /tmp.
fn open_directory() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), Permissions::from_mode(0o1777)).unwrap();
    directory
}

/// Makes a file that another user could have made, where it makes a difference: only root can make
/// it another user's.
fn make_foreign(path: &Path) -> File {
    let file = File::create(path).unwrap();
    if geteuid().is_root() {
        chown(path, Some(NOBODY), None).unwrap();
    }
    file
}

#[test]
fn other_users_cannot_keep_sessions_and_locks_from_being_made() {
    run(async {
        let directory = open_directory();
        let lock = |what: &str| directory.path().join(format!(".resty-session.lock.{}.{what}", geteuid()));
        // Another user holds all locks that would be beside the records, for ever, and a request's.
        let squatted: Vec<File> = (0..16)
            .map(|number| number.to_string())
            .chain(["cleanup".into()])
            .map(|of| make_foreign(&lock(&of)))
            .collect();
        squatted.iter().for_each(|file| file.lock().unwrap());
        let held = format!(".resty-session.held.session_{}", key('l'));
        make_foreign(&directory.path().join(&held)).set_modified(SystemTime::now() + Duration::from_secs(100)).unwrap();

        let journal = Arc::new(Lines::default());
        let worker = files(directory.path(), &json!({ "cleanup_interval": 1 }), &journal);
        let expired = directory.path().join(format!("session_{}", key('e')));
        plant(&expired);
        let soon = Duration::from_secs(2);
        for (name, subject) in [('a', &b"ada"[..]), ('b', b"ada"), ('c', b"eve")] {
            timeout(soon, worker.set(&set(name, Some(subject)))).await.unwrap().unwrap();
        }
        assert_eq!(worker.sessions(&sessions()).await.unwrap().len(), 2);
        let (name, key) = ("session".into(), key('l'));
        let lock = Lock { name, key, holder: "one".into(), ttl: Duration::from_millis(1), current_time: now() };
        assert!(timeout(soon, worker.lock(&lock)).await.unwrap().unwrap());
        assert!(!worker.lock(&Lock { holder: "another".into(), ..lock.clone() }).await.unwrap());
        let own = directory.path().join(format!(".resty-session.{}.0", geteuid()));
        assert!(own.join(&held).exists() && own.metadata().unwrap().permissions().mode() & 0o777 == 0o700);
        let unlock = Unlock { name: lock.name, key: lock.key, holder: lock.holder };
        worker.unlock(&unlock).await.unwrap();
        assert!(!own.join(&held).exists());
        plant(&own.join(&held));
        let start = Instant::now();
        while expired.exists() || own.join(&held).exists() {
            assert!(start.elapsed() < Duration::from_secs(5), "it is not cleaned");
            worker.get(&get('a')).await.unwrap();
            sleep(Duration::from_millis(20)).await;
        }
        let told = journal.0.lock().unwrap().clone();
        assert!(told.len() == 1 && told[0].0 == Level::Warning, "{told:?}");
        assert!(told[0].1.ends_with("sessions should have a directory of their own"), "{told:?}");
    });
}

#[test]
fn a_directory_whose_files_all_may_remove_is_told_apart() {
    const REMOVING: &str = ", and remove and rename all files because it lacks the sticky bit; ";
    run(async {
        for (mode, removing) in [(0o1777, false), (0o777, true)] {
            let (directory, journal) = (open_directory(), Arc::new(Lines::default()));
            fs::set_permissions(directory.path(), Permissions::from_mode(mode)).unwrap();
            files(directory.path(), &json!({}), &journal).get(&get('a')).await.unwrap();
            let told = journal.of(Level::Warning);
            assert!(told.len() == 1 && told[0].contains(REMOVING) == removing, "{told:?}");
        }
    });
}

/// Tells a test that it runs as another user, in this directory.
const PLANTED: &str = "RESTY_SESSION_PLANTED";

/// Runs one of these tests as the user who has nothing, in a directory that is nobody's home. The
/// program is copied to where that user may run it.
fn run_as_nobody(test: &str, directory: &Path) {
    let place = tempfile::tempdir().unwrap();
    fs::set_permissions(place.path(), Permissions::from_mode(0o755)).unwrap();
    let program = place.path().join("program");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let mut command = Command::new(program);
    command.args(["--exact", test]).env(PLANTED, directory).uid(NOBODY).gid(NOBODY).current_dir("/");
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

/// As root, files of root are planted for another user. Others cannot do that: their own files are
/// accepted.
#[test]
fn what_other_users_plant_is_refused_and_never_read() {
    let planted = std::env::var_os(PLANTED);
    let directory = open_directory();
    let path = planted.as_ref().map_or(directory.path(), Path::new);
    if planted.is_none() {
        for (name, mode) in [(format!("session_{}", key('a')), 0o600), ("session_c2hvcA:YWRh".into(), 0o644)] {
            let file = File::create(path.join(name)).unwrap();
            file.set_permissions(Permissions::from_mode(mode)).unwrap();
            file.set_modified(SystemTime::now() + Duration::from_secs(100)).unwrap();
        }
        if geteuid().is_root() {
            chown(path, Some(NOBODY - 1), None).unwrap();
            return run_as_nobody("what_other_users_plant_is_refused_and_never_read", path);
        }
    }
    run(async {
        let journal = Arc::new(Lines::default());
        let worker = files(path, &json!({ "cleanup_interval": 0 }), &journal);
        assert!(worker.set(&set('c', Some(b"eve"))).await.is_ok(), "others are not affected");
        let refusal = format!("a session's file in {} belongs to another user; ", path.display());
        let delete = Delete { name: "session".into(), key: key('a'), current_time: now(), owners: Vec::new() };
        for refused in [
            worker.get(&get('a')).await.map(drop),
            worker.sessions(&sessions()).await.map(drop),
            worker.set(&set('b', Some(b"ada"))).await,
            worker.set(&set('a', None)).await,
            worker.delete(&delete).await,
        ] {
            let error = refused.err().map(|error| error.to_string());
            assert_eq!(error.as_ref().is_some_and(|error| error.starts_with(&refusal)), planted.is_some(), "{error:?}");
            assert_eq!(error.is_some(), planted.is_some(), "{error:?}");
        }
        assert_eq!(journal.of(Level::Warning).len(), 1);
    });
}
