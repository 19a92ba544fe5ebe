//! The constant part of a message: equal for two events that differ only in numbers, dates or ids.

/// Hexadecimal digits of an id or a digest.
const LONG_HEX: usize = 16;

/// Replaces numbers, dates, durations, addresses, ids and names of temporary files with `#`.
pub fn without_variable_parts(message: &str) -> String {
    let mut topic = String::with_capacity(message.len());
    let mut word = String::new();
    for character in message.chars() {
        if character.is_alphanumeric() || "_-.:+".contains(character) {
            word.push(character);
        } else {
            end_word(&mut word, &mut topic);
            topic.push(character);
        }
    }
    end_word(&mut word, &mut topic);
    topic
}

fn end_word(word: &mut String, topic: &mut String) {
    topic.push_str(if varies(word) { "#" } else { word });
    word.clear();
}

fn varies(word: &str) -> bool {
    let digits = word.chars().filter(char::is_ascii_digit).count();
    let letters = word.chars().filter(|character| character.is_alphabetic()).count();
    let is_hex = |text: &str| text.chars().all(|character| character.is_ascii_hexdigit() || character == '-');
    // `20s`, `2026-11-27T10:00:00Z`, `10.0.3.17:4000:`; an id; an address in memory; a temporary file.
    (digits > 0 && letters <= 2)
        || (word.len() >= LONG_HEX && is_hex(word))
        || word.strip_prefix("0x").is_some_and(is_hex)
        || word.contains("tmp")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn same(one: &str, other: &str) {
        assert_eq!(without_variable_parts(one), without_variable_parts(other));
    }

    fn different(one: &str, other: &str) {
        assert_ne!(without_variable_parts(one), without_variable_parts(other));
    }

    #[test]
    fn numbers_dates_and_ids_are_not_part_of_the_topic() {
        same("ecs:UpdateService: no answer within 24s", "ecs:UpdateService: no answer within 9.5s");
        same("cannot write /w/.workspace.Ab3x.tmp: full", "cannot write /w/.workspace.Zzzzz.tmp: full");
        same("pip failed in /var/codeloc/.tmpQrStUv/code", "pip failed in /var/codeloc/.tmpAbCdEf/code");
        same("10.0.1.5:4000: connection refused", "10.0.31.7:4000: connection refused");
        same(
            "task 0f3c9b1e8d7a4c5f9e0b1a2c3d4e5f60 ended (request 6a1f0c1e-1b2c-4d3e-8f90-a1b2c3d4e5f6)",
            "task ffffffffffffffffffffffffffffffff ended (request 00000000-1b2c-4d3e-8f90-a1b2c3d4e5f6)",
        );
        same("<Job object at 0x7f3ac01d>, 2026-11-27T10:00:01Z", "<Job object at 0x7fffffff>, 2026-11-28T00:00:59Z");
    }

    #[test]
    fn messages_with_different_names_have_different_topics() {
        different("orders-3f9a1c failed: no module shop", "orders-77b2e0 failed: no module shop");
        different("no module shop", "no module shop2");
        different("ecs:UpdateService: no", "ecs:CreateService: no");
    }
}
