//! Lua values as options' values.

use mlua::prelude::*;

use super::functions;
use resty_session_core::secret::Secret;
use resty_session_core::settings::{Table, Value};
use resty_session_storages::options::FUNCTIONS;

/// How deep tables may lie in a storage's options: in an array, servers' tables.
const SECTION: usize = 3;

/// Whether an option counts as absent: nil, or JSON's null (`ngx.null`).
pub fn is_absent(value: &LuaValue) -> bool {
    value.is_nil() || *value == LuaValue::NULL
}

/// An option's value; `None` if it counts as absent. Tables are looked into as deep as `depth`
/// says; of deeper ones, which no option has, only the type counts. Of functions too, only the type
/// counts.
pub fn value(value: &LuaValue, depth: usize) -> Option<Value> {
    read(None, value, depth)
}

/// The value that holds a storage's options, whose [`FUNCTIONS`] can be called.
pub fn section(lua: &Lua, value: &LuaValue) -> Option<Value> {
    read(Some(lua), value, SECTION)
}

/// With a VM, those functions can be called in it that are options which take functions.
fn read(vm: Option<&Lua>, value: &LuaValue, depth: usize) -> Option<Value> {
    Some(match value {
        value if is_absent(value) => return None,
        LuaValue::Boolean(boolean) => Value::Boolean(*boolean),
        LuaValue::Integer(number) => Value::Number(*number as f64),
        LuaValue::Number(number) => Value::Number(*number),
        LuaValue::String(text) => Value::Text((&*text.as_bytes()).into()),
        LuaValue::Table(table) if depth > 0 => list_or_table(fields(vm, table, depth)),
        other => Value::Other(other.type_name()),
    })
}

/// The fields of a table that hold options of a session.
pub fn named(table: &LuaTable, names: &[&str]) -> Table {
    let field = |name: &&str| {
        // A configuration is a plain table. If reading it raises nevertheless, no option has that
        // type.
        let value = table.get(*name).map_or(Some(Value::Other("error")), |field| value(&field, 1));
        Some(((*name).into(), value?))
    };
    names.iter().filter_map(field).collect()
}

/// All fields of a table by their names, a position's name being its number.
pub fn table(table: &LuaTable, depth: usize) -> Table {
    with_names(fields(None, table, depth))
}

fn fields(vm: Option<&Lua>, table: &LuaTable, depth: usize) -> Vec<(LuaValue, Value)> {
    let field = |(key, field): (LuaValue, LuaValue)| {
        let value = match (vm, &field) {
            (Some(lua), LuaValue::Function(function)) if takes_function(&key) => {
                functions::option(lua, function).map_or(Value::Other("function"), Value::Function)
            }
            _ => read(vm, &field, depth - 1)?,
        };
        Some((key, value))
    };
    table.pairs::<LuaValue, LuaValue>().flatten().filter_map(field).collect()
}

fn takes_function(key: &LuaValue) -> bool {
    matches!(key, LuaValue::String(name) if FUNCTIONS.iter().any(|option| *name == **option))
}

/// A table whose keys all are positions is an array. Holes are left out, since what comes after `{
/// "ip", nil` must not be lost.
fn list_or_table(fields: Vec<(LuaValue, Value)>) -> Value {
    if fields.iter().any(|(key, _)| position(key).is_none()) {
        return Value::Table(with_names(fields));
    }
    let mut fields: Vec<_> =
        fields.into_iter().map(|(key, value)| (position(&key).unwrap_or_default(), value)).collect();
    fields.sort_by(|(position, _), (other, _)| position.total_cmp(other));
    Value::List(fields.into_iter().map(|(_, value)| value).collect())
}

fn position(key: &LuaValue) -> Option<f64> {
    let position = match key {
        LuaValue::Integer(number) => *number as f64,
        LuaValue::Number(number) => *number,
        _ => return None,
    };
    (position >= 1.0 && position.fract() == 0.0).then_some(position)
}

fn with_names(fields: Vec<(LuaValue, Value)>) -> Table {
    fields.into_iter().map(|(key, value)| (name(&key), value)).collect()
}

fn name(key: &LuaValue) -> Secret {
    match key {
        LuaValue::String(text) => (&*text.as_bytes()).into(),
        other => other.to_string().unwrap_or_default().into(),
    }
}
