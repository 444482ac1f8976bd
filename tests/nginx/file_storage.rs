//! Sessions in files: what stands in them, what happens when they cannot be had, and which of them
//! are removed.

use std::fs::{self, File, FileTimes};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sys::stat::Mode;
use tempfile::TempDir;

use super::faults::{PROGRAM, id, note_with_two_workers, open_records, timed};
use super::http::Browser;
use super::specs;
use resty_session_testing::server::{Nginx, Site, wait_for};

/// base64url of "default" and "ada".
const OWNER: &str = "session_ZGVmYXVsdA:YWRh";
/// A key like those of sessions.
const KEY: &str = "0123456789abcdefghijABCDEFGHIJ-_0123456789a";

fn site(path: &Path, more: &str) -> String {
    format!(
        r#"require("resty.session").init({{ secret = "file tests", storage = "file", store_metadata = true, file = {{
            path = "{}", read_timeout = 500, {more}
        }} }})"#,
        path.display()
    )
}

fn nginx(path: &Path, more: &str) -> Nginx {
    Nginx::start(&Site { init: &site(path, more), server: PROGRAM, ..Site::default() })
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// When a file expires.
fn expiry(path: &Path) -> u64 {
    u64::try_from(fs::metadata(path).unwrap().mtime()).unwrap()
}

fn expire(path: &Path, seconds_ago: u64) {
    let time = SystemTime::now() - Duration::from_secs(seconds_ago);
    File::open(path).unwrap().set_times(FileTimes::new().set_modified(time)).unwrap();
}

/// What is in a directory, the locks of the library's own aside.
fn files(directory: &Path) -> Vec<String> {
    let names = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let is_lock = |name: &str| name.starts_with(".resty-session.lock.") || name.contains("resty-session-cleanup");
    let mut names: Vec<String> = names.filter(|name| !is_lock(name)).collect();
    names.sort();
    names
}

/// A session, and its file.
fn saved(nginx: &Nginx, directory: &Path) -> (Browser, PathBuf) {
    let browser = Browser::new();
    assert_eq!(browser.get(nginx.url("/set?v=1")), "saved");
    let file = directory.join(format!("session_{}", id(&browser)));
    (browser, file)
}

#[test]
fn files_keep_the_contract() {
    let directory = TempDir::new().unwrap();
    specs::run("file_spec.lua", &format!("path={}", directory.path().display()));
    let left = files(directory.path()).into_iter().filter(|name| name.contains(".tmp.")).collect::<Vec<_>>();
    assert_eq!(left, [""; 0]);
}

#[test]
fn files_are_those_of_lua_resty_session() {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    let nginx = nginx(directory, "");
    let (browser, first) = saved(&nginx, directory);
    let first_id = id(&browser);
    let value = fs::read_to_string(&first).unwrap();
    assert!(value.starts_with("[\"") && value.ends_with("\"]"), "{value}");
    let owner = directory.join(OWNER);
    for file in [&first, &owner] {
        assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
        assert!((now() + 3595..=now() + 3600).contains(&expiry(file)));
    }
    let items =
        |text: &str| text.split_terminator(';').map(|item| item.split(':').next().unwrap().to_owned()).collect();
    let text = fs::read_to_string(&owner).unwrap();
    assert_eq!(text.len(), first_id.len() + 1 + 7 + 1, "{text}");
    assert_eq!(Vec::<String>::from_iter(items(&text)), [first_id]);

    assert_eq!(browser.get(nginx.url("/set?v=2")), "saved");
    assert!((now()..=now() + 10).contains(&expiry(&first)), "the old one for a while");
    let keys: Vec<String> = items(&fs::read_to_string(&owner).unwrap());
    assert_eq!(keys, [id(&browser)]);

    assert_eq!(browser.get(nginx.url("/destroy")), "destroyed");
    assert_eq!(files(directory), [first.file_name().unwrap().to_str().unwrap()]);
    assert_eq!(nginx.complaints(), [""; 0]);
}

#[test]
fn records_that_lua_resty_session_wrote_open() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().display();
    open_records(
        &format!(r#"storage = "file", file = {{ path = "{path}", prefix = "p", suffix = "s" }}"#),
        |name, key, value| {
            let file = directory.path().join(format!("p_{name}_{key}.s"));
            fs::write(&file, value).unwrap();
            let time = SystemTime::now() + Duration::from_secs(100);
            File::open(file).unwrap().set_times(FileTimes::new().set_modified(time)).unwrap();
        },
    );
}

#[test]
fn metadata_that_lua_resty_session_wrote_are_read() {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    let nginx = nginx(directory, "");
    // Two live sessions, one of them taken out, and an item that broke off; the file's time is too
    // early.
    let other = KEY.replace('0', "x");
    fs::write(directory.join(OWNER), format!("{other}:_____w8;{KEY}:_____w8;{other};{KEY}:__")).unwrap();
    expire(&directory.join(OWNER), 1000);
    let browser = Browser::new();
    assert_eq!(browser.get(nginx.url("/set?v=1")), "saved");
    let text = fs::read_to_string(directory.join(OWNER)).unwrap();
    assert!(text.contains(&format!("{KEY}:_____w8;")) && text.contains(&id(&browser)), "{text}");
    assert!(!text.contains(&other));
    assert!(expiry(&directory.join(OWNER)) > now() + 1_000_000);
}

#[test]
fn metadata_that_are_damaged_keep_nobody_out() {
    let directory = TempDir::new().unwrap();
    let nginx = nginx(directory.path(), "");
    fs::write(directory.path().join(OWNER), format!("{KEY}:!!!!!!!;")).unwrap();
    let browser = Browser::new();
    assert_eq!(browser.get(nginx.url("/set?v=1")), "saved");
    assert_eq!(browser.get(nginx.url("/get")), "1");
    let begun_anew = fs::read_to_string(directory.path().join(OWNER)).unwrap();
    assert!(begun_anew.starts_with(&id(&browser)), "{begun_anew}");
    assert_eq!(nginx.complaints(), [""; 0]);
}

#[test]
fn a_directory_that_is_missing_or_none_says_so() {
    let parent = TempDir::new().unwrap();
    let directory = parent.path().join("sessions");
    let nginx = nginx(&directory, "");
    let browser = Browser::new();
    for cause in ["No such file or directory", "Not a directory"] {
        let (answer, took) = timed(&browser, nginx.url("/set?v=1"));
        let expected = format!("unable to store session data (unable to write in {} ({cause}", directory.display());
        assert!(answer.starts_with(&expected), "{answer}");
        assert!(took < Duration::from_millis(400), "{took:?}");
        fs::write(&directory, "").unwrap();
    }
    fs::remove_file(&directory).unwrap();
    fs::create_dir(&directory).unwrap();
    assert_eq!(browser.get(nginx.url("/set?v=1")), "saved");
    fs::rename(&directory, parent.path().join("elsewhere")).unwrap();
    for (path, act) in [("/get", "load session"), ("/destroy", "load session")] {
        let answer = browser.get(nginx.url(path));
        assert!(answer.starts_with(&format!("unable to {act} (unable to read in ")), "{answer}");
    }
    fs::rename(parent.path().join("elsewhere"), &directory).unwrap();
    assert_eq!(browser.get(nginx.url("/get")), "1");
    assert_eq!(nginx.complaints(), [""; 0]);
}

/// Nobody makes files in sysfs, root neither.
#[test]
fn a_directory_that_cannot_be_written_says_so() {
    let nginx = nginx(Path::new("/sys"), "");
    let answer = Browser::new().get(nginx.url("/set?v=1"));
    assert!(answer.starts_with("unable to store session data (unable to write in /sys ("), "{answer}");
    assert!(["Permission denied", "Read-only", "not permitted"].iter().any(|cause| answer.contains(cause)), "{answer}");
    assert_eq!(Browser::new().get(nginx.url("/plain")), "ok");
    assert_eq!(nginx.complaints(), [""; 0]);
}

/// How nginx is run with a small disk, and what it says when that is full: on a file system of its
/// own where one may be mounted, else with files that may not grow.
fn small_disk(directory: &Path) -> (Vec<String>, &'static str) {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let (user, group) = (nix::unistd::geteuid(), nix::unistd::getegid());
    let mount = format!("mount -t tmpfs -o size=256k tmpfs '{}' && exec", directory.display());
    for under in [
        ["unshare", "-m", "sh", "-c", &format!("{mount} \"$@\""), "sh"],
        // A user other than root becomes root in a namespace, to be allowed to mount, and itself
        // again in a namespace inside that.
        ["unshare", "-rm", "sh", "-c", &format!("{mount} unshare --map-user={user} --map-group={group} \"$@\""), "sh"],
    ] {
        if Command::new(under[0]).args(&under[1..]).arg("true").output().is_ok_and(|output| output.status.success()) {
            return (words(&under), "No space left on device");
        }
    }
    (words(&["sh", "-c", "ulimit -f 256 && exec \"$@\"", "sh"]), "File too large")
}

#[test]
fn a_full_disk_says_so_and_leaves_the_old_session() {
    let directory = TempDir::new().unwrap();
    let (under, cause) = small_disk(directory.path());
    let nginx = Nginx::start(&Site {
        init: &site(directory.path(), ""),
        server: &format!(
            r#"{PROGRAM}
            location /files {{ content_by_lua_block {{
                local names = io.popen("ls -a {}")
                ngx.print(names:read("*a"))
                names:close()
            }} }}"#,
            directory.path().display()
        ),
        under: &under.iter().map(String::as_str).collect::<Vec<_>>(),
        ..Site::default()
    });
    let browser = Browser::new();
    assert_eq!(browser.get(nginx.url("/set?v=1")), "saved");
    for _ in 0..3 {
        let answer = browser.get(nginx.url("/big?size=400000"));
        let expected = format!("unable to store session data (unable to write in {}", directory.path().display());
        assert!(answer.starts_with(&expected) && answer.contains(cause), "{answer}");
        assert_eq!(browser.get(nginx.url("/get")), "1", "the old session is still good");
        assert_eq!(browser.get(nginx.url("/plain")), "ok");
    }
    let files = browser.get(nginx.url("/files"));
    assert!(files.contains(&id(&browser)) && !files.contains(".tmp."), "{files}");
    assert_eq!(browser.get(nginx.url("/set?v=2")), "saved");
    assert_eq!(browser.get(nginx.url("/get")), "2");
}

#[test]
fn what_stands_in_a_records_place_is_never_taken_for_one() {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    let nginx = nginx(directory, "");
    let (browser, file) = saved(&nginx, directory);
    let aside = directory.join("aside");
    fs::rename(&file, &aside).unwrap();
    let value = fs::read(&aside).unwrap();
    let answer = || timed(&browser, nginx.url("/get"));

    for size in [0, 1, value.len() / 2, value.len() - 1] {
        fs::write(&file, &value[..size]).unwrap();
        File::open(&file)
            .unwrap()
            .set_times(FileTimes::new().set_modified(SystemTime::now() + Duration::from_secs(9)))
            .unwrap();
        assert!(answer().0.starts_with("unable to json decode session"), "{}", answer().0);
        fs::remove_file(&file).unwrap();
    }
    let not_a_file =
        format!("unable to load session (a session's file in {} is not a regular file", directory.display());
    fs::create_dir(&file).unwrap();
    assert!(answer().0.starts_with(&not_a_file), "{}", answer().0);
    fs::remove_dir(&file).unwrap();
    symlink(&aside, &file).unwrap();
    assert!(answer().0.starts_with(&not_a_file), "{}", answer().0);
    fs::remove_file(&file).unwrap();
    nix::unistd::mkfifo(&file, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    let (said, took) = answer();
    assert!(said.starts_with(&not_a_file), "{said}");
    assert!(took < Duration::from_millis(400), "{took:?}");
    fs::remove_file(&file).unwrap();
    // A file with a hole: more than a record may have.
    let large = File::create(&file).unwrap();
    large.set_len(1 << 40).unwrap();
    large.set_times(FileTimes::new().set_modified(SystemTime::now() + Duration::from_secs(9))).unwrap();
    assert!(answer().0.contains("has 1099511627776 bytes"), "{}", answer().0);

    assert_eq!(browser.get(nginx.url("/plain")), "ok");
    fs::rename(&aside, &file).unwrap();
    assert_eq!(answer().0, "1");
    assert_eq!(nginx.complaints(), [""; 0]);
}

#[test]
fn metadata_that_are_locked_too_long_are_a_timeout_and_others_go_on() {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    let nginx = nginx(directory, "");
    let (browser, _) = saved(&nginx, directory);
    let locks = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let lock = locks.into_iter().find(|path| path.display().to_string().contains(".resty-session.lock.")).unwrap();
    let held = File::options().write(true).open(&lock).unwrap();
    held.lock().unwrap();
    std::thread::scope(|scope| {
        let waiting: Vec<_> = (0..40).map(|_| scope.spawn(|| timed(&Browser::new(), nginx.url("/set?v=2")))).collect();
        std::thread::sleep(Duration::from_millis(200));
        for (path, expected) in [("/plain", "ok"), ("/get", "1")] {
            let (answer, took) = timed(&browser, nginx.url(path));
            assert_eq!(answer, expected);
            assert!(took < Duration::from_millis(200), "{took:?}");
        }
        for waiting in waiting {
            let (answer, took) = waiting.join().unwrap();
            assert_eq!(answer, "unable to store session data (timeout)");
            assert!(took < Duration::from_millis(1300), "{took:?}");
        }
    });
    drop(held);
    assert_eq!(browser.get(nginx.url("/set?v=3")), "saved");
    // Systems that clear up remove locks too.
    fs::remove_file(&lock).unwrap();
    assert_eq!(browser.get(nginx.url("/set?v=4")), "saved");
    assert_eq!(nginx.complaints(), [""; 0]);
}

#[test]
fn workers_that_share_a_directory_lose_no_metadata() {
    let directory = TempDir::new().unwrap();
    note_with_two_workers("file", &format!(r#"file = {{ path = "{}" }}"#, directory.path().display()));
}

/// A worker's threads.
fn threads(worker: i32) -> usize {
    fs::read_dir(format!("/proc/{worker}/task")).unwrap().count()
}

/// Whether each of the threads for files blocks the signals that nginx handles.
fn block_signals(worker: i32) -> bool {
    use nix::sys::signal::Signal::{SIGCHLD, SIGHUP, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH};
    let handled = [SIGCHLD, SIGHUP, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH].map(|one| 1_u64 << (one as i32 - 1));
    fs::read_dir(format!("/proc/{worker}/task")).unwrap().all(|thread| {
        // It may have ended.
        let status = fs::read_to_string(thread.unwrap().path().join("status")).unwrap_or_default();
        let blocked = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).unwrap_or_default().trim();
        let blocked = u64::from_str_radix(blocked, 16).unwrap_or_default();
        !status.contains("resty-files") || handled.iter().all(|one| blocked & one != 0)
    })
}

/// A worker's memory, in KiB.
fn memory(worker: i32) -> i64 {
    let status = fs::read_to_string(format!("/proc/{worker}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn a_worker_has_sixteen_threads_for_files_and_they_end() {
    const CONNECTIONS: usize = 128;
    const REQUESTS: usize = 30;
    // nginx' own, the runtime's, and at most two that look up names.
    const OTHERS: usize = 4;
    let directories = [(); 3].map(|()| TempDir::new().unwrap());
    let paths: Vec<String> = directories.iter().map(|one| format!("\"{}\"", one.path().display())).collect();
    let nginx = Nginx::start(&Site {
        init: &format!("PATHS = {{ {} }}", paths.join(", ")),
        server: r#"location / { content_by_lua_block {
            local path = PATHS[1 + tonumber(ngx.var.arg_n) % #PATHS]
            local options = { secret = "threads", storage = "file", file = { path = path, prefix = ngx.var.arg_n } }
            local s = require("resty.session").open(options)
            s:set("v", ("x"):rep(300))
            local ok, err = s:save()
            ngx.say(ok and "saved" or err)
        } }"#,
        ..Site::default()
    });
    let ask = |number: usize| {
        let browser = Browser::new();
        (0..REQUESTS).all(|_| browser.get(nginx.url(&format!("/?n={}", number % 9))) == "saved")
    };
    assert!(ask(0));
    let worker = nginx.workers()[0];
    let before = memory(worker);
    let mut most = 0;
    std::thread::scope(|scope| {
        let asking: Vec<_> = (0..CONNECTIONS).map(|number| scope.spawn(move || ask(number))).collect();
        while !asking.iter().all(|one| one.is_finished()) {
            most = most.max(threads(worker));
            assert!(block_signals(worker));
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(asking.into_iter().all(|one| one.join().unwrap()));
    });
    assert!(most <= 16 + OTHERS, "{most} threads");
    assert!(most > OTHERS, "{most} threads: they were not counted");
    wait_for("the threads' end", || threads(worker) <= OTHERS);
    // Each thread's memory may be a huge page of 2 MiB.
    let grown = memory(worker) - before;
    assert!(grown < 40 << 10, "{grown} KiB");
    assert_eq!(nginx.complaints(), [""; 0]);
}

/// Makes a file that expired long ago.
fn plant(directory: &Path, name: &str, content: &str) {
    fs::write(directory.join(name), content).unwrap();
    expire(&directory.join(name), 3600);
}

#[test]
fn cleaning_up_removes_expired_files_of_ours_and_nothing_else() {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    let expired = format!("{KEY}:AQAAAAA;");
    let long_ago = now() - 7201;
    for name in [format!("p_session_{KEY}.s"), format!("p_my_remember_{KEY}.s")] {
        plant(directory, &name, "[]");
    }
    plant(directory, "p_session_YQ:dQ.s", &expired);
    // A revocation mark of "subject:YQ", and a lock.
    plant(directory, "p_session_c3ViamVjdDpZUQ.s", "1");
    plant(directory, &format!(".resty-session.held.p_session_{KEY}.s"), "holder");
    plant(directory, &format!(".resty-session.tmp.{long_ago}.abc"), "");

    for name in [
        format!("session_{KEY}"),
        format!("p_session_{KEY}"),
        format!("session_{KEY}.s"),
        format!("p_session_{KEY}.s.bak"),
        format!("p_session_{}.s", &KEY[1..]),
        "p_session_YQ:dQ:x.s".into(),
        "p_notes_a:b.s".into(),
        "p_session_c3ViamVjdDpZUQ.bak.s".into(),
        "p_session_c3ViamVjdA.s".into(),
        "p_session_notes.s".into(),
        format!(".resty-session.held.session_{KEY}"),
        ".resty-session.held.p_session_notes.s".into(),
        format!(".resty-session.tmp.{}.abc", now()),
        "unrelated".into(),
    ] {
        plant(directory, &name, "foreign");
    }
    // Live by its items, whatever its time says.
    plant(directory, "p_session_YQ:live.s", &format!("{KEY}:_____w8;"));
    plant(directory, "p_session_YQ:empty.s", "");
    let mut left = files(directory);
    left.retain(|name| {
        let ours = [
            "p_session_0123456789abcdefghijABCDEFGHIJ-_0123456789a.s",
            ".resty-session.held.p_session_0123456789abcdefghijABCDEFGHIJ-_0123456789a.s",
            "p_session_YQ:dQ.s",
            "p_session_c3ViamVjdDpZUQ.s",
        ];
        !ours.contains(&name.as_str()) && !name.contains("remember") && !name.contains(&long_ago.to_string())
    });
    let directory_of_that_name = format!("p_session_{}.s", KEY.replace('0', "d"));
    fs::create_dir(directory.join(&directory_of_that_name)).unwrap();
    let link = format!("p_session_{}.s", KEY.replace('0', "l"));
    symlink("unrelated", directory.join(&link)).unwrap();
    let fresh = format!("p_session_{}.s", KEY.replace('0', "f"));
    fs::write(directory.join(&fresh), "expired just now, as the clock of another host may see it").unwrap();
    left.extend([directory_of_that_name, link, fresh]);

    let nginx = nginx(directory, r#"prefix = "p", suffix = "s", cleanup_interval = 1"#);
    let browser = Browser::new();
    assert_eq!(browser.get(nginx.url("/set?v=1")), "saved");
    left.extend([format!("p_session_{}.s", id(&browser)), format!("p_{OWNER}.s")]);
    left.sort();
    wait_for("the cleanup", || files(directory).len() <= left.len());
    std::thread::sleep(Duration::from_millis(1200));
    assert_eq!(files(directory), left);
    assert_eq!(browser.get(nginx.url("/get")), "1");
    assert_eq!(nginx.complaints(), [""; 0]);
}

#[test]
fn cleaning_up_is_bounded_and_done_by_one_at_a_time() {
    const EXPIRED: usize = 60;
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    for number in 0..EXPIRED {
        plant(directory, &format!("session_{}{number:02}", &KEY[..41]), "[]");
    }
    let cleaning = directory.join(format!(".resty-session.lock.{}.cleanup", nix::unistd::geteuid()));
    let held = File::create(&cleaning).unwrap();
    held.lock().unwrap();
    let nginx = Nginx::start(&Site {
        // Not about time limits: a busy machine may take its time.
        init: &site(directory, "cleanup_interval = 1, cleanup_rate = 30, read_timeout = 2000"),
        server: PROGRAM,
        workers: 2,
        ..Site::default()
    });
    // Both workers use the storage, and so clean up.
    for _ in 0..20 {
        assert_eq!(Browser::new().get(nginx.url("/destroy")), "missing session cookie");
        assert_eq!(Browser::new().get(nginx.url("/set?v=1")), "saved");
    }
    let expired =
        || files(directory).iter().filter(|name| name.starts_with(&format!("session_{}", &KEY[..41]))).count();
    std::thread::sleep(Duration::from_millis(2500));
    assert_eq!(expired(), EXPIRED, "another cleans up");
    drop(held);
    wait_for("the cleanup's start", || {
        // It goes on while the storage is used.
        assert_eq!(Browser::new().get(nginx.url("/set?v=1")), "saved");
        expired() < EXPIRED
    });
    let start = Instant::now();
    wait_for("the cleanup", || expired() == 0);
    assert!(start.elapsed() > Duration::from_millis(1500), "{:?}", start.elapsed());
    assert_eq!(nginx.complaints(), [""; 0]);
}
