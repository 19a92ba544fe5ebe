//! Images: tags in configs, builds in `CodeBuild`, the build cache, and deletion.

mod build_cache;
mod dockerfile;
mod garbage;
mod tags;
