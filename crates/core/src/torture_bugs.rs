//! Bugs that are put in on purpose, to see that `make torture BUG=…` finds them.
//!
//! Only a build with the feature `torture_bugs` has them, which no other build turns on, and in it
//! only the one that the environment variable `TORTURE_BUG` names.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Whether this bug is the one that is wanted, and due: at every `each`th call.
pub fn is_due(bug: &str, each: u64) -> bool {
    static WANTED: OnceLock<String> = OnceLock::new();
    static CALLS: AtomicU64 = AtomicU64::new(1);
    let wanted = WANTED.get_or_init(|| std::env::var("TORTURE_BUG").unwrap_or_default());
    wanted == bug && CALLS.fetch_add(1, Ordering::Relaxed).is_multiple_of(each)
}
