//! Contracts.

use alloy_primitives::{Address, U256};

/// Init code that deploys `runtime`.
pub fn deploying(runtime: &[u8]) -> Vec<u8> {
    let length = u8::try_from(runtime.len()).unwrap();
    // CODECOPY(0, 11, length); RETURN(0, length)
    let mut code = vec![
        0x60, length, 0x60, 11, 0x5f, 0x39, 0x60, length, 0x5f, 0xf3, 0x00,
    ];
    code.extend_from_slice(runtime);
    code
}

/// Without input: returns slot 0. With input: stores its first word in slot 0 and logs it under the topic 0xaa.
pub const STORE: &[u8] = &[
    0x36, 0x60, 0x0c, 0x57, // if CALLDATASIZE, go to 0x0c
    0x5f, 0x54, 0x5f, 0x52, // MSTORE(0, SLOAD(0))
    0x60, 0x20, 0x5f, 0xf3, // RETURN(0, 32)
    0x5b, 0x5f, 0x35, // v = CALLDATALOAD(0)
    0x80, 0x5f, 0x55, // SSTORE(0, v)
    0x5f, 0x52, // MSTORE(0, v)
    0x60, 0xaa, 0x60, 0x20, 0x5f, 0xa1, // LOG1(0, 32, 0xaa)
    0x00,
];

/// Adds its first word to slot 0.
pub const ADDER: &[u8] = &[0x5f, 0x35, 0x5f, 0x54, 0x01, 0x5f, 0x55, 0x00];

/// REVERT with the word 0xbb.
pub const REVERTING: &[u8] = &[0x60, 0xbb, 0x5f, 0x52, 0x60, 0x20, 0x5f, 0xfd];

/// Asks `target`, without input, and keeps the word that it answers in slot 0.
pub fn copier(target: Address) -> Vec<u8> {
    let mut code = vec![0x60, 0x20, 0x5f, 0x5f, 0x5f, 0x73];
    code.extend(target);
    // STATICCALL; SSTORE(0, MLOAD(0))
    code.extend([0x5a, 0xfa, 0x50, 0x5f, 0x51, 0x5f, 0x55, 0x00]);
    code
}

/// Keeps the first word of its input in slot 0, and hands its input to `target`; reverts if that fails.
pub fn forwarder(target: Address) -> Vec<u8> {
    let mut code = vec![
        0x5f, 0x35, 0x5f, 0x55, // SSTORE(0, CALLDATALOAD(0))
        0x36, 0x5f, 0x5f, 0x37, // CALLDATACOPY(0, 0, CALLDATASIZE)
        0x5f, 0x5f, 0x36, 0x5f, 0x5f, 0x73,
    ];
    code.extend(target);
    // CALL; if it failed, REVERT(0, 0)
    let end = u8::try_from(code.len() + 9).unwrap();
    code.extend([0x5a, 0xf1, 0x60, end, 0x57, 0x5f, 0x5f, 0xfd]);
    code.extend([0x00, 0x5b, 0x00]);
    code
}

pub fn word(value: u64) -> Vec<u8> {
    U256::from(value).to_be_bytes::<32>().to_vec()
}
