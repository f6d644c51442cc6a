//! Whose rules are whose: tables and chains carry a name that their process holds while it lives.
//!
//! The name is that of an abstract Unix socket. Those belong to one network, as rules do, and go
//! with their process however it ends: what another process finds under a free name is nobody's any
//! more. A number of a process says less: in a container each begins with 1, and they come again.

use std::{
    io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixListener},
    },
};

/// A name that is held until this is dropped.
#[derive(Debug)]
pub(super) struct Owner {
    name: String,
    _held: UnixListener,
}

impl Owner {
    /// A name for this process: its number, with another behind it where a live process of another
    /// container has the same.
    ///
    /// # Errors
    /// No socket is to be had.
    pub(super) fn claim(pid: u32) -> io::Result<Self> {
        for again in 1..=NAMESAKES_MAX {
            let name = match again {
                1 => pid.to_string(),
                _ => format!("{pid}_{again}"),
            };
            if let Some(owner) = Self::hold(&name)? {
                return Ok(owner);
            }
        }
        Err(io::ErrorKind::AddrInUse.into())
    }

    /// Takes the name of a process that is gone, to clear up after it; `None` while it lives.
    pub(super) fn take_over(name: &str) -> Option<Self> {
        Self::hold(name).ok().flatten()
    }

    /// As it is in tables and chains: digits and `_`.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    fn hold(name: &str) -> io::Result<Option<Self>> {
        let addr = SocketAddr::from_abstract_name(format!("pinnace/firewall/{name}"))?;
        match UnixListener::bind_addr(&addr) {
            Ok(held) => Ok(Some(Self {
                name: name.to_owned(),
                _held: held,
            })),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Of those that a list of names may name: whatever could not be one of ours is passed over.
pub(super) fn named<'a>(list: &'a str, prefix: &'a str) -> impl Iterator<Item = &'a str> {
    let words = list.split_whitespace();
    let names = words.filter_map(move |word| word.strip_prefix(prefix));
    names.filter(|name| {
        let is_number = |part: &str| part.parse::<u32>().is_ok();
        name.split('_').all(is_number)
    })
}

/// Live processes with the same number.
const NAMESAKES_MAX: u32 = 99;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_free_when_its_owner_is_gone() {
        // Beyond the numbers that Linux gives.
        let pid = 3_000_000_000 + std::process::id();
        let first = Owner::claim(pid).unwrap();
        assert_eq!(first.name(), pid.to_string());
        assert!(Owner::take_over(first.name()).is_none());
        let second = Owner::claim(pid).unwrap();
        assert_eq!(second.name(), format!("{pid}_2"));
        drop(first);
        let name = pid.to_string();
        let taken = Owner::take_over(&name).unwrap();
        assert!(Owner::take_over(&name).is_none());
        drop(taken);
        assert!(Owner::take_over(&name).is_some());
        assert!(Owner::take_over(second.name()).is_none());
    }

    #[test]
    fn names_are_found_among_others() {
        let list = "table inet pinnace_12\ntable inet pinnace\ntable inet pinnace_12_2\n\
                    table inet pinnace_x\ntable inet other_3\ntable inet pinnace_\n";
        let names: Vec<_> = named(list, "pinnace_").collect();
        assert_eq!(names, ["12", "12_2"]);
    }
}
