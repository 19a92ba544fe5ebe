//! Who held the lease when, read from the calls that localcloud recorded.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use localcloud::calls::Call;

/// The rounding error of call times, which are floating point seconds.
const ROUNDING: f64 = 0.001;

/// The lease writes that S3 applied.
pub fn lease_writes(calls: &[Call]) -> Vec<&Call> {
    let of_lease = |call: &&Call| call.resource.as_deref() == Some("platform/codeloc/codeloc/lease.json");
    calls.iter().filter(of_lease).filter(|call| call.operation == "PutObject" && call.applied).collect()
}

/// A summary of the lease in a record of calls.
#[derive(Debug, Default)]
pub struct Facts {
    /// The number of times the lease changed its holder.
    pub handed_over: usize,
    /// Processes that made changes.
    pub changed: BTreeSet<String>,
    pub changes: usize,
}

/// Checks that each mutating call started in the first half of its process's lease, so that its timeout ends before the lease
/// does, and that no two processes held the lease at the same time.
pub fn facts(calls: &[Call], lease_seconds: u64) -> Result<Facts, String> {
    let lease = Duration::from_secs(lease_seconds).as_secs_f64();
    // The controller's `margin` and `call_timeout`: one half and two fifths of a lease.
    let (margin, call_timeout) = (lease / 2.0, lease * 2.0 / 5.0);
    assert!(call_timeout < margin);
    let mut facts = Facts::default();
    let writes = lease_writes(calls);
    // The last write that renewed or took the lease.
    let mut last: Option<&Call> = None;
    for write in &writes {
        if let Some(before) = last.filter(|before| before.caller != write.caller) {
            facts.handed_over += 1;
            if write.time < before.sent_at + lease - ROUNDING {
                return Err(format!(
                    "{} took the lease while {} had it: {write:?} after {before:?}",
                    write.caller, before.caller
                ));
            }
        }
        last = Some(write);
    }
    let mut starts: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for write in &writes {
        starts.entry(&write.caller).or_default().push(write.sent_at);
    }
    for call in calls.iter().filter(|call| call.mutating && call.service != "s3" && call.caller != "by-hand") {
        let writes = starts.get(call.caller.as_str()).map_or(&[][..], Vec::as_slice);
        let Some(write) = writes.iter().copied().filter(|write| *write <= call.sent_at).reduce(f64::max) else {
            return Err(format!("{} never had the lease: {call:?}", call.caller));
        };
        let end = write + lease;
        if call.sent_at > end - margin + ROUNDING {
            return Err(format!("started {:.3} s before the end of its lease: {call:?}", end - call.sent_at));
        }
        if call.applied && call.time > end {
            return Err(format!("applied {:.3} s after the end of its lease: {call:?}", call.time - end));
        }
        facts.changes += 1;
        facts.changed.insert(call.caller.clone());
    }
    Ok(facts)
}
