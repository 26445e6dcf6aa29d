//! Messages under way, and who hears whom.

use std::collections::BTreeSet;

use bytes::Bytes;
use raft_adapter::{Envelope, Input, RaftId};

use crate::{
    checks::Checked,
    event::Event,
    faults::{Fault, Situation},
    member::KNOWN_IDENTITY,
    message::described,
    random::{Random, digest},
    simulation::Simulation,
};

/// A message under way.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) from: u64,
    pub(crate) to: u64,
    /// Of the sender's log; a connection is refused if it is not the one that is known.
    pub(crate) identity: u64,
    /// Connections made before this were closed.
    pub(crate) connection: u64,
    pub(crate) message: Bytes,
}

/// Messages under way at most. As with a real transport, what is too much is dropped.
const UNDER_WAY_MAX: u64 = 600;

#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) random: Random,
    cuts: BTreeSet<(u64, u64)>,
    pub(crate) under_way: u64,
    /// Per thousand messages.
    pub(crate) loss: u64,
    pub(crate) duplication: u64,
    pub(crate) reordering: u64,
    /// Longest usual delay.
    pub(crate) delay: u64,
}

impl Network {
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = Random::new(seed, 2);
        Self {
            loss: random.between(1, 60),
            duplication: random.between(1, 60),
            reordering: random.between(1, 100),
            delay: random.between(1, 12),
            cuts: BTreeSet::new(),
            under_way: 0,
            random,
        }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.under_way >= UNDER_WAY_MAX
    }

    pub(crate) fn cut(&mut self, from: u64, to: u64) {
        self.cuts.insert((from, to));
    }

    pub(crate) fn is_cut(&self, from: u64, to: u64) -> bool {
        self.cuts.contains(&(from, to))
    }

    /// Someone cannot hear `id`.
    pub(crate) fn has_cuts_from(&self, id: u64) -> bool {
        self.cuts.iter().any(|(from, _)| *from == id)
    }

    pub(crate) fn heal(&mut self) {
        self.cuts.clear();
    }

    /// Closes one gap.
    pub(crate) fn heal_one(&mut self) {
        let at = self.random.below(self.cuts.len() as u64) as usize;
        if let Some(cut) = self.cuts.iter().nth(at).copied() {
            self.cuts.remove(&cut);
        }
    }

    pub(crate) fn is_whole(&self) -> bool {
        self.cuts.is_empty()
    }

    /// From here on messages arrive, in order and in time.
    pub(crate) fn calm(&mut self) {
        self.loss = 0;
        self.duplication = 0;
        self.reordering = 0;
    }
}

impl Simulation {
    pub(crate) fn arrive(&mut self, packet: Packet) -> Checked {
        self.network.under_way = self.network.under_way.saturating_sub(1);
        let Packet { from, to, .. } = packet;
        if self.network.is_cut(from, to) {
            return Ok(());
        }
        let (Some(sender), Some(receiver)) = (self.members.get(&from), self.members.get(&to))
        else {
            return Ok(());
        };
        if packet.connection != sender.connection {
            return Ok(());
        }
        if packet.identity != KNOWN_IDENTITY || !receiver.is_known() {
            self.counters.situation(Situation::StrangeLogRefused);
            return Ok(());
        }
        if !receiver.is_up() {
            return Ok(());
        }
        self.history.line(self.now, || {
            format!("{to} <- {from} {}", described(&packet.message))
        });
        self.input(
            to,
            Input::Received {
                from: RaftId(from),
                message: packet.message,
            },
        )
    }

    pub(crate) fn send_all(&mut self, from: u64, envelopes: Vec<Envelope>) -> Checked {
        for envelope in envelopes {
            self.send(from, envelope)?;
        }
        Ok(())
    }

    fn send(&mut self, from: u64, envelope: Envelope) -> Checked {
        let (to, message) = (envelope.to.0, envelope.message);
        self.history.note(&[5, from, to, digest(0, &message)]);
        self.history.line(self.now, || {
            format!("{from} -> {to} {}", described(&message))
        });
        if let Some((source, target, kept)) = &mut self.intercepted
            && (*source, *target) == (from, to)
        {
            kept.push(message);
            return Ok(());
        }
        let network = &mut self.network;
        let connected = !network.is_cut(from, to) && self.members.contains_key(&to);
        let lost = network.random.chance(network.loss);
        let twice = network.random.chance(network.duplication);
        let late = network.random.chance(network.reordering);
        let mut delay = network.random.between(1, network.delay);
        if late && self.profile.has(Fault::Reordering) {
            delay += network.random.between(10, 250);
            self.counters.fault(Fault::Reordering);
        }
        let second = delay + network.random.between(0, 60);
        let lost = lost && self.profile.has(Fault::Loss);
        let fits = !network.is_full();
        if connected && fits {
            if lost {
                self.counters.fault(Fault::Loss);
            } else {
                let sender = self.members.get(&from);
                let packet = Packet {
                    from,
                    to,
                    identity: sender.map_or(0, |it| it.identity),
                    connection: sender.map_or(0, |it| it.connection),
                    message,
                };
                if twice && self.profile.has(Fault::Duplication) {
                    self.counters.fault(Fault::Duplication);
                    self.network.under_way += 1;
                    self.plan(second, Event::Arrive(packet.clone()));
                }
                self.network.under_way += 1;
                self.plan(delay, Event::Arrive(packet));
            }
        }
        let delivered = connected && fits;
        if envelope.snapshot {
            let peer = envelope.to;
            self.input(from, Input::SnapshotOutcome { peer, delivered })?;
        }
        if !delivered && self.random.chance(500) {
            let peer = envelope.to;
            self.input(from, Input::Unreachable { peer })?;
        }
        Ok(())
    }
}
