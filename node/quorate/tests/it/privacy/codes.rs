//! Small contracts, by hand, and the data that goes to them.

use alloy_primitives::{Address, U256, hex};

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

/// The topic of [`STORE`] and [`ACCUMULATOR`].
pub const TOPIC: &str = "0x00000000000000000000000000000000000000000000000000000000000000aa";

/// As [`STORE`], but adds the word to slot 0. The log holds the sum.
pub const ACCUMULATOR: &[u8] = &[
    0x36, 0x60, 0x0c, 0x57, // if CALLDATASIZE, go to 0x0c
    0x5f, 0x54, 0x5f, 0x52, 0x60, 0x20, 0x5f, 0xf3, // return slot 0
    0x5b, 0x5f, 0x35, 0x5f, 0x54, 0x01, // v = CALLDATALOAD(0) + SLOAD(0)
    0x80, 0x5f, 0x55, // SSTORE(0, v)
    0x5f, 0x52, // MSTORE(0, v)
    0x60, 0xaa, 0x60, 0x20, 0x5f, 0xa1, // LOG1(0, 32, 0xaa)
    0x00,
];

/// Calls the address in the first word of its input with the rest of the input. Returns two words: whether that succeeded, and the
/// first word of what came back.
pub const PROXY: &[u8] = &[
    0x60, 0x20, 0x36, 0x03, // size = CALLDATASIZE - 32
    0x80, 0x60, 0x20, 0x5f, 0x37, // CALLDATACOPY(0, 32, size)
    0x60, 0x20, 0x60, 0x20, 0x82, 0x5f,
    0x5f, // output at 32 for 32; input at 0 for size; no value
    0x5f, 0x35, 0x5a, 0xf1, // CALL(GAS, CALLDATALOAD(0))
    0x5f, 0x52, 0x60, 0x40, 0x5f, 0xf3, // MSTORE(0, success), RETURN(0, 64)
];

/// As [`PROXY`], but stores both words in slots 0 and 1. Without input: returns the two slots.
pub const KEEPING_PROXY: &[u8] = &[
    0x36, 0x60, 0x12, 0x57, // if CALLDATASIZE, go to 0x12
    0x5f, 0x54, 0x5f, 0x52, // MSTORE(0, SLOAD(0))
    0x60, 0x01, 0x54, 0x60, 0x20, 0x52, // MSTORE(32, SLOAD(1))
    0x60, 0x40, 0x5f, 0xf3, // RETURN(0, 64)
    0x5b, // 0x12
    0x60, 0x20, 0x36, 0x03, // size = CALLDATASIZE - 32
    0x80, 0x60, 0x20, 0x5f, 0x37, // CALLDATACOPY(0, 32, size)
    0x60, 0x20, 0x60, 0x20, 0x82, 0x5f,
    0x5f, // output at 32 for 32; input at 0 for size; no value
    0x5f, 0x35, 0x5a, 0xf1, // CALL(GAS, CALLDATALOAD(0))
    0x5f, 0x55, // SSTORE(0, success)
    0x60, 0x20, 0x51, 0x60, 0x01, 0x55, // SSTORE(1, MLOAD(32))
    0x00,
];

/// Stores height and time of its block in slots 0 and 1. Without input: returns the height.
pub const CLOCK: &[u8] = &[
    0x36, 0x60, 0x0c, 0x57, // if CALLDATASIZE, go to 0x0c
    0x5f, 0x54, 0x5f, 0x52, 0x60, 0x20, 0x5f, 0xf3, // return slot 0
    0x5b, 0x43, 0x5f, 0x55, // SSTORE(0, NUMBER)
    0x42, 0x60, 0x01, 0x55, // SSTORE(1, TIMESTAMP)
    0x00,
];

/// Writes its first word of input to slot 0 of memory and logs it as many times as the second word says, under the topic 0xaa.
pub const CRIER: &[u8] = &[
    0x5f, 0x35, 0x5f, 0x52, // MSTORE(0, CALLDATALOAD(0))
    0x60, 0x20, 0x35, // n = CALLDATALOAD(32)
    0x5b, // 0x07
    0x80, 0x15, 0x60, 0x1a, 0x57, // if n == 0, go to 0x1a
    0x60, 0xaa, 0x60, 0x20, 0x5f, 0xa1, // LOG1(0, 32, 0xaa)
    0x60, 0x01, 0x90, 0x03, // n = n - 1
    0x60, 0x07, 0x56, // go to 0x07
    0x5b, 0x00, // 0x1a
];

/// Spends all the gas that there is.
pub const ENDLESS: &[u8] = &[0x5b, 0x5f, 0x56];

/// Sends 1 wei to its caller.
pub const PAYER: &[u8] = &[0x5f, 0x5f, 0x5f, 0x5f, 0x60, 0x01, 0x33, 0x5a, 0xf1, 0x00];

/// Reverts as Solidity's `revert(reason)` does, after a change and a log.
pub fn reverting(reason: &str) -> Vec<u8> {
    let mut data = hex!("08c379a0").to_vec();
    data.extend(word(32));
    data.extend(word(reason.len() as u64));
    let mut padded = reason.as_bytes().to_vec();
    padded.resize(reason.len().div_ceil(32) * 32, 0);
    data.extend(padded);
    let length = u8::try_from(data.len()).unwrap();
    let mut code = vec![
        0x60, 0x01, 0x5f, 0x55, // SSTORE(0, 1)
        0x5f, 0x5f, 0xa0, // LOG0(0, 0)
        0x60, length, 0x60, 17, 0x5f, 0x39, // CODECOPY(0, 17, length)
        0x60, length, 0x5f, 0xfd, // REVERT(0, length)
    ];
    code.extend(data);
    code
}

/// With input: creates `children` contracts by `init`, keeps the address of the last in slot 0, and counts them in slot 1.
/// Without input: returns slot 0.
pub fn factory(init: &[u8], children: usize) -> Vec<u8> {
    let length = u8::try_from(init.len()).unwrap();
    let create = [
        0x60, length, 0x5f, 0x5f, 0xf0, // CREATE(0, 0, length)
        0x5f, 0x55, // SSTORE(0, child)
        0x60, 0x01, 0x54, 0x60, 0x01, 0x01, 0x60, 0x01, 0x55, // SSTORE(1, SLOAD(1) + 1)
    ];
    let start = u8::try_from(13 + 6 + create.len() * children + 1).unwrap();
    let mut code = vec![
        0x36, 0x60, 0x0c, 0x57, // if CALLDATASIZE, go to 0x0c
        0x5f, 0x54, 0x5f, 0x52, 0x60, 0x20, 0x5f, 0xf3, // return slot 0
        0x5b, 0x60, length, 0x60, start, 0x5f, 0x39, // CODECOPY(0, start, length)
    ];
    for _ in 0..children {
        code.extend(create);
    }
    code.push(0x00);
    code.extend(init);
    code
}

/// Init code that deploys `runtime`.
pub fn deploying(runtime: &[u8]) -> Vec<u8> {
    after(&[], runtime)
}

/// Init code that stores `value` in slot 0 and deploys `runtime`.
pub fn deploying_with(runtime: &[u8], value: u64) -> Vec<u8> {
    let mut store = vec![0x7f]; // PUSH32 value
    store.extend(word(value));
    store.extend([0x5f, 0x55]); // SSTORE(0, value)
    after(&store, runtime)
}

/// Init code that calls `target` without input, keeps the first word of its answer in slot 0, and deploys `runtime`: a child that
/// refers back to its creator.
pub fn deploying_after_asking_the_caller(runtime: &[u8]) -> Vec<u8> {
    let ask = [
        0x60, 0x20, 0x5f, 0x5f, 0x5f, 0x33, 0x5a,
        0xfa, // STATICCALL(GAS, CALLER, 0, 0, 0, 32)
        0x50, 0x5f, 0x51, 0x5f, 0x55, // SSTORE(0, MLOAD(0))
    ];
    after(&ask, runtime)
}

fn after(first: &[u8], runtime: &[u8]) -> Vec<u8> {
    let length = u16::try_from(runtime.len()).unwrap().to_be_bytes();
    let start = u16::try_from(first.len() + 15).unwrap().to_be_bytes();
    let mut code = first.to_vec();
    code.extend([
        0x61, length[0], length[1], 0x61, start[0], start[1], 0x5f,
        0x39, // CODECOPY(0, start, length)
        0x61, length[0], length[1], 0x60, 0x00, 0xf3, // RETURN(0, length)
        0xfe,
    ]);
    code.extend(runtime);
    code
}

/// A number as a word.
pub fn word(value: u64) -> [u8; 32] {
    U256::from(value).to_be_bytes()
}

/// Words one after the other.
pub fn words(values: &[u64]) -> Vec<u8> {
    values.iter().flat_map(|value| word(*value)).collect()
}

/// Input for a proxy: whom to call, and with what.
pub fn via(target: &str, input: &[u8]) -> Vec<u8> {
    let target: Address = target.parse().unwrap();
    let mut data = target.into_word().to_vec();
    data.extend(input);
    data
}

#[test]
fn jumps_and_offsets_of_the_contracts_are_right() {
    for (code, target) in [
        (STORE, 0x0c),
        (ACCUMULATOR, 0x0c),
        (KEEPING_PROXY, 0x12),
        (CLOCK, 0x0c),
        (CRIER, 0x07),
        (CRIER, 0x1a),
    ] {
        assert_eq!(code[target], 0x5b, "{code:02x?}");
    }
    let reverting = reverting("no");
    assert_eq!(reverting[17..21], hex!("08c379a0"));
    for children in 1..=2 {
        let factory = factory(&[0xab, 0xcd], children);
        assert_eq!(factory[0x0c], 0x5b);
        let start = usize::from(factory[16]);
        assert_eq!(factory[start..], [0xab, 0xcd]);
    }
    let init = deploying_with(STORE, 42);
    assert!(init.ends_with(STORE));
    assert_eq!(init.len() - STORE.len(), 35 + 15);
}
