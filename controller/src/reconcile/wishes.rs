//! What the last config of each name says of the time after its removal: once it is gone it cannot be asked any more.

use std::collections::HashMap;
use std::sync::Mutex;

use codeloc_core::lock::lock;
use codeloc_core::planner::Hold;
use codeloc_crds::Mode;

use crate::config_source::Snapshot;

#[derive(Debug, Default)]
pub(super) struct Wishes {
    last: Mutex<HashMap<String, Wish>>,
}

#[derive(Clone, Copy, Debug)]
struct Wish {
    mode: Mode,
    protect: bool,
}

impl Wishes {
    /// A config that does not pass says nothing: what it said before is still its wish.
    pub fn learn(&self, snapshot: &Snapshot) {
        let mut last = lock(&self.last);
        for repository in snapshot.in_force() {
            let wish = Wish { mode: repository.mode, protect: repository.protect };
            last.insert(repository.name.to_string(), wish);
        }
    }

    /// Why nothing of a location whose config is gone may be deleted, if its config let nothing be changed.
    pub fn hold(&self, name: &str) -> Option<Hold> {
        match *lock(&self.last).get(name)? {
            Wish { protect: true, .. } => Some(Hold::Protected),
            Wish { mode: Mode::Enforce, .. } => None,
            Wish { mode, .. } => Some(Hold::Left(mode)),
        }
    }
}
