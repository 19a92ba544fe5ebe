//! `docs/drift.md`.

use std::fmt::Write as _;

use codeloc_core::resources::Kind;
use codeloc_core::resources::drift::{Found, Repair};

use super::{GENERATED, assert_fresh, code, header, row};

const PAGE: &str = "docs/drift.md";

const HEAD: &str = "\
# Drift

Every sweep (`reconcile.resync_seconds`) compares what is live with what the configs and the settings want, field by field. What
differs is in `codeloc status` by kind, name and field, with both values. In the mode `enforce` it is repaired at once, with
one call for each resource where AWS has one; in `detect` it is only told. A resource that is missing is told without a field, and
made anew.

Values are compared in one form: lists that AWS keeps in no order are sorted, policies are compared as documents, and what AWS fills in
where nothing was set is the same as nothing.

";

const TAIL: &str = "
## Task definitions

A definition never changes. Whoever changes what runs registers another one and lets the service run it: the status names the fields that
differ, and the service's `task_definition`. The service goes back to the definition that is wanted, which is registered again only where
it was deregistered. Old tasks serve until new ones answer, as in every rollout.

## What AWS cannot change

A role keeps its path; a Cloud Map service keeps its routing policy and its health check. Such a field is told, the location is
`OutOfSync`, and nothing is deleted for it: what serves goes on. The table says what somebody can do.

## What is not watched

- Tags of others, on any resource: they are left alone. Tags of a scalable target: it is ours by its service's name.
- The desired count of a service that scales: it belongs to Application Auto Scaling.
- What codeloc never sets and what changes nothing of what runs: encryption keys, lifecycle policies, descriptions, alarms of a policy, load
  balancers that somebody adds to a service.
- A service of which the wanted revision failed stays as it is but for its tags, until the spec or the commit changes, or for a few minutes
  where it failed of something that passes.
- Definitions that nothing runs: only the one that is wanted is compared.
";

fn page() -> String {
    let mut page = format!("{GENERATED}{HEAD}");
    page.push_str("## What is watched\n");
    for kind in Kind::ALL {
        write!(page, "\n### {}\n\n", title(kind)).unwrap();
        page.push_str(&header(["Field", "What is compared", "Repaired by", "Found"]));
        for tracked in kind.tracked_fields() {
            let repair = match tracked.repair {
                Repair::By(call) => code(call).replace(", ", "`, `"),
                Repair::ReportOnly(what_helps) => format!("only told; {what_helps}"),
            };
            let found = match tracked.found {
                Found::NextSweep => "in the next sweep",
                Found::InTurns => "when its turn comes: [limits on calls](operations.md#limits-on-calls)",
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
fn the_page_of_drift_is_fresh() {
    assert_fresh(PAGE, &page());
}
