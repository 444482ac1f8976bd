//! A native, Lua-compatible session library for OpenResty and nginx + Lua.
//!
//! The core decides and knows no Lua: [`cookie`] holds the formats, [`session`] the rules. [`lua`] is the border
//! to Lua; the shim `lua/resty/session.lua` on its other side reads the request, waits for storages, and sets
//! headers.
#![forbid(unsafe_code)]

pub mod bridge;
pub mod cookie;
pub mod lua;
pub mod secret;
pub mod session;
pub mod storage;

/// An operation of a storage is a dozen small pieces of memory, some of which one thread takes and the other gives back: this
/// allocator takes a twentieth off a worker's time for a session from Redis.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `require "resty.session.native"`.
#[mlua::lua_module(name = "resty_session_native", skip_memory_check)]
fn native(lua: &mlua::Lua) -> mlua::Result<mlua::Table> {
    lua::module(lua)
}
