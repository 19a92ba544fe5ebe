//! What every sweep compares, kind by kind: the page `docs/drift.md` is written from this, and a test changes each of these
//! fields by hand.

/// One field of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrackedField {
    /// As a change's description and the status name it.
    pub field: &'static str,
    /// What is compared, and what counts as equal.
    pub compared: &'static str,
    pub repair: Repair,
    pub found: Found,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repair {
    /// By this call, or these.
    By(&'static str),
    /// Not at all: AWS has no call that changes it, and nothing that serves is deleted for it. What somebody can do.
    ReportOnly(&'static str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    NextSweep,
    /// It has no bulk call: each sweep reads a part of all.
    InTurns,
}

impl TrackedField {
    pub(super) const fn new(field: &'static str, compared: &'static str, by: &'static str) -> Self {
        Self { field, compared, repair: Repair::By(by), found: Found::NextSweep }
    }

    pub(super) const fn report_only(field: &'static str, compared: &'static str, what_helps: &'static str) -> Self {
        Self { field, compared, repair: Repair::ReportOnly(what_helps), found: Found::NextSweep }
    }

    pub(super) const fn tags(by: &'static str, found: Found) -> Self {
        let compared = "codeloc's own tags and those of the config; tags of others stay";
        Self { field: "tags", compared, repair: Repair::By(by), found }
    }
}

/// Fields of a change that say what codeloc does, not what somebody changed.
pub const NOTES: [&str; 3] = ["attempt", "failed_revision", "revision"];
