//! Images around a build: given by tag, kept by what was built before, and garbage in the end.

mod build_cache;
mod dockerfile;
mod garbage;
mod tags;
