//! The program of the torture: on one nginx, or on two of which each runs another version of the
//! library.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use resty_session_testing::server::{Nginx, Site as Configuration, lualib, root};

use super::model::{IDLING, ROLLING, STALE};
use super::plan::Plan;
use super::servers::Storage;

/// Workers of each nginx.
pub const WORKERS: usize = 2;

/// The nginx servers with the program.
pub struct Site {
    pub servers: Vec<Nginx>,
    init: String,
    locations: String,
    /// The older library, if it runs beside this one.
    before: Option<PathBuf>,
    /// How often the versions have changed places.
    switches: AtomicUsize,
}

impl Site {
    /// Starts nginx, or, where two versions run and nginx itself is not the storage, two of them.
    pub fn start(plan: &Plan, storage: &Storage) -> Self {
        let before = plan.has_versions().then(|| root().join("target/before").join(&plan.before).join("lualib"));
        let (init, switches) = (init(plan, storage), AtomicUsize::new(0));
        let mut site = Self { servers: Vec::new(), init, locations: locations(), before, switches };
        let count = if site.before.is_some() && !storage.is_of_nginx() { 2 } else { 1 };
        site.servers = (0..count).map(|at| Nginx::start(&site.configuration(&site.library(at)))).collect();
        site
    }

    /// Where the Lua files and the native module of a server are.
    fn library(&self, server: usize) -> (PathBuf, PathBuf) {
        let lua = lualib();
        match &self.before {
            Some(before) if (server + self.switches.load(Ordering::SeqCst)).is_multiple_of(2) => {
                (before.clone(), before.clone())
            }
            // A build with the bugs that are put in on purpose has a directory of its own.
            _ if std::env::var("TORTURE_BUG").is_ok_and(|bug| !bug.is_empty()) => (lua, root().join("build/torture")),
            _ => (lua.clone(), lua),
        }
    }

    fn configuration<'a>(&'a self, (lua, native): &'a (PathBuf, PathBuf)) -> Configuration<'a> {
        Configuration {
            // Without faults a worker that leaves has time for all of its requests.
            main: match self.before {
                Some(_) => "worker_shutdown_timeout 18s;",
                None => "env TORTURE_BUG; worker_shutdown_timeout 5s;",
            },
            http: "lua_shared_dict torture 64m;",
            init: &self.init,
            server: &self.locations,
            workers: WORKERS,
            lualib: Some((lua, native)),
            ..Configuration::default()
        }
    }

    pub fn ports(&self) -> Vec<u16> {
        self.servers.iter().map(|nginx| nginx.port).collect()
    }

    /// Lets each nginx read its configuration again.
    pub fn reload(&self) {
        self.servers.iter().for_each(Nginx::reload);
    }

    /// Lets each nginx reload with the other version of the library.
    pub fn switch(&self) {
        self.switches.fetch_add(1, Ordering::SeqCst);
        for (at, nginx) in self.servers.iter().enumerate() {
            nginx.reload_as(&self.configuration(&self.library(at)));
        }
    }

    pub fn workers(&self) -> Vec<i32> {
        self.servers.iter().flat_map(Nginx::workers).collect()
    }

    pub fn log(&self) -> String {
        self.servers.iter().map(Nginx::log).collect()
    }

    pub fn complaints(&self) -> Vec<String> {
        self.servers.iter().flat_map(Nginx::complaints).collect()
    }
}

/// What runs in the master: the sessions' options, and the program.
fn init(plan: &Plan, storage: &Storage) -> String {
    let Storage { name, marks, .. } = storage;
    let (cache, options) = (plan.cache_ttl(), storage.options(plan));
    let metadata = name == marks;
    format!(
        r#"require("resty.session").init({{
            secret = "the secret of the torture, which nobody can guess", storage = "{name}", revocation = "{marks}",
            revocation_fail_mode = "closed", revocation_cache_ttl = {cache}, store_metadata = {metadata}, seal_info = "only",
            idling_timeout = {IDLING}, rolling_timeout = {ROLLING}, stale_ttl = {STALE}, touch_threshold = 2,
            {marks} = {{ {options} }},
        }})
        {program}
        {visit}
        torture.storage = require("resty.session.utils").load_storage("{marks}", {{ {marks} = {{ {options} }} }})"#,
        program = include_str!("program.lua"),
        visit = include_str!("visit.lua"),
    )
}

fn locations() -> String {
    let act = |check| {
        format!("location /{check}/act {{ lua_check_client_abort {check}; content_by_lua_block {{ torture.run() }} }}")
    };
    format!(
        "{} {}
        location /inner {{ internal; content_by_lua_block {{ torture.run() }} }}
        location /subrequest {{ content_by_lua_block {{ torture.subrequest() }} }}
        location /counts {{ content_by_lua_block {{ torture.counts() }} }}",
        act("on"),
        act("off"),
    )
}
