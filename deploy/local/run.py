#!/usr/bin/env python3
"""`make run`: localcloud, codeloc and Dagster on this machine, until Ctrl-C.

Every process is started in a group of its own and is ended with this one. Further stacks run beside the first with
other ports and another `--state` folder. Assumes that `codeloc` and `localcloud` are built.
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

# Nothing is left in the sources, compiled modules included.
sys.dont_write_bytecode = True

import prepare  # noqa: E402
from prepare import LOCAL, ROOT, PrepareError  # noqa: E402

SOURCES = ROOT / "deploy/local"
POLL_SECONDS = 0.5
# Dagster's webserver needs a minute on a machine that is busy with a build.
START_SECONDS = 180.0
# localcloud ends the tasks it runs first, and gives them 30 s as ECS does.
CLOUD_GRACE_SECONDS = 45.0
GRACE_SECONDS = 10.0
TAIL_LINES = 25
HTTP_OK = 200
# Control and bidirectional characters, which a terminal interprets.
INTERPRETED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
# Settings of these tools on the machine must not reach the processes; Dagster's and Python's least of all.
DROPPED_PREFIXES = ("AWS_", "CODELOC_", "LOCALCLOUD_", "DAGSTER_", "PIP_", "UV_", "PYTHON", "VIRTUAL_ENV")


class RunError(Exception):
    """Why the stack cannot run; the text says what to do."""


class Interrupted(Exception):
    """Ctrl-C or SIGTERM."""


@dataclass
class Child:
    """One process of the stack, leader of its own group."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def send(self, number: int) -> None:
        """Signals the whole group; a group that is gone is no error."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, number)

    def tail(self) -> str:
        """The end of what it wrote."""
        lines = self.log.read_text(errors="replace").splitlines()
        return "\n".join(f"    {line}" for line in lines[-TAIL_LINES:])


@dataclass
class Stack:
    """Everything that one `make run` starts."""

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
        """Starts a process with its output in `logs/NAME.log`."""
        log = self.folder / "logs" / f"{name}.log"
        with log.open("wb") as output:
            # This process handles SIGINT and SIGTERM, so both are back at their default in the child, even where
            # this one was started with SIGINT ignored: Dagster would then ignore SIGTERM as well.
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
        """Fails when a signal came, a process is gone, or the time is up."""
        if self.interrupted:
            raise Interrupted
        for child in self.children:
            code = child.process.poll()
            if code is not None:
                how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
                raise RunError(f"{child.name} {how}; the end of {child.log}:\n{child.tail()}")
        limit = self.options.timeout
        if limit is not None and time.monotonic() - self.began > limit:
            states = "".join(f"\n    {name}: {text}" for name, text in sorted(self.shown.items()))
            logs = self.folder / "logs"
            raise RunError(f"not everything was Synced and Healthy within {limit:g} s; logs are in {logs}{states}")

    def wait(self, what: str, ready: Callable[[], bool]) -> None:
        """Waits until something answers."""
        until = time.monotonic() + START_SECONDS
        while not ready():
            self.check()
            if time.monotonic() > until:
                raise RunError(f"{what} did not answer within {START_SECONDS:g} s; logs are in {self.folder / 'logs'}")
            time.sleep(0.1)

    def write_files(self) -> None:
        """The effective settings, an empty workspace at first, and Dagster's instance."""
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
        """localcloud first: everything else asks it."""
        options, folder = self.options, self.folder
        region = "eu-central-1"
        # localcloud takes any key; the user's own profile is never read.
        aws = {
            "AWS_ACCESS_KEY_ID": "local",
            "AWS_SECRET_ACCESS_KEY": "local",
            "AWS_REGION": region,
            # As Python's client reads it.
            "AWS_DEFAULT_REGION": region,
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        cloud = [options.binaries / "localcloud", "--listen", f"127.0.0.1:{options.cloud_port}", "--driver", "process"]
        if options.dns_port is not None:
            cloud += ["--dns", f"127.0.0.1:{options.dns_port}"]
        # What the base image brings: its package, and where unchanged assets go.
        for variable in (
            f"PYTHONPATH={ROOT / 'deploy/images/code-location/src'}",
            "DAGSTER_DEFAULT_IO_MANAGER_MODULE=codeloc_dagster.platform_io",
            "DAGSTER_DEFAULT_IO_MANAGER_ATTRIBUTE=platform_io_manager",
        ):
            cloud += ["--task-environment", variable]
        made = ("--cluster", "dagster", "--namespace", "dagster.internal", "--bucket", "dagster-platform")
        made += ("--role", "codeloc-local-execution")
        self.start("localcloud", *cloud, "--state", options.state / "cloud", *made, env={"AWS_REGION": region})
        self.wait("localcloud", lambda: answers(self.url(options.cloud_port, "/_localcloud/health")))
        daemon = (options.binaries / "codeloc", "run", "--config", folder / "codeloc.yml", *self.codeloc_flags())
        self.start("codeloc", *daemon, env=aws)
        dagster = LOCAL / "dagster/bin"
        home = aws | {
            "DAGSTER_HOME": str(folder / "dagster-home"),
            # The launcher of runs asks localcloud.
            "AWS_ENDPOINT_URL": self.url(options.cloud_port),
        }
        workspace = ("-w", folder / "workspace.yaml")
        web = (dagster / "dagster-webserver", "-h", "127.0.0.1", "-p", str(options.web_port), *workspace)
        self.start("dagster-webserver", *web, env=home)
        # Both make Dagster's SQLite tables where there are none, and the second to try fails: one after the other.
        self.wait("dagster-webserver", lambda: answers(self.url(options.web_port, "/server_info")))
        self.start("dagster-daemon", dagster / "dagster-daemon", "run", *workspace, env=home)

    def codeloc_flags(self) -> list[str]:
        """What differs from the settings file."""
        given = list(self.options.set)
        if self.options.dns_port is not None:
            # Code servers are reached by name, as in AWS; gRPC asks localcloud for the name, not this machine's resolver.
            host = f"dns://127.0.0.1:{self.options.dns_port}/{{service}}.{{namespace}}"
            given += ["dagster-address=dns", f"dagster-host={host}"]
        return [f"--{setting}" for setting in given]

    def settled(self) -> bool:
        """Prints what changed; whether every config is Synced and Healthy and the webserver answers."""
        wanted = {path.parent.name for path in self.options.repos.glob("*/config.yml")}
        states = fetch(self.url(self.options.codeloc_port, "/v1/repositories"))
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
            say(f"{time.monotonic() - self.began:6.1f} s  {name:<24} gone")
        return wanted <= good and len(good) == len(states) and answers(self.url(self.options.web_port, "/server_info"))

    def run(self) -> None:
        """Until everything is well with `--once`, until a signal otherwise."""
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
            f"    codeloc     {self.url(options.codeloc_port, '/v1/repositories')}\n"
            f"    localcloud  {self.url(options.cloud_port, '/_localcloud/calls')}\n"
            f"    logs        {self.folder / 'logs'}",
            flush=True,
        )
        if options.once:
            return
        print("Ctrl-C ends everything.", flush=True)
        while True:
            self.check()
            self.settled()
            time.sleep(POLL_SECONDS)

    def stop(self) -> None:
        """Ends every group: the cloud last, since it ends the tasks that the others still talk to."""
        for child in (child for child in self.children if child.name != "localcloud"):
            child.send(signal.SIGTERM)
        self.reap([child for child in self.children if child.name != "localcloud"], GRACE_SECONDS)
        cloud = [child for child in self.children if child.name == "localcloud"]
        for child in cloud:
            child.send(signal.SIGTERM)
        self.reap(cloud, CLOUD_GRACE_SECONDS)
        self.children.clear()

    @staticmethod
    def reap(children: list[Child], grace: float) -> None:
        """Waits for the leaders, then kills what is left of their groups."""
        until = time.monotonic() + grace
        for child in children:
            try:
                child.process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                print(f"{child.name} did not end within {grace:g} s and is killed", file=sys.stderr, flush=True)
            child.send(signal.SIGKILL)
            child.process.wait()


def say(text: str, to: TextIO | None = None) -> None:
    """Prints text of repositories and servers with control characters escaped."""
    print(INTERPRETED.sub(lambda found: f"\\u{{{ord(found[0]):x}}}", text), file=to, flush=True)


def clean_environment() -> dict[str, str]:
    """This environment without the settings of the tools that are started, and this Python first on the path."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(DROPPED_PREFIXES)}
    kept["PATH"] = os.pathsep.join([str(Path(os.path.realpath(sys.executable)).parent), kept.get("PATH", os.defpath)])
    return kept


# A proxy of the environment has no part in calls to this machine.
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def fetch(url: str) -> object:
    """The JSON behind a URL; nothing where it does not answer yet."""
    try:
        with DIRECT.open(url, timeout=5) as answer:
            return json.load(answer)
    except (OSError, ValueError):
        return None


def answers(url: str) -> bool:
    """Whether a GET succeeds."""
    try:
        with DIRECT.open(url, timeout=5) as answer:
            return bool(answer.status == HTTP_OK)
    except (OSError, ValueError):
        return False


def check_ports(options: argparse.Namespace) -> None:
    """Says who needs which port before anything is started."""
    for name in ("cloud_port", "codeloc_port", "web_port", "dns_port"):
        flag, port = f"--{name.replace('_', '-')}", getattr(options, name)
        if port is None:
            continue
        with socket.socket(type=socket.SOCK_DGRAM if name == "dns_port" else socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                advice = f"end what listens there, or choose another with {flag}"
                raise RunError(f"port {port} of 127.0.0.1 cannot be taken ({error.strerror}): {advice}") from error


def claim(state: Path) -> TextIO:
    """One stack for one state folder; the claim ends with the process."""
    (state / "run").mkdir(parents=True, exist_ok=True)
    lock = (state / "run/lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise RunError(f"a stack runs with {state} already: end it, or choose another folder with --state") from error
    return lock


def parse(words: list[str]) -> argparse.Namespace:
    """The command line."""
    target = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target")
    parser = argparse.ArgumentParser(prog="run.py", description="Runs codeloc, localcloud and Dagster on this machine.")
    folder = lambda text: Path(text).resolve()  # noqa: E731
    parser.add_argument("--once", action="store_true", help="exit 0 as soon as all locations are Synced and Healthy")
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help="exit 1 if that takes longer; 900 with --once")
    parser.add_argument("--codeloc-port", type=int, default=8080, metavar="PORT")
    parser.add_argument("--cloud-port", type=int, default=4566, metavar="PORT")
    parser.add_argument("--web-port", type=int, default=3000, metavar="PORT")
    parser.add_argument("--dns-port", type=int, metavar="PORT", help="Dagster finds code servers by name, asked for here")
    setting = {"action": "append", "default": [], "metavar": "NAME=VALUE"}
    parser.add_argument("--set", **setting, help="a setting of codeloc, as its flag spells it: git-poll-seconds=1")
    parser.add_argument("--state", type=folder, default=LOCAL, metavar="FOLDER", help="holds everything that changes")
    parser.add_argument("--repos", type=folder, default=ROOT / "repos", metavar="FOLDER", help="the configs")
    parser.add_argument("--binaries", type=folder, default=target / "debug", metavar="FOLDER")
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
    """Exit code 0 after a signal or with `--once`, 1 when something failed."""
    on_signals(interrupt)
    stack = Stack(parse(sys.argv[1:]))
    try:
        with claim(stack.options.state):
            check_ports(stack.options)
            prepare.prepare(for_tests=False)
            missing = [name for name in ("codeloc", "localcloud") if not (stack.options.binaries / name).exists()]
            if missing:
                raise RunError(f"no {' and no '.join(missing)} in {stack.options.binaries}: `make run` builds them")
            stack.began = time.monotonic()
            # From here on a signal is only noted: an exception in the middle of a start would lose that process, and
            # a second Ctrl-C would cut the ending short, where every process has a time limit anyway.
            on_signals(lambda: setattr(stack, "interrupted", True))
            try:
                stack.run()
            except Interrupted:
                print("\nending every process", flush=True)
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
