#!/usr/bin/env python3
"""Prepares tools for the tests in `.local/registry-tools/`, and Python base images for two architectures.

The tools are an image registry, skopeo, umoci, runc, buildah, QEMU and Prometheus. The script downloads Debian packages
with apt and unpacks them without installing, so it needs no root and does not change the machine. A stamp lets a second
run finish in milliseconds. If a tool is not available, the script exits with 3 and the last line explains why.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".local/registry-tools"
# Programs and the packages that contain them.
TOOLS = {
    "buildah": "buildah",
    "patchelf": "patchelf",
    "docker-registry": "docker-registry",
    "skopeo": "skopeo",
    "umoci": "umoci",
    "runc": "runc",
    "qemu-aarch64-static": "qemu-user-static",
    "prometheus": "prometheus",
    "promtool": "prometheus",
}
# Python of the base image, without packages for system setup. Wheels need the C++ library.
PYTHON = ("python3-minimal", "libpython3-stdlib", "libstdc++6")
ENVIRONMENT = "opt/codeloc/env"


class UnavailableError(Exception):
    """A tool or package is not available on this machine."""


def call(*words: str | Path, **more: object) -> str:
    """Runs a program and returns its output."""
    command = [str(word) for word in words]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, **more)
    except FileNotFoundError as error:
        raise UnavailableError(f"{command[0]} is not installed") from error
    if done.returncode != 0:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise UnavailableError(f"{command[0]} {command[-1]} failed: {' '.join(last)}")
    return done.stdout


class Packages:
    """Debian packages for one architecture, with separate apt lists."""

    def __init__(self, machine: str) -> None:
        self.folder = FOLDER / "packages" / machine
        state, cache = self.folder / "state", self.folder / "cache"
        for part in (state / "lists/partial", cache / "archives/partial"):
            part.mkdir(parents=True, exist_ok=True)
        (state / "status").touch()
        settings = {
            "APT::Architecture": machine,
            "APT::Architectures": machine,
            "APT::Sandbox::User": "",
            "Acquire::Languages": "none",
            "Dir::State": state,
            "Dir::State::status": state / "status",
            "Dir::Cache": cache,
        }
        self.options = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
        call("apt-get", *self.options, "update")

    def closure(self, *names: str) -> list[str]:
        """These packages and the libraries that they need. Uses the first of alternative dependencies."""
        known, ahead = set(names), list(names)
        while ahead:
            found, choice = set(), False
            for line in call("apt-cache", *self.options, "depends", *ahead).splitlines():
                # ` |Depends: a` means that the next such line is an alternative.
                if needed := re.match(r" ([ |])(?:Pre)?Depends: (\S+)", line):
                    if not choice and re.match(r"lib|zlib|python3|media-types", needed[2]):
                        found.add(needed[2].split(":")[0])
                    choice = needed[1] == "|"
            ahead = sorted(found - known)
            known.update(ahead)
        return sorted(known)

    def unpack(self, names: list[str], target: Path) -> None:
        """Fetches packages and unpacks them into a folder."""
        call("apt-get", *self.options, "download", *names, cwd=self.folder)
        target.mkdir(parents=True, exist_ok=True)
        for package in sorted(self.folder.glob("*.deb")):
            call("dpkg", "--extract", package, target)
            package.unlink()


def tools(machine: str) -> None:
    """Fills `bin/` and `lib/` with links to tools of the machine, and with the rest from packages."""
    (FOLDER / "bin").mkdir(parents=True)
    (FOLDER / "lib").mkdir()
    missing = {}
    for program, package in TOOLS.items():
        if found := shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"):
            (FOLDER / "bin" / program).symlink_to(found)
        else:
            missing[program] = package
    if not missing:
        return
    packages = Packages(machine)
    # The tools use the C library of the machine.
    needed = [name for name in packages.closure(*missing.values()) if not re.match(r"libc6|libc-|python3", name)]
    unpacked = FOLDER / "unpacked"
    packages.unpack(needed, unpacked)
    for program in missing:
        found = next((path for place in ("bin", "sbin") if (path := unpacked / "usr" / place / program).exists()), None)
        if found is None:
            raise UnavailableError(f"the package {missing[program]} does not contain {program}")
        shutil.move(found.resolve(), FOLDER / "bin" / program)
    for library in [*unpacked.glob("usr/lib/*/*.so.*"), *unpacked.glob("lib/*/*.so.*")]:
        library.rename(FOLDER / "lib" / library.name)
    shutil.rmtree(unpacked)
    if "buildah" in missing:
        # buildah restarts itself with an empty environment, so it cannot use LD_LIBRARY_PATH to find its libraries.
        more = {"env": {**os.environ, "LD_LIBRARY_PATH": str(FOLDER / "lib")}}
        buildah = FOLDER / "bin/buildah"
        call(FOLDER / "bin/patchelf", "--force-rpath", "--set-rpath", FOLDER / "lib", buildah, **more)


def base(machine: str) -> str:
    """Creates a base image in the OCI layout `base/`: Python of Debian, and an environment where codeloc expects it."""
    packages, root = Packages(machine), FOLDER / "root" / machine
    packages.unpack(packages.closure(*PYTHON), root)
    (python,) = (path for path in (root / "usr/bin").iterdir() if re.fullmatch(r"python3\.\d+", path.name))
    minor = python.name.removeprefix("python")
    (root / ENVIRONMENT / "bin").mkdir(parents=True)
    (root / ENVIRONMENT / "bin/python").symlink_to(f"/usr/bin/{python.name}")
    (root / ENVIRONMENT / "pyvenv.cfg").write_text(f"home = /usr/bin\nversion = {minor}\n")
    (root / "tmp").mkdir(exist_ok=True)
    (root / "etc/passwd").write_text("nobody:x:65534:65534::/tmp:/bin/false\n")
    if machine == "arm64":
        shutil.copy(FOLDER / "bin/qemu-aarch64-static", root / "qemu-aarch64-static")
    umoci, layout = FOLDER / "bin/umoci", FOLDER / "base"
    image = f"{layout}:{machine}"
    if not layout.exists():
        call(umoci, "init", "--layout", layout)
    call(umoci, "new", "--image", image)
    call(umoci, "insert", *([] if os.geteuid() == 0 else ["--rootless"]), "--image", image, root, "/")
    user = ("--config.user", "65534:65534")
    call(umoci, "config", "--image", image, "--architecture", machine, "--os", "linux", *user)
    return minor


def prepare() -> None:
    """Creates everything that is missing or outdated."""
    stamp = FOLDER / "stamp"
    value = hashlib.sha256(Path(__file__).read_bytes() + str(FOLDER).encode()).hexdigest()
    if stamp.is_file() and stamp.read_text() == value:
        return
    for part in ("bin", "lib", "base", "root", "packages", "unpacked"):
        shutil.rmtree(FOLDER / part, ignore_errors=True)
    machine = call("dpkg", "--print-architecture").strip()
    print("preparing .local/registry-tools", flush=True)
    tools(machine)
    minors = {base(machine) for machine in sorted({machine, "arm64"})}
    (FOLDER / "python").write_text(minors.pop())
    for part in ("root", "packages"):
        shutil.rmtree(FOLDER / part)
    stamp.write_text(value)


def main() -> int:
    """Prepares everything and returns the exit code."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            prepare()
        except (UnavailableError, OSError, ValueError) as error:
            print(f"skipping the registry tools: {error}")
            return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
