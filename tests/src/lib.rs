//! End to end tests of codeloc live under `tests/tests/`; this library holds what they share.
