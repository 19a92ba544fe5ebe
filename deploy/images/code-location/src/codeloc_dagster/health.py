"""Container health check: `python -m codeloc_dagster.health 4000` exits with 0 if the local port accepts connections.

A code server opens its port after it imports the definitions, so an open port means that they are loaded. The health
check of Dagster would import all of Dagster each time.
"""

from __future__ import annotations

import socket
import sys

TIMEOUT_SECONDS = 3.0
HIGHEST_PORT = 65535
USAGE = 2


def failure(port: int) -> str | None:
    """Why the port does not accept connections, or None if it does."""
    try:
        socket.create_connection(("127.0.0.1", port), TIMEOUT_SECONDS).close()
    except OSError as error:
        return str(error)
    return None


def main(words: list[str]) -> int:
    """Parses the command line and checks the port."""
    if len(words) != 1 or not words[0].isascii() or not words[0].isdigit() or not 0 < int(words[0]) <= HIGHEST_PORT:
        print("usage: python -m codeloc_dagster.health PORT", file=sys.stderr)
        return USAGE
    reason = failure(int(words[0]))
    if reason is not None:
        print(f"port {words[0]} does not accept connections: {reason}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
