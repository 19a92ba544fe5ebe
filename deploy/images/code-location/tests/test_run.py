"""A complete run: the real launcher starts it, then the test runs its command in the environment of the location."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import tempfile
import unittest
import uuid
from pathlib import Path

from dagster import DagsterInstance, DagsterRun, DagsterRunStatus
from dagster._core.code_pointer import ModuleCodePointer
from dagster._core.origin import JobPythonOrigin, RepositoryPythonOrigin
from dagster._core.remote_origin import GrpcServerCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin

from fake_aws import AwsTestCase

HERE = Path(__file__).resolve().parent
FAMILY = "codeloc-orders_run_0123456789abcdef"
INSTANCE = {
    "telemetry": {"enabled": False},
    "run_launcher": {
        "module": "codeloc_dagster.launcher",
        "class": "CodelocRunLauncher",
        "config": {
            "deployment": "codeloc",
            "run_task_kwargs": {
                "cluster": "dagster",
                "networkConfiguration": {
                    "awsvpcConfiguration": {"subnets": ["subnet-local"], "securityGroups": ["sg-local"]}
                },
            },
        },
    },
    "compute_logs": {"module": "codeloc_dagster.compute_logs", "class": "CodelocComputeLogManager"},
}


class WholeRun(AwsTestCase):
    def test_a_run_writes_assets_and_logs_only_under_its_prefix(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        (Path(folder.name) / "dagster.yaml").write_text(json.dumps(INSTANCE))
        with DagsterInstance.from_config(folder.name) as instance:
            run_id = launch(instance)
            [(_, request)] = self.aws.ecs_calls
            [container] = request["overrides"]["containerOverrides"]
            self.of_location()
            ended = subprocess.run(
                container["command"], env=dict(os.environ), cwd=folder.name, capture_output=True, text=True, check=False
            )
            self.assertEqual(ended.returncode, 0, ended.stderr)
            self.assertEqual(instance.get_run_by_id(run_id).status, DagsterRunStatus.SUCCESS, ended.stderr)
        assets = {key: body for key, body in self.aws.objects.items() if key.startswith("repos/orders/assets/")}
        values = {key.rpartition("/")[2]: pickle.loads(body) for key, body in assets.items()}  # noqa: S301
        self.assertEqual(values, {"numbers": [1, 2, 3], "total": 6})
        logs = {
            key: body
            for key, body in self.aws.objects.items()
            if key.startswith(f"repos/orders/logs/storage/{run_id}/")
        }
        self.assertIn(b"three numbers\n", logs.values())
        self.assertEqual(self.aws.objects.keys(), assets.keys() | logs.keys())
        self.assertEqual([operation for operation, _ in self.aws.ecs_calls], ["RunTask"])


def launch(instance: DagsterInstance) -> str:
    """Creates a run as the webserver does, and launches it."""
    server = GrpcServerCodeLocationOrigin("orders-service.dagster.internal", 4000, location_name="orders")
    code = RepositoryPythonOrigin(
        executable_path=sys.executable,
        code_pointer=ModuleCodePointer("user_code", "defs", str(HERE)),
        entry_point=[sys.executable, "-m", "dagster"],
        container_context={"ecs": {"task_definition_arn": FAMILY, "container_name": "run"}},
    )
    run = DagsterRun(
        job_name="nightly",
        run_id=str(uuid.uuid4()),
        run_config={"execution": {"config": {"in_process": {}}}},
        remote_job_origin=RemoteJobOrigin(RemoteRepositoryOrigin(server, "__repository__"), "nightly"),
        job_code_origin=JobPythonOrigin("nightly", code),
    )
    instance.add_run(run)
    instance.launch_run(run.run_id, None)  # type: ignore[arg-type]
    return run.run_id


if __name__ == "__main__":
    unittest.main()
