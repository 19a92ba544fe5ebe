"""Runs the steps of the Dockerfiles in a folder with the Python of this machine, without Docker or a package index.

Stand-ins replace external parts: `useradd` does nothing, and pip provides the packages that `make prepare` installed.
"""

from __future__ import annotations

import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import unittest
from pathlib import Path

IMAGES = Path(__file__).resolve().parents[2]
ABI = "cp{}{}{}-{}{}".format(*sys.version_info[:2], sys.abiflags, *platform.libc_ver())
# Packages of the images that `make run` does not install.
STAND_INS = ("dagster_postgres",)


class BuildError(Exception):
    """A step of the build failed."""


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    """Name and arguments of each instruction, without comments and line breaks."""
    text = re.sub(r"(?m)^#.*\n", "", dockerfile.read_text())
    lines = re.sub(r"\\\n", " ", text).splitlines()
    return [(word, rest) for word, rest in (line.split(maxsplit=1) for line in lines if line.strip())]


class Build:
    """Runs both stages of a Dockerfile in one folder as the root of the file system."""

    def __init__(self, root: Path, *, packages: bool = True, **arguments: str) -> None:
        self.root, self.packages, self.arguments = root, packages, arguments
        self.folder = root
        self.tools = root / "tools"
        self.tools.mkdir()
        for name in ("useradd", "install"):
            self.tool(name, "exit 0")
        self.tool("python", f'[ "$2" = pip ] && exec {self.pip()} "$4"\nexec {shlex.quote(sys.executable)} "$@"')
        self.environment = {"PATH": f"{self.tools}:/usr/bin:/bin", "HOME": str(root), "LC_ALL": "C.UTF-8"}

    def tool(self, name: str, script: str) -> None:
        path = self.tools / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def pip(self) -> Path:
        """A stand-in for pip: provides the packages of this process."""
        own = sysconfig.get_path("purelib") if self.packages else ""
        script = self.tools / "pip"
        script.write_text(
            f"#!/bin/sh\nexec \"$1\" - <<'END'\n"
            f"import pathlib, sysconfig\n"
            f"site = pathlib.Path(sysconfig.get_path('purelib'))\n"
            f"(site / 'packages.pth').write_text({own!r})\n"
            f"for name in {STAND_INS!r}:\n"
            f"    (site / name).mkdir()\n"
            f"    (site / name / '__init__.py').touch()\n"
            f"END\n"
        )
        script.chmod(0o755)
        return script

    def within(self, text: str) -> str:
        """Replaces paths of the image with paths in the root folder."""
        return re.sub(r"(?<![\w./])/(?=opt/codeloc|build)", f"{self.root}/", text)

    def of(self, name: str) -> Build:
        """Runs the steps of `NAME/Dockerfile`. Raises BuildError if a step fails."""
        context = IMAGES / name if name == "code-location" else IMAGES
        for word, rest in instructions(IMAGES / name / "Dockerfile"):
            match word:
                case "COPY" if not rest.startswith("--from"):
                    source, target = shlex.split(rest)
                    self.copy(context / source, self.within(target))
                case "RUN":
                    self.run(self.within(rest))
                case "ENV":
                    for setting in shlex.split(self.within(rest)):
                        key, value = setting.split("=", 1)
                        self.environment[key] = f"{value}:{self.tools}" if key == "PATH" else value
                case "ARG":
                    key, _, default = rest.partition("=")
                    # Debian packages are not installed on this machine.
                    absent = "" if key == "SYSTEM_PACKAGES" else default
                    self.environment[key] = self.arguments.get(key, absent)
                case "WORKDIR":
                    self.folder = Path(self.within(rest))
                    self.folder.mkdir(parents=True, exist_ok=True)
                case "FROM" | "COPY" | "LABEL" | "USER" | "CMD":
                    pass
                case other:
                    raise AssertionError(f"{name}: the test does not support {other}")
        return self

    def copy(self, source: Path, target: str) -> None:
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            return
        path = Path(target) / source.name if target.endswith("/") else Path(target)
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, path)

    def run(self, command: str) -> str:
        done = subprocess.run(
            ["/bin/sh", "-c", command], env=self.environment, cwd=self.folder, capture_output=True, text=True
        )
        if done.returncode != 0:
            raise BuildError(done.stderr)
        return done.stdout.strip()

    def site(self) -> Path:
        return Path(self.run("python -c 'import sysconfig; print(sysconfig.get_path(\"purelib\"))'"))


class Dockerfiles(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def root(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self.folder))

    def test_both_images_build_and_import_their_packages(self) -> None:
        base = Build(self.root(), ABI=ABI).of("code-location")
        platform = base.root / "opt/codeloc/platform/codeloc_dagster"
        self.assertTrue((platform / "platform_io.py").is_file())
        self.assertTrue(list(platform.glob("__pycache__/platform_io.*.pyc")))
        dagster = Build(self.root()).of("dagster").site()
        self.assertTrue((dagster / "codeloc_dagster/launcher.py").is_file())
        self.assertTrue(list(dagster.glob("codeloc_dagster/__pycache__/launcher.*.pyc")))

    def test_the_environment_of_the_base_image_is_empty(self) -> None:
        build = Build(self.root(), ABI=ABI).of("code-location")
        self.assertEqual([path.name for path in build.site().iterdir()], ["codeloc.pth"])
        shown = "python -c 'import codeloc_dagster; print(codeloc_dagster.__file__)'"
        self.assertEqual(build.run(shown), f"{build.root}/opt/codeloc/platform/codeloc_dagster/__init__.py")

    def test_a_missing_package_fails_the_build(self) -> None:
        with self.assertRaisesRegex(BuildError, "No module named 'dagster'"):
            Build(self.root(), packages=False).of("dagster")

    def test_a_wrong_abi_label_fails_the_build(self) -> None:
        with self.assertRaisesRegex(BuildError, f"this Python is {ABI}: build with --build-arg ABI={ABI}"):
            Build(self.root(), ABI="cp39-glibc2.17").of("code-location")


if __name__ == "__main__":
    unittest.main()
