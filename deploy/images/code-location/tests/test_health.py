"""The health check, run as a container runs it."""

from __future__ import annotations

import socket
import subprocess
import sys
import unittest


def probe(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-X", "importtime", "-m", "codeloc_dagster.health", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


class Health(unittest.TestCase):
    def test_an_open_port_is_healthy_without_importing_dagster(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            done = probe(str(server.getsockname()[1]))
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertRegex(done.stderr, r"\bcodeloc_dagster\b")
        self.assertNotRegex(done.stderr, r"\| +(dagster|boto3)\b")

    def test_a_closed_port_is_unhealthy(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        done = probe(str(port))
        self.assertEqual(done.returncode, 1)
        self.assertIn(f"port {port} does not accept connections: ", done.stderr)

    def test_invalid_arguments_are_a_usage_error(self) -> None:
        for words in ((), ("0",), ("65536",), ("http",), ("4000", "4001")):
            self.assertEqual(probe(*words).returncode, 2, words)


if __name__ == "__main__":
    unittest.main()
