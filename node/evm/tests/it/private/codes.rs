//! Small contracts, by hand.

use alloy_primitives::Address;

pub const CALL: u8 = 0xf1;
pub const CALLCODE: u8 = 0xf2;
pub const DELEGATECALL: u8 = 0xf4;
pub const STATICCALL: u8 = 0xfa;

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

/// LOG0(0, 0)
pub const LOGGER: &[u8] = &[0x5f, 0x5f, 0xa0, 0x00];

/// CREATE(0, 0, 0)
pub const CREATOR: &[u8] = &[0x5f, 0x5f, 0x5f, 0xf0, 0x00];

/// SELFDESTRUCT(CALLER)
pub const DESTROYER: &[u8] = &[0x33, 0xff];

/// Sends 1 wei to its caller: CALL(GAS, CALLER, 1, 0, 0, 0, 0)
pub const PAYER: &[u8] = &[0x5f, 0x5f, 0x5f, 0x5f, 0x60, 0x01, 0x33, 0x5a, 0xf1, 0x00];

/// TSTORE(0, 1)
pub const TRANSIENT: &[u8] = &[0x60, 0x01, 0x5f, 0x5d, 0x00];

/// REVERT with the word 0xbb, after a change and a log.
pub const REVERTING: &[u8] = &[
    0x60, 0x01, 0x5f, 0x55, // SSTORE(0, 1)
    0x5f, 0x5f, 0xa0, // LOG0(0, 0)
    0x60, 0xbb, 0x5f, 0x52, 0x60, 0x20, 0x5f, 0xfd, // REVERT(0xbb)
];

/// Returns timestamp, height, PREVRANDAO, the parent's hash, coinbase, origin and gas price.
pub const ENVIRONMENT: &[u8] = &[
    0x42, 0x5f, 0x52, // TIMESTAMP
    0x43, 0x60, 0x20, 0x52, // NUMBER
    0x44, 0x60, 0x40, 0x52, // PREVRANDAO
    0x60, 0x01, 0x43, 0x03, 0x40, 0x60, 0x60, 0x52, // BLOCKHASH(NUMBER - 1)
    0x41, 0x60, 0x80, 0x52, // COINBASE
    0x32, 0x60, 0xa0, 0x52, // ORIGIN
    0x3a, 0x60, 0xc0, 0x52, // GASPRICE
    0x60, 0xe0, 0x5f, 0xf3,
];

/// Hands its input to `target` and returns two words: whether that succeeded, and the first word of what came back.
pub fn forwarding(op: u8, target: Address) -> Vec<u8> {
    forwarding_value(op, target, 0)
}

/// As [`forwarding`], with value; only for CALL and CALLCODE.
pub fn forwarding_value(op: u8, target: Address, value: u8) -> Vec<u8> {
    let mut code = vec![
        0x36, 0x5f, 0x5f, 0x37, // CALLDATACOPY(0, 0, CALLDATASIZE)
        0x60, 0x20, 0x60, 0x20, 0x36,
        0x5f, // output at 32 for 32, input at 0 for CALLDATASIZE
    ];
    if op == CALL || op == CALLCODE {
        code.extend([0x60, value]);
    }
    code.push(0x73); // PUSH20 target
    code.extend(target);
    code.extend([
        0x5a, op, // GAS, the call
        0x5f, 0x52, 0x60, 0x40, 0x5f, 0xf3, // MSTORE(0, success), RETURN(0, 64)
    ]);
    code
}

/// Creates a contract by `init`, keeps its address in slot 0 and returns it.
pub fn factory(init: &[u8]) -> Vec<u8> {
    let length = u8::try_from(init.len()).unwrap();
    let mut code = vec![
        0x60, length, 0x60, 20, 0x5f, 0x39, // CODECOPY(0, 20, length)
        0x60, length, 0x5f, 0x5f, 0xf0, // CREATE(0, 0, length)
        0x80, 0x5f, 0x55, // SSTORE(0, child)
        0x5f, 0x52, 0x60, 0x20, 0x5f, 0xf3, // RETURN child
    ];
    code.extend(init);
    code
}

/// Init code that stores SELFBALANCE + 1 in slot 0 and deploys nothing.
pub const BALANCE_KEEPER: &[u8] = &[0x60, 0x01, 0x47, 0x01, 0x5f, 0x55, 0x00];

/// Tries to create a contract whose init code reverts, and returns the balance of `child`.
pub fn failing_factory(child: Address) -> Vec<u8> {
    let mut code = vec![
        0x62, 0x5f, 0x5f, 0xfd, 0x5f,
        0x52, // MSTORE(0, REVERT(0, 0) as code), in bytes 29 to 31
        0x60, 0x03, 0x60, 0x1d, 0x5f, 0xf0, 0x50, // POP(CREATE(0, 29, 3))
        0x73,
    ];
    code.extend(child);
    code.extend([0x31, 0x5f, 0x52, 0x60, 0x20, 0x5f, 0xf3]); // RETURN BALANCE(child)
    code
}
