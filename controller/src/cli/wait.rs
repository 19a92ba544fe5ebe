//! Waiting until locations are settled, for `codeloc status --wait`.

use std::collections::BTreeSet;
use std::time::Duration;

use codeloc_core::status::LocationStatus;
use jiff::Timestamp;
use reqwest::Method;
use tokio::time::Instant;

use super::Failure;
use super::client::Client;
use super::names;
use crate::api::DaemonStatus;
use crate::status::{is_settled, is_stuck};

const POLL: Duration = Duration::from_millis(500);
/// Locations to name in an error.
const SHOWN: usize = 5;

/// The first digits of a commit.
pub fn commit(text: &str) -> Result<String, String> {
    if (7..=40).contains(&text.len()) && text.chars().all(|digit| digit.is_ascii_hexdigit()) {
        return Ok(text.to_ascii_lowercase());
    }
    Err("a commit has 7 to 40 hexadecimal digits, as `git rev-parse HEAD` prints them".to_owned())
}

/// What to wait for, in addition to everything that was pushed before the command started.
#[derive(Clone, Copy, Debug, Default)]
pub struct Goal<'a> {
    /// All locations if empty.
    pub names: &'a [&'a String],
    pub commit: Option<&'a str>,
    pub config_commit: Option<&'a str>,
}

impl Goal<'_> {
    fn includes(&self, status: &LocationStatus) -> bool {
        self.names.is_empty() || self.names.contains(&&status.name)
    }
}

/// What the daemon answered during the wait.
#[derive(Clone, Debug, Default)]
struct Seen {
    first: Option<DaemonStatus>,
    last: Option<DaemonStatus>,
    /// Whether the configs were at the commit of the goal.
    config_commit: bool,
    /// The locations that were at the commit of the goal.
    at_commit: BTreeSet<String>,
}

impl Seen {
    fn add(&mut self, goal: Goal<'_>, daemon: DaemonStatus, statuses: &[LocationStatus]) {
        self.config_commit |= goal.config_commit.is_some_and(|commit| is_at(daemon.commit.as_deref(), commit));
        if let Some(commit) = goal.commit {
            let at_commit = statuses.iter().filter(|status| is_at(status.commit.as_deref(), commit));
            self.at_commit.extend(at_commit.map(|status| status.name.clone()));
        }
        self.first.get_or_insert_with(|| daemon.clone());
        self.last = Some(daemon);
    }

    /// The moment before which every push counts, by the daemon's clock; an older daemon does not report it.
    fn began(&self) -> Option<Timestamp> {
        self.first.as_ref()?.now
    }

    /// The moment up to which the daemon knows all configs.
    fn as_of(&self) -> Option<Timestamp> {
        self.last.as_ref()?.as_of
    }
}

fn is_at(found: Option<&str>, digits: &str) -> bool {
    found.is_some_and(|found| found.starts_with(digits))
}

fn shown(commit: Option<&str>) -> String {
    commit.map_or_else(|| "no commit".to_owned(), |commit| format!("commit {}", commit.get(..12).unwrap_or(commit)))
}

/// Whether to wait longer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    Settled,
    /// Some locations need more time.
    Pending(String),
    /// The locations that are not settled need a person.
    Stuck(String),
}

/// Polls until all locations are settled with everything pushed before now, until waiting does not help, or until the deadline.
pub async fn wait(
    client: &Client,
    goal: Goal<'_>,
    deadline: Instant,
) -> Result<(Vec<LocationStatus>, Progress), Failure> {
    let mut seen = Seen::default();
    loop {
        let answer = poll(client, &mut seen, goal).await;
        let expired = Instant::now() >= deadline;
        match answer {
            Ok((statuses, progress)) if expired || !matches!(progress, Progress::Pending(_)) => {
                return Ok((statuses, progress));
            }
            Err(error) if expired => return Err(error),
            // Not settled yet, or the daemon does not answer yet.
            Ok(_) | Err(_) => tokio::time::sleep(POLL).await,
        }
    }
}

/// All statuses, and whether to wait longer.
async fn poll(client: &Client, seen: &mut Seen, goal: Goal<'_>) -> Result<(Vec<LocationStatus>, Progress), Failure> {
    let daemon: DaemonStatus = client.get("/v1/status").await?;
    if seen.first.is_none() {
        hurry(client, goal.names).await;
    }
    let statuses: Vec<LocationStatus> = client.get("/v1/locations").await?;
    seen.add(goal, daemon, &statuses);
    let progress = progress(goal, &statuses, seen);
    Ok((statuses, progress))
}

fn progress(goal: Goal<'_>, statuses: &[LocationStatus], seen: &Seen) -> Progress {
    let (began, as_of, names) = (seen.began(), seen.as_of(), goal.names);
    let mut pending = false;
    let mut reasons = Vec::new();
    for status in statuses.iter().filter(|status| goal.includes(status)) {
        let is_current = status.as_of >= began;
        if let Some(commit) = goal.commit.filter(|commit| !is_at(status.commit.as_deref(), commit)) {
            let found = shown(status.commit.as_deref());
            // A daemon that has just started does not know the commit yet.
            if status.commit.is_some() && seen.at_commit.contains(&status.name) {
                reasons.push(format!("{} went from commit {commit} to {found}", status.name));
            } else {
                reasons.push(format!("{} is at {found}, not at commit {commit}", status.name));
                pending = true;
            }
        } else if !is_settled(status) {
            let message = status.message.lines().next().unwrap_or_default();
            reasons.push(format!("{} is {}, {}: {message}", status.name, status.sync, status.health));
            // A fix may have been pushed before the command started.
            pending |= !(is_stuck(status) && is_current && began.is_some());
        } else if !is_current {
            reasons.push(format!(
                "the status of {} may be old: the daemon has not read its config or its branch since this command \
                 started",
                status.name
            ));
            pending = true;
        }
    }
    let mut more_time = |reason: String| {
        reasons.push(reason);
        pending = true;
    };
    if let Some(commit) = goal.config_commit.filter(|_| !seen.config_commit) {
        let found = shown(seen.last.as_ref().and_then(|daemon| daemon.commit.as_deref()));
        more_time(format!("the configs are at {found}, not at commit {commit}"));
    }
    if let Some(unknown) = names::unknown(names, statuses) {
        more_time(unknown);
    }
    if names.is_empty() && statuses.is_empty() {
        more_time("the daemon has no locations".to_owned());
    }
    if names.is_empty() && began.is_some() && as_of < began {
        more_time(
            "since this command started, the daemon has not read the configs, or not reconciled all of them".to_owned(),
        );
    }
    if reasons.is_empty() {
        return Progress::Settled;
    }
    let more = reasons.len().saturating_sub(SHOWN);
    reasons.truncate(SHOWN);
    if more > 0 {
        reasons.push(format!("and {more} more"));
    }
    let reasons = reasons.join("; ");
    if pending { Progress::Pending(reasons) } else { Progress::Stuck(reasons) }
}

/// Asks the daemon to reconcile now. With a read-only token, the command waits for the daemon's next poll.
async fn hurry(client: &Client, names: &[&String]) {
    let mut all_known = !names.is_empty();
    for name in names {
        all_known &= client.send_json(Method::POST, &format!("/v1/locations/{name}/sync"), None).await.is_ok();
    }
    if !all_known {
        let _ = client.send_json(Method::POST, "/v1/sync", None).await;
    }
}

#[cfg(test)]
mod tests {
    use codeloc_core::ids::Commit;
    use codeloc_core::status::{Condition, ConditionKind, ConditionStatus, DatedCondition, Health, Reason, Sync};

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn settled(name: &str, as_of: i64) -> LocationStatus {
        let mut status = LocationStatus::unknown(name, "in sync".to_owned(), at(0));
        (status.sync, status.health, status.as_of) = (Sync::Synced, Health::Healthy, Some(at(as_of)));
        status
    }

    fn with(name: &str, as_of: i64, reason: Reason) -> LocationStatus {
        let (kind, message) = (ConditionKind::Deployed, "no module shop".to_owned());
        let condition = Condition { kind, status: ConditionStatus::False, reason, message: message.clone() };
        let conditions = vec![DatedCondition { condition, since: at(0) }];
        LocationStatus { health: Health::Degraded, message, conditions, ..settled(name, as_of) }
    }

    fn daemon(now: Option<i64>, as_of: Option<i64>, commit: &str) -> DaemonStatus {
        DaemonStatus {
            version: "1".to_owned(),
            deployment: "codeloc".to_owned(),
            mode: "enforce".to_owned(),
            lease: "held".to_owned(),
            commit: Some(Commit::from(commit.to_owned())),
            now: now.map(at),
            as_of: as_of.map(at),
            fault: None,
        }
    }

    /// A wait that began at second 10.
    fn judge_until(as_of: i64, statuses: &[LocationStatus]) -> Progress {
        let mut seen = Seen::default();
        seen.add(Goal::default(), daemon(Some(10), Some(as_of), NEW), statuses);
        progress(Goal::default(), statuses, &seen)
    }

    fn judge(statuses: &[LocationStatus]) -> Progress {
        judge_until(20, statuses)
    }

    const OLD: &str = "0123456789abcdef0123456789abcdef01234567";
    const NEW: &str = "fedcba9876543210fedcba9876543210fedcba98";

    fn at_commit(name: &str, commit: &str) -> LocationStatus {
        LocationStatus { commit: Some(Commit::from(commit.to_owned())), ..settled(name, 15) }
    }

    #[test]
    fn waiting_ends_if_all_other_locations_are_stuck() {
        let stuck = with("orders", 15, Reason::RolloutFailed);
        let expected = Progress::Stuck("orders is Synced, Degraded: no module shop".to_owned());
        assert_eq!(judge(&[settled("billing", 15), stuck]), expected);
    }

    #[test]
    fn waiting_goes_on_while_one_location_needs_time() {
        let stuck = with("orders", 15, Reason::RolloutFailed);
        for other in [with("billing", 15, Reason::Rolling), settled("billing", 5)] {
            assert!(matches!(judge(&[stuck.clone(), other]), Progress::Pending(_)));
        }
    }

    #[test]
    fn a_wait_includes_a_fix_that_is_not_read_yet() {
        let stuck = with("orders", 5, Reason::RolloutFailed);
        assert!(matches!(judge(std::slice::from_ref(&stuck)), Progress::Pending(_)));
        let unread = judge_until(5, &[with("orders", 15, Reason::RolloutFailed)]);
        assert!(matches!(unread, Progress::Pending(_)), "{unread:?}");
        let mut seen = Seen::default();
        seen.add(Goal::default(), daemon(None, None, NEW), std::slice::from_ref(&stuck));
        let older_daemon = progress(Goal::default(), &[stuck], &seen);
        assert!(matches!(older_daemon, Progress::Pending(_)), "{older_daemon:?}");
    }

    #[test]
    fn a_wait_ends_when_the_location_runs_the_commit() {
        let name = "orders".to_owned();
        let names = [&name];
        let goal = Goal { names: &names, commit: Some(&NEW[..7]), ..Goal::default() };
        let mut seen = Seen::default();
        let mut see = |status: LocationStatus| {
            // Other locations do not matter.
            let statuses = [at_commit("billing", OLD), status];
            seen.add(goal, daemon(Some(10), Some(20), OLD), &statuses);
            progress(goal, &statuses, &seen)
        };
        let waiting = "orders is at commit 0123456789ab, not at commit fedcba9";
        assert_eq!(see(at_commit("orders", OLD)), Progress::Pending(waiting.to_owned()));
        let rolling = LocationStatus { commit: at_commit("", NEW).commit, ..with("orders", 15, Reason::Rolling) };
        assert!(matches!(see(rolling), Progress::Pending(_)));
        assert_eq!(see(at_commit("orders", NEW)), Progress::Settled);
        let moved_on = "orders went from commit fedcba9 to commit 0123456789ab";
        assert_eq!(see(at_commit("orders", OLD)), Progress::Stuck(moved_on.to_owned()));
    }

    #[test]
    fn a_wait_for_a_failed_commit_ends_at_once() {
        let name = "orders".to_owned();
        let names = [&name];
        let goal = Goal { names: &names, commit: Some(NEW), ..Goal::default() };
        let failed = |commit: &str| LocationStatus {
            commit: at_commit("", commit).commit,
            ..with("orders", 15, Reason::RolloutFailed)
        };
        let judge = |status: LocationStatus| {
            let mut seen = Seen::default();
            seen.add(goal, daemon(Some(10), Some(20), OLD), std::slice::from_ref(&status));
            progress(goal, &[status], &seen)
        };
        assert!(matches!(judge(failed(NEW)), Progress::Stuck(_)));
        assert!(matches!(judge(failed(OLD)), Progress::Pending(_)), "the commit may come");
    }

    #[test]
    fn a_wait_ends_when_codeloc_read_the_config_commit() {
        let goal = Goal { config_commit: Some(&NEW[..12]), ..Goal::default() };
        let statuses = [settled("orders", 15)];
        let mut seen = Seen::default();
        let mut see = |commit: &str| {
            seen.add(goal, daemon(Some(10), Some(20), commit), &statuses);
            progress(goal, &statuses, &seen)
        };
        let waiting = "the configs are at commit 0123456789ab, not at commit fedcba987654";
        assert_eq!(see(OLD), Progress::Pending(waiting.to_owned()));
        assert_eq!(see(NEW), Progress::Settled);
        // A later commit includes it.
        assert_eq!(see(OLD), Progress::Settled);
    }

    #[test]
    fn a_commit_is_given_by_its_first_digits() {
        assert_eq!(commit("FEDCBA9"), Ok("fedcba9".to_owned()));
        assert_eq!(commit(NEW), Ok(NEW.to_owned()));
        for text in ["", "fedcba", "main", "fedcba9-dirty", &"a".repeat(41)] {
            assert!(commit(text).is_err(), "{text}");
        }
    }
}
