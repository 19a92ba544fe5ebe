"""`python -m codeloc_dagster.health 4000`: exit code 0 when something accepts connections on that port of this machine.

For health checks of containers. A code server binds its port after the import of the definitions, so an open port says
that they are loaded; Dagster's own check would start a whole Dagster each time.
"""

from __future__ import annotations

import socket
import sys

TIMEOUT_SECONDS = 3.0
HIGHEST_PORT = 65535
USAGE = 2


def accepts(port: int) -> str | None:
    """Why nobody accepts connections on the port; nothing when somebody does."""
    try:
        socket.create_connection(("127.0.0.1", port), TIMEOUT_SECONDS).close()
    except OSError as error:
        return str(error)
    return None


def main(words: list[str]) -> int:
    """The command line: one port."""
    if len(words) != 1 or not words[0].isascii() or not words[0].isdigit() or not 0 < int(words[0]) <= HIGHEST_PORT:
        print("usage: python -m codeloc_dagster.health PORT", file=sys.stderr)
        return USAGE
    reason = accepts(int(words[0]))
    if reason is not None:
        print(f"nothing accepts connections on port {words[0]}: {reason}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
