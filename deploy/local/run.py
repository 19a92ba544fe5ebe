#!/usr/bin/env python3
"""Runs localcloud, codeloc and Dagster on this machine until Ctrl-C, for `make run`.

Starts each process in its own process group and stops all of them on exit. To run a second stack, use other ports and
another `--state` folder. Requires built binaries of `codeloc` and `localcloud`.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import re
import shutil
import signal
import socket
import string
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

# Keeps compiled modules out of the source folders.
sys.dont_write_bytecode = True

import prepare  # noqa: E402
from prepare import LOCAL, ROOT, PrepareError  # noqa: E402

SOURCES = ROOT / "deploy/local"
POLL_SECONDS = 0.5
# The Dagster webserver needs a minute while the machine runs a build.
START_SECONDS = 180.0
# localcloud first stops its tasks, with a grace period of 30 s as in ECS.
CLOUD_GRACE_SECONDS = 45.0
GRACE_SECONDS = 10.0
TAIL_LINES = 25
HTTP_OK = 200
# Control and bidirectional characters, which terminals interpret.
INTERPRETED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
# Prefixes of variables that the processes must not inherit.
DROPPED_PREFIXES = ("AWS_", "CODELOC_", "LOCALCLOUD_", "DAGSTER_", "PIP_", "UV_", "PYTHON", "VIRTUAL_ENV")


class RunError(Exception):
    """Why the stack cannot run, and how to fix it."""


class Interrupted(Exception):
    """The user stopped the stack with Ctrl-C or SIGTERM."""


@dataclass
class Child:
    """One process of the stack and the leader of its process group."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def send(self, number: int) -> None:
        """Sends a signal to the process group. Ignores a group that no longer exists."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, number)

    def tail(self) -> str:
        """The last lines of the log."""
        lines = self.log.read_text(errors="replace").splitlines()
        return "\n".join(f"    {line}" for line in lines[-TAIL_LINES:])


@dataclass
class Stack:
    """The processes of one `make run`."""

    options: argparse.Namespace
    children: list[Child] = field(default_factory=list)
    shown: dict[str, str] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)
    interrupted: bool = False

    @property
    def folder(self) -> Path:
        folder: Path = self.options.state / "run"
        return folder

    def url(self, port: int, path: str = "") -> str:
        return f"http://127.0.0.1:{port}{path}"

    def start(self, name: str, *command: str | Path, env: dict[str, str]) -> None:
        """Starts a process that writes its output to `logs/NAME.log`."""
        log = self.folder / "logs" / f"{name}.log"
        with log.open("wb") as output:
            # The handlers of this process reset SIGINT and SIGTERM to their default in the child. If a child inherited
            # an ignored SIGINT, Dagster would ignore SIGTERM too.
            process = subprocess.Popen(
                [str(word) for word in command],
                cwd=ROOT,
                env=clean_environment() | env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.children.append(Child(name, process, log))

    def check(self) -> None:
        """Raises an error after a signal, the end of a process, or the timeout."""
        if self.interrupted:
            raise Interrupted
        for child in self.children:
            code = child.process.poll()
            if code is not None:
                how = f"was killed by signal {-code}" if code < 0 else f"exited with code {code}"
                raise RunError(f"{child.name} {how}. Last lines of {child.log}:\n{child.tail()}")
        limit = self.options.timeout
        if limit is not None and time.monotonic() - self.began > limit:
            states = "".join(f"\n    {name}: {text}" for name, text in sorted(self.shown.items()))
            raise RunError(
                f"not all locations were Synced and Healthy within {limit:g} s."
                f" Check the logs in {self.folder / 'logs'}{states}"
            )

    def wait(self, name: str, ready: Callable[[], bool]) -> None:
        """Waits until a process is ready."""
        until = time.monotonic() + START_SECONDS
        while not ready():
            self.check()
            if time.monotonic() > until:
                logs = self.folder / "logs"
                raise RunError(f"{name} did not respond within {START_SECONDS:g} s. Check the logs in {logs}")
            time.sleep(0.1)

    def write_files(self) -> None:
        """Writes the settings, the Dagster instance, and an empty workspace if there is none."""
        options, folder = self.options, self.folder
        (folder / "dagster-home").mkdir(parents=True, exist_ok=True)
        (folder / "logs").mkdir(exist_ok=True)
        text = string.Template((SOURCES / "codeloc.yml").read_text()).substitute(
            root=ROOT,
            state=options.state,
            repos=options.repos,
            codeloc_port=options.codeloc_port,
            cloud_port=options.cloud_port,
            web_port=options.web_port,
        )
        (folder / "codeloc.yml").write_text(text)
        shutil.copyfile(SOURCES / "dagster.yaml", folder / "dagster-home/dagster.yaml")
        workspace = folder / "workspace.yaml"
        if not workspace.exists():
            workspace.write_text("load_from: []\n")
        if not (options.state / "git").exists():
            shutil.copytree(LOCAL / "git", options.state / "git", symlinks=True)

    def start_all(self) -> None:
        """Starts localcloud, which the others need, then codeloc and Dagster."""
        options, folder = self.options, self.folder
        region = "eu-central-1"
        # localcloud accepts any key. These variables hide the AWS profile of the user.
        aws = {
            "AWS_ACCESS_KEY_ID": "local",
            "AWS_SECRET_ACCESS_KEY": "local",
            "AWS_REGION": region,
            # boto3 reads this variable.
            "AWS_DEFAULT_REGION": region,
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        cloud = [options.binaries / "localcloud", "--listen", f"127.0.0.1:{options.cloud_port}", "--driver", "process"]
        if options.dns_port is not None:
            cloud += ["--dns", f"127.0.0.1:{options.dns_port}"]
        # The base image of locations contains this package and these variables.
        cloud += ["--platform", ROOT / "deploy/images/code-location/src"]
        # Isolated builds run in a sandbox of this machine, with uv.
        cloud += ["--tools", LOCAL / "tools/bin"]
        for variable in (
            "DAGSTER_DEFAULT_IO_MANAGER_MODULE=codeloc_dagster.platform_io",
            "DAGSTER_DEFAULT_IO_MANAGER_ATTRIBUTE=platform_io_manager",
        ):
            cloud += ["--task-environment", variable]
        resources = ("--cluster", "dagster", "--namespace", "dagster.internal", "--bucket", "dagster-platform")
        resources += ("--role", "codeloc-local-execution")
        self.start("localcloud", *cloud, "--state", options.state / "cloud", *resources, env={"AWS_REGION": region})
        self.wait("localcloud", lambda: answers(self.url(options.cloud_port, "/_localcloud/health")))
        daemon = (options.binaries / "codeloc", "run", "--config", folder / "codeloc.yml", *self.codeloc_flags())
        self.start("codeloc", *daemon, env=aws)
        dagster = LOCAL / "dagster/bin"
        home = aws | {
            "DAGSTER_HOME": str(folder / "dagster-home"),
            # The run launcher calls ECS in localcloud.
            "AWS_ENDPOINT_URL": self.url(options.cloud_port),
        }
        workspace = ("-w", folder / "workspace.yaml")
        web = (dagster / "dagster-webserver", "-h", "127.0.0.1", "-p", str(options.web_port), *workspace)
        self.start("dagster-webserver", *web, env=home)
        # Both processes create the SQLite tables of Dagster and fail if they do so at the same time.
        self.wait("dagster-webserver", lambda: answers(self.url(options.web_port, "/server_info")))
        self.start("dagster-daemon", dagster / "dagster-daemon", "run", *workspace, env=home)

    def codeloc_flags(self) -> list[str]:
        """Flags that override the settings file."""
        flags = list(self.options.set)
        if self.options.dns_port is not None:
            # Dagster connects to code servers by name, as in AWS. gRPC resolves the name in localcloud.
            host = f"dns://127.0.0.1:{self.options.dns_port}/{{service}}.{{namespace}}"
            flags += ["dagster-address=dns", f"dagster-host={host}"]
        return [f"--{flag}" for flag in flags]

    def settled(self) -> bool:
        """Prints changes of the status. True if all locations are Synced and Healthy and the webserver responds."""
        desired = {path.parent.name for path in self.options.repos.glob("*/config.yml")}
        states = fetch(self.url(self.options.codeloc_port, "/v1/locations"))
        if not isinstance(states, list):
            return False
        good = set()
        for state in states:
            name, sync, health = (str(state.get(key) or "Unknown") for key in ("name", "sync", "health"))
            if (sync, health) == ("Synced", "Healthy"):
                good.add(name)
            lines = str(state.get("message") or "").strip().splitlines()
            text = f"{sync:<9} {health:<11} {lines[0] if lines else ''}".rstrip()
            if self.shown.get(name) != text:
                self.shown[name] = text
                say(f"{time.monotonic() - self.began:6.1f} s  {name:<24} {text}")
        for name in self.shown.keys() - {str(state.get("name")) for state in states}:
            del self.shown[name]
            say(f"{time.monotonic() - self.began:6.1f} s  {name:<24} deleted")
        return desired <= good and len(good) == len(states) and answers(self.url(self.options.web_port, "/server_info"))

    def run(self) -> None:
        """Runs until all locations are Synced and Healthy with `--once`, and until a signal otherwise."""
        options = self.options
        self.write_files()
        self.start_all()
        while not self.settled():
            self.check()
            time.sleep(POLL_SECONDS)
        options.timeout = None
        print(
            f"\nAll locations are Synced and Healthy after {time.monotonic() - self.began:.0f} s.\n"
            f"    Dagster     {self.url(options.web_port)}\n"
            f"    codeloc     {self.url(options.codeloc_port, '/v1/locations')}\n"
            f"    localcloud  {self.url(options.cloud_port, '/_localcloud/calls')}\n"
            f"    logs        {self.folder / 'logs'}",
            flush=True,
        )
        if options.once:
            return
        print("Press Ctrl-C to stop.", flush=True)
        while True:
            self.check()
            self.settled()
            time.sleep(POLL_SECONDS)

    def stop(self) -> None:
        """Stops every process group. localcloud is last, because it runs the tasks that the others use."""
        self.stop_children([child for child in self.children if child.name != "localcloud"], GRACE_SECONDS)
        self.stop_children([child for child in self.children if child.name == "localcloud"], CLOUD_GRACE_SECONDS)
        self.children.clear()

    @staticmethod
    def stop_children(children: list[Child], grace: float) -> None:
        """Sends SIGTERM, waits for the leaders, then kills the rest of their groups."""
        for child in children:
            child.send(signal.SIGTERM)
        until = time.monotonic() + grace
        for child in children:
            try:
                child.process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                print(f"{child.name} did not stop within {grace:g} s; run.py kills it", file=sys.stderr, flush=True)
            child.send(signal.SIGKILL)
            child.process.wait()


def say(text: str, to: TextIO | None = None) -> None:
    """Prints text from user code and servers with control characters escaped."""
    print(INTERPRETED.sub(lambda found: f"\\u{{{ord(found[0]):x}}}", text), file=to, flush=True)


def clean_environment() -> dict[str, str]:
    """The environment without DROPPED_PREFIXES, and with this Python first on the PATH."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(DROPPED_PREFIXES)}
    kept["PATH"] = os.pathsep.join([str(Path(os.path.realpath(sys.executable)).parent), kept.get("PATH", os.defpath)])
    return kept


# Calls to this machine must not use a proxy from the environment.
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def fetch(url: str) -> object:
    """The JSON at a URL, or None if the server does not respond yet."""
    try:
        with DIRECT.open(url, timeout=5) as answer:
            return json.load(answer)
    except (OSError, ValueError):
        return None


def answers(url: str) -> bool:
    """Whether a GET request succeeds."""
    try:
        with DIRECT.open(url, timeout=5) as answer:
            return bool(answer.status == HTTP_OK)
    except (OSError, ValueError):
        return False


def check_ports(options: argparse.Namespace) -> None:
    """Checks that all ports are free."""
    for name in ("cloud_port", "codeloc_port", "web_port", "dns_port"):
        flag, port = f"--{name.replace('_', '-')}", getattr(options, name)
        if port is None:
            continue
        with socket.socket(type=socket.SOCK_DGRAM if name == "dns_port" else socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                hint = f"Stop the program that uses it, or choose another port with {flag}"
                raise RunError(f"cannot listen on 127.0.0.1:{port} ({error.strerror}). {hint}") from error


def claim(state: Path) -> TextIO:
    """Locks the state folder for this stack. The lock ends with the process."""
    (state / "run").mkdir(parents=True, exist_ok=True)
    lock = (state / "run/lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise RunError(
            f"another stack uses the state folder {state}. Stop it, or choose another folder with --state"
        ) from error
    return lock


def parse(words: list[str]) -> argparse.Namespace:
    """Parses the command line."""
    environment = os.environ.get
    target = Path(environment("CARGO_TARGET_DIR") or environment("CARGO_BUILD_TARGET_DIR") or ROOT / "target")
    parser = argparse.ArgumentParser(prog="run.py", description="Run codeloc, localcloud and Dagster on this machine.")
    folder = lambda text: Path(text).resolve()  # noqa: E731
    parser.add_argument("--once", action="store_true", help="exit with 0 once all locations are Synced and Healthy")
    timeout = "exit with 1 if the locations need longer than this [default: 900 with --once, otherwise no limit]"
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help=timeout)
    port = {"type": int, "metavar": "PORT"}
    api = "serve the codeloc API on this port [default: 8080]"
    parser.add_argument("--codeloc-port", **port, default=8080, help=api)
    parser.add_argument("--cloud-port", **port, default=4566, help="serve localcloud on this port [default: 4566]")
    web = "serve the Dagster webserver on this port [default: 3000]"
    parser.add_argument("--web-port", **port, default=3000, help=web)
    dns = "serve DNS on this port, and let Dagster find code servers by name [default: no DNS]"
    parser.add_argument("--dns-port", **port, help=dns)
    setting = {"action": "append", "default": [], "metavar": "NAME=VALUE"}
    parser.add_argument("--set", **setting, help="set a codeloc setting, for example git-poll-seconds=1; repeatable")
    path = {"type": folder, "metavar": "FOLDER"}
    parser.add_argument("--state", **path, default=LOCAL, help="keep all state in this folder [default: .local]")
    repos = "read the configs in this folder [default: repos]"
    parser.add_argument("--repos", **path, default=ROOT / "repos", help=repos)
    binaries = "run the binaries in this folder [default: target/debug]"
    parser.add_argument("--binaries", **path, default=target / "debug", help=binaries)
    options = parser.parse_args(words)
    if options.once and options.timeout is None:
        options.timeout = 900.0
    return options


def on_signals(handler: Callable[[], None]) -> None:
    """Calls `handler` on SIGINT and SIGTERM."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda _number, _frame: handler())


def interrupt() -> None:
    raise Interrupted


def main() -> int:
    """Returns 0 after a signal or with `--once`, and 1 after a failure."""
    on_signals(interrupt)
    stack = Stack(parse(sys.argv[1:]))
    try:
        with claim(stack.options.state):
            check_ports(stack.options)
            prepare.prepare(for_tests=False)
            missing = [name for name in ("codeloc", "localcloud") if not (stack.options.binaries / name).exists()]
            if missing:
                names = " and ".join(missing)
                raise RunError(f"{stack.options.binaries} does not contain {names}. Build them with `make run`")
            stack.began = time.monotonic()
            # From now on signals only set a flag. An exception during a start would lose that process, and a second
            # Ctrl-C would interrupt the shutdown, which has a time limit anyway.
            on_signals(lambda: setattr(stack, "interrupted", True))
            try:
                stack.run()
            except Interrupted:
                print("\nstopping all processes", flush=True)
            finally:
                stack.stop()
    except Interrupted:
        pass
    except (RunError, PrepareError, OSError) as error:
        say(f"run: {error}", to=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
