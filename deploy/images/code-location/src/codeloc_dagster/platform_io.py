"""Dagster's default I/O manager on the platform: pickles in S3, in `assets/` below the location's own prefix.

User code stays as it is: DAGSTER_DEFAULT_IO_MANAGER_MODULE=codeloc_dagster.platform_io and
DAGSTER_DEFAULT_IO_MANAGER_ATTRIBUTE=platform_io_manager put it in place of the file system. Where user code binds an
I/O manager of its own, that one is used, and the location's role is the limit.

Assumes of the role: GetObject, PutObject and DeleteObject below the prefix, and ListBucket for prefixes within it. An
asset of another location is read where its definition names that location's prefix, and the role may:

    AssetSpec("daily_orders", metadata={"codeloc/s3_prefix": "repos/orders"})
"""

from __future__ import annotations

from typing import Any, NoReturn

from botocore.exceptions import ClientError
from dagster import (
    DagsterError,
    DagsterInvariantViolationError,
    InitResourceContext,
    InputContext,
    OutputContext,
    io_manager,
)
from dagster._core.storage.upath_io_manager import UPathIOManager
from dagster_aws.s3 import S3Resource
from dagster_aws.s3.io_manager import PickledObjectS3IOManager
from upath import UPath

from codeloc_dagster.place import BUCKET, PREFIX, Place, missing, own_place

PREFIX_METADATA = "codeloc/s3_prefix"
ASSETS = "assets"
# S3's codes: HEAD answers with the bare number.
DENIED = ("AccessDenied", "403")
ABSENT = ("NoSuchKey", "404")


class ObjectDenied(DagsterError):
    """The location's role may not do this with that object."""


class PlatformIOManager(PickledObjectS3IOManager):
    """Pickles of one location.

    Caveats: for an object that does not exist S3 answers 'access denied' to roles that may list some prefixes only, so
    whether it is there is asked by listing its very key.
    """

    def __init__(self, place: Place, client: Any) -> None:
        # The base class's own constructor lists the prefix, a call for each process that proves nothing about writing.
        self.place = place
        self.bucket = place.bucket
        self.s3 = client
        UPathIOManager.__init__(self, base_path=UPath(f"{place.prefix}/{ASSETS}"))

    def _get_path_without_extension(self, context: InputContext | OutputContext) -> UPath:
        path = super()._get_path_without_extension(context)
        prefix = foreign_prefix(context) if isinstance(context, InputContext) else None
        return UPath(f"{prefix}/{ASSETS}") / path.relative_to(self._base_path) if prefix else path

    def load_from_path(self, context: InputContext, path: UPath) -> Any:
        try:
            return super().load_from_path(context, path)
        except FileNotFoundError:
            raise FileNotFoundError(self._absent(path)) from None
        except ClientError as error:
            self._raise(error, "read", path)

    def dump_to_path(self, context: OutputContext, obj: Any, path: UPath) -> None:
        try:
            super().dump_to_path(context, obj, path)
        except ClientError as error:
            self._raise(error, "write", path)

    def path_exists(self, path: UPath) -> bool:
        # HEAD, not GET as in the base class: the object may be large.
        try:
            self.s3.head_object(Bucket=self.bucket, Key=path.as_posix())
        except ClientError as error:
            if code(error) in ABSENT or (code(error) in DENIED and self._listed(path) is False):
                return False
            self._raise(error, "read", path)
        return True

    def unlink(self, path: UPath) -> None:
        try:
            super().unlink(path)
        except ClientError as error:
            self._raise(error, "delete", path)

    def _handle_transition_to_partitioned_asset(self, context: OutputContext, path: UPath) -> None:
        """Nothing: in S3 an object and a folder of one name live side by side. The base class looks at local files."""

    def _listed(self, path: UPath) -> bool | None:
        """Whether the object is in the listing of its own key; nothing where the role may not list that."""
        key = path.as_posix()
        try:
            answer = self.s3.list_objects_v2(Bucket=self.bucket, Prefix=key, MaxKeys=1)
        except ClientError as error:
            if code(error) in DENIED:
                return None
            raise
        # Keys come in the order of their bytes, so the key itself is the first with it as prefix.
        return any(found["Key"] == key for found in answer.get("Contents", []))

    def _raise(self, error: ClientError, what: str, path: UPath) -> NoReturn:
        if code(error) not in DENIED:
            raise error
        if what == "read" and self._listed(path) is False:
            raise FileNotFoundError(self._absent(path)) from None
        key = path.as_posix()
        if key.startswith(f"{self.place.prefix}/"):
            hint = (
                "This is the location's own prefix: its role is not as codeloc made it, or a policy of the bucket or of"
                " its key is in the way."
            )
        else:
            hint = (
                f"It lies outside the location's own prefix {self.place.prefix}/. Ask its owner for a copy under"
                " repos/shared/, or the platform's operators for a grant on that prefix."
            )
        message = error.response.get("Error", {}).get("Message", "access denied")
        raise ObjectDenied(f"cannot {what} s3://{self.bucket}/{key}: {message}. {hint}") from error

    def _absent(self, path: UPath) -> str:
        return (
            f"there is no object s3://{self.bucket}/{path.as_posix()}: materialize the asset first. An asset of another"
            f' location is looked for there when its definition has the metadata "{PREFIX_METADATA}" with that'
            " location's prefix, for example repos/orders"
        )


def code(error: ClientError) -> str:
    """S3's code of an error."""
    return str(error.response.get("Error", {}).get("Code", ""))


def foreign_prefix(context: InputContext) -> str | None:
    """The prefix that the input's or the upstream asset's definition names."""
    upstream = context.upstream_output
    for metadata in (context.definition_metadata, upstream.definition_metadata if upstream else None):
        prefix = (metadata or {}).get(PREFIX_METADATA)
        if prefix is None:
            continue
        value = getattr(prefix, "value", prefix)
        if not isinstance(value, str) or not value.strip("/"):
            raise DagsterInvariantViolationError(
                f'the metadata "{PREFIX_METADATA}" is {value!r}, and should be a prefix like repos/orders'
            )
        return value.strip("/")
    return None


@io_manager(description="Pickles in the location's own prefix of the platform's bucket.")
def platform_io_manager(_context: InitResourceContext) -> PlatformIOManager:
    """What DAGSTER_DEFAULT_IO_MANAGER_ATTRIBUTE names."""
    place = own_place()
    if place is None:
        raise missing(BUCKET, PREFIX)
    return PlatformIOManager(place, S3Resource().get_client())
