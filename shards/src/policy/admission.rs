//! Whether a client whose user is known may come in, and what it holds while it is here.
//!
//! Asked twice: at the hello, where nothing is taken yet and a client that may not come in looks
//! like a stranger; and when it is to be served, where its places are taken and may just have gone.
//!
//! Source: protocol.md 7.1, config.md 6.

use std::{net::IpAddr, sync::Arc};

use super::{
    Millis,
    end::UserRefusal,
    limits::Gauge,
    users::{Row, UserId},
};
use crate::settings::AddressSettings;

/// A client at the door.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Visit {
    pub(crate) from: IpAddr,
    pub(crate) now: Millis,
    pub(crate) now_unix: u64,
    pub(crate) addresses: AddressSettings,
}

/// What a session of a user holds; given back with [`Hold::leave`].
#[derive(Debug)]
#[must_use = "places that are not given back are lost"]
pub(crate) struct Hold {
    pub(crate) user: UserId,
    gauge: Arc<Gauge>,
    from: IpAddr,
    /// Its address is in the user's set.
    counts_address: bool,
}

impl Row {
    /// Whether the client would be let in now.
    pub(crate) fn admits(&self, visit: &Visit) -> Result<(), UserRefusal> {
        self.permits(visit)?;
        let limits = &self.limits;
        if limits.connections_max > 0 && self.gauge.sessions() >= limits.connections_max {
            return Err(UserRefusal::Connections);
        }
        let max = limits.unique_ips_max;
        let addresses = &self.gauge.addresses;
        if max > 0 && !addresses.admits(visit.from, max, &visit.addresses, visit.now) {
            return Err(UserRefusal::Addresses);
        }
        Ok(())
    }

    /// Lets the client in: takes a place for a session and, where these are limited, one for its
    /// address.
    pub(crate) fn enter(&self, user: UserId, visit: &Visit) -> Result<Hold, UserRefusal> {
        self.permits(visit)?;
        if !self.gauge.take_session(self.limits.connections_max) {
            return Err(UserRefusal::Connections);
        }
        let max = self.limits.unique_ips_max;
        let addresses = &self.gauge.addresses;
        let counts_address = max > 0;
        if counts_address && !addresses.open(visit.from, max, &visit.addresses, visit.now) {
            self.gauge.return_session();
            return Err(UserRefusal::Addresses);
        }
        Ok(Hold {
            user,
            gauge: Arc::clone(&self.gauge),
            from: visit.from,
            counts_address,
        })
    }

    fn permits(&self, visit: &Visit) -> Result<(), UserRefusal> {
        if self.limits.denies(visit.from) {
            return Err(UserRefusal::Source);
        }
        if self.limits.is_expired(visit.now_unix) {
            return Err(UserRefusal::Expired);
        }
        let quota = self.limits.quota_bytes;
        if quota.is_some_and(|quota| self.gauge.used_bytes() >= quota) {
            return Err(UserRefusal::Quota);
        }
        Ok(())
    }
}

impl Hold {
    /// The user's address limit came or went while the session is here.
    pub(crate) fn follow(&mut self, row: &Row, rules: &AddressSettings, now: Millis) {
        let limited = row.limits.unique_ips_max > 0;
        if limited && !self.counts_address {
            self.gauge.addresses.register(self.from, now);
        } else if !limited && self.counts_address {
            self.gauge.addresses.close(self.from, rules, now);
            self.gauge.addresses.forget_idle();
        }
        self.counts_address = limited;
    }

    /// Gives everything back.
    pub(crate) fn leave(self, rules: &AddressSettings, now: Millis) {
        if self.counts_address {
            self.gauge.addresses.close(self.from, rules, now);
        }
        self.gauge.return_session();
    }
}

#[cfg(test)]
mod tests;
