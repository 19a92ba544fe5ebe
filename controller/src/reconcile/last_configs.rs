//! The mode and protection in the last valid config of each location. They still count after the config is removed.

use std::collections::HashMap;
use std::sync::Mutex;

use codeloc_core::lock::lock;
use codeloc_core::planner::Hold;
use codeloc_crds::{LocationName, Mode};

use crate::config_source::Snapshot;

#[derive(Debug, Default)]
pub(super) struct LastConfigs {
    last: Mutex<HashMap<LocationName, LastConfig>>,
}

#[derive(Clone, Copy, Debug)]
struct LastConfig {
    mode: Mode,
    protect: bool,
}

impl LastConfigs {
    /// An invalid config changes nothing: the last valid one counts.
    pub fn learn(&self, snapshot: &Snapshot) {
        let mut last = lock(&self.last);
        for location in snapshot.in_force() {
            let config = LastConfig { mode: location.mode, protect: location.protect };
            last.insert(location.name.clone(), config);
        }
    }

    /// Why a location without a config must not be deleted: its last config was protected or did not enforce.
    pub fn hold(&self, name: &LocationName) -> Option<Hold> {
        match *lock(&self.last).get(name)? {
            LastConfig { protect: true, .. } => Some(Hold::Protected),
            LastConfig { mode: Mode::Enforce, .. } => None,
            LastConfig { mode, .. } => Some(Hold::Left(mode)),
        }
    }
}
