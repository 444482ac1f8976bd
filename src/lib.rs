//! A native, Lua-compatible session library for OpenResty and nginx + Lua.
//!
//! This crate is the native module: [`lua`] is the border to Lua, [`bridge`] lets the storages' drivers work while an nginx
//! worker goes on. What is decided is decided in `resty-session-core`; the drivers are `resty-session-storages`. The shim
//! `lua/resty/session.lua` on the border's other side reads the request, waits for storages, and sets headers.
#![forbid(unsafe_code)]

pub mod bridge;
pub mod lua;

/// An operation of a storage is a dozen small pieces of memory, some of which one thread takes and the other gives back: this
/// allocator takes a twentieth off a worker's time for a session from Redis.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `require "resty.session.native"`.
#[mlua::lua_module(name = "resty_session_native", skip_memory_check)]
fn native(lua: &mlua::Lua) -> mlua::Result<mlua::Table> {
    lua::module(lua)
}
