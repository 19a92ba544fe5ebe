#!/usr/bin/env python3
"""Prepares `.local/`: uv, Dagster, moto, and the sample projects as bare git repositories.

All packages come from lock files with hashes, so a package index or mirror can only deliver the locked versions. Stamps
let a second run finish in milliseconds. Requires Python 3.11 and git, and uses nothing from the home folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LOCAL = ROOT / ".local"
REQUIREMENTS = ROOT / "deploy/local/requirements"
PROJECTS = ROOT / "tests/fixtures/projects"
IMAGES = ROOT / "deploy/images"
# The package codeloc_dagster, which the images also contain.
PACKAGE = IMAGES / "code-location/src"
# Environments for `make run`, and for the tests only.
RUN_ENVIRONMENTS = ("tools", "dagster")
TEST_ENVIRONMENTS = ("moto", "schemathesis")

# Variables that child processes inherit: certificates, proxies and the package index of the user. Others, such as
# PIP_FIND_LINKS, would make the installation depend on the machine.
PASSED = (
    "PATH", "HOME", "LANG", "LC_ALL", "TMPDIR",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT",
    "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy",
    "PIP_INDEX_URL", "UV_DEFAULT_INDEX",
)  # fmt: skip


class PrepareError(Exception):
    """A requirement is missing or a program failed."""


@dataclass(frozen=True)
class Sample:
    """A sample project and the git repository that contains it."""

    project: str
    repository: str
    # Folders for which this script creates uv.lock. The lock records hosts, so it is not in the sources.
    locked: tuple[str, ...] = ()


SAMPLES = (
    Sample("orders-assets", "orders"),
    Sample("nightly-report", "nightly-report"),
    Sample("platform-monorepo", "platform-monorepo", locked=("pipelines/inventory",)),
)


def environment(**more: str) -> dict[str, str]:
    """The environment of pip, uv and git, without any configuration of the machine or the user."""
    passed = {name: os.environ[name] for name in PASSED if name in os.environ}
    if "SSL_CERT_FILE" in passed:
        # Older versions of pip otherwise use their own certificates.
        passed.setdefault("PIP_CERT", passed["SSL_CERT_FILE"])
    return passed | {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_NO_INPUT": "1",
        "PIP_CACHE_DIR": str(LOCAL / "cache/pip"),
        "UV_NO_CONFIG": "1",
        "UV_CACHE_DIR": str(LOCAL / "cache/uv"),
        "UV_PYTHON": sys.executable,
        "UV_PYTHON_DOWNLOADS": "never",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_TERMINAL_PROMPT": "0",
        **more,
    }


def call(*command: str | Path, cwd: Path = ROOT, env: dict[str, str] | None = None) -> str:
    """Runs a program and returns its output."""
    words = [str(word) for word in command]
    try:
        done = subprocess.run(
            words,
            cwd=cwd,
            env=env or environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError as error:
        raise PrepareError(f"{words[0]} not found. Install it, or add it to the PATH") from error
    if done.returncode != 0:
        tail = "\n".join((done.stderr or done.stdout).splitlines()[-25:])
        raise PrepareError(f"`{' '.join(words)}` failed with exit code {done.returncode}:\n{tail}")
    return done.stdout


def digest(*parts: str | bytes) -> str:
    """Hashes all parts with their lengths, so that two different lists never hash the same bytes."""
    total = hashlib.sha256()
    for part in parts:
        raw = part.encode() if isinstance(part, str) else part
        total.update(len(raw).to_bytes(8, "big") + raw)
    return total.hexdigest()


def stamped(stamp: Path, value: str) -> bool:
    """Whether the last successful run stored this value in the stamp."""
    return stamp.is_file() and stamp.read_text() == value


@contextlib.contextmanager
def lock() -> Iterator[None]:
    """Allows one preparation at a time, because several test processes can start it."""
    LOCAL.mkdir(exist_ok=True)
    with (LOCAL / "prepare.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def make_environment(name: str) -> None:
    """Creates the virtual environment `.local/NAME` from its lock file."""
    requirements = REQUIREMENTS / f"{'uv' if name == 'tools' else name}.txt"
    folder = LOCAL / name
    stamp = folder / ".stamp"
    # A virtual environment contains its own path, so a moved checkout needs new environments.
    value = digest(requirements.read_bytes(), sys.version, sys.executable, str(folder))
    if stamped(stamp, value) and (folder / "bin/python").exists():
        return
    print(f"preparing .local/{name}", flush=True)
    if folder.is_symlink():
        folder.unlink()
    shutil.rmtree(folder, ignore_errors=True)
    python = folder / "bin/python"
    if name == "tools":
        call(sys.executable, "-m", "venv", folder)
        call(python, "-m", "pip", "install", "--quiet", "--require-hashes", "--only-binary", ":all:", "-r", requirements)
    else:
        uv = LOCAL / "tools/bin/uv"
        call(uv, "venv", "--quiet", folder)
        options = ("--quiet", "--require-hashes", "--compile-bytecode")
        call(uv, "pip", "install", *options, "--python", python, "-r", requirements)
    stamp.write_text(value)


def add_package() -> None:
    """Adds the sources of codeloc_dagster to `.local/dagster`, so that changes apply immediately."""
    for site in (LOCAL / "dagster/lib").glob("python3.*/site-packages"):
        link = site / "codeloc_dagster.pth"
        line = f"{PACKAGE}\n"
        if not link.is_file() or link.read_text() != line:
            link.write_text(line)


def make_policies() -> None:
    """Installs a third-party evaluator of IAM policies in `.local/policies` for the tests, if Node is installed."""
    sources, folder = ROOT / "tests/policies", LOCAL / "policies"
    if not (shutil.which("node") and shutil.which("npm")):
        return
    stamp = folder / ".stamp"
    value = contents(sources)
    if stamped(stamp, value):
        return
    print("preparing .local/policies", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(sources, folder)
    # A machine with Node may not reach the package registry. The tests then report what they skip.
    options = ("--ignore-scripts", "--no-audit", "--no-fund", "--silent", "--fetch-retries", "1")
    options += ("--fetch-timeout", "20000", "--cache", LOCAL / "cache/npm")
    try:
        call("npm", "ci", *options, cwd=folder, env=environment(**npm_settings()))
    except PrepareError as error:
        print(f"prepare: skipping the second evaluator of IAM policies: {error}", file=sys.stderr)
        shutil.rmtree(folder)
        return
    stamp.write_text(value)


def npm_settings() -> dict[str, str]:
    """The package registry and certificates of the user from the environment, without their npm configuration file."""
    names = ("npm_config_registry", "npm_config_cafile")
    passed = {name: value for name, value in os.environ.items() if name.lower() in names}
    return passed | {"NPM_CONFIG_USERCONFIG": os.devnull}


def contents(folder: Path) -> str:
    """Hashes paths, modes and contents of all files in a folder."""
    parts: list[str | bytes] = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts):
        parts += [str(path.relative_to(folder)), "x" if os.access(path, os.X_OK) else "-", path.read_bytes()]
    return digest(*parts)


def make_repository(sample: Sample) -> None:
    """Creates a bare git repository with the sample on the branch `main`.

    The commit depends only on the content and the parent. Commits that you push on top stay until the sample changes.
    """
    project = PROJECTS / sample.project
    repository = LOCAL / "git" / f"{sample.repository}.git"
    stamp = LOCAL / "git" / f".{sample.repository}.stamp"
    value = digest(contents(project), *sample.locked)
    if stamped(stamp, value) and (repository / "HEAD").is_file():
        return
    print(f"preparing .local/git/{sample.repository}.git", flush=True)
    if not (repository / "HEAD").is_file():
        repository.parent.mkdir(parents=True, exist_ok=True)
        call("git", "init", "--quiet", "--bare", "--template=", "--initial-branch=main", repository)
        # codeloc fetches commits by their hash.
        call("git", "-C", repository, "config", "uploadpack.allowAnySHA1InWant", "true")
    with tempfile.TemporaryDirectory(dir=LOCAL, prefix="sample-") as scratch:
        tree = Path(scratch) / "tree"
        shutil.copytree(project, tree, ignore=shutil.ignore_patterns("__pycache__"))
        for folder in sample.locked:
            make_lock(repository, tree, folder)
        commit(repository, tree, Path(scratch) / "index")
    stamp.write_text(value)


def head(repository: Path) -> str | None:
    """The newest commit of `main`, or None."""
    listed = call("git", "-C", repository, "for-each-ref", "--format=%(objectname)", "refs/heads/main")
    return listed.strip() or None


def make_lock(repository: Path, tree: Path, folder: str) -> None:
    """Creates `uv.lock`, starting from the committed one, so that it changes only if necessary."""
    path = f"{folder}/uv.lock"
    if head(repository) and call("git", "-C", repository, "ls-tree", "main", "--", path):
        (tree / path).write_text(call("git", "-C", repository, "show", f"main:{path}"))
    call(LOCAL / "tools/bin/uv", "lock", "--quiet", cwd=tree / folder)


def commit(repository: Path, tree: Path, index: Path) -> None:
    """Commits the tree to `main`, unless `main` already has this tree."""
    at = "2026-01-01T00:00:00+00:00"
    git_environment = environment(
        GIT_DIR=str(repository), GIT_WORK_TREE=str(tree), GIT_INDEX_FILE=str(index),
        GIT_AUTHOR_NAME="codeloc samples", GIT_AUTHOR_EMAIL="samples@codeloc.invalid", GIT_AUTHOR_DATE=at,
        GIT_COMMITTER_NAME="codeloc samples", GIT_COMMITTER_EMAIL="samples@codeloc.invalid", GIT_COMMITTER_DATE=at,
    )  # fmt: skip

    def git(*words: str) -> str:
        return call("git", *words, cwd=tree, env=git_environment).strip()

    git("add", "--all", "--force", ".")
    written = git("write-tree")
    parent = head(repository)
    if parent and git("rev-parse", f"{parent}^{{tree}}") == written:
        return
    message = "Update the sample" if parent else "Add the sample"
    created = git("commit-tree", written, "-m", message, *(("-p", parent) if parent else ()))
    git("update-ref", "refs/heads/main", created, *((parent,) if parent else ()))


def write_locks() -> None:
    """Recreates the lock files from their `.in` files, without hosts or paths."""
    make_environment("tools")
    options = ("--quiet", "--generate-hashes", "--universal", "--upgrade")
    silent = ("--no-emit-index-url", "--no-annotate", "--no-header")
    # The oldest Python that this script supports, and the Python of the images.
    for folder, pattern, python in ((REQUIREMENTS, "*.in", "3.11"), (IMAGES, "*/requirements.in", "3.12")):
        for source in sorted(folder.glob(pattern)):
            output = ("--python-version", python, "--output-file", source.with_suffix(".txt"))
            call(LOCAL / "tools/bin/uv", "pip", "compile", *options, *silent, *output, source)


def prepare(for_tests: bool) -> None:
    """Creates everything that is missing or outdated for `make run`, and for the tests if `for_tests` is set."""
    if sys.version_info < (3, 11):
        raise PrepareError(f"Python {sys.version.split()[0]} is too old. Use Python 3.11 or newer")
    with lock():
        for name in RUN_ENVIRONMENTS:
            make_environment(name)
        add_package()
        if for_tests:
            for name in TEST_ENVIRONMENTS:
                make_environment(name)
            make_policies()
        for sample in SAMPLES:
            make_repository(sample)


def main() -> int:
    """Prepares everything, or updates the lock files with `--lock`."""
    try:
        if sys.argv[1:] == ["--lock"]:
            write_locks()
        elif sys.argv[1:]:
            raise PrepareError("usage: prepare.py [--lock]")
        else:
            prepare(for_tests=True)
    except (PrepareError, OSError) as error:
        print(f"prepare: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
