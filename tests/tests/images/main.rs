//! Images around a build: given by tag, kept by what was built before, and garbage in the end.

mod dockerfile;
mod garbage;
mod shelf;
mod tags;
