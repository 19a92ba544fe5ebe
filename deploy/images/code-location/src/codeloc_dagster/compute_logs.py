"""Stores the output of steps under the prefix of the location that runs them.

Dagster configures compute logs once for all locations, but the role of each location can access only its own prefix.
Bucket and prefix therefore come from the environment of the writing process. The webserver shows the URL of a log
(`show_url_only`). A process that belongs to no location does not call S3 and needs no permissions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import IO, Any

from dagster._core.storage.compute_log_manager import ComputeIOType
from dagster._serdes import ConfigurableClassData
from dagster_aws.s3.compute_log_manager import S3ComputeLogManager
from typing_extensions import Self

from codeloc_dagster.storage_prefix import own_prefix

# Fields that the environment or this class sets, because the webserver cannot read the objects.
FIXED = ("bucket", "prefix", "show_url_only")


class CodelocComputeLogManager(S3ComputeLogManager):
    """Writes to `s3://$DAGSTER_REPO_S3_BUCKET/$DAGSTER_REPO_S3_PREFIX/logs/storage/…`."""

    def __init__(self, inst_data: ConfigurableClassData | None = None, **settings: Any) -> None:
        self._storage = own_prefix()
        bucket, prefix = (self._storage.bucket, f"{self._storage.prefix}/logs") if self._storage else ("", "")
        super().__init__(bucket=bucket, prefix=prefix, show_url_only=True, inst_data=inst_data, **settings)

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        fields: dict[str, Any] = super().config_type()  # type: ignore[no-untyped-call]
        return {name: field for name, field in fields.items() if name not in FIXED}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData, config_value: Mapping[str, Any]) -> Self:
        return cls(inst_data=inst_data, **config_value)

    def cloud_storage_has_logs(self, log_key: Sequence[str], io_type: ComputeIOType, partial: bool = False) -> bool:
        return self._storage is not None and super().cloud_storage_has_logs(log_key, io_type, partial)

    def download_url_for_type(self, log_key: Sequence[str], io_type: ComputeIOType) -> str | None:
        return super().download_url_for_type(log_key, io_type) if self._storage else None

    def display_path_for_type(self, log_key: Sequence[str], io_type: ComputeIOType) -> str | None:  # type: ignore[override]
        return super().display_path_for_type(log_key, io_type) if self._storage else None

    def get_log_keys_for_log_key_prefix(
        self, log_key_prefix: Sequence[str], io_type: ComputeIOType
    ) -> Sequence[list[str]]:
        return super().get_log_keys_for_log_key_prefix(log_key_prefix, io_type) if self._storage else []

    def delete_logs(self, log_key: Sequence[str] | None = None, prefix: Sequence[str] | None = None) -> None:
        if self._storage:
            super().delete_logs(log_key=log_key, prefix=prefix)
        else:
            self.local_manager.delete_logs(log_key=log_key, prefix=prefix)

    def _upload_file_obj(
        self, data: IO[bytes], log_key: Sequence[str], io_type: ComputeIOType, partial: bool = False
    ) -> None:
        if self._storage:
            super()._upload_file_obj(data, log_key, io_type, partial)
