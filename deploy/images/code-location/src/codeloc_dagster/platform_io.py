"""The default I/O manager: stores pickles in S3, in `assets/` under the prefix of the location.

User code needs no changes: DAGSTER_DEFAULT_IO_MANAGER_MODULE=codeloc_dagster.platform_io and
DAGSTER_DEFAULT_IO_MANAGER_ATTRIBUTE=platform_io_manager replace the file system. User code can bind another I/O
manager; the role of the location then limits its access.

The role needs GetObject, PutObject and DeleteObject under the prefix, and ListBucket for prefixes in it. To read an
asset of another location, set the prefix of that location in the asset definition and grant the role read access:

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

from codeloc_dagster.storage_prefix import BUCKET, PREFIX, StoragePrefix, missing, own_prefix

PREFIX_METADATA = "codeloc/s3_prefix"
ASSETS = "assets"
# Error codes of S3. HEAD returns only the number.
DENIED = ("AccessDenied", "403")
ABSENT = ("NoSuchKey", "404")


class ObjectDenied(DagsterError):
    """The role of the location has no permission for this object."""


class PlatformIOManager(PickledObjectS3IOManager):
    """Stores the pickles of one location.

    For a missing object, S3 returns 'access denied' to roles that can list only some prefixes. The class then lists the
    key to find out whether the object exists.
    """

    def __init__(self, storage: StoragePrefix, client: Any) -> None:
        # The constructor of the base class lists the prefix, an S3 call per process that does not test write access.
        self.storage = storage
        self.bucket = storage.bucket
        self.s3 = client
        UPathIOManager.__init__(self, base_path=UPath(f"{storage.prefix}/{ASSETS}"))

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
        # The base class uses GET, which downloads the object.
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
        """Does nothing: S3 allows an object and a folder of the same name. The base class would check local files."""

    def _listed(self, path: UPath) -> bool | None:
        """Whether the object exists according to a listing of its key, or None if the role cannot list it."""
        key = path.as_posix()
        try:
            answer = self.s3.list_objects_v2(Bucket=self.bucket, Prefix=key, MaxKeys=1)
        except ClientError as error:
            if code(error) in DENIED:
                return None
            raise
        # S3 sorts keys by bytes, so the key itself is the first one with this prefix.
        return any(found["Key"] == key for found in answer.get("Contents", []))

    def _raise(self, error: ClientError, action: str, path: UPath) -> NoReturn:
        if code(error) not in DENIED:
            raise error
        if action == "read" and self._listed(path) is False:
            raise FileNotFoundError(self._absent(path)) from None
        key = path.as_posix()
        if key.startswith(f"{self.storage.prefix}/"):
            hint = (
                "The object is under the prefix of this location. Check whether its role has drifted, and whether the"
                " bucket policy or the KMS key policy denies access."
            )
        else:
            hint = (
                f"The object is outside the prefix of this location, {self.storage.prefix}/. Ask the owner for a copy"
                " under repos/shared/, or add a grant on the prefix to `access.read` or `access.write` in the config of"
                " this location."
            )
        message = error.response.get("Error", {}).get("Message", "access denied")
        raise ObjectDenied(f"cannot {action} s3://{self.bucket}/{key}: {message}. {hint}") from error

    def _absent(self, path: UPath) -> str:
        return (
            f"object s3://{self.bucket}/{path.as_posix()} does not exist. Materialize the asset first. If the asset"
            f' belongs to another location, set the metadata "{PREFIX_METADATA}" in its definition to the prefix of'
            " that location, for example repos/orders"
        )


def code(error: ClientError) -> str:
    """The error code of S3."""
    return str(error.response.get("Error", {}).get("Code", ""))


def foreign_prefix(context: InputContext) -> str | None:
    """The prefix in the metadata of the input or of the upstream asset."""
    upstream = context.upstream_output
    for metadata in (context.definition_metadata, upstream.definition_metadata if upstream else None):
        prefix = (metadata or {}).get(PREFIX_METADATA)
        if prefix is None:
            continue
        value = getattr(prefix, "value", prefix)
        if not isinstance(value, str) or not value.strip("/"):
            raise DagsterInvariantViolationError(
                f'the metadata "{PREFIX_METADATA}" is {value!r}. Set it to a prefix such as repos/orders'
            )
        return value.strip("/")
    return None


@io_manager(description="Stores pickles in the S3 prefix of the location.")
def platform_io_manager(_context: InitResourceContext) -> PlatformIOManager:
    """The I/O manager for DAGSTER_DEFAULT_IO_MANAGER_ATTRIBUTE."""
    storage = own_prefix()
    if storage is None:
        raise missing(BUCKET, PREFIX)
    return PlatformIOManager(storage, S3Resource().get_client())
