//! What a process holds.

use std::fs;

/// What a process holds.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    pub descriptors: usize,
    pub threads: usize,
    /// In KiB.
    pub memory: u64,
}

/// What a process holds, unless it has ended.
pub fn of(process: i32) -> Option<Usage> {
    let entries = |name: &str| fs::read_dir(format!("/proc/{process}/{name}")).ok().map(Iterator::count);
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.trim().trim_end_matches(" kB");
    Some(Usage { descriptors: entries("fd")?, threads: entries("task")?, memory: memory.parse().ok()? })
}
