//! When codeloc asks the webserver again to load a location that it could not load. Each pause is twice as long as the one before, because
//! the webserver loads locations one after another.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use codeloc_core::ids::Revision;
use codeloc_core::lock::lock;
use codeloc_crds::LocationName;
use tokio::time::Instant;

/// The address of a new task may resolve some seconds later in the webserver than in AWS.
const FIRST: Duration = Duration::from_secs(15);
const LAST: Duration = Duration::from_secs(300);

#[derive(Debug, Default)]
pub struct ReloadPauses {
    failed: Mutex<HashMap<LocationName, Failed>>,
}

/// Reloads in a row after which the webserver showed an error.
#[derive(Clone, Debug)]
struct Failed {
    revision: Revision,
    pause: Duration,
    at: Instant,
}

impl ReloadPauses {
    /// The webserver could not load this revision.
    pub fn failed(&self, name: &LocationName, revision: &Revision) {
        let mut failed = lock(&self.failed);
        let before = failed.get(name).filter(|before| before.revision == *revision);
        let pause = before.map_or(FIRST, |before| (before.pause * 2).min(LAST));
        failed.insert(name.clone(), Failed { revision: revision.clone(), pause, at: Instant::now() });
    }

    /// The webserver loaded the location, or it is about to read another address of it.
    pub fn forget(&self, name: &LocationName) {
        lock(&self.failed).remove(name);
    }

    /// The rest of the pause before the next reload of this revision. Another revision is loaded at once.
    pub fn remaining(&self, name: &LocationName, revision: &Revision) -> Option<Duration> {
        let failed = lock(&self.failed);
        let failed = failed.get(name).filter(|failed| failed.revision == *revision)?;
        failed.pause.checked_sub(failed.at.elapsed()).filter(|rest| !rest.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::location_name;

    #[tokio::test(start_paused = true)]
    async fn each_failed_reload_doubles_the_pause() {
        let (pauses, orders) = (ReloadPauses::default(), location_name("orders"));
        let mut waits = vec![];
        for _ in 0..7 {
            pauses.failed(&orders, &"r1".into());
            let rest = pauses.remaining(&orders, &"r1".into()).expect("a pause");
            waits.push(rest.as_secs());
            tokio::time::advance(rest).await;
            assert_eq!(pauses.remaining(&orders, &"r1".into()), None);
        }
        assert_eq!(waits, [15, 30, 60, 120, 240, 300, 300]);
    }

    #[tokio::test(start_paused = true)]
    async fn another_revision_is_loaded_at_once() {
        let (pauses, orders) = (ReloadPauses::default(), location_name("orders"));
        pauses.failed(&orders, &"r1".into());
        pauses.failed(&orders, &"r1".into());
        assert_eq!(pauses.remaining(&orders, &"r2".into()), None);
        assert_eq!(pauses.remaining(&location_name("billing"), &"r1".into()), None);
        pauses.failed(&orders, &"r2".into());
        assert_eq!(pauses.remaining(&orders, &"r2".into()), Some(FIRST));
    }

    #[tokio::test(start_paused = true)]
    async fn a_loaded_location_starts_the_pauses_again() {
        let (pauses, orders) = (ReloadPauses::default(), location_name("orders"));
        pauses.failed(&orders, &"r1".into());
        pauses.forget(&orders);
        assert_eq!(pauses.remaining(&orders, &"r1".into()), None);
        pauses.failed(&orders, &"r1".into());
        assert_eq!(pauses.remaining(&orders, &"r1".into()), Some(FIRST));
    }
}
