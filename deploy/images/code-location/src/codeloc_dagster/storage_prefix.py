"""The bucket and prefix of the location that this process belongs to.

codeloc sets both variables on code servers and runs. The Dagster webserver and daemon belong to no location and have
neither variable.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from dagster import DagsterInvariantViolationError

BUCKET = "DAGSTER_REPO_S3_BUCKET"
PREFIX = "DAGSTER_REPO_S3_PREFIX"


@dataclass(frozen=True)
class StoragePrefix:
    """A bucket and a prefix without leading or trailing slash, such as `repos/orders`."""

    bucket: str
    prefix: str


def own_prefix() -> StoragePrefix | None:
    """The bucket and prefix of this location, or None in a process that belongs to no location."""
    bucket = os.environ.get(BUCKET, "")
    prefix = os.environ.get(PREFIX, "").strip("/")
    if not bucket and not prefix:
        return None
    for name, value in ((BUCKET, bucket), (PREFIX, prefix)):
        if not value:
            # Without a prefix the objects would go to the root of the bucket.
            raise missing(name)
    return StoragePrefix(bucket, prefix)


def missing(*names: str) -> DagsterInvariantViolationError:
    """The error for variables that are not set."""
    problem = f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'} not set"
    return DagsterInvariantViolationError(
        f"{problem}, so this process has no S3 prefix. codeloc sets both variables on code servers and runs. In other"
        f" processes, set {BUCKET} to the bucket and {PREFIX} to the prefix of the location, for example repos/orders"
    )
