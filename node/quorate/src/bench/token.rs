//! A token contract of our own, small enough to write by hand: `transfer(address,uint256)` with its event and
//! `balanceOf(address)`, with Solidity's storage layout (balances are a mapping in slot 0). The creator gets 2^200 units.

use alloy_primitives::{Address, Bytes, U256, keccak256};

// Opcodes of the Ethereum yellow paper, appendix H.
const ADD: u8 = 0x01;
const SUB: u8 = 0x03;
const LT: u8 = 0x10;
const EQ: u8 = 0x14;
const SHL: u8 = 0x1b;
const SHR: u8 = 0x1c;
const KECCAK256: u8 = 0x20;
const CALLER: u8 = 0x33;
const CALLDATALOAD: u8 = 0x35;
const CODECOPY: u8 = 0x39;
const POP: u8 = 0x50;
const MSTORE: u8 = 0x52;
const SLOAD: u8 = 0x54;
const SSTORE: u8 = 0x55;
const JUMPI: u8 = 0x57;
const JUMPDEST: u8 = 0x5b;
const PUSH0: u8 = 0x5f;
const DUP1: u8 = 0x80;
const DUP3: u8 = 0x82;
const SWAP1: u8 = 0x90;
const SWAP2: u8 = 0x91;
const LOG3: u8 = 0xa3;
const RETURN: u8 = 0xf3;
const REVERT: u8 = 0xfd;

/// Places in the code that are jumped to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Label {
    Transfer,
    Balance,
    Fail,
}

/// Code under construction. Jumps take one byte: the code stays below 256 bytes.
#[derive(Default)]
struct Assembly {
    code: Vec<u8>,
    places: Vec<(Label, usize)>,
    jumps: Vec<(Label, usize)>,
}

impl Assembly {
    fn ops(mut self, ops: &[u8]) -> Self {
        self.code.extend_from_slice(ops);
        self
    }

    fn push(mut self, bytes: &[u8]) -> Self {
        self.code.push(PUSH0 + bytes.len() as u8);
        self.code.extend_from_slice(bytes);
        self
    }

    fn label(mut self, label: Label) -> Self {
        self.places.push((label, self.code.len()));
        self.ops(&[JUMPDEST])
    }

    fn jump_if(mut self, label: Label) -> Self {
        self.jumps.push((label, self.code.len() + 1));
        self.push(&[0]).ops(&[JUMPI])
    }

    fn finish(mut self) -> Vec<u8> {
        for (label, at) in &self.jumps {
            let place = self.places.iter().find(|(l, _)| l == label);
            if let (Some((_, place)), Some(byte)) = (place, self.code.get_mut(*at)) {
                *byte = *place as u8;
            }
        }
        self.code
    }

    /// The slot of the balance of the address on top of the stack: keccak256(address, 0).
    fn slot(self) -> Self {
        self.ops(&[PUSH0, MSTORE])
            .push(&[0x40])
            .ops(&[PUSH0, KECCAK256])
    }

    fn return_word(self) -> Self {
        self.ops(&[PUSH0, MSTORE])
            .push(&[0x20])
            .ops(&[PUSH0, RETURN])
    }
}

fn selector(signature: &str) -> [u8; 4] {
    let hash = keccak256(signature);
    [hash[0], hash[1], hash[2], hash[3]]
}

fn runtime() -> Vec<u8> {
    let event = keccak256("Transfer(address,address,uint256)");
    Assembly::default()
        // Which function?
        .ops(&[PUSH0, CALLDATALOAD])
        .push(&[0xe0])
        .ops(&[SHR, DUP1])
        .push(&selector("transfer(address,uint256)"))
        .ops(&[EQ])
        .jump_if(Label::Transfer)
        .push(&selector("balanceOf(address)"))
        .ops(&[EQ])
        .jump_if(Label::Balance)
        .label(Label::Fail)
        .ops(&[PUSH0, PUSH0, REVERT])
        // [slot, balance, amount] of the caller; less than the amount fails.
        .label(Label::Transfer)
        .ops(&[POP, CALLER])
        .slot()
        .ops(&[DUP1, SLOAD])
        .push(&[0x24])
        .ops(&[CALLDATALOAD, DUP1, DUP3, LT])
        .jump_if(Label::Fail)
        .ops(&[DUP1, SWAP2, SUB, DUP3, SSTORE])
        // [slot, amount]: add it to the recipient's.
        .push(&[0x04])
        .ops(&[CALLDATALOAD])
        .slot()
        .ops(&[DUP1, SLOAD, DUP3, ADD, SWAP1, SSTORE])
        // The event's data is the amount, its topics are the two addresses.
        .ops(&[PUSH0, MSTORE, POP])
        .push(&[0x04])
        .ops(&[CALLDATALOAD, CALLER])
        .push(event.as_slice())
        .push(&[0x20])
        .ops(&[PUSH0, LOG3])
        .push(&[0x01])
        .return_word()
        .label(Label::Balance)
        .push(&[0x04])
        .ops(&[CALLDATALOAD])
        .slot()
        .ops(&[SLOAD])
        .return_word()
        .finish()
}

/// What a transaction that creates the token carries.
pub fn creation_code() -> Bytes {
    let runtime = runtime();
    let constructor = |offset: u8| {
        Assembly::default()
            .push(&[0x01])
            .push(&[200])
            .ops(&[SHL, CALLER])
            .slot()
            .ops(&[SSTORE])
            .push(&[runtime.len() as u8])
            .ops(&[DUP1])
            .push(&[offset])
            .ops(&[PUSH0, CODECOPY, PUSH0, RETURN])
            .finish()
    };
    let length = constructor(0).len() as u8;
    let mut code = constructor(length);
    code.extend_from_slice(&runtime);
    code.into()
}

/// A call of `transfer`.
pub fn transfer_call(to: Address, amount: u64) -> Bytes {
    let mut call = selector("transfer(address,uint256)").to_vec();
    call.extend_from_slice(to.into_word().as_slice());
    call.extend_from_slice(&U256::from(amount).to_be_bytes::<32>());
    call.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_selectors_are_those_of_erc20() {
        assert_eq!(
            selector("transfer(address,uint256)"),
            [0xa9, 0x05, 0x9c, 0xbb]
        );
        assert_eq!(selector("balanceOf(address)"), [0x70, 0xa0, 0x82, 0x31]);
        assert_eq!(transfer_call(Address::ZERO, 1).len(), 68);
    }

    #[test]
    fn every_jump_lands_on_a_jumpdest() {
        let code = runtime();
        assert!(code.len() < 256);
        // PUSH1 n JUMPI, found by walking over the data of pushes.
        let mut at = 0;
        let mut jumps = 0;
        let mut last_push = None;
        while at < code.len() {
            let op = code[at];
            if op == JUMPI {
                let target: u8 = last_push.unwrap();
                assert_eq!(code[usize::from(target)], JUMPDEST);
                jumps += 1;
            }
            let data = if (PUSH0 + 1..DUP1).contains(&op) {
                usize::from(op - PUSH0)
            } else {
                0
            };
            last_push = (data == 1).then(|| code[at + 1]);
            at += 1 + data;
        }
        assert_eq!(jumps, 3);
    }
}
