//! Configs are UTF-8 text.

/// The position of the first byte that is not UTF-8. Both numbers start at 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is not UTF-8 text: see byte {byte}, in line {line}")]
pub struct NotUtf8 {
    pub byte: usize,
    pub line: usize,
}

pub(super) fn as_text(bytes: &[u8]) -> Result<&str, NotUtf8> {
    std::str::from_utf8(bytes).map_err(|error| {
        let valid = &bytes[..error.valid_up_to()];
        NotUtf8 { byte: valid.len() + 1, line: valid.split(|byte| *byte == b'\n').count() }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_byte_that_is_not_utf8_is_named() {
        assert_eq!(as_text("für".as_bytes()), Ok("für"));
        assert_eq!(as_text(b"name: a\n# f\xfcr\n"), Err(NotUtf8 { byte: 12, line: 2 }));
        assert_eq!(as_text(b"\xff"), Err(NotUtf8 { byte: 1, line: 1 }));
    }
}
