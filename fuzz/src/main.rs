//! libFuzzer with all targets; `FUZZ_TARGET` names the one to run. With `FUZZ_SEEDS` it writes that
//! target's seeds into a folder, and runs nothing. `make fuzz` calls it.
#![no_main]
#![allow(clippy::panic)]

use std::path::Path;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use resty_session_fuzz::{Target, named};

static TARGET: OnceLock<&'static Target> = OnceLock::new();

fn prepare() {
    let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
    let target = named(&name).unwrap_or_else(|| panic!("FUZZ_TARGET must be the name of a target, not {name:?}"));
    if let Some(folder) = std::env::var_os("FUZZ_SEEDS") {
        let written = target.write_seeds(Path::new(&folder));
        std::process::exit(i32::from(written.is_err()));
    }
    let _ = TARGET.set(target);
}

fuzz_target!(init: prepare(), |data: &[u8]| {
    if let Some(target) = TARGET.get() {
        (target.run)(data);
    }
});
