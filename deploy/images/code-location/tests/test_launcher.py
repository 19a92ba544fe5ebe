"""The launcher with the real dagster-aws, a real Dagster instance, and a fake ECS that records the calls."""

from __future__ import annotations

import json
import logging
import tempfile
import unittest
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dagster import DagsterInstance, DagsterRun, DagsterRunStatus
from dagster._core.code_pointer import ModuleCodePointer
from dagster._core.launcher.base import WorkerStatus
from dagster._core.origin import JobPythonOrigin, RepositoryPythonOrigin
from dagster._core.remote_origin import GrpcServerCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from dagster._core.storage.tags import RUN_WORKER_ID_TAG

from codeloc_dagster.launcher import REFUSED_TAGS, CodelocRunLauncher, RunRefused
from fake_aws import ACCOUNT, CLUSTER_ARN, REGION, AwsTestCase

HASH = "0123456789abcdef"
ORDERS = f"codeloc-orders_run_{HASH}"
OPERATOR: dict[str, Any] = {
    "deployment": "codeloc",
    "run_task_kwargs": {
        "cluster": "dagster",
        "networkConfiguration": {"awsvpcConfiguration": {"subnets": ["subnet-local"], "securityGroups": ["sg-local"]}},
    },
}
# Limit of AWS: API_TaskOverride, "Override lengths".
OVERRIDES_LIMIT = 8192


def context(family: object = ORDERS, **more: object) -> dict[str, Any]:
    """A container context as the code server reports it."""
    return {"ecs": {"task_definition_arn": family, "container_name": "run", **more}}


class Launcher(AwsTestCase):
    home: tempfile.TemporaryDirectory[str]

    @classmethod
    def setUpClass(cls) -> None:
        # Creating the Dagster tables takes a second. The tests share them and use different run ids.
        cls.home = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.home.cleanup)

    def setUp(self) -> None:
        super().setUp()
        self.instances: dict[str, DagsterInstance] = {}

    def instance(self, **settings: object) -> DagsterInstance:
        """The instance of a dagster.yaml with this launcher."""
        launcher = {"module": "codeloc_dagster.launcher", "class": "CodelocRunLauncher", "config": OPERATOR | settings}
        # JSON is YAML.
        document = json.dumps({"telemetry": {"enabled": False}, "run_launcher": launcher})
        if document not in self.instances:
            (Path(self.home.name) / "dagster.yaml").write_text(document)
            self.instances[document] = DagsterInstance.from_config(self.home.name)
            self.addCleanup(self.instances[document].dispose)
        return self.instances[document]

    def run_of(
        self,
        instance: DagsterInstance,
        container_context: Mapping[str, Any] | None,
        location: str | None = "orders",
        tags: Mapping[str, str] | None = None,
        status: DagsterRunStatus = DagsterRunStatus.NOT_STARTED,
    ) -> DagsterRun:
        """A run as the webserver or the daemon creates it."""
        remote = None
        if location is not None:
            server = GrpcServerCodeLocationOrigin(f"{location}-service.dagster.internal", 4000, location_name=location)
            remote = RemoteJobOrigin(RemoteRepositoryOrigin(server, "__repository__"), "nightly")
        code = RepositoryPythonOrigin(
            executable_path="/opt/codeloc/env/bin/python",
            code_pointer=ModuleCodePointer("orders.definitions", "defs", "/opt/codeloc/code"),
            container_image=f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/codeloc/orders@sha256:{'0' * 64}",
            entry_point=["/opt/codeloc/env/bin/python", "-m", "dagster"],
            container_context=container_context,
        )
        run = DagsterRun(
            job_name="nightly",
            run_id=str(uuid.uuid4()),
            status=status,
            tags=tags or {},
            remote_job_origin=remote,
            job_code_origin=JobPythonOrigin("nightly", code),
        )
        return instance.add_run(run)

    def launched(self, instance: DagsterInstance, run: DagsterRun) -> dict[str, Any]:
        """Launches the run and returns the only request to ECS."""
        instance.launch_run(run.run_id, None)  # type: ignore[arg-type]
        self.assertEqual([operation for operation, _ in self.aws.ecs_calls], ["RunTask"])
        return self.aws.ecs_calls[0][1]

    def refused(
        self,
        container_context: Mapping[str, Any] | None,
        location: str | None = "orders",
        tags: Mapping[str, str] | None = None,
    ) -> str:
        """Launches a run, checks that the launcher refuses it before any AWS call, and returns the error."""
        instance = self.instance()
        run = self.run_of(instance, container_context, location, tags)
        with self.assertRaises(RunRefused) as raised:
            instance.launch_run(run.run_id, None)  # type: ignore[arg-type]
        self.assertEqual(self.aws.ecs_calls, [])
        self.assertEqual(instance.get_run_by_id(run.run_id).status, DagsterRunStatus.FAILURE)
        return str(raised.exception)

    # Launching

    def test_a_run_is_one_task_of_its_definition(self) -> None:
        instance = self.instance()
        run = self.run_of(instance, context(run_resources={"cpu": "256", "memory": "512"}))
        request = self.launched(instance, run)
        overrides = request.pop("overrides")
        request.pop("clientToken")
        self.assertEqual(
            request,
            {
                "cluster": "dagster",
                "taskDefinition": ORDERS,
                "launchType": "FARGATE",
                "networkConfiguration": OPERATOR["run_task_kwargs"]["networkConfiguration"],
                "propagateTags": "TASK_DEFINITION",
                "tags": [
                    {"key": "dagster/run_id", "value": run.run_id},
                    {"key": "dagster/job_name", "value": "nightly"},
                ],
            },
        )
        [container] = overrides.pop("containerOverrides")
        command = container.pop("command")
        self.assertEqual(container, {"name": "run", "cpu": 256, "memory": 512})
        self.assertEqual(command[:5], ["/opt/codeloc/env/bin/python", "-m", "dagster", "api", "execute_run"])
        self.assertEqual(json.loads(command[5])["pipeline_run_id"], run.run_id)
        self.assertNotIn(ORDERS, command[5])
        self.assertEqual(overrides, {"cpu": "256", "memory": "512"})
        self.assertLess(len(json.dumps(overrides)) + len(json.dumps(command)), OVERRIDES_LIMIT)

    def test_creating_the_launcher_makes_no_call(self) -> None:
        self.assertIsInstance(self.instance().run_launcher, CodelocRunLauncher)
        self.assertEqual(self.aws.ecs_calls, [])

    def test_without_run_resources_the_definition_decides(self) -> None:
        instance = self.instance()
        overrides = self.launched(instance, self.run_of(instance, context()))["overrides"]
        self.assertEqual(set(overrides), {"containerOverrides"})
        self.assertEqual(set(overrides["containerOverrides"][0]), {"name", "command"})

    def test_storage_and_sizes_from_tags_reach_the_task(self) -> None:
        instance = self.instance()
        run = self.run_of(
            instance,
            context(run_resources={"cpu": "256", "ephemeral_storage": 40}),
            tags={"ecs/cpu": "1024", "ecs/memory": "2048"},
        )
        overrides = self.launched(instance, run)["overrides"]
        self.assertEqual((overrides["cpu"], overrides["memory"]), ("1024", "2048"))
        self.assertEqual(overrides["ephemeralStorage"], {"sizeInGiB": 40})

    def test_a_capacity_provider_replaces_the_launch_type(self) -> None:
        kwargs = OPERATOR["run_task_kwargs"] | {
            "capacityProviderStrategy": [{"capacityProvider": "FARGATE_SPOT", "weight": 1}]
        }
        instance = self.instance(run_task_kwargs=kwargs)
        self.assertNotIn("launchType", self.launched(instance, self.run_of(instance, context())))

    # Refusing

    def test_tags_that_could_extend_permissions_are_refused(self) -> None:
        for tag, value in (
            ("ecs/task_overrides", {"taskRoleArn": f"arn:aws:iam::{ACCOUNT}:role/codeloc/codeloc-billing"}),
            ("ecs/run_task_kwargs", {"taskDefinition": f"codeloc-billing_run_{HASH}"}),
            ("ecs/container_overrides", {"command": ["env"]}),
        ):
            with self.subTest(tag):
                message = self.refused(context(), tags={tag: json.dumps(value)})
                self.assertIn(f"the tag {tag}, which is not allowed: {REFUSED_TAGS[tag]}", message)
        with self.subTest("empty tag"):
            self.refused(context(), tags={"ecs/task_overrides": ""})

    def test_the_definition_of_another_location_is_refused(self) -> None:
        message = self.refused(context(f"codeloc-billing_run_{HASH}"))
        self.assertIn(
            f"the container context of location orders contains the task definition 'codeloc-billing_run_{HASH}'",
            message,
        )

    def test_locations_with_similar_names_are_distinct(self) -> None:
        self.refused(context(f"codeloc-orders-eu_run_{HASH}"), location="orders")
        self.refused(context(f"codeloc-orders_run_{HASH}"), location="orders-eu")
        instance = self.instance()
        request = self.launched(instance, self.run_of(instance, context(f"codeloc-orders-eu_run_{HASH}"), "orders-eu"))
        self.assertEqual(request["taskDefinition"], f"codeloc-orders-eu_run_{HASH}")

    def test_tags_do_not_change_the_location(self) -> None:
        self.refused(
            context(f"codeloc-billing_run_{HASH}"),
            tags={"dagster/code_location": "billing", ".dagster/repository": "billing"},
        )

    def test_a_run_without_a_definition_or_a_location_is_refused(self) -> None:
        for empty in (None, {}, {"ecs": {}}, {"ecs": {"container_name": "run"}}, {"ecs": []}):
            self.assertIn("contains no task definition", self.refused(empty))
        self.assertIn("no remote job origin", self.refused(context(), location=None))

    def test_only_the_exact_family_name_is_accepted(self) -> None:
        for family in (
            f"{ORDERS}:7",
            f"{ORDERS}\n",
            f"{ORDERS}0",
            "codeloc-orders_run_0123",
            "codeloc-orders",
            f"codeloc_orders_run_{HASH}",
            f"other-orders_run_{HASH}",
            f"arn:aws:ecs:{REGION}:{ACCOUNT}:task-definition/{ORDERS}:7",
            {"env": "HOME"},
            7,
            "",
        ):
            with self.subTest(family):
                self.refused(context(family))

    def test_other_fields_of_the_container_context_are_refused(self) -> None:
        role = f"arn:aws:iam::{ACCOUNT}:role/codeloc/codeloc-billing"
        for name, value in {
            "task_role_arn": role,
            "execution_role_arn": role,
            "env_vars": ["DAGSTER_REPO_S3_PREFIX=repos/billing"],
            "secrets": [{"name": "PASSWORD", "valueFrom": "arn:aws:secretsmanager:::secret:billing"}],
            "secrets_tags": ["billing"],
            "volumes": [{"name": "v"}],
            "mount_points": [],
            "run_ecs_tags": [{"key": "codeloc:location", "value": "billing"}],
            "run_sidecar_containers": [{"name": "s"}],
            "runtime_platform": {},
            "repository_credentials": "arn",
            "server_resources": {},
            "task_overrides": {"taskRoleArn": role},
        }.items():
            with self.subTest(name):
                self.assertIn(f"contains ecs.{name}, which is not allowed", self.refused(context(**{name: value})))
        self.assertIn("contains env_vars, which is not allowed", self.refused(context() | {"env_vars": ["HOME"]}))

    def test_names_and_sizes_cannot_reference_variables_of_the_daemon(self) -> None:
        self.assertIn("ecs.container_name", self.refused(context(container_name={"env": "HOME"})))
        for resources in ({"cpu": {"env": "HOME"}}, {"cpu": "all"}, {"gpu": "1"}, {"ephemeral_storage": "40"}, ["cpu"]):
            self.assertIn("ecs.run_resources", self.refused(context(run_resources=resources)))

    # Settings

    def test_settings_without_effect_are_errors(self) -> None:
        for settings in (
            {"task_definition": "mine"},
            {"secrets_tag": "dagster"},
            {"secrets": [{"name": "A", "valueFrom": "arn"}]},
            {"env_vars": ["HOME"]},
            {"include_sidecars": True},
            {"use_current_ecs_task_config": True},
        ):
            [name] = settings
            with self.assertRaisesRegex(Exception, f"run_launcher.config.{name} has no effect"):
                _ = self.instance(**settings).run_launcher

    def test_cluster_and_network_settings_are_required(self) -> None:
        for missing in ("cluster", "networkConfiguration"):
            kwargs = {name: value for name, value in OPERATOR["run_task_kwargs"].items() if name != missing}
            with self.assertRaisesRegex(Exception, f"run_task_kwargs has no {missing}"):
                _ = self.instance(run_task_kwargs=kwargs).run_launcher

    # Running

    def started(self) -> tuple[DagsterInstance, str]:
        instance = self.instance()
        run = self.run_of(instance, context())
        self.launched(instance, run)
        self.aws.ecs_calls.clear()
        return instance, run.run_id

    def task(self, status: str, exit_code: int | None = None) -> None:
        container = {"name": "run", "lastStatus": status} | ({} if exit_code is None else {"exitCode": exit_code})
        definition = f"arn:aws:ecs:{REGION}:{ACCOUNT}:task-definition/{ORDERS}:1"
        task = {
            "taskArn": f"{CLUSTER_ARN}/x",
            "lastStatus": status,
            "containers": [container],
            "taskDefinitionArn": definition,
        }
        self.aws.ecs_answers |= {
            "DescribeTasks": {"tasks": [task], "failures": []},
            "DescribeTaskDefinition": {"taskDefinition": {"family": ORDERS, "containerDefinitions": [{"name": "run"}]}},
            "StopTask": {"task": task},
        }

    def test_a_launched_run_stores_its_task(self) -> None:
        instance, run_id = self.started()
        tags = instance.get_run_by_id(run_id).tags
        self.assertRegex(tags["ecs/task_arn"], "^arn:aws:ecs:.*:task/dagster/")
        self.assertEqual(tags["ecs/cluster"], CLUSTER_ARN)
        self.assertIn(RUN_WORKER_ID_TAG, tags)

    def test_health_follows_the_task(self) -> None:
        instance, run_id = self.started()
        launcher = instance.run_launcher
        self.assertTrue(launcher.supports_check_run_worker_health)
        for status, exit_code, expected in (
            ("PROVISIONING", None, WorkerStatus.RUNNING),
            ("RUNNING", None, WorkerStatus.RUNNING),
            ("STOPPED", 0, WorkerStatus.SUCCESS),
            ("STOPPED", 137, WorkerStatus.FAILED),
        ):
            self.task(status, exit_code)
            # Dagster logs a warning for the failed task. assertLogs needs at least one record.
            with self.assertLogs() as logged:
                logging.info("checked")
                health = launcher.check_run_worker_health(instance.get_run_by_id(run_id))
            self.assertEqual((health.status, len(logged.records)), (expected, 1 + (expected is WorkerStatus.FAILED)))
        self.assertEqual(
            [operation for operation, _ in self.aws.ecs_calls], [*["DescribeTasks"] * 5, "DescribeTaskDefinition"]
        )

    def test_health_works_for_a_run_with_an_invalid_context(self) -> None:
        instance = self.instance()
        tags = {"ecs/task_arn": f"{CLUSTER_ARN}/x", "ecs/cluster": CLUSTER_ARN}
        run = self.run_of(instance, context(env_vars=7, container_name={"env": "NONE"}), tags=tags)
        self.task("RUNNING")
        self.assertEqual(instance.run_launcher.check_run_worker_health(run).status, WorkerStatus.RUNNING)

    def test_terminating_stops_the_task(self) -> None:
        instance, run_id = self.started()
        self.task("RUNNING")
        arn = instance.get_run_by_id(run_id).tags["ecs/task_arn"]
        self.assertTrue(instance.run_launcher.terminate(run_id))
        self.assertEqual(instance.get_run_by_id(run_id).status, DagsterRunStatus.CANCELING)
        self.assertEqual(
            self.aws.ecs_calls,
            [
                ("DescribeTasks", {"cluster": CLUSTER_ARN, "tasks": [arn]}),
                ("StopTask", {"cluster": CLUSTER_ARN, "task": arn}),
            ],
        )

    def test_a_run_resumes_only_from_its_own_definition(self) -> None:
        instance = self.instance()
        self.assertTrue(instance.run_launcher.supports_resume_run)
        run = self.run_of(instance, context(), status=DagsterRunStatus.STARTED)
        instance.resume_run(run.run_id, None, 1)  # type: ignore[arg-type]
        [(operation, request)] = self.aws.ecs_calls
        self.assertEqual((operation, request["taskDefinition"]), ("RunTask", ORDERS))
        self.assertIn("resume_run", request["overrides"]["containerOverrides"][0]["command"])
        other = self.run_of(instance, context(f"codeloc-billing_run_{HASH}"), status=DagsterRunStatus.STARTED)
        with self.assertRaises(RunRefused):
            instance.resume_run(other.run_id, None, 1)  # type: ignore[arg-type]
        self.assertEqual(len(self.aws.ecs_calls), 1)


if __name__ == "__main__":
    unittest.main()
