//! A native, Lua-compatible session library for OpenResty and nginx + Lua.
//!
//! This crate is the native module: [`lua`] is the border to Lua, and [`bridge`] runs the storages'
//! drivers while the nginx worker serves other requests. `resty-session-core` makes all decisions,
//! and `resty-session-storages` has the drivers. The shim `lua/resty/session.lua`, on the other
//! side of the border, reads the request, waits for storages, and sets headers.
#![forbid(unsafe_code)]

pub mod bridge;
pub mod lua;

/// An operation of a storage is a dozen small pieces of memory, some of which one thread takes and
/// the other gives back: this allocator takes a twentieth off a worker's time for a session from
/// Redis.
#[cfg(not(feature = "system_allocator"))]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `require "resty.session.native"`.
#[mlua::lua_module(name = "resty_session_native", skip_memory_check)]
fn native(lua: &mlua::Lua) -> mlua::Result<mlua::Table> {
    lua::module(lua)
}
