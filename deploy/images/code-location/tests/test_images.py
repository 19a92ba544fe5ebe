"""The files beside the package: locks of one release, and instances that Dagster can load."""

from __future__ import annotations

import re
import shutil
import tempfile
import unittest
from pathlib import Path

from dagster._core.instance.ref import InstanceRef

from codeloc_dagster.compute_logs import CodelocComputeLogManager
from codeloc_dagster.launcher import CodelocRunLauncher
from fake_aws import AwsTestCase

DEPLOY = Path(__file__).resolve().parents[3]
LOCKS = (
    DEPLOY / "images/code-location/requirements.txt",
    DEPLOY / "images/dagster/requirements.txt",
    DEPLOY / "local/requirements/dagster.txt",
)
SHARED = ("dagster", "dagster-aws", "boto3", "botocore", "sqlalchemy", "grpcio")


class Images(AwsTestCase):
    def test_every_lock_pins_the_same_release(self) -> None:
        pinned = []
        for lock in LOCKS:
            versions = dict(re.findall(r"(?m)^([a-z0-9.-]+)==([^ \\]+)", lock.read_text()))
            pinned.append({name: versions[name] for name in SHARED})
            major, minor, patch = versions["dagster"].split(".")
            for name in ("dagster-aws", "dagster-postgres"):
                self.assertIn(versions.get(name), (None, f"0.{int(minor) + 16}.{patch}"), f"{name} in {lock}")
            self.assertEqual(major, "1")
        self.assertEqual(pinned, pinned[:1] * len(LOCKS))

    def test_locks_are_hashed_and_name_no_host(self) -> None:
        for lock in LOCKS:
            text = lock.read_text()
            self.assertNotRegex(text, "://|--index-url|--find-links", lock)
            entries = re.split(r"(?m)^(?=[a-z])", text)[1:]
            self.assertEqual([entry for entry in entries if "--hash=sha256:" not in entry], [], lock)

    def test_both_instances_load(self) -> None:
        for name in ("images/dagster/dagster.yaml", "local/dagster.yaml"):
            with self.subTest(name), tempfile.TemporaryDirectory() as folder:
                shutil.copy(DEPLOY / name, f"{folder}/dagster.yaml")
                reference = InstanceRef.from_dir(folder)
                self.assertIsInstance(reference.run_launcher, CodelocRunLauncher)
                self.assertIsInstance(reference.compute_log_manager, CodelocComputeLogManager)


if __name__ == "__main__":
    unittest.main()
