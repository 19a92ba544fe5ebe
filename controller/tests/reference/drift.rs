//! `docs/drift.md`.

use std::fmt::Write as _;

use codeloc_core::resources::Kind;
use codeloc_core::resources::tracked_fields::{Found, Repair};

use super::{GENERATED, assert_fresh, code, header, row};

const PAGE: &str = "docs/drift.md";

const HEAD: &str = "\
# Drift

Every [sweep](architecture.md#terms) (`reconcile.resync_seconds`) compares the observed state with the desired state,
field by field. `codeloc status` shows each difference by kind, name and field, with both values.

| Mode | What codeloc does |
| --- | --- |
| `enforce` | It repairs differences immediately, with one call per resource if AWS has such a call. |
| `detect` | It only reports differences. |
| `suspended` | It reports no differences and repairs none. |

If a whole resource is missing, the difference has no field. In `enforce`, codeloc creates the resource again.

The column *Found* says when codeloc notices a change by hand: at the next sweep, or
[in turns](operations.md#reads-in-turns) if AWS returns the value only for single resources.

codeloc compares values in a normal form: it sorts lists whose order AWS does not keep, compares policies as documents,
and treats a value that AWS fills in like a value that is not set.

";

const TAIL: &str = "
## Changed task definitions

A task definition never changes. To change what runs, another AWS user must register another task definition and update
the service. The status then shows the fields that differ and the service's `task_definition`. codeloc returns the
service to the desired task definition, and registers it again only if it was deregistered. The old tasks serve until the
new ones answer, as in every rollout.

## Fields that AWS cannot change

AWS cannot change the path of a role, or the routing policy and the health check of a Cloud Map service. codeloc reports
such a field, the location becomes `OutOfSync`, and codeloc deletes nothing, so the location continues to serve. The
column *Repaired by* says what you can do.

## What codeloc does not compare

- Tags that codeloc did not set. codeloc does not change them.
- Tags of a scalable target. codeloc recognises its scalable targets by the name of the service.
- The desired count of a service with scaling, which Application Auto Scaling owns.
- Settings that codeloc never sets and that do not change what runs: encryption keys, lifecycle policies, descriptions,
  alarms of a policy, and load balancers that were added to a service.
- A service whose desired revision failed to roll out, except for its tags. codeloc compares it again after the config
  or the commit changes, and after a transient failure a few minutes later.
- Task definitions that no service runs, except for the desired one.
";

fn page() -> String {
    let mut page = format!("{GENERATED}{HEAD}");
    page.push_str("## Compared fields\n");
    for kind in Kind::ALL {
        write!(page, "\n### {}\n\n", title(kind)).unwrap();
        page.push_str(&header(["Field", "Compared value", "Repaired by", "Found"]));
        for tracked in kind.tracked_fields() {
            let repair = match tracked.repair {
                Repair::By(call) => code(call).replace(", ", "`, `"),
                Repair::ReportOnly(what_helps) => format!("report only; {what_helps}"),
            };
            let found = match tracked.found {
                Found::NextSweep => "next sweep",
                Found::InTurns => "[in turns](operations.md#reads-in-turns)",
            };
            page.push_str(&row([&code(tracked.field), tracked.compared, &repair, found]));
        }
    }
    page + TAIL
}

fn title(kind: Kind) -> String {
    let (first, rest) = kind.title().split_at(1);
    first.to_uppercase() + rest
}

#[test]
fn the_drift_page_is_fresh() {
    assert_fresh(PAGE, &page());
}
