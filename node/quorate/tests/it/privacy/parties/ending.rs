//! The end of a scenario: what must hold after each.

use std::time::Duration;

use super::{Contract, Parties};

impl Parties {
    /// Everyone has the same chain; parties of each contract agree about it, others know nothing of it; there are no alarms but those
    /// that are right.
    pub fn settle(&mut self) {
        assert!(
            !self.armed,
            "nothing was sent after the middle of the scenario"
        );
        let running = self.c.running();
        let highest = running.iter().map(|i| self.c.height(*i)).max().unwrap();
        for i in &running {
            self.wait(&format!("node {i} is at block {highest}"), || {
                (self.c.height(*i) >= highest).then_some(())
            });
        }
        for contract in std::mem::take(&mut self.contracts) {
            self.assert_agreed(&contract);
        }
        let sent = std::mem::take(&mut self.sent);
        if std::mem::take(&mut self.alarms_expected) {
            self.diverging.extend(sent);
        }
        self.assert_no_wrong_alarms();
    }

    /// At the end of a test: what parties found has reached everyone by now.
    pub fn finish(&mut self) {
        // Digests are sent twice a second.
        std::thread::sleep(Duration::from_millis(1_200));
        self.settle();
    }

    fn assert_no_wrong_alarms(&mut self) {
        for i in self.c.running().into_iter().filter(|i| *i < 4) {
            let count = self.metric(i, "quorate_exchange_alarms_total");
            if count == std::mem::replace(&mut self.alarms_seen[i], count) {
                continue;
            }
            for alarm in self.cli(i, &["alarms"]).as_array().unwrap() {
                let about = alarm["transaction"].as_str().unwrap();
                assert!(
                    self.diverging.contains(about),
                    "node {i} raised an alarm: {alarm}"
                );
            }
        }
    }

    /// All parties of a contract have it alike, and the others not at all.
    pub fn assert_agreed(&self, contract: &Contract) {
        let address = &contract.address;
        let first = *contract.parties.first().unwrap();
        for i in self.c.running() {
            if contract.parties.contains(&i) {
                self.wait(
                    &format!("nodes {first} and {i} agree about {address}"),
                    || {
                        (self.storage_root(i, address) == self.storage_root(first, address))
                            .then_some(())
                    },
                );
                assert_eq!(self.code(i, address), self.code(first, address));
            } else {
                assert_eq!(
                    self.code(i, address),
                    "0x",
                    "node {i} is no party of {address}"
                );
            }
        }
    }

    /// After a scenario that failed: everything runs again, for the next one.
    pub fn restore(&mut self) {
        self.armed = false;
        self.contracts.clear();
        self.alarms_expected = false;
        let sent = std::mem::take(&mut self.sent);
        self.diverging.extend(sent);
        if self.enclave.is_none() {
            self.start_enclave();
        }
        for i in 0..4 {
            if !self.c.running().contains(&i) {
                self.c.start(i);
            }
        }
        self.wait_ready();
    }
}
