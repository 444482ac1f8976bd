//! Database servers of their own: Postgres and MariaDB, each with the tables that the project's SQL
//! files make.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, geteuid};

use crate::certificates::ServerTls;
use crate::data::fill;
use crate::server::{Server, free_port, root, send, wait_for};

/// A server, its data in a directory of its own.
pub struct Database {
    kind: Kind,
    child: Option<Child>,
    pub port: u16,
    directory: tempfile::TempDir,
    arguments: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Postgres,
    MariaDb,
}

/// Neither server runs as root: then it runs as the user that its package made.
fn as_user(name: &str, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    if geteuid().is_root() {
        let user = User::from_name(name).unwrap().unwrap_or_else(|| panic!("there is no user {name}"));
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    command.current_dir("/").stdin(Stdio::null());
    command
}

fn give_to(name: &str, path: &Path) {
    if geteuid().is_root() {
        let user = User::from_name(name).unwrap().unwrap();
        std::os::unix::fs::chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
    }
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// Copies what a server speaks TLS with into its directory, where its user can read it, and nobody
/// else the key.
fn copy(user: &str, directory: &Path, tls: &ServerTls) -> [String; 3] {
    let files = [("server.pem", &tls.identity.certificate), ("server.key", &tls.identity.key), ("ca.pem", &tls.ca)];
    files.map(|(name, from)| {
        let to = directory.join(name);
        fs::copy(from, &to).unwrap();
        fs::set_permissions(&to, fs::Permissions::from_mode(0o600)).unwrap();
        give_to(user, &to);
        to.display().to_string()
    })
}

/// A server's program and version, as a file's name.
fn version(program: &Path) -> String {
    let text = run(Command::new(program).arg("--version"));
    text.split_whitespace().filter(|word| !word.starts_with('/')).collect::<Vec<_>>().join("-").replace('/', "-")
}

/// Where Debian keeps the programs of the newest Postgres.
fn postgres_program(name: &str) -> PathBuf {
    let mut versions: Vec<PathBuf> =
        fs::read_dir("/usr/lib/postgresql").unwrap().map(|entry| entry.unwrap().path()).collect();
    versions.sort();
    versions.pop().expect("Postgres").join("bin").join(name)
}

impl Database {
    pub fn postgres(arguments: &[&str]) -> Self {
        Self::postgres_with(None, arguments)
    }

    /// One with TLS. If it asks clients for certificates, they need one even to connect by TCP.
    pub fn postgres_with(tls: Option<&ServerTls>, arguments: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        give_to("postgres", directory.path());
        let data = directory.path().join("data");
        fill(&data, &version(&postgres_program("postgres")), |data| {
            let mut make = as_user("postgres", postgres_program("initdb"));
            make.args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync", "-D"]);
            run(make.arg(data));
        });
        let certified = match tls {
            Some(tls) if tls.asks_clients => {
                "hostssl all all 127.0.0.1/32 trust clientcert=verify-ca\nhost all all 127.0.0.1/32 reject\n"
            }
            _ => "",
        };
        // Whoever has a password uses it.
        let access = "local all clear_user password\nlocal all,replication all trust\n\
                      host all postgres 127.0.0.1/32 trust\nhost all md5_user 127.0.0.1/32 md5\n\
                      host all clear_user 127.0.0.1/32 password\nhost all all 127.0.0.1/32 scram-sha-256\n";
        fs::write(data.join("pg_hba.conf"), format!("{certified}{access}")).unwrap();
        let mut settings: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        if let Some(tls) = tls {
            let [certificate, key, ca] = copy("postgres", directory.path(), tls);
            let files = [("ssl_cert_file", certificate), ("ssl_key_file", key), ("ssl_ca_file", ca)];
            settings.extend(files.map(|(name, path)| format!("{name}={path}")));
            settings.push("ssl=on".to_owned());
        }
        Self::start_postgres(directory, &settings).with_tables()
    }

    /// A server that follows another, of which it has all that is written there, and that reads
    /// only.
    pub fn standby(primary: &Self) -> Self {
        let directory = tempfile::tempdir().unwrap();
        give_to("postgres", directory.path());
        let mut command = as_user("postgres", postgres_program("pg_basebackup"));
        command.args(["-U", "postgres", "-R", "--no-sync", "--checkpoint=fast", "-p", &primary.port.to_string()]);
        run(command.arg("-h").arg(primary.path()).arg("-D").arg(directory.path().join("data")));
        Self::start_postgres(directory, &[])
    }

    fn start_postgres(directory: tempfile::TempDir, settings: &[String]) -> Self {
        let port = free_port();
        let (data, sockets) = (directory.path().join("data"), directory.path());
        let own = ["-D", data.to_str().unwrap(), "-p", &port.to_string(), "-k", sockets.to_str().unwrap()];
        let always = ["fsync=off", "listen_addresses=127.0.0.1", "log_min_messages=fatal"];
        let settings = always.into_iter().chain(settings.iter().map(String::as_str));
        let arguments = own.into_iter().chain(settings.flat_map(|setting| ["-c", setting]));
        let arguments = arguments.map(str::to_owned).collect();
        Self::start(Kind::Postgres, port, directory, arguments)
    }

    /// One with TLS, which the user `certified` needs a client's certificate for.
    pub fn mariadb_with(tls: &ServerTls) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let [certificate, key, ca] = copy("mysql", directory.path(), tls);
        let options = [format!("--ssl-cert={certificate}"), format!("--ssl-key={key}"), format!("--ssl-ca={ca}")];
        let database = Self::start_mariadb(directory, &options.each_ref().map(String::as_str));
        database.ask("CREATE USER certified@127.0.0.1 REQUIRE X509; GRANT ALL ON sessions.* TO certified@127.0.0.1");
        database
    }

    pub fn mariadb(arguments: &[&str]) -> Self {
        Self::start_mariadb(tempfile::tempdir().unwrap(), arguments)
    }

    /// `app` is a user who has no rights but those of a program, and so cannot write while the
    /// server is read-only.
    fn start_mariadb(directory: tempfile::TempDir, arguments: &[&str]) -> Self {
        give_to("mysql", directory.path());
        let data = directory.path().join("data").display().to_string();
        fill(data.as_ref(), &version("mariadbd".as_ref()), |data| {
            run(as_user("mysql", "mariadb-install-db").args([
                "--no-defaults",
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
                // The system has only so much of it for all servers together.
                "--innodb-use-native-aio=0",
                &format!("--datadir={}", data.display()),
            ]));
        });
        let port = free_port();
        let socket = directory.path().join("mysql.sock").display().to_string();
        let mut all = vec![
            "--no-defaults".to_owned(),
            format!("--datadir={data}"),
            format!("--socket={socket}"),
            format!("--port={port}"),
            "--bind-address=127.0.0.1".to_owned(),
            "--innodb-flush-log-at-trx-commit=0".to_owned(),
            "--innodb-use-native-aio=0".to_owned(),
            "--plugin-load-add=auth_ed25519".to_owned(),
        ];
        all.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        let database = Self::start(Kind::MariaDb, port, directory, all);
        database.ask_in("", "CREATE DATABASE sessions");
        database.ask("CREATE USER app@127.0.0.1; GRANT ALL ON sessions.* TO app@127.0.0.1");
        database.with_tables()
    }

    fn start(kind: Kind, port: u16, directory: tempfile::TempDir, arguments: Vec<String>) -> Self {
        let mut database = Self { kind, child: None, port, directory, arguments };
        database.start_again();
        database
    }

    fn with_tables(self) -> Self {
        self.ask(&fs::read_to_string(root().join("sql").join(self.kind.schema())).unwrap());
        self
    }

    /// Makes the server refuse to write, or write again, for connections that are open too.
    pub fn set_read_only(&self, read_only: bool) {
        match self.kind {
            Kind::Postgres => {
                self.ask(&format!("ALTER SYSTEM SET default_transaction_read_only = {read_only}"));
                self.ask("SELECT pg_reload_conf()");
                let setting = if read_only { "on" } else { "off" };
                wait_for("the setting", || self.ask("SHOW default_transaction_read_only") == setting);
            }
            Kind::MariaDb => drop(self.ask(&format!("SET GLOBAL read_only = {read_only}"))),
        }
    }

    /// Starts a server that was stopped, on its port.
    pub fn start_again(&mut self) {
        let log = fs::File::create(self.directory.path().join("log")).unwrap();
        let mut command = match self.kind {
            Kind::Postgres => as_user("postgres", postgres_program("postgres")),
            Kind::MariaDb => as_user("mysql", "mariadbd"),
        };
        // A server's time zone may come from its environment.
        for argument in &self.arguments {
            match argument.strip_prefix("TZ=") {
                Some(zone) => command.env("TZ", zone),
                None => command.arg(argument),
            };
        }
        let mut child = command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        // The client connects to the socket in the server's own directory.
        wait_for("a database", || {
            assert_eq!(child.try_wait().unwrap(), None, "a database ended");
            self.client("", "SELECT 1").output().unwrap().status.success()
        });
        self.child = Some(child);
    }

    /// The option and its value that connect to it.
    pub fn options(&self) -> String {
        match self.kind {
            Kind::Postgres => format!(r#"port = {}, database = "postgres""#, self.port),
            Kind::MariaDb => format!(r#"port = {}, username = "root", database = "sessions""#, self.port),
        }
    }

    pub fn storage(&self) -> &'static str {
        match self.kind {
            Kind::Postgres => "postgres",
            Kind::MariaDb => "mysql",
        }
    }

    pub fn is_postgres(&self) -> bool {
        self.kind == Kind::Postgres
    }

    pub fn socket(&self) -> String {
        match self.kind {
            Kind::Postgres => self.directory.path().display().to_string(),
            Kind::MariaDb => self.directory.path().join("mysql.sock").display().to_string(),
        }
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    fn client(&self, database: &str, statements: &str) -> Command {
        let mut command;
        match self.kind {
            Kind::Postgres => {
                command = Command::new(postgres_program("psql"));
                command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-h"]);
                command.arg(self.directory.path()).args(["-p", &self.port.to_string(), "-c", statements, "postgres"]);
            }
            Kind::MariaDb => {
                command = Command::new("mariadb");
                command.args(["--no-defaults", "-N", "-B", "-u", "root", "--raw"]);
                command.arg(format!("--socket={}", self.socket())).args(["-e", statements, database]);
            }
        }
        command.stdin(Stdio::null());
        command
    }

    fn ask_in(&self, database: &str, statements: &str) -> String {
        run(&mut self.client(database, statements)).trim_end().to_owned()
    }

    /// What statements answer: a row a line.
    pub fn ask(&self, statements: &str) -> String {
        self.ask_in("sessions", statements)
    }

    /// Runs statements that hold a transaction open, until what is returned is dropped.
    pub fn hold(&self, statements: &str) -> Held {
        let mut command = self.client("sessions", "");
        let arguments: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
        let program = command.get_program().to_owned();
        command = Command::new(program);
        let mut skip = false;
        for argument in arguments {
            if std::mem::take(&mut skip) {
                continue;
            }
            skip = argument == "-c" || argument == "-e";
            if !skip {
                command.arg(argument);
            }
        }
        if self.kind == Kind::MariaDb {
            command.arg("--unbuffered");
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let stdin = child.stdin.as_mut().unwrap();
        writeln!(stdin, "BEGIN;\n{statements};\nSELECT 'held';").unwrap();
        stdin.flush().unwrap();
        let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        while line.trim() != "held" {
            line.clear();
            assert_ne!(std::io::BufRead::read_line(&mut out, &mut line).unwrap(), 0, "{statements}");
        }
        Held(child)
    }

    /// Sends a signal to the server and, where it has a process a connection, to those.
    fn send_to_all(&self, signal: Signal) {
        let pid = self.child.as_ref().unwrap().id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        for process in children.split_whitespace().map(|pid| pid.parse().unwrap()).chain([i32::try_from(pid).unwrap()])
        {
            send(process, signal);
        }
    }

    pub fn stop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        // Postgres: at once, without waiting for its clients.
        let signal = if self.kind == Kind::Postgres { Signal::SIGINT } else { Signal::SIGTERM };
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        let _ = kill(pid, Signal::SIGCONT);
        let _ = kill(pid, signal);
        for _ in 0..500 {
            if child.try_wait().unwrap().is_some() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = child.kill();
        let _ = child.wait();
    }
}

impl Kind {
    fn schema(self) -> &'static str {
        match self {
            Self::Postgres => "postgres.sql",
            Self::MariaDb => "mysql.sql",
        }
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", fs::read_to_string(self.directory.path().join("log")).unwrap_or_default());
        }
        self.stop();
    }
}

/// A transaction that is open; rolled back when this is dropped.
pub struct Held(Child);

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Server for Database {
    fn port(&self) -> u16 {
        self.port
    }

    fn signal(&self, signal: Signal) {
        self.send_to_all(signal);
    }

    /// Postgres is stopped at once, as by a crash, so that its processes do not outlive it.
    fn kill(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let signal = if self.kind == Kind::Postgres { Signal::SIGQUIT } else { Signal::SIGKILL };
        send(i32::try_from(child.id()).unwrap(), signal);
        child.wait().unwrap();
    }

    fn start_again(&mut self) {
        Self::start_again(self);
    }
}
