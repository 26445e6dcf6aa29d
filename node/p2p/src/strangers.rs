//! How many strangers are heard, and how often: at once and per minute, from one address and from all. Members are not
//! counted here, so a crowd outside cannot keep them out.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use crate::config::Limits;

const MINUTE: Duration = Duration::from_secs(60);

/// All addresses together may be heard this many times as often as one.
const ALL_PER_ADDRESS: u32 = 8;

#[derive(Debug)]
struct Count {
    /// Being heard now, by address.
    here: BTreeMap<IpAddr, usize>,
    here_all: usize,
    /// Heard since `minute`, by address; as many entries at most as are heard in a minute.
    heard: BTreeMap<IpAddr, u32>,
    heard_all: u32,
    minute: Option<Instant>,
}

/// Counts strangers.
#[derive(Debug)]
pub(crate) struct Strangers {
    max: usize,
    per_address: usize,
    per_minute: u32,
    count: Mutex<Count>,
}

impl Strangers {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            max: limits.strangers_max,
            per_address: limits.strangers_per_address,
            per_minute: limits.strangers_per_minute,
            count: Mutex::new(Count {
                here: BTreeMap::new(),
                here_all: 0,
                heard: BTreeMap::new(),
                heard_all: 0,
                minute: None,
            }),
        }
    }

    /// A place for one more, unless there are too many or it comes too often.
    pub(crate) fn enter(self: &Arc<Self>, from: IpAddr, now: Instant) -> Option<Place> {
        let from = site(from);
        let mut count = self.count.lock();
        let began = *count.minute.get_or_insert(now);
        if now.saturating_duration_since(began) >= MINUTE {
            count.minute = Some(now);
            count.heard.clear();
            count.heard_all = 0;
        }
        let heard = count.heard.get(&from).copied().unwrap_or(0);
        let here = count.here.get(&from).copied().unwrap_or(0);
        if heard >= self.per_minute
            || count.heard_all >= self.per_minute.saturating_mul(ALL_PER_ADDRESS)
            || here >= self.per_address
            || count.here_all >= self.max
        {
            return None;
        }
        count.heard.insert(from, heard + 1);
        count.heard_all += 1;
        count.here.insert(from, here + 1);
        count.here_all += 1;
        Some(Place {
            strangers: Arc::clone(self),
            from,
        })
    }
}

/// The place of one stranger; dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Place {
    strangers: Arc<Strangers>,
    from: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut count = self.strangers.count.lock();
        count.here_all = count.here_all.saturating_sub(1);
        if let Some(here) = count.here.get_mut(&self.from) {
            *here = here.saturating_sub(1);
            if *here == 0 {
                count.here.remove(&self.from);
            }
        }
    }
}

/// What counts as one address: an IPv4 address, or the 64 bits of an IPv6 address that one subscriber gets.
pub(crate) fn site(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(ip) => IpAddr::V4(ip),
        IpAddr::V6(ip) => {
            let network = u128::from(ip) & (u128::MAX << 64);
            IpAddr::V6(Ipv6Addr::from(network))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strangers(max: usize, per_address: usize, per_minute: u32) -> Arc<Strangers> {
        Arc::new(Strangers::new(&Limits {
            strangers_max: max,
            strangers_per_address: per_address,
            strangers_per_minute: per_minute,
            ..Limits::default()
        }))
    }

    fn ip(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    #[test]
    fn places_are_limited_per_address_and_in_all_and_come_back() {
        let strangers = strangers(3, 2, 1_000);
        let now = Instant::now();
        let first = strangers.enter(ip(1), now).unwrap();
        let _second = strangers.enter(ip(1), now).unwrap();
        assert!(strangers.enter(ip(1), now).is_none());
        let _third = strangers.enter(ip(2), now).unwrap();
        assert!(strangers.enter(ip(3), now).is_none());
        drop(first);
        let _again = strangers.enter(ip(1), now).unwrap();
        assert!(strangers.enter(ip(1), now).is_none());
    }

    #[test]
    fn an_address_is_heard_so_often_a_minute_and_all_together_too() {
        let strangers = strangers(64, 64, 3);
        let now = Instant::now();
        for _ in 0..3 {
            assert!(strangers.enter(ip(1), now).is_some());
        }
        assert!(strangers.enter(ip(1), now + MINUTE / 2).is_none());
        for other in 2..=8 {
            for _ in 0..3 {
                assert!(strangers.enter(ip(other), now).is_some());
            }
        }
        assert!(strangers.enter(ip(9), now).is_none());
        assert!(strangers.enter(ip(1), now + MINUTE).is_some());
    }

    #[test]
    fn a_subscribers_ipv6_addresses_are_one() {
        let strangers = strangers(64, 1, 100);
        let now = Instant::now();
        let _first = strangers
            .enter("2001:db8::1".parse().unwrap(), now)
            .unwrap();
        assert!(
            strangers
                .enter("2001:db8::2".parse().unwrap(), now)
                .is_none()
        );
        assert!(
            strangers
                .enter("2001:db8:0:1::1".parse().unwrap(), now)
                .is_some()
        );
        let _v4 = strangers.enter(ip(1), now).unwrap();
        assert!(
            strangers
                .enter("::ffff:10.0.0.1".parse().unwrap(), now)
                .is_none()
        );
    }
}
