//! Amazon Resource Names.

/// The name at the end of an ARN, or the name itself.
pub fn tail(id: &str) -> &str {
    id.rsplit('/').next().unwrap_or(id)
}
