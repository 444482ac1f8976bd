//! The storages with drivers of their own. Empty as yet; a storage that a program brings, and `shm`, are Lua and
//! need nothing here.
