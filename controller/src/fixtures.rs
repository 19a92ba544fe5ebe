//! Names for unit tests.

use codeloc_crds::LocationName;

pub fn location_name(name: &str) -> LocationName {
    LocationName::new(name).expect("a valid name")
}
