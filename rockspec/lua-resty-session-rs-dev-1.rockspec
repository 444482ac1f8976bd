rockspec_format = "3.0"
package = "lua-resty-session-rs"
version = "dev-1"
source = {
  -- `luarocks make` builds the directory that it is called in.
  url = "file://.",
}
description = {
  summary = "A native, Lua-compatible session library for OpenResty and nginx + Lua",
  detailed = [[
    `require "resty.session"` with the API, the cookies and the stored records of lua-resty-session, written in Rust.
    Building needs make and Rust's cargo. Running needs nothing besides OpenResty, or nginx with its Lua module.
  ]],
  license = "BSD-2-Clause",
  labels = { "openresty", "nginx", "session" },
}
dependencies = {
  "lua >= 5.1, < 5.2",
}
build = {
  type = "make",
  build_target = "build",
  install_target = "install",
  install_variables = {
    LUA_LIB_DIR = "$(LUADIR)",
    LUA_CLIB_DIR = "$(LIBDIR)",
  },
}
