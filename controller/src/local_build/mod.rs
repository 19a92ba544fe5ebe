//! Builds on the machine of a developer, without AWS: the same builder, an OCI layout instead of ECR, and a sandbox instead of ECS tasks.

mod guest;
mod layout;
mod load;

pub use guest::{SandboxBuilder, local_python};
pub use layout::{Layout, Served};
pub use load::{Loaded, load};

/// Text of a program without the sequences that colour it.
pub fn without_colours(text: &str) -> String {
    let (mut plain, mut rest) = (String::with_capacity(text.len()), text);
    while let Some((before, after)) = rest.split_once("\u{1b}[") {
        plain.push_str(before);
        rest = after.split_once(|letter: char| letter.is_ascii_alphabetic()).map_or("", |(_, rest)| rest);
    }
    plain + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_of_programs_are_removed() {
        assert_eq!(without_colours("a\u{1b}[1;32mb\u{1b}[0m c\u{1b}[3"), "ab c");
        assert_eq!(without_colours("plain"), "plain");
    }
}
