//! Which processors the bridge's threads run on.

use std::fs::read_link;
use std::path::PathBuf;

use rustix::process::{Pid, getppid};
use rustix::thread::{sched_getaffinity, sched_setaffinity};

/// Lets the calling thread, and those that it starts, run on all processors that nginx's master may
/// use.
///
/// `worker_cpu_affinity` binds a worker to a processor, and its threads with it: they would run
/// only while the worker does not, and both would lose time. A limit that binds the master too,
/// such as a container's, binds these threads as well.
pub fn follow_master() {
    let Some(master) = master() else { return };
    if let Ok(processors) = sched_getaffinity(Some(master)) {
        // If that is not allowed, the thread stays on the worker's processor.
        let _ = sched_setaffinity(None, &processors);
    }
}

/// The parent of this process, if it runs the same program.
fn master() -> Option<Pid> {
    let parent = getppid()?;
    let program = |process: String| -> Option<PathBuf> { read_link(format!("/proc/{process}/exe")).ok() };
    let own = program("self".to_owned())?;
    (program(parent.as_raw_nonzero().to_string())? == own).then_some(parent)
}
