//! The threads that nginx itself starts.

use std::cell::RefCell;
use std::ffi::c_void;
use std::ops::Range;

use mlua::debug::Debug;
use mlua::prelude::*;
use rustc_hash::FxHashMap;

/// How many blocks are remembered at most.
const CAPACITY: usize = 256;

/// The `*_by_lua_block`s of the configuration that have run.
#[derive(Default)]
pub struct Blocks {
    /// By address. A function keeps its address for as long as it is kept here.
    known: RefCell<FxHashMap<*const c_void, LuaFunction>>,
}

/// Whether this is the thread that nginx runs a block in; see [`Blocks::in_entry_thread`].
pub fn in_entry_thread(lua: &Lua) -> bool {
    lua.app_data_ref::<Blocks>().is_some_and(|blocks| blocks.in_entry_thread(lua))
}

impl Blocks {
    /// Whether this is the thread that nginx runs a block in. False in a coroutine and in a light
    /// thread, and if it cannot be told, as in the code of a file.
    ///
    /// The oldest function on the stack decides. In such a thread it is the block itself, a chunk
    /// whose name is its directive and its place in the configuration. Reading the name takes as
    /// long as all the rest, so blocks are remembered: OpenResty's LuaJIT runs the same function
    /// for each request.
    fn in_entry_thread(&self, lua: &Lua) -> bool {
        let exists = |level: usize| lua.inspect_stack(level, |_| ()).is_some();
        // A session that is opened in a block is three or four functions away from it.
        let mut beyond = 4;
        while exists(beyond) {
            beyond *= 2;
        }
        let depth = partition_point(beyond / 2..beyond, exists);
        let is_block = depth.checked_sub(1).and_then(|oldest| lua.inspect_stack(oldest, |debug| self.holds(debug)));
        is_block.unwrap_or(false)
    }

    fn holds(&self, debug: &Debug) -> bool {
        let function = debug.function();
        let address = function.to_pointer();
        if self.known.borrow().contains_key(&address) {
            return true;
        }
        let is_block = is_block(debug);
        let mut known = self.known.borrow_mut();
        if is_block && known.len() < CAPACITY {
            known.insert(address, function);
        }
        is_block
    }
}

fn is_block(debug: &Debug) -> bool {
    let source = debug.source();
    source.what == "main" && source.source.is_some_and(|name| name.starts_with('=') && name.contains("_by_lua("))
}

/// The first number of a range for which `holds` is false, or its end, given that it holds for all
/// numbers below that one.
fn partition_point(range: Range<usize>, holds: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (range.start, range.end);
    while low < high {
        let middle = low.midpoint(high);
        if holds(middle) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_partition_point_is_the_first_that_fails() {
        for size in 0..20 {
            assert_eq!(partition_point(0..20, |number| number < size), size);
        }
    }
}
