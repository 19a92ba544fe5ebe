//! What the APIs of AWS share: requests, responses, errors, pages, tags.

pub mod api_error;
pub mod arn;
pub mod aws_service;
pub mod fields;
pub mod paging;
pub mod query;
pub mod request;
pub mod response;
pub mod s3;
pub mod tags;
pub mod xml;
