"""Compute logs as a Dagster instance configures them."""

from __future__ import annotations

import os
import sys
import tempfile
import unittest
from pathlib import Path

from dagster import DagsterEventType, DagsterInstance, DagsterInvariantViolationError, job, op
from dagster._core.storage.compute_log_manager import ComputeIOType

from fake_aws import AwsTestCase

# Disables console logging, because the tests check only the output of steps.
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
INSTANCE = """
telemetry: {{enabled: false}}
compute_logs:
  module: codeloc_dagster.compute_logs
  class: CodelocComputeLogManager
  config: {{local_dir: {folder}}}
"""


@op
def prints() -> None:
    print("written by a step")
    print("and this to stderr", file=sys.stderr)


@job
def printing() -> None:
    prints()


class ComputeLogs(AwsTestCase):
    def instance(self) -> DagsterInstance:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        home = Path(folder.name)
        (home / "dagster.yaml").write_text(INSTANCE.format(folder=home / "logs"))
        instance = DagsterInstance.from_config(folder.name)
        self.addCleanup(instance.dispose)
        return instance

    def test_step_output_goes_to_the_prefix_and_the_event_links_it(self) -> None:
        self.of_location()
        instance = self.instance()
        result = printing.execute_in_process(instance=instance, run_config=QUIET)
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

    def test_tick_logs_go_to_the_prefix(self) -> None:
        self.of_location()
        logs = self.instance().compute_log_manager
        with logs.open_log_stream(["__repository__", "sensor", "7"], ComputeIOType.STDERR) as stream:
            stream.write("looked")
        self.assertEqual(self.aws.objects["repos/orders/logs/storage/__repository__/sensor/7.err"], b"looked")

    def test_a_process_without_location_does_not_call_s3(self) -> None:
        instance = self.instance()
        logs = instance.compute_log_manager
        key = ["run", "compute_logs", "step"]
        result = printing.execute_in_process(instance=instance, run_config=QUIET)
        self.assertTrue(result.success)
        with logs.open_log_stream(key, ComputeIOType.STDERR) as stream:
            stream.write("looked")
        logs.get_log_data(key)
        self.assertIsNone(logs.download_url_for_type(key, ComputeIOType.STDOUT))
        self.assertIsNone(logs.display_path_for_type(key, ComputeIOType.STDOUT))
        self.assertEqual(list(logs.get_log_keys_for_log_key_prefix(["run"], ComputeIOType.STDERR)), [])
        logs.delete_logs(prefix=["run"])
        self.assertEqual(self.aws.s3_calls, [])

    def test_an_instance_from_a_reference_uses_the_prefix(self) -> None:
        reference = self.instance().get_ref()
        self.of_location(prefix="/repos/orders/")
        with DagsterInstance.from_ref(reference) as instance:
            printing.execute_in_process(instance=instance, run_config=QUIET)
        self.assertTrue(self.aws.objects)
        self.assertEqual([key for key in self.aws.objects if not key.startswith("repos/orders/logs/")], [])

    def test_a_missing_bucket_or_prefix_is_an_error(self) -> None:
        self.of_location(prefix="/")
        with self.assertRaisesRegex(DagsterInvariantViolationError, "DAGSTER_REPO_S3_PREFIX is not set"):
            _ = self.instance().compute_log_manager
        del os.environ["DAGSTER_REPO_S3_BUCKET"]
        os.environ["DAGSTER_REPO_S3_PREFIX"] = "repos/orders"
        with self.assertRaisesRegex(DagsterInvariantViolationError, "DAGSTER_REPO_S3_BUCKET is not set"):
            _ = self.instance().compute_log_manager


if __name__ == "__main__":
    unittest.main()
