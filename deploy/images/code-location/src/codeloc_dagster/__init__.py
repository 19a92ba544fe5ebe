"""Dagster plugins for codeloc: `launcher`, `platform_io`, `compute_logs` and `health`.

This file imports nothing, so that the health probe starts in milliseconds.
"""
