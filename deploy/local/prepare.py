#!/usr/bin/env python3
"""Prepares `.local/`: uv, Dagster, moto, and the sample projects as bare git repositories.

Everything comes from hashed lock files, so that an index or a mirror can only deliver what was locked. A second run
finds its stamps and takes milliseconds. Needs Python 3.11 and git, and nothing from the home folder.
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
# Dagster's side of codeloc, which the images of `deploy/images` hold too.
PACKAGE = IMAGES / "code-location/src"
# What `make run` uses, and what only the tests use.
RUN_ENVIRONMENTS = ("tools", "dagster")
TEST_ENVIRONMENTS = ("moto", "schemathesis")

# What children get of this process's environment. PIP_FIND_LINKS and its like stay outside: they would make an
# installation depend on the machine. A certificate authority, a proxy and a mirror of the index are the user's own.
PASSED = (
    "PATH", "HOME", "LANG", "LC_ALL", "TMPDIR",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT",
    "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy",
    "PIP_INDEX_URL", "UV_DEFAULT_INDEX",
)  # fmt: skip


class PrepareError(Exception):
    """Something is missing or failed; the text says what to do."""


@dataclass(frozen=True)
class Sample:
    """A sample project and the git repository that is made of it."""

    project: str
    repository: str
    # Folders with a pyproject.toml whose uv.lock is made here: it records hosts, so it is not in the sources.
    locked: tuple[str, ...] = ()


SAMPLES = (
    Sample("orders-assets", "orders"),
    Sample("nightly-report", "nightly-report"),
    Sample("platform-monorepo", "platform-monorepo", locked=("pipelines/inventory",)),
)


def environment(**more: str) -> dict[str, str]:
    """The environment of pip, uv and git: a short list, and no configuration of the machine or the user."""
    passed = {name: os.environ[name] for name in PASSED if name in os.environ}
    if "SSL_CERT_FILE" in passed:
        # Older pips look into a bundle of their own unless told.
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
    """Runs a program to its end and returns what it printed."""
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
        raise PrepareError(f"{words[0]} is not installed, or not on the PATH") from error
    if done.returncode != 0:
        tail = "\n".join((done.stderr or done.stdout).splitlines()[-25:])
        raise PrepareError(f"`{' '.join(words)}` failed with exit code {done.returncode}:\n{tail}")
    return done.stdout


def digest(*parts: str | bytes) -> str:
    """One hash over all parts, each with its length, so that no two lists give the same bytes."""
    total = hashlib.sha256()
    for part in parts:
        raw = part.encode() if isinstance(part, str) else part
        total.update(len(raw).to_bytes(8, "big") + raw)
    return total.hexdigest()


def stamped(stamp: Path, value: str) -> bool:
    """Whether the last run that ended well made exactly this."""
    return stamp.is_file() and stamp.read_text() == value


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """One preparation at a time: tests of several processes may ask for it at once."""
    LOCAL.mkdir(exist_ok=True)
    with (LOCAL / "prepare.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def make_environment(name: str) -> None:
    """`.local/NAME`, a virtual environment that holds exactly the lock of this name."""
    lock = REQUIREMENTS / f"{'uv' if name == 'tools' else name}.txt"
    folder = LOCAL / name
    stamp = folder / ".stamp"
    # The folder's own path is part of a virtual environment: a moved checkout makes its environments anew.
    value = digest(lock.read_bytes(), sys.version, sys.executable, str(folder))
    if stamped(stamp, value) and (folder / "bin/python").exists():
        return
    print(f"preparing .local/{name}", flush=True)
    if folder.is_symlink():
        folder.unlink()
    shutil.rmtree(folder, ignore_errors=True)
    python = folder / "bin/python"
    if name == "tools":
        call(sys.executable, "-m", "venv", folder)
        call(python, "-m", "pip", "install", "--quiet", "--require-hashes", "--only-binary", ":all:", "-r", lock)
    else:
        uv = LOCAL / "tools/bin/uv"
        call(uv, "venv", "--quiet", folder)
        options = ("--quiet", "--require-hashes", "--compile-bytecode")
        call(uv, "pip", "install", *options, "--python", python, "-r", lock)
    stamp.write_text(value)


def add_package() -> None:
    """Dagster's side of codeloc in `.local/dagster`, from the sources: a change is in force at once."""
    for site in (LOCAL / "dagster/lib").glob("python3.*/site-packages"):
        link = site / "codeloc_dagster.pth"
        line = f"{PACKAGE}\n"
        if not link.is_file() or link.read_text() != line:
            link.write_text(line)


def make_policies() -> None:
    """`.local/policies`, an evaluator of IAM policies that others wrote: for the tests alone, and only where Node is installed."""
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
    # A machine with Node may have no way to its registry: the tests then say what they leave out.
    options = ("--ignore-scripts", "--no-audit", "--no-fund", "--silent", "--fetch-retries", "1", "--fetch-timeout", "20000", "--cache", LOCAL / "cache/npm")
    try:
        call("npm", "ci", *options, cwd=folder, env=environment(**npm_settings()))
    except PrepareError as error:
        print(f"left out: the second evaluator of policies: {error}", file=sys.stderr)
        shutil.rmtree(folder)
        return
    stamp.write_text(value)


def npm_settings() -> dict[str, str]:
    """The user's own mirror and certificates, as npm takes them from the environment, and no file of theirs."""
    passed = {name: value for name, value in os.environ.items() if name.lower() in ("npm_config_registry", "npm_config_cafile")}
    return passed | {"NPM_CONFIG_USERCONFIG": os.devnull}


def contents(folder: Path) -> str:
    """A hash of all files below a folder: paths, modes and bytes."""
    parts: list[str | bytes] = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts):
        parts += [str(path.relative_to(folder)), "x" if os.access(path, os.X_OK) else "-", path.read_bytes()]
    return digest(*parts)


def make_repository(sample: Sample) -> None:
    """A bare git repository whose branch `main` holds the sample.

    The commit is a function of the content and its parent; what somebody pushed on top stays until the sample changes.
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
        # Commits are fetched by their id.
        call("git", "-C", repository, "config", "uploadpack.allowAnySHA1InWant", "true")
    with tempfile.TemporaryDirectory(dir=LOCAL, prefix="sample-") as scratch:
        tree = Path(scratch) / "tree"
        shutil.copytree(project, tree, ignore=shutil.ignore_patterns("__pycache__"))
        for folder in sample.locked:
            make_lock(repository, tree, folder)
        commit(repository, tree, Path(scratch) / "index")
    stamp.write_text(value)


def head(repository: Path) -> str | None:
    """The newest commit of `main`."""
    listed = call("git", "-C", repository, "for-each-ref", "--format=%(objectname)", "refs/heads/main")
    return listed.strip() or None


def make_lock(repository: Path, tree: Path, folder: str) -> None:
    """`uv.lock`, beginning with the one that was committed last, so that it changes only when it must."""
    path = f"{folder}/uv.lock"
    if head(repository) and call("git", "-C", repository, "ls-tree", "main", "--", path):
        (tree / path).write_text(call("git", "-C", repository, "show", f"main:{path}"))
    call(LOCAL / "tools/bin/uv", "lock", "--quiet", cwd=tree / folder)


def commit(repository: Path, tree: Path, index: Path) -> None:
    """Puts the tree on top of `main`, unless `main` holds it already."""
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
    made = git("commit-tree", written, "-m", message, *(("-p", parent) if parent else ()))
    git("update-ref", "refs/heads/main", made, *((parent,) if parent else ()))


def write_locks() -> None:
    """Makes the lock files anew from their `.in` files, without a host or a path in them."""
    make_environment("tools")
    options = ("--quiet", "--generate-hashes", "--universal", "--upgrade")
    silent = ("--no-emit-index-url", "--no-annotate", "--no-header")
    # The oldest Python that runs this here; the images' own.
    for folder, pattern, python in ((REQUIREMENTS, "*.in", "3.11"), (IMAGES, "*/requirements.in", "3.12")):
        for source in sorted(folder.glob(pattern)):
            output = ("--python-version", python, "--output-file", source.with_suffix(".txt"))
            call(LOCAL / "tools/bin/uv", "pip", "compile", *options, *silent, *output, source)


def prepare(for_tests: bool) -> None:
    """Makes whatever is missing or out of date of what `make run` uses, and of what the tests use beside it."""
    if sys.version_info < (3, 11):
        raise PrepareError(f"Python 3.11 or newer is needed; this is {sys.version.split()[0]}")
    with alone():
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
    """The command line: nothing, or `--lock` to renew the lock files."""
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
