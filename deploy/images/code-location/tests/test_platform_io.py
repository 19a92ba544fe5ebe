"""The I/O manager with unchanged user code. S3 answers as for the role of the location.

Dagster reads the annotations of functions, so this file does not import `annotations` from `__future__`.
"""

import os
import pickle
import tempfile
import unittest
from pathlib import Path
from typing import Any

from dagster import (
    AssetExecutionContext,
    AssetIn,
    AssetKey,
    AssetOut,
    AssetsDefinition,
    AssetSpec,
    DagsterInstance,
    DagsterInvariantViolationError,
    ExecuteInProcessResult,
    MultiPartitionKey,
    MultiPartitionsDefinition,
    StaticPartitionsDefinition,
    asset,
    build_init_resource_context,
    execute_job,
    job,
    materialize,
    multi_asset,
    op,
    reconstructable,
)

from codeloc_dagster.platform_io import ObjectDenied, PlatformIOManager, platform_io_manager
from fake_aws import AwsTestCase

QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
COLOURS = StaticPartitionsDefinition(["red", "green", "blue"])
GRID = MultiPartitionsDefinition({"colour": COLOURS, "size": StaticPartitionsDefinition(["s", "m"])})


@asset
def numbers() -> list[int]:
    return [1, 2, 3]


@asset
def total(numbers: list[int]) -> int:
    return sum(numbers)


@op
def one() -> int:
    return 1


@op
def takes(value: int) -> None:
    assert value == 1


@job
def two_ops() -> None:
    takes(one())


class PlatformIo(AwsTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.of_location()

    def run_assets(self, *assets: AssetsDefinition | AssetSpec, **options: Any) -> ExecuteInProcessResult:
        """Materializes assets as a run does. The I/O manager comes from the environment."""
        with DagsterInstance.ephemeral() as instance:
            return materialize(list(assets), instance=instance, run_config=QUIET, **options)

    def values(self) -> dict[str, object]:
        return {key: pickle.loads(body) for key, body in self.aws.objects.items()}  # noqa: S301

    def keep(self, key: str, value: object) -> None:
        self.aws.objects[key] = pickle.dumps(value)

    def test_assets_are_stored_under_the_prefix(self) -> None:
        self.run_assets(numbers, total)
        self.assertEqual(self.values(), {"repos/orders/assets/numbers": [1, 2, 3], "repos/orders/assets/total": 6})

    def test_runs_access_only_their_prefix_and_list_nothing(self) -> None:
        self.run_assets(numbers, total)
        self.assertEqual([call for call in self.aws.s3_calls if not call[1].startswith("repos/orders/assets/")], [])
        self.assertNotIn("LIST", [method for method, _ in self.aws.s3_calls])

    def test_a_run_reads_assets_of_an_earlier_run(self) -> None:
        self.run_assets(numbers)
        self.run_assets(numbers, total, selection=[total])
        self.assertEqual(self.values()["repos/orders/assets/total"], 6)

    def test_partitions_are_objects_in_the_folder_of_their_asset(self) -> None:
        @asset(partitions_def=COLOURS)
        def by_colour(context: AssetExecutionContext) -> str:
            return context.partition_key.upper()

        @asset
        def all_colours(by_colour: dict[str, str]) -> list[str]:
            return sorted(by_colour.values())

        for colour in COLOURS.get_partition_keys():
            self.run_assets(by_colour, partition_key=colour)
        self.run_assets(by_colour, all_colours, selection=[all_colours])
        self.assertEqual(self.values()["repos/orders/assets/by_colour/red"], "RED")
        self.assertEqual(self.values()["repos/orders/assets/all_colours"], ["BLUE", "GREEN", "RED"])

    def test_missing_partitions_can_be_skipped_if_s3_denies_access(self) -> None:
        @asset(partitions_def=COLOURS)
        def by_colour(context: AssetExecutionContext) -> str:
            return context.partition_key.upper()

        @asset(ins={"by_colour": AssetIn(metadata={"allow_missing_partitions": True})})
        def some_colours(by_colour: dict[str, str]) -> list[str]:
            return sorted(by_colour.values())

        self.run_assets(by_colour, partition_key="red")
        # Starts with the name of a missing partition.
        self.keep("repos/orders/assets/by_colour/green-dark", "no partition")
        self.run_assets(by_colour, some_colours, selection=[some_colours])
        self.assertEqual(self.values()["repos/orders/assets/some_colours"], ["RED"])
        listed = [key for method, key in self.aws.s3_calls if method == "LIST"]
        self.assertEqual(listed, ["repos/orders/assets/by_colour/green", "repos/orders/assets/by_colour/blue"])

    def test_multi_partitions_and_multi_assets_have_separate_paths(self) -> None:
        @asset(partitions_def=GRID)
        def cell(context: AssetExecutionContext) -> str:
            return str(context.partition_key)

        @multi_asset(
            outs={"left": AssetOut(key=AssetKey(["pair", "left"])), "right": AssetOut(key=AssetKey(["pair", "right"]))}
        )
        def pair() -> tuple[int, int]:
            return 1, 2

        self.run_assets(cell, partition_key=MultiPartitionKey({"colour": "red", "size": "s"}))
        self.run_assets(pair)
        self.assertEqual(
            set(self.values()),
            {f"repos/orders/assets/{name}" for name in ("cell/red/s", "pair/left", "pair/right")},
        )

    def test_a_newly_partitioned_asset_keeps_local_files(self) -> None:
        @asset(partitions_def=COLOURS)
        def numbers(context: AssetExecutionContext) -> str:
            return context.partition_key

        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(folder.name)
        local = Path("repos/orders/assets/numbers")
        local.parent.mkdir(parents=True)
        local.write_text("the team's own")
        self.keep("repos/orders/assets/numbers", [1])
        self.run_assets(numbers, partition_key="red")
        self.assertEqual(set(self.values()), {"repos/orders/assets/numbers", "repos/orders/assets/numbers/red"})
        self.assertEqual(local.read_text(), "the team's own")

    def test_values_between_ops_are_stored_under_the_prefix(self) -> None:
        with DagsterInstance.local_temp() as instance:
            run_config = QUIET | {"execution": {"config": {"in_process": {}}}}
            result = execute_job(reconstructable(two_ops), instance=instance, run_config=run_config)
            self.assertTrue(result.success)
        self.assertIn(f"repos/orders/assets/storage/{result.run_id}/one/result", self.values())

    def test_an_asset_definition_can_name_the_prefix_of_another_location(self) -> None:
        self.aws.readable += ("repos/billing",)
        self.keep("repos/billing/assets/invoices", 40)
        invoices = AssetSpec("invoices", metadata={"codeloc/s3_prefix": "repos/billing/"})

        @asset
        def doubled(invoices: int) -> int:
            return 2 * invoices

        self.run_assets(invoices, doubled, selection=[doubled])
        self.assertEqual(self.values()["repos/orders/assets/doubled"], 80)

    def test_an_input_can_name_the_prefix_of_another_location(self) -> None:
        self.keep("repos/shared/assets/rates", 3)

        @asset(ins={"rates": AssetIn(key="rates", metadata={"codeloc/s3_prefix": "repos/shared"})})
        def tripled(rates: int) -> int:
            return rates * 3

        self.run_assets(AssetSpec("rates"), tripled, selection=[tripled])
        self.assertEqual(self.values()["repos/orders/assets/tripled"], 9)

    def test_a_denied_read_reports_the_key_and_a_hint(self) -> None:
        self.keep("repos/billing/assets/invoices", 40)
        invoices = AssetSpec("invoices", metadata={"codeloc/s3_prefix": "repos/billing"})

        @asset
        def doubled(invoices: int) -> int:
            return 2 * invoices

        with self.assertRaises(Exception) as raised:
            self.run_assets(invoices, doubled, selection=[doubled])
        error = cause(raised.exception, ObjectDenied)
        self.assertIn("cannot read s3://dagster-platform/repos/billing/assets/invoices: ", str(error))
        self.assertIn("outside the prefix of this location, repos/orders/", str(error))
        self.assertIn("add a grant on the prefix", str(error))

    def test_a_missing_own_asset_is_reported_as_missing(self) -> None:
        with self.assertRaises(Exception) as raised:
            self.run_assets(numbers, total, selection=[total])
        error = cause(raised.exception, FileNotFoundError)
        self.assertIn("s3://dagster-platform/repos/orders/assets/numbers does not exist. Materialize", str(error))

    def test_a_denied_write_in_the_own_prefix_mentions_the_role(self) -> None:
        self.aws.writable = ()
        with self.assertRaises(Exception) as raised:
            self.run_assets(numbers)
        error = cause(raised.exception, ObjectDenied)
        self.assertIn("cannot write s3://dagster-platform/repos/orders/assets/numbers: ", str(error))
        self.assertIn("its role", str(error))

    def test_path_exists_works_if_s3_denies_access(self) -> None:
        manager = io_manager_of_environment()
        self.keep("repos/orders/assets/numbers", 1)
        base = manager._base_path  # noqa: SLF001
        self.assertTrue(manager.path_exists(base / "numbers"))
        self.assertFalse(manager.path_exists(base / "number"))
        with self.assertRaises(ObjectDenied):
            manager.path_exists(base.parent.parent / "billing/assets/invoices")
        manager.unlink(base / "numbers")
        self.assertFalse(manager.path_exists(base / "numbers"))

    def test_missing_variables_are_reported_by_name(self) -> None:
        del os.environ["DAGSTER_REPO_S3_PREFIX"]
        with self.assertRaisesRegex(DagsterInvariantViolationError, "^DAGSTER_REPO_S3_PREFIX is not set"):
            io_manager_of_environment()
        del os.environ["DAGSTER_REPO_S3_BUCKET"]
        with self.assertRaisesRegex(
            DagsterInvariantViolationError, "^DAGSTER_REPO_S3_BUCKET and DAGSTER_REPO_S3_PREFIX are not set"
        ):
            io_manager_of_environment()


def io_manager_of_environment() -> PlatformIOManager:
    """Creates the I/O manager from the environment of this process."""
    manager = platform_io_manager(build_init_resource_context())
    assert isinstance(manager, PlatformIOManager)
    return manager


def cause(error: BaseException | None, kind: type[BaseException]) -> BaseException:
    """The error of this type in the chain of causes. Dagster wraps errors of I/O managers."""
    while error is not None and not isinstance(error, kind):
        error = error.__cause__ or getattr(error, "user_exception", None)
    assert error is not None, f"no {kind.__name__}"
    return error


if __name__ == "__main__":
    unittest.main()
