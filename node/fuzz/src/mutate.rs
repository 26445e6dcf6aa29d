//! Mutations by seed, for the stable toolchain: no feedback, but the same every time.

/// Values at which arithmetic on lengths and counts goes wrong.
const NUMBERS: [u64; 12] = [
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0x100,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x1_0000_0000,
    0x7fff_ffff_ffff_ffff,
    0xffff_ffff_ffff_ffff,
];

/// Longest input that is made.
const BYTES_MAX: usize = 16 << 10;

/// Changes bytes by chance, from a seed.
#[derive(Debug, Clone)]
pub struct Mutator {
    state: u64,
}

impl Mutator {
    /// The same seed makes the same mutations.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            state: seed.wrapping_add(0x9e37_79b9_7f4a_7c15),
        }
    }

    /// splitmix64.
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }

    /// One of the seeds with one to eight changes.
    #[must_use]
    pub fn mutate(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = self.one_of(seeds);
        for _ in 0..=self.below(8) {
            self.change(&mut bytes, seeds);
        }
        bytes.truncate(BYTES_MAX);
        bytes
    }

    fn one_of(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let at = self.below(seeds.len());
        seeds.get(at).cloned().unwrap_or_default()
    }

    fn change(&mut self, bytes: &mut Vec<u8>, seeds: &[Vec<u8>]) {
        let at = self.below(bytes.len() + 1);
        match self.below(8) {
            0 => {
                let mask = 1 << self.below(8);
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= mask;
                }
            }
            1 => {
                let value = self.next() as u8;
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = value;
                }
            }
            2 => {
                let number = self.number();
                for (byte, value) in bytes.iter_mut().skip(at).zip(number) {
                    *byte = value;
                }
            }
            3 => bytes.truncate(at),
            4 => {
                let end = (at + 1 + self.below(16)).min(bytes.len());
                drop(bytes.drain(at.min(end)..end));
            }
            5 => {
                let filling = vec![self.next() as u8; 1 + self.below(32)];
                drop(bytes.splice(at..at, filling));
            }
            6 => {
                let end = (at + 1 + self.below(64)).min(bytes.len());
                let copy = bytes.get(at.min(end)..end).unwrap_or_default().to_vec();
                let to = self.below(bytes.len() + 1);
                drop(bytes.splice(to..to, copy));
            }
            _ => {
                // The head of one input and the tail of another.
                let other = self.one_of(seeds);
                let from = self.below(other.len() + 1);
                bytes.truncate(at);
                bytes.extend_from_slice(other.get(from..).unwrap_or_default());
            }
        }
    }

    /// An interesting number of one to eight bytes in either order.
    fn number(&mut self) -> Vec<u8> {
        let at = self.below(NUMBERS.len());
        let number = NUMBERS.get(at).copied().unwrap_or_default();
        let width = 1 << self.below(4);
        let little = self.next() & 1 == 0;
        let mut bytes = number.to_le_bytes().to_vec();
        bytes.truncate(width);
        if !little {
            bytes.reverse();
        }
        bytes
    }
}
