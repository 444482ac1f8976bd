//! Values in option tables, and arrays of them.

use mlua::prelude::*;

/// What a table is called in errors that has other keys than positions. Its keys may be secrets, so no error shows them.
pub const NAMED_FIELDS: &str = "table with named fields";

/// Whether an option counts as absent: nil, or JSON's null (`ngx.null`).
pub fn is_absent(value: &LuaValue) -> bool {
    value.is_nil() || *value == LuaValue::NULL
}

/// A value's type as Lua calls it.
pub fn type_name(value: &LuaValue) -> &'static str {
    match value {
        LuaValue::Integer(_) => "number",
        other => other.type_name(),
    }
}

/// The elements of an array, in order. Holes, and elements that count as absent, are left out: what comes after
/// `{ "ip", nil` must not be lost. `None` if a key is not a position.
pub fn elements(table: &LuaTable) -> Option<Vec<LuaValue>> {
    let mut elements = Vec::with_capacity(table.raw_len());
    for pair in table.pairs::<LuaValue, LuaValue>() {
        let (key, value) = pair.ok()?;
        let position = match key {
            LuaValue::Integer(number) => number as f64,
            LuaValue::Number(number) => number,
            _ => return None,
        };
        if position < 1.0 || position.fract() != 0.0 {
            return None;
        }
        if !is_absent(&value) {
            elements.push((position, value));
        }
    }
    elements.sort_by(|(position, _), (other, _)| position.total_cmp(other));
    Some(elements.into_iter().map(|(_, value)| value).collect())
}
