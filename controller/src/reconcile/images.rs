//! The images of locations: those that codeloc builds, and the tags that configs name.

use std::sync::Arc;

use codeloc_crds::LocationName;
use codeloc_images::Builder;

use super::image_builds::ImageBuilds;
use super::image_tags::ImageTags;
use super::queue::Queue;
use crate::status::Recorder;

pub struct Images<B> {
    pub builds: ImageBuilds<B>,
    pub tags: ImageTags<B>,
}

impl<B: Builder> Images<B> {
    pub fn new(builder: B, queue: Arc<Queue>, recorder: Arc<Recorder>) -> Self {
        let builder = Arc::new(builder);
        Self {
            builds: ImageBuilds::new(builder.clone(), queue.clone(), recorder),
            tags: ImageTags::new(builder, queue),
        }
    }

    pub fn forget(&self, name: &LocationName) {
        self.builds.forget(name);
        self.tags.forget(name);
    }
}
