//! One tokio runtime with one thread for each process, started on first use.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{SigSet, SigmaskHow};
use tokio::runtime::{Builder, Handle};

use super::processors;
use super::registry::Registry;

/// Threads for what blocks, at most: files, and looking up hosts. A storage whose directory hangs keeps a few of them, and
/// must leave enough for the others.
const BLOCKING_THREADS: usize = 256;

/// What belongs to one process: its runtime, and the storages that are connected there.
pub struct Runtime {
    process: u32,
    pub handle: Handle,
    pub registry: Arc<Registry>,
}

/// How often connections are looked for that nobody uses.
const CLOSE_IDLE: Duration = Duration::from_secs(2);

static CURRENT: Mutex<Option<Arc<Runtime>>> = Mutex::new(None);

/// This process' runtime.
///
/// What was started before a fork is of no use after it: its thread exists in the parent only. Such a runtime is left
/// alone, never dropped.
pub fn current() -> io::Result<Arc<Runtime>> {
    let mut current = CURRENT.lock().unwrap_or_else(PoisonError::into_inner);
    let process = std::process::id();
    if let Some(runtime) = current.as_ref().filter(|runtime| runtime.process == process) {
        return Ok(runtime.clone());
    }
    let runtime = Arc::new(start(process)?);
    if let Some(inherited) = current.replace(runtime.clone()) {
        std::mem::forget(inherited);
    }
    Ok(runtime)
}

fn start(process: u32) -> io::Result<Runtime> {
    // Which cryptography TLS uses is the process' choice; where it was made already, that one stands.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = Builder::new_current_thread()
        .enable_all()
        .thread_name("resty-session")
        .max_blocking_threads(BLOCKING_THREADS)
        .build()?;
    let handle = runtime.handle().clone();
    // nginx' signal handlers must run on its own thread: this one, and those that it starts, inherit a full mask.
    let mask = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
    let thread = thread::Builder::new().name("resty-session".into()).spawn(move || {
        processors::follow_master();
        runtime.block_on(std::future::pending::<()>())
    });
    mask.thread_set_mask()?;
    thread?;
    let registry = Arc::<Registry>::default();
    handle.spawn(close_idle(registry.clone()));
    Ok(Runtime { process, handle, registry })
}

/// Looks again and again for connections that nobody uses any more.
async fn close_idle(registry: Arc<Registry>) {
    loop {
        tokio::time::sleep(CLOSE_IDLE).await;
        registry.close_idle();
    }
}
