//! The events of one run, drawn from a seed. They are data, so that a run can be printed, replayed and shortened.

use std::time::Duration;

use fastrand::Rng;
use localcloud::Rules;
use localcloud::Throttling;
use localcloud::fault_injection::Chances;

use crate::runs::NewRun;

/// The secrets of the configs, with values in every wide history.
pub const SECRETS: [&str; 2] = [
    "arn:aws:ssm:eu-central-1:123456789012:parameter/first",
    "arn:aws:secretsmanager:eu-central-1:123456789012:secret:second-a1b2c3",
];

/// The numbers of the configs that only a wide history draws.
const WIDE_VARIANTS: std::ops::Range<u8> = 6..14;

/// The names of locations. One is a prefix of another.
pub const NAMES: [&str; 6] = ["orders", "orders-eu", "billing", "stock", "crm", "sales"];

/// The input of one run.
#[derive(Clone, Debug)]
pub struct History {
    pub seed: u64,
    pub rules: Rules,
    pub chances: Chances,
    /// Each event with the time to wait before it.
    pub events: Vec<(Duration, Event)>,
    /// Whether it has runs, tasks with a log, and the events of [`Event::draw_wide`]. The run then checks more invariants.
    pub wide: bool,
}

/// How the code of a commit fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// The container exits immediately.
    Exits,
    /// The container runs, and its health check never passes.
    NeverHealthy,
    /// The code server answers with an error.
    DoesNotLoad,
    /// codeloc cannot build the image.
    DoesNotBuild,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Adds or changes a config; each number is a different config.
    Commit {
        name: &'static str,
        variant: u8,
    },
    /// A commit to the branch of the location.
    Push {
        name: &'static str,
        flaw: Option<Flaw>,
    },
    Remove {
        name: &'static str,
    },
    Rename {
        name: &'static str,
        to: &'static str,
    },
    Invalid {
        name: &'static str,
    },
    /// All configs disappear for a while.
    Vanish {
        seconds: u64,
    },
    /// The config source cannot be read for a while.
    Unreadable {
        seconds: u64,
    },
    ManualChange {
        name: &'static str,
        change: ManualChange,
    },
    /// The daemon is killed and starts again after a while.
    Crash {
        seconds: u64,
    },
    /// The daemon is killed at its mutating call with this number, before or after AWS applied it.
    CrashAtCall {
        number: u64,
        applied: bool,
    },
    /// A second daemon of the same deployment runs for a while.
    Second {
        seconds: u64,
    },
    /// A config is removed, and added again.
    Readd {
        name: &'static str,
        millis: u64,
    },
    /// Folder and name change, and change back.
    RenameAndBack {
        name: &'static str,
        to: &'static str,
        seconds: u64,
    },
    /// Only the folder changes, and changes back.
    RenameFolder {
        name: &'static str,
        to: &'static str,
        seconds: u64,
    },
    /// Only `name` changes, and changes back.
    Misname {
        name: &'static str,
        to: &'static str,
        seconds: u64,
    },
    /// Sets `mode` and `deletion.protect` in a config.
    Mode {
        name: &'static str,
        mode: &'static str,
        protect: bool,
    },
    /// A run of a healthy location.
    Run {
        name: &'static str,
        new: NewRun,
    },
}

/// Changes that a person makes in AWS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ManualChange {
    ForgetRetention,
    DeleteLogGroup,
    UntagLogGroup,
    DeleteRolePolicy,
    WidenRole,
    OpenTrust,
    DeleteRole,
    DeregisterTaskDefinition,
    OtherSubnets,
    NoCircuitBreaker,
    DeleteService,
    DeleteScaling,
    OtherCapacity,
    DeletePolicy,
    OtherThreshold,
    DeleteRegistry,
    DeleteImages,
    EmptyWorkspace,
    SetCountToZero,
    RollBack,
    OtherCapacityProvider,
}

/// The changes that only a wide history draws.
const WIDE_MANUAL_CHANGES: [ManualChange; 3] =
    [ManualChange::SetCountToZero, ManualChange::RollBack, ManualChange::OtherCapacityProvider];

const MANUAL_CHANGES: [ManualChange; 18] = [
    ManualChange::ForgetRetention,
    ManualChange::DeleteLogGroup,
    ManualChange::UntagLogGroup,
    ManualChange::DeleteRolePolicy,
    ManualChange::WidenRole,
    ManualChange::OpenTrust,
    ManualChange::DeleteRole,
    ManualChange::DeregisterTaskDefinition,
    ManualChange::OtherSubnets,
    ManualChange::NoCircuitBreaker,
    ManualChange::DeleteService,
    ManualChange::DeleteScaling,
    ManualChange::OtherCapacity,
    ManualChange::DeletePolicy,
    ManualChange::OtherThreshold,
    ManualChange::DeleteRegistry,
    ManualChange::DeleteImages,
    ManualChange::EmptyWorkspace,
];

impl History {
    pub fn draw(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let mut id = [0; 32];
        id[..8].copy_from_slice(&seed.to_le_bytes());
        let rules = Rules {
            seed: id,
            role_propagation: Duration::from_secs(rng.u64(0..30)),
            operation_delay: Duration::from_millis(rng.u64(100..5_000)),
            throttling: if rng.bool() { Throttling::Percent(rng.u32(50..200)) } else { Throttling::Off },
            stale_reads: if rng.u8(0..3) == 0 { Duration::from_millis(rng.u64(200..4_000)) } else { Duration::ZERO },
            ..cloud_rules(seed)
        };
        // A third of the runs has no faults, so that no failure can be excused by one.
        let chances = match rng.u8(0..3) {
            0 => Chances::default(),
            1 => Chances { throttle: 10, server_error: 10, reset_after: 10, ..Chances::default() },
            _ => Chances {
                throttle: rng.u32(0..60),
                hidden_throttle: rng.u32(0..20),
                server_error: rng.u32(0..60),
                delay: rng.u32(0..80),
                reset_before: rng.u32(0..40),
                reset_after: rng.u32(0..40),
                hang: rng.u32(0..10),
            },
        };
        let mut events: Vec<(Duration, Event)> = Vec::new();
        for name in NAMES.iter().take(rng.usize(1..5)) {
            events.push((Duration::ZERO, Event::Commit { name, variant: 0 }));
        }
        for _ in 0..rng.usize(4..14) {
            let wait = match rng.u8(0..4) {
                0 => Duration::from_millis(rng.u64(0..2_000)),
                1 => Duration::from_secs(rng.u64(0..30)),
                _ => Duration::from_secs(rng.u64(20..240)),
            };
            events.push((wait, Event::draw(&mut rng)));
        }
        Self { seed, rules, chances, events, wide: false }
    }

    /// The history of [`Self::draw`] with more kinds of events between its events, drawn from a separate generator.
    pub fn draw_wide(seed: u64) -> Self {
        let mut history = Self::draw(seed);
        history.wide = true;
        history.rules.secrets = SECRETS.map(|arn| (arn.to_owned(), "value".to_owned())).into();
        let mut rng = Rng::with_seed(seed ^ 0x7769_6465);
        let first = history.events.iter().take_while(|(wait, _)| wait.is_zero()).count();
        for _ in 0..rng.usize(6..14) {
            let wait = match rng.u8(0..3) {
                0 => Duration::from_millis(rng.u64(0..5_000)),
                _ => Duration::from_secs(rng.u64(5..180)),
            };
            let at = rng.usize(first..=history.events.len());
            history.events.insert(at, (wait, Event::draw_wide(&mut rng)));
        }
        history
    }
}

/// The rare behaviour of localcloud, drawn from a separate generator, so that the events of a seed do not change.
fn cloud_rules(seed: u64) -> Rules {
    let mut rng = Rng::with_seed(seed ^ 0x6d6f_6f64);
    let mut rules = Rules::default();
    if rng.u8(0..3) == 0 {
        rules.scaling_conflicts = Duration::from_millis(rng.u64(50..5_000));
    }
    rules.returning_ids = if rng.bool() { 100 } else { 0 };
    if rng.u8(0..3) == 0 {
        rules.transient_stops = rng.u32(1..40);
    }
    rules
}

impl Event {
    fn draw(rng: &mut Rng) -> Self {
        let name = NAMES[rng.usize(0..NAMES.len())];
        match rng.u8(0..24) {
            0..=3 => Self::Commit { name, variant: rng.u8(0..6) },
            4..=6 => Self::Push { name, flaw: None },
            7..=8 => {
                let flaws = [Flaw::Exits, Flaw::NeverHealthy, Flaw::DoesNotLoad];
                Self::Push { name, flaw: Some(flaws[rng.usize(0..3)]) }
            }
            9 | 10 => Self::Remove { name },
            11 => Self::Rename { name, to: NAMES[rng.usize(0..NAMES.len())] },
            12 => Self::Invalid { name },
            13 => Self::Vanish { seconds: rng.u64(1..300) },
            14 => Self::Unreadable { seconds: rng.u64(1..300) },
            15..=18 => Self::ManualChange { name, change: MANUAL_CHANGES[rng.usize(0..MANUAL_CHANGES.len())] },
            19 | 20 => Self::Crash { seconds: rng.u64(0..120) },
            21 | 22 => Self::CrashAtCall { number: rng.u64(1..12), applied: rng.bool() },
            _ => Self::Second { seconds: rng.u64(10..400) },
        }
    }

    /// An event that only a wide history has.
    fn draw_wide(rng: &mut Rng) -> Self {
        let name = NAMES[rng.usize(0..NAMES.len())];
        let to = NAMES[rng.usize(0..NAMES.len())];
        match rng.u8(0..24) {
            0..=5 => Self::Commit { name, variant: rng.u8(WIDE_VARIANTS) },
            6 => Self::Push { name, flaw: Some(Flaw::DoesNotBuild) },
            7 | 8 => Self::Readd { name, millis: rng.u64(0..10_000) },
            9 => Self::RenameAndBack { name, to, seconds: rng.u64(0..120) },
            10 => Self::RenameFolder { name, to, seconds: rng.u64(1..120) },
            11 => Self::Misname { name, to, seconds: rng.u64(1..120) },
            12..=14 => {
                let mode = ["enforce", "detect", "suspended"][rng.usize(0..3)];
                Self::Mode { name, mode, protect: rng.bool() }
            }
            15..=17 => {
                let change = WIDE_MANUAL_CHANGES[rng.usize(0..WIDE_MANUAL_CHANGES.len())];
                Self::ManualChange { name, change }
            }
            _ => {
                let waits = if rng.bool() { Duration::ZERO } else { Duration::from_secs(rng.u64(1..1_800)) };
                let lasts = Duration::from_secs(rng.u64(60..3_600));
                Self::Run { name, new: NewRun { waits, lasts, retries: rng.u32(0..3) } }
            }
        }
    }
}
