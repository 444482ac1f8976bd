//! How the servers of this process are doing.

use mlua::prelude::*;

use crate::bridge::runtime;
use resty_session_storages::connections::EndpointStatus;

/// `endpoints()`: an array of tables, one for each server.
pub fn endpoints(lua: &Lua, (): ()) -> LuaResult<LuaTable> {
    // Whoever only looks starts no runtime.
    let mut endpoints = runtime::started().map_or_else(Vec::new, |runtime| runtime.registry.servers().endpoints());
    endpoints.sort_by(|one, other| (one.storage, &one.server).cmp(&(other.storage, &other.server)));
    let tables = endpoints.into_iter().map(|endpoint| table(lua, endpoint)).collect::<LuaResult<Vec<_>>>()?;
    lua.create_sequence_from(tables)
}

fn table(lua: &Lua, endpoint: EndpointStatus) -> LuaResult<LuaTable> {
    let table = lua.create_table()?;
    table.raw_set("storage", endpoint.storage)?;
    table.raw_set("server", endpoint.server)?;
    table.raw_set("state", endpoint.state)?;
    table.raw_set("failing_for", endpoint.failing_for.map(|time| time.as_secs_f64()))?;
    table.raw_set("error", endpoint.error)?;
    table.raw_set("in_flight", endpoint.in_flight)?;
    table.raw_set("connections", endpoint.connections)?;
    table.raw_set("connects", endpoint.connects)?;
    table.raw_set("reconnects", endpoint.reconnects)?;
    table.raw_set("failures", endpoint.failures)?;
    table.raw_set("failed_fast", endpoint.failed_fast)?;
    Ok(table)
}
