#!/usr/bin/env python3
"""Prepares `.local/registry-tools/`: a registry, skopeo, umoci, runc, buildah, QEMU, Prometheus, and Python base images for two machines.

Everything comes out of Debian's packages through apt and is only unpacked, never installed, so that nobody need be root
and nothing of the machine changes. A second run finds its stamp and takes milliseconds. Where it cannot be had, the exit
code is 3 and the last line says why.
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
# Programs, and the packages that hold them.
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
# The base image's Python, without what only sets a machine up; wheels expect the C++ library of every machine.
PYTHON = ("python3-minimal", "libpython3-stdlib", "libstdc++6")
ENVIRONMENT = "opt/codeloc/env"


class LeftOutError(Exception):
    """Something cannot be had here."""


def call(*words: str | Path, **more: object) -> str:
    """Runs a program to its end and returns what it printed."""
    command = [str(word) for word in words]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, **more)
    except FileNotFoundError as error:
        raise LeftOutError(f"{command[0]} is not installed") from error
    if done.returncode != 0:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise LeftOutError(f"{command[0]} {command[-1]} failed: {' '.join(last)}")
    return done.stdout


class Packages:
    """Debian's packages for one machine, with lists of our own."""

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
        """These packages and the libraries they need, the first of each choice."""
        known, ahead = set(names), list(names)
        while ahead:
            found, choice = set(), False
            for line in call("apt-cache", *self.options, "depends", *ahead).splitlines():
                # ` |Depends: a` says that the next such line is another choice.
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
    """`bin/` and `lib/`: what the machine has, and the rest out of packages."""
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
    # The C library is the machine's own.
    needed = [name for name in packages.closure(*missing.values()) if not re.match(r"libc6|libc-|python3", name)]
    unpacked = FOLDER / "unpacked"
    packages.unpack(needed, unpacked)
    for program in missing:
        found = next((path for place in ("bin", "sbin") if (path := unpacked / "usr" / place / program).exists()), None)
        if found is None:
            raise LeftOutError(f"the package {missing[program]} holds no {program}")
        shutil.move(found.resolve(), FOLDER / "bin" / program)
    for library in [*unpacked.glob("usr/lib/*/*.so.*"), *unpacked.glob("lib/*/*.so.*")]:
        library.rename(FOLDER / "lib" / library.name)
    shutil.rmtree(unpacked)
    if "buildah" in missing:
        # It starts itself anew without any variable, so that its libraries have to be found without one.
        more = {"env": {**os.environ, "LD_LIBRARY_PATH": str(FOLDER / "lib")}}
        buildah = FOLDER / "bin/buildah"
        call(FOLDER / "bin/patchelf", "--force-rpath", "--set-rpath", FOLDER / "lib", buildah, **more)


def base(machine: str) -> str:
    """A tag in the OCI layout `base/`: Debian's Python, and its environment where codeloc expects one."""
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
    """Makes everything, unless it is there."""
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
    """The command line: nothing."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            prepare()
        except (LeftOutError, OSError, ValueError) as error:
            print(f"left out: {error}")
            return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
