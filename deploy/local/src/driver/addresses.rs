//! Addresses of tasks: each task has its own loopback address.
//!
//! Guarantees: two tasks of a cloud never share an address. A released address is reused only after [`REST`], when all other
//! addresses were used. Addresses of the machine's network and of the stack itself are never used.

use std::collections::{BTreeSet, VecDeque};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use crate::lock::lock;
use crate::model::quotas::Quotas;

/// 127.64.0.0/11, for tasks that listen. Lower addresses can be in use: resolvers (127.0.0.53, 127.0.0.11), Debian's
/// host name (127.0.1.1).
pub const LISTENING: Ipv4Addr = Ipv4Addr::new(127, 64, 0, 0);
/// 127.96.0.0/11, where no program listens, not even a task of another localcloud.
pub const SILENT: Ipv4Addr = Ipv4Addr::new(127, 96, 0, 0);
const SIZE: u32 = 1 << 21;
/// Longer than any cache keeps an address. Dagster's daemon reads workspace.yaml every 60 s (`RELOAD_WORKSPACE_INTERVAL`,
/// `dagster/_daemon/controller.py`), codeloc waits 300 s for a webserver to reload (`RELOAD_LIMIT`), Cloud Map records expire after
/// 10 s, and ECS describes a stopped task, with its address, for an hour.
const REST: Duration = Duration::from_hours(1);

/// The addresses of one cloud. Clones share them.
#[derive(Clone)]
pub struct Addresses {
    pool: Arc<Mutex<Pool>>,
}

struct Pool {
    network: Ipv4Addr,
    size: u32,
    /// The maximum number of addresses in use.
    most: usize,
    in_use: usize,
    next: u32,
    /// In use or resting.
    taken: BTreeSet<Endpoint>,
    resting: VecDeque<(Instant, Endpoint)>,
}

/// An address, and a port where the address is shared.
type Endpoint = (Ipv4Addr, Option<u16>);

/// An address that is in use until this is dropped.
pub struct Address {
    endpoint: Endpoint,
    pool: Arc<Mutex<Pool>>,
}

/// Every address is in use or resting.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("no address is free")]
pub struct NoFreeAddress;

impl Default for Addresses {
    fn default() -> Self {
        Self::new(LISTENING, Quotas::aws().addresses)
    }
}

impl Addresses {
    /// The addresses of a network; at most `most` are in use at once.
    pub fn new(network: Ipv4Addr, most: usize) -> Self {
        Self::of_size(network, SIZE, most)
    }

    fn of_size(network: Ipv4Addr, size: u32, most: usize) -> Self {
        let (taken, resting) = (BTreeSet::new(), VecDeque::new());
        Self { pool: Arc::new(Mutex::new(Pool { network, size, most, in_use: 0, next: 0, taken, resting })) }
    }

    /// Marks addresses of earlier tasks as resting, in the order of their use.
    pub fn mark_used(&self, addresses: impl IntoIterator<Item = Ipv4Addr>) {
        let mut pool = lock(&self.pool);
        for address in addresses {
            let offset = address.to_bits().wrapping_sub(pool.network.to_bits());
            if offset < pool.size && pool.taken.insert((address, None)) {
                pool.next = offset + 1;
                pool.resting.push_back((Instant::now(), (address, None)));
            }
        }
    }

    pub fn take(&self) -> Result<Address, NoFreeAddress> {
        let mut pool = lock(&self.pool);
        pool.admit()?;
        for _ in 0..pool.size {
            let offset = pool.next % pool.size;
            pool.next = offset + 1;
            let address = Ipv4Addr::from_bits(pool.network.to_bits() + offset);
            // Skip network and broadcast addresses.
            let edge = matches!(address.octets()[3], 0 | 255);
            if !edge && pool.taken.insert((address, None)) {
                return Ok(self.lend(&mut pool, (address, None)));
            }
        }
        Err(NoFreeAddress)
    }

    /// Takes a port of 127.0.0.1, for systems without other loopback addresses. An error if the port is in use or resting.
    pub fn share(&self, port: u16) -> Result<Address, NoFreeAddress> {
        let mut pool = lock(&self.pool);
        pool.admit()?;
        let endpoint = (Ipv4Addr::LOCALHOST, Some(port));
        if pool.taken.insert(endpoint) { Ok(self.lend(&mut pool, endpoint)) } else { Err(NoFreeAddress) }
    }

    fn lend(&self, pool: &mut Pool, endpoint: Endpoint) -> Address {
        pool.in_use += 1;
        Address { endpoint, pool: Arc::clone(&self.pool) }
    }
}

impl Pool {
    fn admit(&mut self) -> Result<(), NoFreeAddress> {
        while let Some((since, endpoint)) = self.resting.front().copied()
            && since.elapsed() >= REST
        {
            self.resting.pop_front();
            self.taken.remove(&endpoint);
        }
        if self.in_use < self.most { Ok(()) } else { Err(NoFreeAddress) }
    }
}

impl Address {
    pub fn ip(&self) -> Ipv4Addr {
        self.endpoint.0
    }
}

impl Drop for Address {
    fn drop(&mut self) {
        let mut pool = lock(&self.pool);
        pool.in_use -= 1;
        pool.resting.push_back((Instant::now(), self.endpoint));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_released_address_rests_before_it_is_reused() {
        let addresses = Addresses::of_size(LISTENING, 4, usize::MAX);
        let first = addresses.take().unwrap();
        let (kept, freed) = (first.ip(), addresses.take().unwrap().ip());
        assert_eq!(kept, Ipv4Addr::new(127, 64, 0, 1));
        let last = addresses.take().unwrap().ip();
        assert_eq!(addresses.take().err(), Some(NoFreeAddress), "one is in use, two are at rest, one is an edge");
        tokio::time::advance(REST).await;
        assert_eq!([addresses.take(), addresses.take()].map(|address| address.unwrap().ip()), [freed, last]);
        drop(first);
        assert_eq!(addresses.take().err(), Some(NoFreeAddress));
    }

    #[tokio::test(start_paused = true)]
    async fn addresses_used_before_a_restart_rest_after_it() {
        let addresses = Addresses::default();
        let address = |fourth| Ipv4Addr::new(127, 64, 0, fourth);
        addresses.mark_used([Ipv4Addr::new(10, 0, 0, 1), address(1), address(3), Ipv4Addr::LOCALHOST]);
        assert_eq!(addresses.take().unwrap().ip(), address(4));
    }

    #[tokio::test(start_paused = true)]
    async fn a_shared_port_has_one_user_and_rests_like_an_address() {
        let addresses = Addresses::default();
        let shared = addresses.share(4000).unwrap();
        assert_eq!((shared.ip(), addresses.share(4001).is_ok()), (Ipv4Addr::LOCALHOST, true));
        drop(shared);
        assert_eq!(addresses.share(4000).err(), Some(NoFreeAddress));
        tokio::time::advance(REST).await;
        assert!(addresses.share(4000).is_ok());
    }

    #[test]
    fn both_networks_are_unused_parts_of_loopback() {
        let last = |network: Ipv4Addr| Ipv4Addr::from_bits(network.to_bits() + SIZE - 1);
        assert_eq!(last(LISTENING), Ipv4Addr::new(127, 95, 255, 255));
        assert_eq!(last(SILENT), Ipv4Addr::new(127, 127, 255, 255));
    }
}
