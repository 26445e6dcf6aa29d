//! Randomness from the operating system.

use rand::TryRngCore as _;
use rand::rngs::OsRng;
use zeroize::Zeroizing;

/// The operating system gave no random bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the operating system gave no random bytes: {reason}")]
pub struct RandomFailed {
    /// What it said.
    pub reason: String,
}

/// Fresh random bytes.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], RandomFailed> {
    let mut bytes = [0u8; N];
    fill(&mut bytes)?;
    Ok(bytes)
}

/// A fresh secret that is wiped when dropped. Filled in place, so that no other copy of it exists.
pub(crate) fn random_secret<const N: usize>() -> Result<Box<Zeroizing<[u8; N]>>, RandomFailed> {
    let mut secret = Box::new(Zeroizing::new([0u8; N]));
    fill(secret.as_mut_slice())?;
    Ok(secret)
}

fn fill(bytes: &mut [u8]) -> Result<(), RandomFailed> {
    OsRng.try_fill_bytes(bytes).map_err(|e| RandomFailed {
        reason: e.to_string(),
    })
}
