//! When to dial a member and which of its connections to keep. Plain decisions; time and chance come from outside.

use std::time::{Duration, SystemTime};

use libp2p::{Multiaddr, swarm::ConnectionId};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::Timing;

/// One connection with a member.
#[derive(Debug, Clone)]
pub(crate) struct Connection {
    pub(crate) id: ConnectionId,
    /// True if the member dialled us.
    pub(crate) inbound: bool,
    pub(crate) address: Multiaddr,
    pub(crate) since: Instant,
    pub(crate) since_system: SystemTime,
    /// Ends whatever uses a stream of this connection. Yamux does not wake the readers of a connection that its own side
    /// closes, so they have to be told.
    pub(crate) closed: CancellationToken,
}

/// Which of the older connections are dead, now that there is a new one.
///
/// A member dials only while it sees no connection. So if it dials us, whatever it dialled before is dead, and so is
/// whatever we dialled more than one `attempt` ago (the longest time between its decision to dial and the new
/// connection). A younger one of ours has crossed with it: both are alive and both are kept, because closing one loses
/// what gossipsub has put into it, its subscription among it.
pub(crate) fn superseded(
    older: &[Connection],
    newest: &Connection,
    attempt: Duration,
) -> Vec<ConnectionId> {
    let stale = |old: &&Connection| {
        newest.inbound
            && (old.inbound || newest.since.saturating_duration_since(old.since) > attempt)
    };
    older.iter().filter(stale).map(|old| old.id).collect()
}

/// The state of dialling one member.
#[derive(Debug)]
pub(crate) struct DialPlan {
    /// True if our peer id is the smaller one: we dial at once, the other side waits.
    first: bool,
    failures: u32,
    /// When to dial next; `None` while connected, while dialling, or if there is no address.
    next: Option<Instant>,
    under_way: bool,
}

impl DialPlan {
    pub(crate) fn new(first: bool, now: Instant, timing: &Timing) -> Self {
        let next = if first { now } else { now + timing.dial_wait };
        Self {
            first,
            failures: 0,
            next: Some(next),
            under_way: false,
        }
    }

    pub(crate) fn next(&self) -> Option<Instant> {
        self.next
    }

    pub(crate) fn started(&mut self) {
        self.next = None;
        self.under_way = true;
    }

    /// It has just become a member: whoever is first, somebody has to be now.
    pub(crate) fn at_once(&mut self, now: Instant) {
        self.next = Some(now);
    }

    pub(crate) fn connected(&mut self) {
        self.next = None;
        self.under_way = false;
    }

    /// An attempt failed. `refused` means that it will fail again until somebody changes a configuration.
    pub(crate) fn failed(&mut self, now: Instant, timing: &Timing, refused: bool, chance: f64) {
        self.under_way = false;
        self.failures = self.failures.saturating_add(1);
        let pause = if refused {
            timing.dial_pause_max
        } else {
            pause(self.failures, timing)
        };
        self.next = Some(now + jittered(pause, chance));
    }

    /// The last connection closed after it had lasted so long.
    pub(crate) fn lost(&mut self, now: Instant, timing: &Timing, lasted: Duration, chance: f64) {
        // One that is closed again soon after it was opened counts as a failed attempt, or we would spin.
        self.failures = if lasted < timing.dial_pause_max {
            self.failures.saturating_add(1)
        } else {
            0
        };
        let wait = if self.first {
            Duration::ZERO
        } else {
            timing.dial_wait
        };
        if !self.under_way {
            self.next = Some(now + wait + jittered(pause(self.failures, timing), chance));
        }
    }

    /// An operator gave an address: try it soon, in the usual order, so that two who are told at once do not cross.
    pub(crate) fn hurry(&mut self, now: Instant, timing: &Timing) {
        self.failures = 0;
        if !self.under_way {
            self.next = Some(if self.first {
                now
            } else {
                now + timing.dial_wait
            });
        }
    }
}

/// Doubles with each failure, from the least to the greatest pause.
fn pause(failures: u32, timing: &Timing) -> Duration {
    let doubled = 1_u32
        .checked_shl(failures.saturating_sub(1))
        .unwrap_or(u32::MAX);
    timing
        .dial_pause_min
        .saturating_mul(doubled)
        .min(timing.dial_pause_max)
}

/// A quarter less to a quarter more; `chance` is from 0 to 1.
fn jittered(pause: Duration, chance: f64) -> Duration {
    pause.mul_f64(0.75 + chance.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMING: Timing = Timing {
        gossip_delay: Duration::ZERO,
        gossip_heartbeat: Duration::ZERO,
        dial_pause_min: Duration::from_millis(200),
        dial_pause_max: Duration::from_secs(10),
        dial_wait: Duration::from_secs(3),
        resolve_timeout: Duration::ZERO,
        handshake_timeout: Duration::ZERO,
        open_timeout: Duration::ZERO,
        frame_timeout: Duration::ZERO,
        request_timeout: Duration::ZERO,
        query_timeout: Duration::ZERO,
        stranger_timeout: Duration::ZERO,
        ping_interval: Duration::ZERO,
        ping_timeout: Duration::ZERO,
    };

    fn connection(id: usize, inbound: bool) -> Connection {
        Connection {
            id: ConnectionId::new_unchecked(id),
            inbound,
            address: Multiaddr::empty(),
            since: Instant::now(),
            since_system: SystemTime::now(),
            closed: CancellationToken::new(),
        }
    }

    #[test]
    fn the_smaller_peer_id_dials_first_and_the_other_waits() {
        let now = Instant::now();
        assert_eq!(DialPlan::new(true, now, &TIMING).next(), Some(now));
        assert_eq!(
            DialPlan::new(false, now, &TIMING).next(),
            Some(now + TIMING.dial_wait)
        );
    }

    #[test]
    fn pauses_double_up_to_the_greatest_with_jitter_around_them() {
        let now = Instant::now();
        let mut plan = DialPlan::new(true, now, &TIMING);
        let pauses: Vec<u128> = (0..40)
            .map(|_| {
                plan.started();
                assert_eq!(plan.next(), None);
                plan.failed(now, &TIMING, false, 0.5);
                (plan.next().unwrap() - now).as_millis()
            })
            .collect();
        assert_eq!(
            pauses[..8],
            [200, 400, 800, 1_600, 3_200, 6_400, 10_000, 10_000]
        );
        assert_eq!(pauses[39], 10_000);
        assert_eq!(
            jittered(Duration::from_secs(4), 0.0),
            Duration::from_secs(3)
        );
        assert_eq!(
            jittered(Duration::from_secs(4), 1.0),
            Duration::from_secs(5)
        );
    }

    #[test]
    fn a_refusal_pauses_longest_and_an_added_address_is_tried_at_once() {
        let now = Instant::now();
        let mut plan = DialPlan::new(true, now, &TIMING);
        plan.started();
        plan.failed(now, &TIMING, true, 0.5);
        assert_eq!(plan.next(), Some(now + TIMING.dial_pause_max));
        plan.hurry(now, &TIMING);
        assert_eq!(plan.next(), Some(now));
    }

    #[test]
    fn a_connection_that_does_not_last_does_not_reset_the_pause() {
        let now = Instant::now();
        let mut plan = DialPlan::new(true, now, &TIMING);
        for expected in [200, 400, 800] {
            plan.started();
            plan.connected();
            plan.lost(now, &TIMING, Duration::from_secs(1), 0.5);
            assert_eq!((plan.next().unwrap() - now).as_millis(), expected);
        }
        plan.connected();
        plan.lost(now, &TIMING, Duration::from_secs(60), 0.5);
        assert_eq!((plan.next().unwrap() - now).as_millis(), 200);
        let mut waiting = DialPlan::new(false, now, &TIMING);
        waiting.connected();
        waiting.lost(now, &TIMING, Duration::from_secs(60), 0.5);
        assert_eq!((waiting.next().unwrap() - now).as_millis(), 3_200);
    }

    #[test]
    fn what_a_member_left_behind_is_closed_and_what_crossed_is_kept() {
        let attempt = Duration::from_secs(15);
        let (ours, theirs) = (connection(1, false), connection(2, true));
        let both = [ours.clone(), theirs.clone()];
        let at = |seconds, inbound| Connection {
            since: ours.since + Duration::from_secs(seconds),
            ..connection(3, inbound)
        };
        // It dialled again: the one it dialled before is dead, ours may have crossed with it.
        assert_eq!(superseded(&both, &at(1, true), attempt), [theirs.id]);
        assert_eq!(
            superseded(&both, &at(60, true), attempt),
            [ours.id, theirs.id]
        );
        // We dialled because we saw none: what came meanwhile is alive.
        assert!(superseded(&[theirs], &at(60, false), attempt).is_empty());
    }
}
