//! Which server holds an item, if there are several.
//!
//! Rendezvous hashing: each item is on the server that scores highest for its name. So the order of
//! the servers does not matter, and a server that is added or taken away moves only the items that
//! it holds.

use std::sync::Arc;

use memcache::exp::{Rendezvous, Router as _};

use super::wire::{Meta, Name};
use crate::connections::Servers;
use crate::network::Target;
use crate::pipeline::{Client, ServerOf};

/// The servers of a storage, at least one.
pub(super) struct Ring {
    clients: Vec<Arc<Client<Meta>>>,
    /// The addresses as they are configured: every worker and host must route alike.
    addresses: Vec<String>,
}

impl Ring {
    /// Nothing connects yet.
    pub(super) fn new(targets: Vec<Target>, servers: &Servers) -> Self {
        let addresses = targets.iter().map(|target| target.address.to_string()).collect();
        Self { clients: targets.into_iter().map(|target| servers.get(&ServerOf::new(target))).collect(), addresses }
    }

    /// Returns the server that holds an item.
    pub(super) fn of(&self, name: &Name) -> &Client<Meta> {
        match &self.clients[..] {
            [only] => only,
            clients => &clients[Rendezvous::new().route(name.as_bytes(), &self.addresses)],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connections::Timeouts;
    use crate::network::{Address, Node};
    use std::time::Duration;

    fn ring(hosts: &[&str], servers: &Servers) -> Ring {
        let second = Duration::from_secs(1);
        let timeouts = Timeouts { connect: second, response: second, keepalive: second, lifetime: second };
        let target = |host: &&str| {
            let address = Address::Tcp(Node { host: (*host).into(), port: 11211 });
            Target { address, tls: None, timeouts, pool: None }
        };
        Ring::new(hosts.iter().map(target).collect(), servers)
    }

    #[test]
    fn a_server_that_is_taken_away_moves_only_its_items() {
        let servers = Servers::default();
        let (three, two) = (ring(&["a", "b", "c"], &servers), ring(&["c", "a"], &servers));
        let mut shares = [0; 3];
        for number in 0..3000 {
            let name = Name::new(&format!("session:{number}")).unwrap();
            let holder = three.clients.iter().position(|client| std::ptr::eq(&**client, three.of(&name))).unwrap();
            shares[holder] += 1;
            assert!(holder == 1 || std::ptr::eq(three.of(&name), two.of(&name)));
        }
        assert!(shares.iter().all(|share| (800..1200).contains(share)), "{shares:?}");
    }

    /// A build that routes in another way would not find the items of this one.
    #[test]
    fn names_are_routed_as_ever() {
        let ring = ring(&["a", "b", "c"], &Servers::default());
        let holder = |name: &str| {
            let name = Name::new(name).unwrap();
            ring.clients.iter().position(|client| std::ptr::eq(&**client, ring.of(&name))).unwrap()
        };
        let routed: Vec<_> = (0..12).map(|number| holder(&format!("session:{number}"))).collect();
        assert_eq!(routed, [0, 2, 0, 1, 2, 1, 2, 2, 0, 1, 1, 0]);
    }
}
