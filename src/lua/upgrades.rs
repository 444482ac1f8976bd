//! Notices that the module's file was replaced while nginx ran. The system's loader knows a module
//! by its path: a reload of nginx, which starts a new Lua VM, finds new Lua files, and gets the
//! module that is in memory.

use std::fs;
use std::hash::Hasher;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use mlua::prelude::*;
use rustc_hash::FxHasher;

/// The file that this module was loaded from, as it was when that was last looked at.
static LOADED: Mutex<Option<File>> = Mutex::new(None);

#[derive(Clone, Copy)]
struct File {
    /// Inode, size, and time of the last change, be it of the content or of the inode.
    place: (u64, u64, i64, i64),
    content: u64,
}

fn place(path: &Path) -> Option<(u64, u64, i64, i64)> {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.ino(), metadata.size(), metadata.ctime(), metadata.ctime_nsec()))
}

fn content(path: &Path) -> Option<u64> {
    let mut hasher = FxHasher::default();
    hasher.write(&fs::read(path).ok()?);
    Some(hasher.finish())
}

/// Whether the file has another content than the one that this module was loaded from. A file that
/// cannot be read counts as the same.
fn is_replaced(path: &Path) -> bool {
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(place) = place(path) else { return false };
    if loaded.is_some_and(|known| known.place == place) {
        return false;
    }
    let Some(content) = content(path) else { return false };
    let same = loaded.is_none_or(|known| known.content == content);
    if same {
        *loaded = Some(File { place, content });
    }
    !same
}

/// If the module's file was replaced since it was loaded, returns a table to be the module instead,
/// of which every use raises an error that says so: Lua files of one version must not use the
/// native module of another.
pub fn refuse(lua: &Lua) -> LuaResult<Option<LuaTable>> {
    // A module that a program preloads is not that of the path.
    let find = "return not package.preload['resty.session.native']
                       and package.searchpath('resty.session.native', package.cpath) or nil";
    let Some(path) = lua.load(find).eval::<Option<String>>()? else { return Ok(None) };
    if !is_replaced(Path::new(&path)) {
        return Ok(None);
    }
    let text = format!("{path} was replaced while nginx ran, which still has the former module: restart nginx");
    // An error that is raised from here would be a userdata, whose text nginx's log does not show.
    let raise = "local text = ... return setmetatable({}, { __index = function() error(text, 0) end })";
    lua.load(raise).call(text).map(Some)
}
