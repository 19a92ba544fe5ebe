//! Which address a task has, whatever runs it: one of loopback that is its own.
//!
//! Guarantees: no two tasks of a cloud share an address; what a task gave back goes to no other before [`REST`] has passed and all the
//! others had their turn; nothing of this machine's network is ever handed out, and no address that the stack itself listens on.

use std::collections::{BTreeSet, VecDeque};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use crate::lock::lock;
use crate::model::quotas::Quotas;

/// 127.64.0.0/11, for tasks that listen. Below lie 127.0.0.1 and what else may: resolvers (127.0.0.53, 127.0.0.11), Debian's
/// host name (127.0.1.1).
pub const LISTENING: Ipv4Addr = Ipv4Addr::new(127, 64, 0, 0);
/// 127.96.0.0/11, where nothing listens: not even a task of another localcloud on this machine.
pub const SILENT: Ipv4Addr = Ipv4Addr::new(127, 96, 0, 0);
const SIZE: u32 = 1 << 21;
/// Longer than any cache holds an address. Dagster's daemon reads workspace.yaml every 60 s (`RELOAD_WORKSPACE_INTERVAL`,
/// `dagster/_daemon/controller.py`), codeloc waits 300 s for a webserver to reload (`RELOAD_LIMIT`), Cloud Map's records live
/// 10 s, and ECS describes a stopped task, with its address, for an hour.
const REST: Duration = Duration::from_hours(1);

/// Of one cloud; clones share it.
#[derive(Clone)]
pub struct Addresses {
    pool: Arc<Mutex<Pool>>,
}

struct Pool {
    network: Ipv4Addr,
    size: u32,
    /// How many may be in use at once.
    most: usize,
    in_use: usize,
    next: u32,
    /// In use, or at rest.
    taken: BTreeSet<Place>,
    resting: VecDeque<(Instant, Place)>,
}

/// An address, and a port where the address is shared.
type Place = (Ipv4Addr, Option<u16>);

/// It is a task's until this is dropped.
pub struct Address {
    place: Place,
    pool: Arc<Mutex<Pool>>,
}

/// Every address is in use or at rest.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("no address is free")]
pub struct NoneFree;

impl Default for Addresses {
    fn default() -> Self {
        Self::new(LISTENING, Quotas::aws().addresses)
    }
}

impl Addresses {
    /// Those of a network, of which so many may be in use at once.
    pub fn new(network: Ipv4Addr, most: usize) -> Self {
        Self::of_size(network, SIZE, most)
    }

    fn of_size(network: Ipv4Addr, size: u32, most: usize) -> Self {
        let (taken, resting) = (BTreeSet::new(), VecDeque::new());
        Self { pool: Arc::new(Mutex::new(Pool { network, size, most, in_use: 0, next: 0, taken, resting })) }
    }

    /// These were tasks' until now, in the order in which they were given.
    pub fn were_used(&self, addresses: impl IntoIterator<Item = Ipv4Addr>) {
        let mut pool = lock(&self.pool);
        for address in addresses {
            let offset = address.to_bits().wrapping_sub(pool.network.to_bits());
            if offset < pool.size && pool.taken.insert((address, None)) {
                pool.next = offset + 1;
                pool.resting.push_back((Instant::now(), (address, None)));
            }
        }
    }

    pub fn take(&self) -> Result<Address, NoneFree> {
        let mut pool = lock(&self.pool);
        pool.admit()?;
        for _ in 0..pool.size {
            let offset = pool.next % pool.size;
            pool.next = offset + 1;
            let address = Ipv4Addr::from_bits(pool.network.to_bits() + offset);
            // Networks and broadcasts are no tasks' addresses, whatever the size of the subnet that one thinks of.
            let edge = matches!(address.octets()[3], 0 | 255);
            if !edge && pool.taken.insert((address, None)) {
                return Ok(self.given(&mut pool, (address, None)));
            }
        }
        Err(NoneFree)
    }

    /// A port of 127.0.0.1, for systems on which nothing can listen on another address. Errors: this one was in use lately.
    pub fn share(&self, port: u16) -> Result<Address, NoneFree> {
        let mut pool = lock(&self.pool);
        pool.admit()?;
        let place = (Ipv4Addr::LOCALHOST, Some(port));
        if pool.taken.insert(place) { Ok(self.given(&mut pool, place)) } else { Err(NoneFree) }
    }

    fn given(&self, pool: &mut Pool, place: Place) -> Address {
        pool.in_use += 1;
        Address { place, pool: Arc::clone(&self.pool) }
    }
}

impl Pool {
    fn admit(&mut self) -> Result<(), NoneFree> {
        while let Some((since, place)) = self.resting.front().copied()
            && since.elapsed() >= REST
        {
            self.resting.pop_front();
            self.taken.remove(&place);
        }
        if self.in_use < self.most { Ok(()) } else { Err(NoneFree) }
    }
}

impl Address {
    pub fn ip(&self) -> Ipv4Addr {
        self.place.0
    }
}

impl Drop for Address {
    fn drop(&mut self) {
        let mut pool = lock(&self.pool);
        pool.in_use -= 1;
        pool.resting.push_back((Instant::now(), self.place));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_freed_address_goes_to_another_only_after_its_rest_and_the_round() {
        let addresses = Addresses::of_size(LISTENING, 4, usize::MAX);
        let first = addresses.take().unwrap();
        let (kept, freed) = (first.ip(), addresses.take().unwrap().ip());
        assert_eq!(kept, Ipv4Addr::new(127, 64, 0, 1));
        let last = addresses.take().unwrap().ip();
        assert_eq!(addresses.take().err(), Some(NoneFree), "one is in use, two are at rest, one is an edge");
        tokio::time::advance(REST).await;
        assert_eq!([addresses.take(), addresses.take()].map(|address| address.unwrap().ip()), [freed, last]);
        drop(first);
        assert_eq!(addresses.take().err(), Some(NoneFree));
    }

    #[tokio::test(start_paused = true)]
    async fn addresses_that_were_used_before_a_restart_are_at_rest_after_it() {
        let addresses = Addresses::default();
        let address = |fourth| Ipv4Addr::new(127, 64, 0, fourth);
        addresses.were_used([Ipv4Addr::new(10, 0, 0, 1), address(1), address(3), Ipv4Addr::LOCALHOST]);
        assert_eq!(addresses.take().unwrap().ip(), address(4));
    }

    #[tokio::test(start_paused = true)]
    async fn a_shared_port_is_a_tasks_own_and_rests_like_an_address() {
        let addresses = Addresses::default();
        let shared = addresses.share(4000).unwrap();
        assert_eq!((shared.ip(), addresses.share(4001).is_ok()), (Ipv4Addr::LOCALHOST, true));
        drop(shared);
        assert_eq!(addresses.share(4000).err(), Some(NoneFree));
        tokio::time::advance(REST).await;
        assert!(addresses.share(4000).is_ok());
    }

    #[test]
    fn both_networks_are_loopback_and_nothing_the_stack_listens_on() {
        let last = |network: Ipv4Addr| Ipv4Addr::from_bits(network.to_bits() + SIZE - 1);
        assert_eq!(last(LISTENING), Ipv4Addr::new(127, 95, 255, 255));
        assert_eq!(last(SILENT), Ipv4Addr::new(127, 127, 255, 255));
    }
}
