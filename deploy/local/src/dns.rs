//! A small DNS server for Cloud Map names.
//!
//! gRPC resolves a target `dns://127.0.0.1:PORT/NAME:4000` with it, without the resolver of the machine. It answers one question
//! per packet: type A with the addresses of the name, other types with no record, unknown names with NXDOMAIN. No packet makes
//! it panic, and it does not answer responses.

use std::io;
use std::net::Ipv4Addr;

use tokio::net::UdpSocket;

/// Seconds; short enough for tests. In Cloud Map the service sets it.
const TIME_TO_LIVE: u32 = 2;
/// Route 53 returns up to eight healthy instances. Eight fit a packet of 512 bytes.
const ADDRESSES: usize = 8;
/// The longest UDP packet without extensions.
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

/// Answers queries until the socket fails. `lookup` gets names in lower case without the last dot, and returns no address for an
/// unknown name.
pub async fn serve(socket: UdpSocket, lookup: impl Fn(&str) -> Vec<Ipv4Addr>) -> io::Result<()> {
    // Large enough for queries with extensions.
    let mut packet = [0; 4096];
    loop {
        let (length, from) = socket.recv_from(&mut packet).await?;
        let Some(reply) = answer(&packet[..length], &lookup) else {
            continue;
        };
        if let Err(error) = socket.send_to(&reply, from).await {
            tracing::debug!(%from, %error, "cannot send a DNS answer");
        }
    }
}

/// The reply to a packet; `None` for a packet that is too short for a query, and for a response.
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
    /// The bytes of the question, repeated in the reply: resolvers compare even the case of letters.
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
                // Lengths above 63 are compression pointers. A single question has none.
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
    // Authoritative answer; repeat the flag "recursion desired", and offer no recursion.
    bytes.extend([0x84 | (query[2] & 1), code as u8]);
    bytes.extend(u16::from(!question.is_empty()).to_be_bytes());
    bytes.extend(u16::try_from(addresses.len()).unwrap_or_default().to_be_bytes());
    bytes.extend([0; 4]);
    bytes.extend(question);
    for address in addresses {
        // A pointer to the name of the question, at offset 12.
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
    fn an_a_query_returns_every_address_and_the_original_spelling() {
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
    fn an_aaaa_query_for_a_known_name_returns_no_record() {
        let reply = answer(&query("orders-service.data", 28), lookup).unwrap();
        assert_eq!((reply[3] & 15, &reply[6..8]), (0, &[0, 0][..]));
    }

    #[test]
    fn an_unknown_name_is_nxdomain() {
        let reply = answer(&query("unknown.data", TYPE_A), lookup).unwrap();
        assert_eq!((reply[3] & 15, &reply[6..8]), (3, &[0, 0][..]));
    }

    #[test]
    fn many_addresses_fit_one_packet() {
        let reply = answer(&query("crowded.data", TYPE_A), lookup).unwrap();
        assert_eq!(reply[6..8], [0, 8]);
        assert!(reply.len() <= PACKET);
    }

    #[test]
    fn responses_are_ignored_and_broken_queries_are_format_errors() {
        let mut echoed = query("orders-service.data", TYPE_A);
        echoed[2] |= 0x80;
        assert_eq!(answer(&echoed, lookup), None);
        let whole = query("orders-service.data", TYPE_A);
        let reply = answer(&whole[..whole.len() - 5], lookup).unwrap();
        assert_eq!((reply.len(), reply[3] & 15), (HEADER, 1));
    }

    #[tokio::test]
    async fn the_server_answers_over_udp() {
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
        fn no_packet_causes_a_panic_or_a_long_reply(packet in proptest::collection::vec(any::<u8>(), 0..600)) {
            if let Some(reply) = answer(&packet, |_| vec![Ipv4Addr::LOCALHOST; 40]) {
                prop_assert!(reply.len() <= PACKET);
                prop_assert_eq!(&reply[..2], &packet[..2]);
            }
        }

        #[test]
        fn no_query_causes_a_panic_or_a_long_reply(
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
