//! Images: tags in configs, builds in `CodeBuild`, the build cache, and deletion, and images that are gone.

mod build_cache;
mod dockerfile;
mod garbage;
mod gone;
mod registry;
mod tags;
