//! A chain by seed: deployments, calls that build on each other, public transactions, blocks with many or none.

use alloy_primitives::{Address, TxKind};
use quorate_enclave::{PayloadHash, PrivacyFlag};
use quorate_privacy::{Acknowledgements, Terms};

use crate::world::*;

/// Numbers by seed.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }
}

/// Terms under flag 0, without a look at any state.
pub fn plain_terms(net: &Net, from: usize) -> Terms {
    Terms {
        hash: PayloadHash::from_bytes([0; 64]),
        flag: PrivacyFlag::Standard,
        group: None,
        sender: net.parties[from].key(),
        from: None,
        parties: Default::default(),
        mandatory: Default::default(),
        affected: Default::default(),
        exec_root: None,
        base: Default::default(),
        sender_node: net.parties[from].node(),
        acknowledgements: Acknowledgements::All,
    }
}

/// A chain of so many blocks that nodes 0 and 1 are parties of, wholly, and node 2 sometimes. Nothing is executed.
pub fn chain_of(seed: u64, blocks: u64) -> Net {
    let mut dice = Dice::new(seed);
    let mut net = Net::new();
    let mut contracts: Vec<Address> = Vec::new();
    for _ in 0..blocks {
        let mut block = Vec::new();
        for _ in 0..dice.below(5) {
            let to: &[usize] = if dice.below(3) == 0 { &[1, 2] } else { &[1] };
            let send = standard(to);
            let terms = plain_terms(&net, 0);
            match dice.below(6) {
                0 => {
                    contracts.push(user(ALICE).create(net.peek_nonce(ALICE)));
                    block.push(net.send_with(&send, None, &deploying(ADDER), terms));
                }
                1 if !contracts.is_empty() => {
                    let target = contracts[dice.below(contracts.len() as u64) as usize];
                    contracts.push(user(ALICE).create(net.peek_nonce(ALICE)));
                    let code = deploying(&forwarder(target));
                    block.push(net.send_with(&send, None, &code, terms));
                }
                2 => {
                    let nonce = net.nonce(BOB);
                    block.push(public(BOB, nonce, TxKind::Call(user(3)), &[]));
                }
                3 => block.push(net.send_with(&send, None, &[0x5f, 0x5f, 0xfd], terms)),
                _ if contracts.is_empty() => {}
                _ => {
                    let target = contracts[dice.below(contracts.len() as u64) as usize];
                    let amount = word(1 + dice.below(9));
                    block.push(net.send_with(&send, Some(target), &amount, terms));
                }
            }
        }
        net.chain.mine(block);
    }
    net
}

impl Net {
    /// Sends under flag 0 without a look at any state.
    pub fn send_blind(
        &mut self,
        send: &Send<'_>,
        to: Option<Address>,
        data: &[u8],
    ) -> quorate_chain::RecoveredTransaction {
        let terms = plain_terms(self, send.from);
        self.send_with(send, to, data, terms)
    }
}
