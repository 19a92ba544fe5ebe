//! The fields of each kind that a sweep compares. `docs/drift.md` is generated from them, and a test changes each of them by hand.

/// One field of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrackedField {
    /// The name in plans and in the status.
    pub field: &'static str,
    /// The compared value, and which values count as equal.
    pub compared: &'static str,
    pub repair: Repair,
    pub found: Found,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repair {
    /// codeloc repairs it with this call, or with these calls.
    By(&'static str),
    /// AWS has no call that changes it, and codeloc does not delete a resource that serves. The text says what you can do.
    ReportOnly(&'static str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    NextSweep,
    /// AWS has no bulk call: each sweep reads some of the resources.
    InTurns,
}

impl TrackedField {
    pub(super) const fn new(field: &'static str, compared: &'static str, by: &'static str) -> Self {
        Self { field, compared, repair: Repair::By(by), found: Found::NextSweep }
    }

    pub(super) const fn in_turns(self) -> Self {
        Self { found: Found::InTurns, ..self }
    }

    pub(super) const fn report_only(field: &'static str, compared: &'static str, what_helps: &'static str) -> Self {
        Self { field, compared, repair: Repair::ReportOnly(what_helps), found: Found::NextSweep }
    }

    pub(super) const fn tags(by: &'static str, found: Found) -> Self {
        let compared = "the tags of codeloc and of the config, and no tag of an earlier config; other tags stay";
        Self { field: "tags", compared, repair: Repair::By(by), found }
    }
}

/// Fields of a change that describe the change itself, not drift.
pub const NOTES: [&str; 3] = ["attempt", "failed_revision", "revision"];
