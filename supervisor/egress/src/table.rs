//! Virtual addresses: one of each family for each name a sandbox may connect to.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use skep_policy::egress::{VIRTUAL_V4, VIRTUAL_V6};

use crate::name::HostName;

const V4_BLOCK: u32 = VIRTUAL_V4.to_bits();
const V6_BLOCK: u128 = VIRTUAL_V6.to_bits();

/// The first 256 addresses stay free for the sandbox's own.
const FIRST: u32 = 256;

/// Most names of one sandbox.
pub const CAPACITY: usize = 16 * 1024;

/// The names of one sandbox and their addresses, which stay the same for the sandbox's life.
#[derive(Debug, Default)]
pub struct Table {
    names: Vec<HostName>,
    positions: HashMap<HostName, u32>,
}

impl Table {
    /// The addresses of a name, new ones if it has none yet; `None` when the table is full.
    pub fn assign(&mut self, name: &HostName) -> Option<(Ipv4Addr, Ipv6Addr)> {
        let position = match self.positions.get(name) {
            Some(position) => *position,
            None => self.insert(name)?,
        };
        let offset = FIRST + position;
        Some((Ipv4Addr::from(V4_BLOCK + offset), Ipv6Addr::from(V6_BLOCK + u128::from(offset))))
    }

    /// The name behind a virtual address.
    #[must_use]
    pub fn name(&self, address: IpAddr) -> Option<&HostName> {
        let offset = match address {
            IpAddr::V4(address) => u32::from(address).checked_sub(V4_BLOCK)?,
            IpAddr::V6(address) => u32::try_from(u128::from(address).checked_sub(V6_BLOCK)?).ok()?,
        };
        self.names.get(usize::try_from(offset.checked_sub(FIRST)?).ok()?)
    }

    fn insert(&mut self, name: &HostName) -> Option<u32> {
        if self.names.len() >= CAPACITY {
            return None;
        }
        let position = u32::try_from(self.names.len()).ok()?;
        self.names.push(name.clone());
        self.positions.insert(name.clone(), position);
        Some(position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> HostName {
        HostName::parse(text).unwrap()
    }

    #[test]
    fn a_name_keeps_its_addresses_and_they_lead_back_to_it() {
        let mut table = Table::default();
        let (v4, v6) = table.assign(&name("a.example")).unwrap();
        assert_eq!((v4, v6), ("198.18.1.0".parse().unwrap(), "fd5c:e900::100".parse().unwrap()));
        assert_ne!(table.assign(&name("b.example")).unwrap(), (v4, v6));
        assert_eq!(table.assign(&name("A.example.")).unwrap(), (v4, v6));
        assert_eq!(table.name(v4.into()), Some(&name("a.example")));
        assert_eq!(table.name(v6.into()), Some(&name("a.example")));
    }

    #[test]
    fn addresses_nobody_was_given_have_no_name() {
        let mut table = Table::default();
        table.assign(&name("a.example")).unwrap();
        for text in
            ["198.18.0.255", "198.18.1.1", "198.17.255.255", "198.20.0.0", "8.8.8.8", "255.255.255.255"]
        {
            assert_eq!(table.name(text.parse().unwrap()), None, "{text}");
        }
        for text in ["fd5c:e900::ff", "fd5c:e900::101", "fd5c:e900:0:1::100", "::100", "ffff::"] {
            assert_eq!(table.name(text.parse().unwrap()), None, "{text}");
        }
    }

    #[test]
    fn a_full_table_refuses_new_names_and_keeps_the_old() {
        let mut table = Table::default();
        for number in 0..CAPACITY {
            assert!(table.assign(&name(&format!("n{number}.example"))).is_some());
        }
        assert_eq!(table.assign(&name("more.example")), None);
        assert!(table.assign(&name("n0.example")).is_some());
        let (last, _) = table.assign(&name(&format!("n{}.example", CAPACITY - 1))).unwrap();
        assert!(last < Ipv4Addr::new(198, 20, 0, 0));
    }
}
