//! An address of its own for every task, as a Fargate task has one.
//!
//! All of 127.0.0.0/8 is this machine on Linux, so that every task can have port 4000. Where other addresses than
//! 127.0.0.1 cannot be bound (macOS), or something holds the port on all of them, a task gets 127.0.0.1 and a free port.

use std::io;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};

/// UDP port that is held on an address for as long as a task has it: no two processes can hold it, and the kernel
/// lets go of it whatever becomes of us.
const CLAIM: u16 = 47_077;
const TRIES: u32 = 512;

/// A task's address. It is the task's until this is dropped.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) address: Ipv4Addr,
    /// Set where the port asked for could not be had.
    pub(super) other_port: Option<u16>,
    _claim: UdpSocket,
}

/// A free address on which `port`, where one is asked for, is free too.
pub(super) fn lease(port: Option<u16>) -> io::Result<Lease> {
    lease_from(candidates(), port)
}

fn lease_from(candidates: impl Iterator<Item = Ipv4Addr>, port: Option<u16>) -> io::Result<Lease> {
    for address in candidates {
        let Ok(claim) = UdpSocket::bind((address, CLAIM)) else {
            continue;
        };
        // Bound for a moment only: the task binds it itself.
        if port.is_none_or(|port| TcpListener::bind((address, port)).is_ok()) {
            return Ok(Lease { address, other_port: None, _claim: claim });
        }
    }
    let address = Ipv4Addr::LOCALHOST;
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for _ in 0..TRIES {
        let free = TcpListener::bind((address, 0))?.local_addr()?.port();
        match UdpSocket::bind((address, free)) {
            Ok(claim) => {
                return Ok(Lease { address, other_port: port.map(|_| free), _claim: claim });
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// 127.77.0.1 and on. Addresses that ended a moment ago are soon used again, which keeps them readable.
fn candidates() -> impl Iterator<Item = Ipv4Addr> {
    (0..TRIES).filter_map(|index| {
        let [_, _, third, fourth] = index.to_be_bytes();
        let edge = fourth == 0 || fourth == 255;
        (!edge).then(|| Ipv4Addr::new(127, 77, third, fourth))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_leases_of_one_port_have_different_addresses() {
        let (first, second) = (lease(Some(4000)).unwrap(), lease(Some(4000)).unwrap());
        assert_ne!((first.address, first.other_port), (second.address, second.other_port));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn an_address_whose_port_is_taken_is_passed_over() {
        let taken = Ipv4Addr::new(127, 88, 0, 1);
        let free = Ipv4Addr::new(127, 88, 0, 2);
        let listener = TcpListener::bind((taken, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(lease_from([taken, free].into_iter(), Some(port)).unwrap().address, free);
    }

    #[test]
    fn without_addresses_of_their_own_tasks_get_ports_of_their_own() {
        let lease = || lease_from(std::iter::empty(), Some(4000)).unwrap();
        let (first, second) = (lease(), lease());
        assert_eq!((first.address, second.address), (Ipv4Addr::LOCALHOST, Ipv4Addr::LOCALHOST));
        assert!(first.other_port.is_some());
        assert_ne!(first.other_port, second.other_port);
    }
}
