"""Dagster's side of codeloc: `launcher`, `platform_io`, `compute_logs` and `health`.

Nothing is imported here, so that the health probe starts in milliseconds.
"""
