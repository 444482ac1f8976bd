//! One tokio runtime with one thread for each process, started on first use.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{SigSet, SigmaskHow};
use tokio::runtime::{Builder, Handle};

use super::Lines;
use super::process::PerProcess;
use super::processors;
use super::registry::Registry;

/// How many threads may do blocking work at most, which is looking up hosts. The file storages have
/// threads of their own.
const BLOCKING_THREADS: usize = 256;

/// A process' runtime, the storages that are connected there, and what they have to tell.
pub struct Runtime {
    pub handle: Handle,
    pub registry: Arc<Registry>,
    pub lines: Arc<Lines>,
}

static CURRENT: PerProcess<Runtime> = PerProcess::new();

/// How often unused connections are closed.
const CLOSE_IDLE_INTERVAL: Duration = Duration::from_secs(2);

/// Returns this process' runtime, and starts it at the first call.
///
/// # Errors
///
/// The system refuses what the runtime needs; the next call tries again.
pub fn current() -> io::Result<Arc<Runtime>> {
    CURRENT.get(start)
}

/// Returns this process' runtime if it was started.
pub fn started() -> Option<Arc<Runtime>> {
    CURRENT.made()
}

fn start() -> io::Result<Runtime> {
    resty_session_storages::prepare();
    let runtime = Builder::new_current_thread()
        .enable_all()
        .thread_name("resty-session")
        .max_blocking_threads(BLOCKING_THREADS)
        .build()?;
    let handle = runtime.handle().clone();
    // nginx' signal handlers must run on its own thread: this one, and those that it starts,
    // inherit a full mask.
    let mask = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
    let thread = thread::Builder::new().name("resty-session".into()).spawn(move || {
        processors::follow_master();
        runtime.block_on(std::future::pending::<()>())
    });
    mask.thread_set_mask()?;
    thread?;
    let lines = Arc::<Lines>::default();
    let registry = Arc::new(Registry::new(lines.clone()));
    handle.spawn(close_idle(registry.clone()));
    Ok(Runtime { handle, registry, lines })
}

/// Closes unused connections again and again.
async fn close_idle(registry: Arc<Registry>) {
    loop {
        tokio::time::sleep(CLOSE_IDLE_INTERVAL).await;
        registry.close_idle();
    }
}
