"""A fake S3 and ECS server that records every request. S3 answers as for a role with access to single prefixes only."""

from __future__ import annotations

import json
import os
import threading
import unittest
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from unittest import mock
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

ACCOUNT = "123456789012"
REGION = "eu-central-1"
BUCKET = "dagster-platform"
CLUSTER_ARN = f"arn:aws:ecs:{REGION}:{ACCOUNT}:cluster/dagster"


class FakeAws:
    """One server for both services. ECS requests have the header X-Amz-Target."""

    def __init__(self, readable: Iterable[str] = (), writable: Iterable[str] = ()) -> None:
        self.readable, self.writable = tuple(readable), tuple(writable)
        self.objects: dict[str, bytes] = {}
        self.s3_calls: list[tuple[str, str]] = []
        self.ecs_calls: list[tuple[str, dict[str, Any]]] = []
        self.ecs_answers: dict[str, dict[str, Any]] = {}
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler(self))
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.thread.start()

    def stop(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def environment(self) -> dict[str, str]:
        """Variables that point boto3 to this server and hide the AWS settings of the machine."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.server.server_address[1]}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": REGION,
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_MAX_ATTEMPTS": "1",
            "NO_PROXY": "127.0.0.1",
        }

    def ecs(self, operation: str, request: dict[str, Any]) -> dict[str, Any]:
        self.ecs_calls.append((operation, request))
        if operation == "RunTask":
            arn = f"arn:aws:ecs:{REGION}:{ACCOUNT}:task/dagster/{len(self.ecs_calls):032x}"
            return {
                "tasks": [{"taskArn": arn, "clusterArn": CLUSTER_ARN, "lastStatus": "PROVISIONING"}],
                "failures": [],
            }
        return self.ecs_answers[operation]

    def s3(self, method: str, key: str, query: dict[str, list[str]], body: bytes) -> tuple[int, bytes]:
        """Checks IAM, then the object. A missing object is 'denied' to roles that cannot list the whole bucket."""
        if method == "GET" and not key:
            prefix = query.get("prefix", [""])[0]
            self.s3_calls.append(("LIST", prefix))
            if not within(prefix, self.readable):
                return denied(f"not allowed to list {prefix}")
            found = sorted(name for name in self.objects if name.startswith(prefix))[
                : int(query.get("max-keys", ["1000"])[0])
            ]
            keys = "".join(f"<Contents><Key>{escape(name)}</Key></Contents>" for name in found)
            return 200, f"<ListBucketResult><KeyCount>{len(found)}</KeyCount>{keys}</ListBucketResult>".encode()
        self.s3_calls.append((method, key))
        if not within(key, self.writable if method in ("PUT", "DELETE") else self.readable):
            return denied(f"not allowed to {method} {key}")
        if method == "PUT":
            self.objects[key] = body
            return 200, b""
        if method == "DELETE":
            self.objects.pop(key, None)
            return 204, b""
        return (200, self.objects[key]) if key in self.objects else denied(f"not allowed to list the bucket for {key}")


def within(key: str, prefixes: tuple[str, ...]) -> bool:
    """Matches the IAM pattern `PREFIX/*`."""
    return any(key.startswith(f"{prefix}/") for prefix in prefixes)


def denied(message: str) -> tuple[int, bytes]:
    return 403, f"<Error><Code>AccessDenied</Code><Message>{escape(message)}</Message></Error>".encode()


def handler(aws: FakeAws) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            target = self.headers.get("X-Amz-Target")
            if target is not None:
                status, answered = 200, json.dumps(aws.ecs(target.split(".")[-1], json.loads(body))).encode()
            else:
                url = urlsplit(self.path)
                bucket, _, key = unquote(url.path).lstrip("/").partition("/")
                assert bucket == BUCKET, f"{self.command} {self.path}"
                status, answered = aws.s3(self.command, key, parse_qs(url.query), body)
            self.send_response(status)
            self.send_header("Content-Length", str(len(answered)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answered)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = answer

        def log_message(self, *_words: object) -> None:
            """Disables logging. The tests check the recorded requests."""

    return Handler


class AwsTestCase(unittest.TestCase):
    """Starts a fake AWS for each test and sets the environment of AWS clients."""

    readable: tuple[str, ...] = ("repos/orders", "repos/shared")
    writable: tuple[str, ...] = ("repos/orders",)

    def setUp(self) -> None:
        self.aws = FakeAws(self.readable, self.writable)
        self.addCleanup(self.aws.stop)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "DAGSTER_"))}
        patched = mock.patch.dict(os.environ, kept | self.aws.environment(), clear=True)
        patched.start()
        self.addCleanup(patched.stop)

    def of_location(self, bucket: str = BUCKET, prefix: str = "repos/orders") -> None:
        """Sets the variables that codeloc sets on code servers and runs. The patch of `setUp` restores them."""
        os.environ |= {
            "DAGSTER_REPO_S3_BUCKET": bucket,
            "DAGSTER_REPO_S3_PREFIX": prefix,
            "DAGSTER_DEFAULT_IO_MANAGER_MODULE": "codeloc_dagster.platform_io",
            "DAGSTER_DEFAULT_IO_MANAGER_ATTRIBUTE": "platform_io_manager",
        }
