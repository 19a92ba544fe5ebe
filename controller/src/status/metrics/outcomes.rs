//! Values of metric labels that belong to the metrics alone.

use crate::status::Label;

macro_rules! labels {
    ($(#[$attribute:meta])* $name:ident { $($variant:ident = $label:literal),+ $(,)? }) => {
        $(#[$attribute])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $($variant),+
        }

        impl $name {
            pub const LABELS: &'static [&'static str] = &[$($label),+];
        }

        impl Label for $name {
            fn label(&self) -> &'static str {
                match self {
                    $(Self::$variant => $label),+
                }
            }
        }
    };
}

labels! {
    /// How a reconcile of one location ended.
    ReconcileOutcome {
        Converged = "converged",
        Waiting = "waiting",
        Held = "held",
        AwaitingSweep = "awaiting_sweep",
        Failed = "failed",
        Gone = "gone",
    }
}

labels! {
    SweepOutcome { Done = "done", Failed = "failed" }
}

labels! {
    BuildOutcome { Built = "built", Failed = "failed" }
}

labels! {
    /// Whether the registry has an image.
    ImageLookup { Found = "found", Missing = "missing", Failed = "failed" }
}

labels! {
    RolloutOutcome { Started = "started", Failed = "failed" }
}

labels! {
    ReloadOutcome { Done = "done", Failed = "failed" }
}

labels! {
    /// What became of an event that is sent to a webhook.
    DeliveryOutcome { Delivered = "delivered", Failed = "failed", Dropped = "dropped" }
}

labels! {
    /// The git host that a webhook comes from.
    HookSender { GitHub = "github", GitLab = "gitlab", Bitbucket = "bitbucket", Generic = "generic" }
}

labels! {
    HookOutcome { Accepted = "accepted", Refused = "refused", Ignored = "ignored" }
}

labels! {
    /// What became of a change of a config.
    WriteOutcome { Written = "written", Unchanged = "unchanged", Refused = "refused", Failed = "failed" }
}

labels! {
    /// How an attempt of an AWS call ended.
    CallOutcome { Passed = "passed", Failed = "failed", Throttled = "throttled" }
}
