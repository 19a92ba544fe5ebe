//! The parts of the world that the tests replace, besides AWS and git.

use codeloc_dagster::{CodeServer, Webserver};
use codeloc_images::Builder;

pub trait Ports: Send + Sync + 'static {
    type Builder: Builder;
    type CodeServer: CodeServer;
    type Webserver: Webserver;
}
