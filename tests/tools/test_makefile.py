"""The targets for locations run a current build of codeloc, wherever cargo puts it. Run with python -m unittest discover -s tests/tools."""

import os
import subprocess
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

TARGETS = {
    "add-repo": ["REPO_URL=https://example.com/orders.git"],
    "update-repo": ["REPO_NAME=orders", "SET=branch=next"],
    "remove-repo": ["REPO_NAME=orders"],
    "list-repos": [],
    "repo-logs": ["REPO_NAME=orders"],
    "sync-repos": [],
    "dev-add-repo": ["REPO_PATH=orders"],
}


def commands(target: str, words: list[str], **variables: str) -> list[str]:
    """The commands that make would run."""
    environment = {"PATH": os.environ["PATH"], **variables}
    make = ["make", "--dry-run", target, *words, "CARGO=the-cargo"]
    output = subprocess.run(make, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    return output.stdout.splitlines()


class Makefile(unittest.TestCase):
    def test_targets_for_locations_build_codeloc_first(self) -> None:
        for target, words in TARGETS.items():
            first, second, *_ = commands(target, words)
            self.assertRegex(first, r"^the-cargo build .*--locked -p codeloc", target)
            self.assertRegex(second, r"^target/debug/codeloc ", target)

    def test_the_program_comes_from_the_folder_of_cargo(self) -> None:
        for variable in ["CARGO_TARGET_DIR", "CARGO_BUILD_TARGET_DIR"]:
            for target, words in TARGETS.items():
                second = commands(target, words, **{variable: "/elsewhere"})[1]
                self.assertRegex(second, r"^/elsewhere/debug/codeloc ", f"{target} with {variable}")


if __name__ == "__main__":
    unittest.main()
