//! What the last config of each name says of the time after its removal: once it is gone it cannot be asked any more.

use std::collections::HashMap;
use std::sync::Mutex;

use codeloc_core::lock::lock;
use codeloc_core::planner::Hold;
use codeloc_crds::Mode;

use crate::config_source::Snapshot;

#[derive(Debug, Default)]
pub(super) struct LastConfigs {
    last: Mutex<HashMap<String, LastConfig>>,
}

#[derive(Clone, Copy, Debug)]
struct LastConfig {
    mode: Mode,
    protect: bool,
}

impl LastConfigs {
    /// A config that does not pass says nothing: what it said before is still its wish.
    pub fn learn(&self, snapshot: &Snapshot) {
        let mut last = lock(&self.last);
        for location in snapshot.in_force() {
            let config = LastConfig { mode: location.mode, protect: location.protect };
            last.insert(location.name.to_string(), config);
        }
    }

    /// Why nothing of a location whose config is gone may be deleted, if its config let nothing be changed.
    pub fn hold(&self, name: &str) -> Option<Hold> {
        match *lock(&self.last).get(name)? {
            LastConfig { protect: true, .. } => Some(Hold::Protected),
            LastConfig { mode: Mode::Enforce, .. } => None,
            LastConfig { mode, .. } => Some(Hold::Left(mode)),
        }
    }
}
