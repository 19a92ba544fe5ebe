"""Compute logs as an instance configures them: below the location's prefix, or nowhere."""

from __future__ import annotations

import os
import sys
import tempfile
import unittest
from pathlib import Path

from dagster import DagsterEventType, DagsterInstance, DagsterInvariantViolationError, job, op
from dagster._core.storage.compute_log_manager import ComputeIOType

from fake_aws import AwsTestCase

# Only what steps print is looked at.
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
INSTANCE = """
telemetry: {{enabled: false}}
compute_logs:
  module: codeloc_dagster.compute_logs
  class: CodelocComputeLogManager
  config: {{local_dir: {folder}}}
"""


@op
def speaks() -> None:
    print("written by a step")
    print("and this to stderr", file=sys.stderr)


@job
def speaking() -> None:
    speaks()


class ComputeLogs(AwsTestCase):
    def instance(self) -> DagsterInstance:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        home = Path(folder.name)
        (home / "dagster.yaml").write_text(INSTANCE.format(folder=home / "logs"))
        instance = DagsterInstance.from_config(folder.name)
        self.addCleanup(instance.dispose)
        return instance

    def test_what_a_step_prints_lands_below_the_location_and_the_event_says_where(self) -> None:
        self.of_location()
        instance = self.instance()
        result = speaking.execute_in_process(instance=instance, run_config=QUIET)
        written = {key: body.decode() for key, body in self.aws.objects.items()}
        for extension, text in (("out", "written by a step"), ("err", "and this to stderr")):
            keys = [
                key
                for key in written
                if key.startswith(f"repos/orders/logs/storage/{result.run_id}/") and key.endswith(extension)
            ]
            self.assertEqual(len(keys), 1, written.keys())
            self.assertIn(text, written[keys[0]])
        captured = [event for event in result.all_events if event.event_type == DagsterEventType.LOGS_CAPTURED]
        data = captured[0].logs_captured_data
        self.assertIn("/s3/object/dagster-platform?", data.external_stdout_url)
        self.assertIn(f"prefix=repos/orders/logs/storage/{result.run_id}/", data.external_stdout_url)

    def test_the_log_of_a_tick_lands_there_too(self) -> None:
        self.of_location()
        logs = self.instance().compute_log_manager
        with logs.open_log_stream(["__repository__", "sensor", "7"], ComputeIOType.STDERR) as stream:
            stream.write("looked")
        self.assertEqual(self.aws.objects["repos/orders/logs/storage/__repository__/sensor/7.err"], b"looked")

    def test_a_process_of_no_location_asks_s3_nothing(self) -> None:
        instance = self.instance()
        logs = instance.compute_log_manager
        key = ["run", "compute_logs", "step"]
        result = speaking.execute_in_process(instance=instance, run_config=QUIET)
        self.assertTrue(result.success)
        with logs.open_log_stream(key, ComputeIOType.STDERR) as stream:
            stream.write("looked")
        logs.get_log_data(key)
        self.assertIsNone(logs.download_url_for_type(key, ComputeIOType.STDOUT))
        self.assertIsNone(logs.display_path_for_type(key, ComputeIOType.STDOUT))
        self.assertEqual(list(logs.get_log_keys_for_log_key_prefix(["run"], ComputeIOType.STDERR)), [])
        logs.delete_logs(prefix=["run"])
        self.assertEqual(self.aws.s3_calls, [])

    def test_the_instance_of_a_run_is_made_again_from_its_reference(self) -> None:
        reference = self.instance().get_ref()
        self.of_location(prefix="/repos/orders/")
        with DagsterInstance.from_ref(reference) as instance:
            speaking.execute_in_process(instance=instance, run_config=QUIET)
        self.assertTrue(self.aws.objects)
        self.assertEqual([key for key in self.aws.objects if not key.startswith("repos/orders/logs/")], [])

    def test_half_a_place_is_an_error_and_not_the_top_of_the_bucket(self) -> None:
        self.of_location(prefix="/")
        with self.assertRaisesRegex(DagsterInvariantViolationError, "DAGSTER_REPO_S3_PREFIX is not set"):
            _ = self.instance().compute_log_manager
        del os.environ["DAGSTER_REPO_S3_BUCKET"]
        os.environ["DAGSTER_REPO_S3_PREFIX"] = "repos/orders"
        with self.assertRaisesRegex(DagsterInvariantViolationError, "DAGSTER_REPO_S3_BUCKET is not set"):
            _ = self.instance().compute_log_manager


if __name__ == "__main__":
    unittest.main()
