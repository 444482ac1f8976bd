//! Functions that programs have given as options, and the slots in which they leave their results.

use std::cell::Cell;
use std::sync::Arc;

use mlua::prelude::*;

use super::bridge::bridge;
use resty_session_core::settings::Function;
use resty_session_storages::credentials::Slot;

/// The slots of a VM.
struct Slots {
    /// By function. It keeps none of the functions alive: those who use a storage keep its options.
    by_function: LuaTable,
    /// How many there have been.
    made: Cell<usize>,
}

/// A program that makes its function again for each request needs a connection for each.
const MANY: usize = 100;

/// The hint for such a program.
const HINT: &str = "so far 100 different functions have been given as credentials: each has connections of its own. \
                    Make a function once, outside of the requests";

/// A slot as Lua holds it.
pub struct SlotHandle(pub Arc<Slot>);

impl LuaUserData for SlotHandle {}

pub type SlotRef = LuaUserDataRef<SlotHandle>;

/// An option that is a function. The same function always is the same option.
pub fn option(lua: &Lua, function: &LuaFunction) -> LuaResult<Function> {
    let slots = by_function(lua)?;
    if let Some(slot) = slots.raw_get::<Option<SlotRef>>(function)? {
        return Ok(Function::new(slot.0.clone()));
    }
    let slot = Arc::new(Slot::new(bridge(lua)?.caller()));
    slots.raw_set(function, SlotHandle(slot.clone()))?;
    if let Some(slots) = lua.app_data_ref::<Slots>() {
        slots.made.set(slots.made.get() + 1);
    }
    Ok(Function::new(slot))
}

/// The function of a slot, and the slot as Lua holds it, if the function is still there.
pub fn of_slot(lua: &Lua, slot: &Arc<Slot>) -> LuaResult<Option<(LuaFunction, LuaAnyUserData)>> {
    let is_it = |handle: &LuaAnyUserData| handle.borrow::<SlotHandle>().is_ok_and(|other| Arc::ptr_eq(&other.0, slot));
    // There are few of them, and calls are rare.
    for pair in by_function(lua)?.pairs::<LuaFunction, LuaAnyUserData>() {
        let (function, handle) = pair?;
        if is_it(&handle) {
            return Ok(Some((function, handle)));
        }
    }
    Ok(None)
}

/// A hint for the program if it seems to make functions again and again.
pub fn hint(lua: &Lua) -> Option<String> {
    let slots = lua.app_data_ref::<Slots>()?;
    (slots.made.get() >= MANY).then(|| HINT.to_owned())
}

fn by_function(lua: &Lua) -> LuaResult<LuaTable> {
    if let Some(slots) = lua.app_data_ref::<Slots>() {
        return Ok(slots.by_function.clone());
    }
    let (table, weak) = (lua.create_table()?, lua.create_table()?);
    weak.raw_set("__mode", "k")?;
    table.set_metatable(Some(weak))?;
    lua.set_app_data(Slots { by_function: table.clone(), made: Cell::new(0) });
    Ok(table)
}
