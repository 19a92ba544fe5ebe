//! A small DNS responder for names such as Cloud Map's, on a socket of one's own.
//!
//! A gRPC target `dns://127.0.0.1:PORT/NAME:4000` is resolved by it without touching the machine's resolver. It answers
//! one question a packet: A with the addresses that the lookup gives, other types of a known name with no record,
//! unknown names with NXDOMAIN. It never panics and never answers an answer.

use std::io;
use std::net::Ipv4Addr;

use tokio::net::UdpSocket;

/// Seconds. Cloud Map's own records live for as long as their service says; ours are always fresh enough for a test.
const TIME_TO_LIVE: u32 = 2;
/// Route 53 answers with up to eight healthy instances, and so many always fit a packet of 512 bytes.
const ADDRESSES: usize = 8;
/// Longest packet over UDP without extensions.
const PACKET: usize = 512;
const HEADER: usize = 12;
const TYPE_A: u16 = 1;
const CLASS_INTERNET: u16 = 1;

#[derive(Clone, Copy)]
enum Code {
    NoError = 0,
    FormatError = 1,
    NameError = 3,
    NotImplemented = 4,
}

/// Answers until the socket fails. `lookup` is asked with names in lower case and without the last dot; no address
/// means that the name is unknown.
pub async fn serve(socket: UdpSocket, lookup: impl Fn(&str) -> Vec<Ipv4Addr>) -> io::Result<()> {
    // Longer than we answer, so that a query with extensions is read whole.
    let mut packet = [0; 4096];
    loop {
        let (length, from) = socket.recv_from(&mut packet).await?;
        let Some(reply) = answer(&packet[..length], &lookup) else {
            continue;
        };
        if let Err(error) = socket.send_to(&reply, from).await {
            tracing::debug!(%from, %error, "a DNS answer was not sent");
        }
    }
}

/// The reply to a packet; `None` where silence is right (too short to be a query, or itself an answer).
fn answer(query: &[u8], lookup: impl Fn(&str) -> Vec<Ipv4Addr>) -> Option<Vec<u8>> {
    let header = query.get(..HEADER)?;
    if header[2] & 0x80 != 0 {
        return None;
    }
    if header[2] & 0x78 != 0 {
        return Some(reply(header, Code::NotImplemented, &[], &[]));
    }
    let Some(question) = Question::parse(query) else {
        return Some(reply(header, Code::FormatError, &[], &[]));
    };
    let mut addresses = if question.class == CLASS_INTERNET { lookup(&question.name) } else { Vec::new() };
    if addresses.is_empty() {
        return Some(reply(header, Code::NameError, question.bytes, &[]));
    }
    addresses.truncate(if question.kind == TYPE_A { ADDRESSES } else { 0 });
    Some(reply(header, Code::NoError, question.bytes, &addresses))
}

struct Question<'a> {
    name: String,
    kind: u16,
    class: u16,
    /// As it came, to be repeated: resolvers compare even the case of its letters.
    bytes: &'a [u8],
}

impl<'a> Question<'a> {
    fn parse(query: &'a [u8]) -> Option<Self> {
        if query.get(4..6)? != [0, 1] {
            return None;
        }
        let mut labels = Vec::new();
        let mut at = HEADER;
        loop {
            let length = usize::from(*query.get(at)?);
            at += 1;
            match length {
                0 => break,
                // Above 63 lie compression pointers, which have nothing to point at in a lone question.
                1..=63 => labels.push(std::str::from_utf8(query.get(at..at + length)?).ok()?),
                _ => return None,
            }
            at += length;
            if at - HEADER > 255 {
                return None;
            }
        }
        let number = |at: usize| Some(u16::from_be_bytes(query.get(at..at + 2)?.try_into().ok()?));
        let name = labels.join(".").to_ascii_lowercase();
        Some(Self { name, kind: number(at)?, class: number(at + 2)?, bytes: query.get(HEADER..at + 4)? })
    }
}

fn reply(query: &[u8], code: Code, question: &[u8], addresses: &[Ipv4Addr]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(PACKET);
    bytes.extend(&query[..2]);
    // An answer, authoritative; whether recursion was wished for is repeated, and not offered.
    bytes.extend([0x84 | (query[2] & 1), code as u8]);
    bytes.extend(u16::from(!question.is_empty()).to_be_bytes());
    bytes.extend(u16::try_from(addresses.len()).unwrap_or_default().to_be_bytes());
    bytes.extend([0; 4]);
    bytes.extend(question);
    for address in addresses {
        // The name is the question's: a pointer to offset 12.
        bytes.extend([0xC0, 12]);
        bytes.extend(TYPE_A.to_be_bytes());
        bytes.extend(CLASS_INTERNET.to_be_bytes());
        bytes.extend(TIME_TO_LIVE.to_be_bytes());
        bytes.extend(4_u16.to_be_bytes());
        bytes.extend(address.octets());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn query(name: &str, kind: u16) -> Vec<u8> {
        let mut bytes = vec![0xAB, 0xCD, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            bytes.push(u8::try_from(label.len()).unwrap());
            bytes.extend(label.as_bytes());
        }
        bytes.push(0);
        bytes.extend(kind.to_be_bytes());
        bytes.extend([0, 1]);
        bytes
    }

    fn lookup(name: &str) -> Vec<Ipv4Addr> {
        match name {
            "orders-service.data" => {
                vec![Ipv4Addr::new(127, 77, 0, 1), Ipv4Addr::new(127, 77, 0, 2)]
            }
            "crowded.data" => (0..40).map(|last| Ipv4Addr::new(127, 77, 1, last)).collect(),
            _ => Vec::new(),
        }
    }

    #[test]
    fn an_a_question_gets_every_address_and_its_own_spelling_back() {
        let asked = query("Orders-Service.DATA", TYPE_A);
        let reply = answer(&asked, lookup).unwrap();
        assert_eq!(reply[..2], [0xAB, 0xCD]);
        assert_eq!(reply[2..4], [0x85, 0]);
        assert_eq!(reply[4..8], [0, 1, 0, 2]);
        assert_eq!(reply[12..asked.len()], asked[12..]);
        let record = [0xC0, 12, 0, 1, 0, 1, 0, 0, 0, 2, 0, 4];
        assert_eq!(reply[asked.len()..asked.len() + 16], [&record[..], &[127, 77, 0, 1]].concat());
        assert_eq!(reply[asked.len() + 16..], [&record[..], &[127, 77, 0, 2]].concat());
    }

    #[test]
    fn an_aaaa_question_for_a_known_name_is_answered_with_no_record() {
        let reply = answer(&query("orders-service.data", 28), lookup).unwrap();
        assert_eq!((reply[3] & 15, &reply[6..8]), (0, &[0, 0][..]));
    }

    #[test]
    fn an_unknown_name_does_not_exist() {
        let reply = answer(&query("nobody.data", TYPE_A), lookup).unwrap();
        assert_eq!((reply[3] & 15, &reply[6..8]), (3, &[0, 0][..]));
    }

    #[test]
    fn many_addresses_still_fit_one_packet() {
        let reply = answer(&query("crowded.data", TYPE_A), lookup).unwrap();
        assert_eq!(reply[6..8], [0, 8]);
        assert!(reply.len() <= PACKET);
    }

    #[test]
    fn an_answer_is_not_answered_and_a_broken_question_is_a_format_error() {
        let mut echoed = query("orders-service.data", TYPE_A);
        echoed[2] |= 0x80;
        assert_eq!(answer(&echoed, lookup), None);
        let whole = query("orders-service.data", TYPE_A);
        let reply = answer(&whole[..whole.len() - 5], lookup).unwrap();
        assert_eq!((reply.len(), reply[3] & 15), (HEADER, 1));
    }

    #[tokio::test]
    async fn questions_over_udp_are_answered() {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = server.local_addr().unwrap();
        let serving = tokio::spawn(serve(server, lookup));
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let asked = query("orders-service.data", TYPE_A);
        client.send_to(b"nonsense", address).await.unwrap();
        client.send_to(&asked, address).await.unwrap();
        let mut packet = [0; PACKET];
        let (length, _) = client.recv_from(&mut packet).await.unwrap();
        assert_eq!(packet[..length], answer(&asked, lookup).unwrap());
        serving.abort();
    }

    proptest! {
        #[test]
        fn no_packet_makes_it_panic_or_answer_too_long(packet in proptest::collection::vec(any::<u8>(), 0..600)) {
            if let Some(reply) = answer(&packet, |_| vec![Ipv4Addr::LOCALHOST; 40]) {
                prop_assert!(reply.len() <= PACKET);
                prop_assert_eq!(&reply[..2], &packet[..2]);
            }
        }

        #[test]
        fn no_question_makes_it_panic_or_answer_too_long(
            rest in proptest::collection::vec(any::<u8>(), 0..600),
            labels in proptest::collection::vec("[a-z]{1,63}", 0..6),
        ) {
            let mut packet = query(&labels.join("."), TYPE_A);
            packet.extend(rest);
            let reply = answer(&packet, |_| vec![Ipv4Addr::LOCALHOST; 40]).unwrap();
            prop_assert!(reply.len() <= PACKET);
        }
    }
}
