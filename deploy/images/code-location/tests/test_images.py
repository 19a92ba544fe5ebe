"""Lock files and Dagster instances of the images."""

from __future__ import annotations

import re
import shutil
import tempfile
import unittest
from pathlib import Path

from dagster import DagsterInstance
from dagster._core.instance.ref import InstanceRef

from codeloc_dagster.compute_logs import CodelocComputeLogManager
from codeloc_dagster.launcher import CodelocRunLauncher
from fake_aws import AwsTestCase

DEPLOY = Path(__file__).resolve().parents[3]
LOCKS = (
    DEPLOY / "images/dagster/requirements.txt",
    DEPLOY / "local/requirements/dagster.txt",
)
DOCS = DEPLOY.parent / "docs"
SHARED = ("dagster", "dagster-aws", "boto3", "botocore", "sqlalchemy", "grpcio")


def instances() -> dict[str, str]:
    """Every Dagster instance in `deploy/` and in the documentation, by file name."""
    found = {str(path.relative_to(DEPLOY)): path.read_text() for path in DEPLOY.rglob("dagster.yaml")}
    for page in DOCS.glob("*.md"):
        blocks = re.findall(r"(?ms)^```yaml\n(.*?)^```", page.read_text())
        found |= {f"{page.name} {number}": text for number, text in enumerate(blocks) if "run_launcher:" in text}
    return found


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

    def test_locks_have_hashes_and_no_hosts(self) -> None:
        for lock in LOCKS:
            text = lock.read_text()
            self.assertNotRegex(text, "://|--index-url|--find-links", lock)
            entries = re.split(r"(?m)^(?=[a-z])", text)[1:]
            self.assertEqual([entry for entry in entries if "--hash=sha256:" not in entry], [], lock)

    def test_every_instance_retries_failed_runs_on_request(self) -> None:
        texts = instances()
        self.assertLessEqual({"images/dagster/dagster.yaml", "local/dagster.yaml"}, texts.keys())
        self.assertTrue([name for name in texts if name.startswith("runs.md")])
        for name, text in texts.items():
            with self.subTest(name), tempfile.TemporaryDirectory() as folder:
                (Path(folder) / "dagster.yaml").write_text(text)
                # `make run` does not install Postgres.
                storage = {"storage": {"sqlite": {"base_dir": folder}}}
                with DagsterInstance.from_ref(InstanceRef.from_dir(folder, overrides=storage)) as instance:
                    self.assertTrue(instance.run_retries_enabled)
                    # Dagster retries only runs with a tag.
                    self.assertEqual(instance.run_retries_max_retries, 0)

    def test_both_instances_load(self) -> None:
        for name in ("images/dagster/dagster.yaml", "local/dagster.yaml"):
            with self.subTest(name), tempfile.TemporaryDirectory() as folder:
                shutil.copy(DEPLOY / name, f"{folder}/dagster.yaml")
                reference = InstanceRef.from_dir(folder)
                self.assertIsInstance(reference.run_launcher, CodelocRunLauncher)
                self.assertIsInstance(reference.compute_log_manager, CodelocComputeLogManager)


if __name__ == "__main__":
    unittest.main()
