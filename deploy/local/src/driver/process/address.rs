//! The address and port of a task.
//!
//! On Linux every address of 127.0.0.0/8 is local, so that every task can have port 4000. Where only 127.0.0.1 can be bound
//! (macOS), or another program uses the port on all addresses, a task gets 127.0.0.1 and a free port.

use std::io;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};

use crate::driver::addresses::{Address, Addresses, NoFreeAddress};

/// The UDP port that is bound on the address of a task to reserve the address. The kernel releases it when this
/// process ends.
const CLAIM: u16 = 47_077;
const TRIES: u32 = 512;

/// The address of a task, reserved until this is dropped.
pub(super) struct Lease {
    pub(super) address: Ipv4Addr,
    /// Set if the requested port was not available.
    pub(super) other_port: Option<u16>,
    _claim: UdpSocket,
    _given: Address,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum LeaseError {
    #[error(transparent)]
    NoFreeAddress(#[from] NoFreeAddress),
    #[error(transparent)]
    Port(#[from] io::Error),
}

/// Leases an address that no other process holds and on which `port`, if any, is free.
pub(super) fn lease(addresses: &Addresses, port: Option<u16>) -> Result<Lease, LeaseError> {
    for _ in 0..TRIES {
        let given = addresses.take()?;
        let address = given.ip();
        let claim = match UdpSocket::bind((address, CLAIM)) {
            Ok(claim) => claim,
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => break,
            Err(_) => continue,
        };
        // A probe: the task binds the port itself.
        if port.is_none_or(|port| TcpListener::bind((address, port)).is_ok()) {
            return Ok(Lease { address, other_port: None, _claim: claim, _given: given });
        }
    }
    shared(addresses, port)
}

/// Leases a free port of 127.0.0.1.
fn shared(addresses: &Addresses, port: Option<u16>) -> Result<Lease, LeaseError> {
    let address = Ipv4Addr::LOCALHOST;
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for _ in 0..TRIES {
        let free = TcpListener::bind((address, 0))?.local_addr()?.port();
        let Ok(given) = addresses.share(free) else { continue };
        match UdpSocket::bind((address, free)) {
            Ok(claim) => {
                return Ok(Lease { address, other_port: port.map(|_| free), _claim: claim, _given: given });
            }
            Err(error) => last = error,
        }
    }
    Err(last.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_of_one_port_have_different_addresses() {
        let addresses = Addresses::default();
        let lease = || lease(&addresses, Some(4000)).unwrap();
        let (first, second) = (lease(), lease());
        assert_ne!((first.address, first.other_port), (second.address, second.other_port));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn an_address_of_another_process_is_skipped() {
        let (ours, theirs) = (Addresses::default(), Addresses::default());
        let held = lease(&theirs, None).unwrap();
        assert_ne!(lease(&ours, None).unwrap().address, held.address);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn an_address_with_a_bound_port_is_skipped() {
        let addresses = Addresses::default();
        addresses.mark_used([Ipv4Addr::new(127, 88, 0, 1)]);
        let listener = TcpListener::bind((Ipv4Addr::new(127, 88, 0, 2), 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(lease(&addresses, Some(port)).unwrap().address, Ipv4Addr::new(127, 88, 0, 3));
    }

    #[test]
    fn tasks_on_one_address_get_different_ports() {
        let addresses = Addresses::default();
        let lease = || shared(&addresses, Some(4000)).unwrap();
        let (first, second) = (lease(), lease());
        assert_eq!((first.address, second.address), (Ipv4Addr::LOCALHOST, Ipv4Addr::LOCALHOST));
        assert!(first.other_port.is_some());
        assert_ne!(first.other_port, second.other_port);
    }
}
