#!/usr/bin/env python3
"""Introduces bugs into the controller, one at a time, and checks that the tests fail.

Each mutation replaces a text in one file of a copy of the last commit and runs the fastest tests that should fail. If the
tests pass, a test is missing: the script then exits with 1.

    make mutations                      run all mutations
    make mutations ONLY=publish         run the mutations whose name contains a word
    tests/mutations/run.py --check      check that every mutation fits the sources, without running it (part of make lint)
"""

import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
# Tests that a mutation keeps from ending have found it.
MINUTES = 10

TEST = ["cargo", "test", "-q", "--locked"]
PURE = [*TEST, "-p", "codeloc-core", "--lib"]


def controller(module):
    """The unit tests of a module of the controller. --workspace uses the same features as the other tests."""
    return [*TEST, "--workspace", "--lib", module]


def virtual(file, test):
    """One test in virtual time."""
    return [*TEST, "--workspace", "--test", file, test]


# Name, file, original text, replacement, and the tests that should fail.
MUTATIONS = [
    (
        "skip the ownership check",
        "controller/core/src/planner/present.rs",
        "    if !not_owned.is_empty() {",
        "    if not_owned.len() > 100 {",
        PURE,
    ),
    (
        "write desiredCount although scaling owns it",
        "controller/core/src/resources/service/mod.rs",
        "if !desired.scaled && observed.desired_count != desired.count {",
        "if observed.desired_count != desired.count {",
        PURE,
    ),
    (
        "delete resources before their tasks have stopped",
        "controller/core/src/planner/removal.rs",
        "    } else if service.is_some() {\n",
        "    } else if service.is_some_and(|service| service.desired_count < 0) {\n",
        PURE,
    ),
    (
        "stop old tasks before new tasks are healthy",
        "controller/core/src/resources/service/settings.rs",
        "    minimum_healthy_percent: 100,\n    maximum_percent: 200,\n};",
        "    minimum_healthy_percent: 0,\n    maximum_percent: 100,\n};",
        virtual("simulation", "seeds_0_to_79_converge"),
    ),
    (
        "publish before the definitions are loaded",
        "controller/core/src/planner/readiness.rs",
        "        Answer::LoadError { .. } | Answer::Unreachable { .. } => None,\n",
        "        Answer::LoadError { server_id, .. } => Some((answered.address, server_id.as_str())),\n"
        "        Answer::Unreachable { .. } => None,\n",
        PURE,
    ),
    (
        "let the SDK retry RegisterTaskDefinition",
        "controller/aws/src/resources/task_definition.rs",
        "request.clone().customize().config_override(once()).send()",
        "{ drop(once()); request.clone().send() }",
        virtual("calls", "a_registration_with_a_lost_response_is_not_repeated"),
    ),
    (
        "treat an INACTIVE service as live",
        "controller/core/src/resources/service/mod.rs",
        "None | Some(Observed { status: Status::Inactive, .. }) => {",
        "None => {",
        PURE,
    ),
    (
        "ignore the tag of a failed revision",
        "controller/core/src/resources/service/mod.rs",
        "self.tags.get(tags::FAILED_REVISION).is_some_and(|failed| failed == revision)",
        "self.tags.get(tags::FAILED_REVISION).is_some_and(|failed| failed.is_empty() && failed == revision)",
        PURE,
    ),
    (
        "treat an invalid config as absent",
        "controller/src/reconcile/configs.rs",
        "Some(Err(invalid)) => Config::Invalid(invalid.clone()),",
        "Some(Err(_)) => Config::Absent,",
        virtual("converge", "an_invalid_config_freezes_its_own_location_only"),
    ),
    (
        "delete half of all locations at once",
        "controller/src/reconcile/prune_guard.rs",
        "if leaving > 1 && leaving * 2 >= total {",
        "if leaving > 1 && leaving > total {",
        controller("prune_guard"),
    ),
    (
        "delete the running task definition",
        "controller/core/src/planner/garbage.rs",
        " && !service.names(observed)",
        "",
        PURE,
    ),
    (
        "release the lease while a call is in progress",
        "controller/aws/src/fence.rs",
        "wait_for(|calls| *calls == 0)",
        "wait_for(|_| true)",
        virtual("lease", "an_orderly_stop_finishes_changes_before_a_standby_starts_any"),
    ),
    (
        "call without the lease",
        "controller/aws/src/fence.rs",
        "state.open_until.is_some_and(|until| Instant::now() < until)",
        "state.open_until.is_none_or(|until| Instant::now() < until + Duration::from_secs(3600))",
        virtual("lease", "queued_calls_are_not_sent_after_the_lease_is_lost"),
    ),
    (
        "execute a deletion on a partial observation",
        "controller/src/reconcile/decision.rs",
        "if !(round.complete || waits || round.reason.accepts_partial(plan)) {",
        "if !(round.complete || waits || round.reason != Reason::Resync) {",
        controller("decision"),
    ),
    (
        "execute a plan that the lint refuses",
        "controller/src/reconcile/decision.rs",
        "        return Decision::Unsafe(violation.to_string());",
        "        let _ = violation;",
        controller("decision"),
    ),
    (
        "keep an observation that is older than a change",
        "controller/src/reconcile/store.rs",
        "changed.get(name).is_none_or(|at| *at <= begun.changes)",
        "changed.get(name).is_none_or(|_| true)",
        controller("store"),
    ),
    (
        "keep a sweep that began before a takeover",
        "controller/src/reconcile/store.rs",
        "        let Some(mut state) = self.lock_in(begun.epoch) else { return };\n        state.owned",
        "        let mut state = self.lock();\n        state.owned",
        controller("store"),
    ),
    (
        "change a location without the lease",
        "controller/src/reconcile/policy.rs",
        "LeaseState::Standby { holder } => return Some(Hold::Standby { holder }),",
        "LeaseState::Standby { .. } => {}",
        controller("policy"),
    ),
    (
        "let the laxer mode win",
        "controller/src/reconcile/policy.rs",
        "match own.max(self.mode) {",
        "match own.min(self.mode) {",
        controller("policy"),
    ),
    (
        "predict the resources after an unanswered call",
        "controller/src/reconcile/executor.rs",
        "Err(StepError::Call(error)) => error.changed_nothing(),",
        "Err(StepError::Call(_)) => true,",
        controller("executor"),
    ),
    (
        "delete locations while the configs cannot be read",
        "controller/src/reconcile/configs.rs",
        "unread: unread.as_deref()",
        "unread: unread.as_deref().filter(|_| false)",
        controller("configs"),
    ),
    (
        "back off without a limit from what AWS does not see yet",
        "controller/src/reconcile/retry.rs",
        "Class::NotYet => Duration::from_secs(5),",
        "Class::NotYet => LAST,",
        controller("retry"),
    ),
    (
        "let only the service protect a location",
        "controller/core/src/resources/mod.rs",
        ".chain(image_repository)",
        ".chain(image_repository.filter(|_| false))",
        PURE,
    ),
    (
        "let the tag of another owner protect",
        "controller/core/src/resources/mod.rs",
        "self.owned().any(|(.., tags)| own(tags) && tags.get(tags::PROTECT)",
        "self.owned().any(|(.., tags)| (own(tags) || !tags.is_empty()) && tags.get(tags::PROTECT)",
        PURE,
    ),
    (
        "let another process take the lease too early",
        "controller/aws/src/lease.rs",
        "Duration::from_secs(self.seconds).saturating_sub(unchanged)",
        "Duration::ZERO",
        [*TEST, "-p", "codeloc-aws", "--lib", "lease"],
    ),
    (
        "send a token to a URL that only begins alike",
        "controller/git/src/url.rs",
        "rest.is_some_and(|rest| prefix.ends_with('/') || rest.is_empty() || rest.starts_with('/'))",
        "rest.is_some()",
        [*TEST, "-p", "codeloc-git", "--lib", "url"],
    ),
    (
        "delete what unfinished runs use",
        "controller/core/src/planner/removal.rs",
        "} else if may_affect_runs(input) && waits_for_runs(input) {",
        "} else if may_affect_runs(input) && waits_for_runs(input) && input.now_ms < 0 {",
        PURE,
    ),
    (
        "forget when the wait for runs started",
        "controller/core/src/planner/removal.rs",
        "        steps.extend(mark(input));\n",
        "        drop(mark(input));\n",
        PURE,
    ),
    (
        "narrow a role under a registered definition",
        "controller/core/src/planner/present.rs",
        "for_each(|content| kept.add(content));",
        "for_each(|content| role::Kept::default().add(content));",
        PURE,
    ),
    (
        "repair no service while its image is unknown",
        "controller/core/src/planner/present.rs",
        "        steps.extend(repairs);\n",
        "        drop(repairs);\n",
        PURE,
    ),
    (
        "keep the tags of an earlier config",
        "controller/core/src/tags.rs",
        "TagChange { remove: outdated(observed, desired).collect(), set: missing }",
        "TagChange { remove: outdated(observed, desired).skip(99).collect(), set: missing }",
        PURE,
    ),
    (
        "register another form under the same version",
        "controller/core/src/resources/task_form/mod.rs",
        "        port: *port,\n",
        "        port: port.map(|port| port + 1),\n",
        PURE,
    ),
    (
        "roll out an image that is gone",
        "controller/src/reconcile/image_builds.rs",
        "Some((_, Some(seen))) if seen.elapsed() < RECENT => true,",
        "Some((_, Some(_))) => true,",
        controller("image_builds"),
    ),
    (
        "finish the build of a commit that was replaced",
        "controller/src/reconcile/image_builds.rs",
        "let may_stop = || request.dockerfile.is_some() || !started.load(Ordering::Relaxed);",
        "let may_stop = || request.dockerfile.is_some() && !started.load(Ordering::Relaxed);",
        controller("image_builds"),
    ),
    (
        "send a call of an earlier lease",
        "controller/aws/src/fence.rs",
        "open && state.epoch == epoch",
        "open && state.epoch >= epoch",
        controller("fence"),
    ),
    (
        "block removals by locations that wait for their runs",
        "controller/src/reconcile/prune_guard.rs",
        "    if leaving.contains(name) {\n        return None;\n    }\n",
        "",
        controller("prune_guard"),
    ),
    (
        "change a location in another cluster",
        "controller/core/src/planner/hold.rs",
        "(is_owned && *from != to)",
        "(is_owned && *from != to && from.is_empty())",
        virtual("guards", "a_location_in_another_cluster_is_left_unchanged"),
    ),
    (
        "delete a log group that lost its tags",
        "controller/aws/src/resources/log_group.rs",
        "if !tags::may_delete(&tags, &session.deployment.id) {",
        "if tags.len() > 99 && !tags::may_delete(&tags, &session.deployment.id) {",
        virtual("converge", "data_that_just_lost_its_tags_survives_a_removal"),
    ),
    (
        "take a change by hand for a rollback by ECS",
        "controller/core/src/resources/service/mod.rs",
        "(suspected && context.record != Some(Record::NotRolledBack))",
        "suspected",
        PURE,
    ),
    (
        "retry a failed revision for a later cause",
        "controller/core/src/resources/service/mod.rs",
        "if remembered || !context.transient {",
        "if !context.transient {",
        PURE,
    ),
    (
        "lose the image that serves",
        "controller/src/reconcile/desired.rs",
        "        if hold.is_none() {\n            self.keep_serving_image",
        "        if hold.is_some() {\n            self.keep_serving_image",
        virtual("images", "the_serving_image_returns_while_the_newest_commit_does_not_build"),
    ),
    (
        "delete a repository that lost its tags",
        "controller/aws/src/resources/image_repository.rs",
        "if !tags::may_delete(&tags, &session.deployment.id) {",
        "if tags.len() > 99 && !tags::may_delete(&tags, &session.deployment.id) {",
        virtual("converge", "data_that_just_lost_its_tags_survives_a_removal"),
    ),
    (
        "forget lines of a log that appear late",
        "controller/src/api/logs/follow.rs",
        "self.forget_before(newest.saturating_sub(OVERLAP));",
        "self.forget_before(*newest);",
        controller("follow"),
    ),
    (
        "let a sandboxed program reach this machine",
        "controller/sandbox/src/proxy.rs",
        "            !(four.is_loopback()\n                || four.is_private()",
        "            !(four.is_private()",
        [*TEST, "-p", "codeloc-sandbox", "public_addresses"],
    ),
    (
        "accept a path outside from an isolated build",
        "controller/images/src/isolated/output.rs",
        '!["", ".", "..", ".git"].contains(&part)',
        '!["", ".git"].contains(&part)',
        [*TEST, "--workspace", "--lib", "isolated::output"],
    ),
    (
        "restart tasks that Cloud Map does not list at one moment",
        "controller/src/reconcile/store.rs",
        "            reported.listed = Some(Instant::now());",
        "            reported.listed = None;",
        controller("reconcile::store"),
    ),
    (
        "forget where a package comes from",
        "controller/images/src/requirements.rs",
        "    if host.is_empty() || host.contains('@') ||",
        "    if host.is_empty() ||",
        [*TEST, "--workspace", "--lib", "requirements"],
    ),
]


def problem(mutation, tree):
    """Why a mutation does not fit the sources, if it does not."""
    _, file, before, after, tests = mutation
    path = tree / file
    if not path.is_file():
        return f"{file} does not exist"
    count = path.read_text().count(before)
    if count != 1:
        return f"{file} contains the text {count} times instead of once; correct the text in this script"
    if before == after:
        return "the replacement equals the text; change the replacement"
    if "--test" in tests:
        binary, test = tests[-2:]
        sources = [tree / "tests/tests" / f"{binary}.rs", *(tree / "tests/tests" / binary).glob("*.rs")]
        if not any(f"fn {test}()" in source.read_text() for source in sources if source.is_file()):
            return f"tests/tests/{binary} has no test {test}"
    return None


def check():
    problems = [f"{mutation[0]}: {found}" for mutation in MUTATIONS if (found := problem(mutation, ROOT))]
    for line in problems:
        print(f"tests/mutations/run.py: {line}")
    return 1 if problems else 0


def run(mutation, tree):
    _, file, before, after, tests = mutation
    if found := problem(mutation, tree):
        return f"**not applied**: {found}"
    path = tree / file
    original = path.read_text()
    path.write_text(original.replace(before, after))
    try:
        # A separate target folder, so that cargo never reuses an artifact of a mutated tree for this one.
        environment = dict(os.environ, CARGO_TARGET_DIR=str(ROOT / "target/mutations"), RUST_BACKTRACE="0")
        built = subprocess.run([*tests, "--no-run"], cwd=tree, env=environment, capture_output=True, text=True)
        if built.returncode != 0:
            return f"**does not build**: {built.stderr.strip().splitlines()[-1]}"
        # Cargo starts the tests in their own processes, which have to end with it.
        done = subprocess.Popen(
            tests, cwd=tree, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
        )
        try:
            stdout, _ = done.communicate(timeout=MINUTES * 60)
        except subprocess.TimeoutExpired:
            os.killpg(done.pid, signal.SIGKILL)
            done.wait()
            return f"caught: the tests did not end within {MINUTES} min"
        if done.returncode == 0:
            return "**survived**"
        failed = sorted({line.strip() for line in stdout.splitlines() if re.fullmatch(r"    [\w:]*_[\w:]*", line)})
        return f"caught by {len(failed)}, including `{failed[0]}`" if failed else "caught"
    finally:
        path.write_text(original)


def main():
    if sys.argv[1:] == ["--check"]:
        return check()
    only = sys.argv[1] if len(sys.argv) > 1 else ""
    chosen = [mutation for mutation in MUTATIONS if only in mutation[0]]
    results = []
    with tempfile.TemporaryDirectory() as folder:
        tree = pathlib.Path(folder) / "tree"
        subprocess.run(["git", "worktree", "add", "--quiet", "--detach", str(tree)], cwd=ROOT, check=True)
        try:
            for mutation in chosen:
                result = run(mutation, tree)
                print(f"{mutation[0]}: {result}", flush=True)
                results.append(result)
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(tree)], cwd=ROOT, check=True)
    caught = sum(result.startswith("caught") for result in results)
    print(f"{caught} of {len(results)} caught")
    return 0 if caught == len(results) else 1


if __name__ == "__main__":
    sys.exit(main())
