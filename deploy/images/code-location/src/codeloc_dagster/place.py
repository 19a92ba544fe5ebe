"""Where the location that this process belongs to keeps its objects.

The controller sets both variables on code servers and runs. Dagster's webserver and daemon belong to no location and
have neither.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from dagster import DagsterInvariantViolationError

BUCKET = "DAGSTER_REPO_S3_BUCKET"
PREFIX = "DAGSTER_REPO_S3_PREFIX"


@dataclass(frozen=True)
class Place:
    """A bucket and a prefix without slashes at its ends, such as `repos/orders`."""

    bucket: str
    prefix: str


def own_place() -> Place | None:
    """This location's place; nothing in a process that belongs to no location."""
    bucket = os.environ.get(BUCKET, "")
    prefix = os.environ.get(PREFIX, "").strip("/")
    if not bucket and not prefix:
        return None
    for name, value in ((BUCKET, bucket), (PREFIX, prefix)):
        if not value:
            # Without a prefix objects would land at the top of the bucket, among those of all locations.
            raise missing(name)
    return Place(bucket, prefix)


def missing(*names: str) -> DagsterInvariantViolationError:
    """The error of a process that lacks these variables."""
    what = f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'} not set"
    return DagsterInvariantViolationError(
        f"{what}, so there is no place in S3 for this location. codeloc sets both on code servers and runs; elsewhere"
        f" set {BUCKET} to a bucket and {PREFIX} to the location's prefix, for example repos/orders"
    )
