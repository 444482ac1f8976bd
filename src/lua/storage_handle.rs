//! A storage on the bridge, as Lua holds it.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use mlua::prelude::*;

use crate::bridge::registry::Registry;
use crate::bridge::runtime;
use resty_session_storages::{Options, Storage};

/// A storage by its options. It can be made before a fork: the process that uses it looks it up in
/// its own registry.
#[derive(Clone)]
pub struct StorageHandle(pub(super) Rc<RefCell<Source>>);

/// Where a handle's storage comes from.
pub struct Source {
    /// How long an operation may take.
    pub limit: Duration,
    look_up: Box<LookUp>,
    found: Option<Arc<dyn Storage>>,
}

type LookUp = dyn Fn(&Registry) -> Arc<dyn Storage>;

impl LuaUserData for StorageHandle {}

pub type StorageRef = LuaUserDataRef<StorageHandle>;

impl Source {
    pub fn new<O: Options>(options: O) -> Self {
        Self { limit: options.limit(), look_up: Box::new(move |registry| registry.get(&options)), found: None }
    }

    /// Returns this process' storage. It is looked up once, because only processes that do not fork
    /// any more, nginx' workers, use one.
    ///
    /// # Errors
    ///
    /// The system refuses what the runtime needs.
    pub fn storage(&mut self) -> std::io::Result<Arc<dyn Storage>> {
        if let Some(storage) = &self.found {
            return Ok(storage.clone());
        }
        let storage = (self.look_up)(&runtime::current()?.registry);
        self.found = Some(storage.clone());
        Ok(storage)
    }
}
