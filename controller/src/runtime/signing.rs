//! HMAC-SHA256 signatures of webhook bodies, in the form `sha256=HEX` that git hosts and receivers of events use.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// Bytes of a signature.
pub type Signature = [u8; 32];

const PREFIX: &str = "sha256=";

/// The header value that signs `body`.
pub fn sign(body: &[u8], secret: &str) -> String {
    format!("{PREFIX}{}", hex::encode(mac(body, secret).finalize().into_bytes()))
}

/// The signature in a header value, or `None` if the value has another form.
pub fn parse(header: &str) -> Option<Signature> {
    let mut signature = [0; 32];
    hex::decode_to_slice(header.strip_prefix(PREFIX)?, &mut signature).ok()?;
    Some(signature)
}

/// Compares in constant time.
pub fn verify(body: &[u8], secret: &str, signature: &Signature) -> bool {
    mac(body, secret).verify_slice(signature).is_ok()
}

fn mac(body: &[u8], secret: &str) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of any length");
    mac.update(body);
    mac
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_holds_for_its_body_and_secret_only() {
        let signature = parse(&sign(b"{}", "secret")).unwrap();
        assert!(verify(b"{}", "secret", &signature));
        assert!(!verify(b"{ }", "secret", &signature));
        assert!(!verify(b"{}", "other", &signature));
    }

    #[test]
    fn a_header_of_another_form_is_not_a_signature() {
        for header in ["", "sha256=", "sha256=00", "sha1=0123", &format!("sha256={}", "0".repeat(66)), &"0".repeat(64)]
        {
            assert_eq!(parse(header), None, "{header}");
        }
    }
}
