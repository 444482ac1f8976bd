//! One tokio runtime with one thread for each process, started on first use.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{SigSet, SigmaskHow};
use tokio::runtime::{Builder, Handle};

use super::process::PerProcess;
use super::processors;
use super::registry::Registry;
use resty_session_storages::journal::Silent;

/// How many threads may do blocking work at most, which is looking up hosts. The file storages have
/// threads of their own.
const BLOCKING_THREADS: usize = 256;

/// A process' runtime, and the storages that are connected there.
pub struct Runtime {
    pub handle: Handle,
    pub registry: Arc<Registry>,
}

/// How often unused connections are closed.
const CLOSE_IDLE_INTERVAL: Duration = Duration::from_secs(2);

/// Returns this process' runtime, and starts it at the first call.
///
/// # Errors
///
/// The system refuses what the runtime needs; the next call tries again.
pub fn current() -> io::Result<Arc<Runtime>> {
    static CURRENT: PerProcess<Runtime> = PerProcess::new();
    CURRENT.get(start)
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
    let registry = Arc::new(Registry::new(Arc::new(Silent)));
    handle.spawn(close_idle(registry.clone()));
    Ok(Runtime { handle, registry })
}

/// Closes unused connections again and again.
async fn close_idle(registry: Arc<Registry>) {
    loop {
        tokio::time::sleep(CLOSE_IDLE_INTERVAL).await;
        registry.close_idle();
    }
}
