"""User code without any dependency on codeloc."""

from dagster import Definitions, asset, define_asset_job


@asset
def numbers() -> list[int]:
    print("three numbers")
    return [1, 2, 3]


@asset
def total(numbers: list[int]) -> int:
    return sum(numbers)


defs = Definitions(assets=[numbers, total], jobs=[define_asset_job("nightly")])
