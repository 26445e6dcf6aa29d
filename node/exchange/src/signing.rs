//! Signatures of this node under terms: those that wait while one is made are signed together, and those that were signed together are
//! checked once.

use std::collections::VecDeque;
use std::time::Duration;

use alloy_primitives::B256;
use parking_lot::Mutex;
use quorate_enclave::NodeKey;
use quorate_privacy::{TERMS_TOGETHER_MAX, signer, together};
use tokio::sync::oneshot;

use crate::{Exchange, ExchangeError};

/// After several came at once, others are on their way: so long they are waited for.
const PAUSE: Duration = Duration::from_millis(2);
/// Signatures that are remembered. Those who were signed together arrive within a moment.
const SEEN_MAX: usize = 64;

/// A signature, and the path from a digest to what was signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Signed {
    pub(crate) signature: [u8; 65],
    pub(crate) path: Vec<B256>,
}

/// Digests on their way to a signature.
#[derive(Debug, Default)]
pub(crate) struct Signing {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// As long as the number of callers that wait.
    waiting: VecDeque<Waiting>,
    working: bool,
    /// More than one was signed the last time.
    several: bool,
}

#[derive(Debug)]
struct Waiting {
    digest: B256,
    reply: oneshot::Sender<Result<Signed, String>>,
}

impl Signing {
    /// Enters a digest. True if someone must begin to sign.
    fn enter(&self, waiting: Waiting) -> bool {
        let mut state = self.state.lock();
        state.waiting.push_back(waiting);
        !std::mem::replace(&mut state.working, true)
    }

    fn expects_more(&self) -> bool {
        self.state.lock().several
    }

    /// What is signed next. Empty: nothing is left, and nobody signs any more.
    fn next(&self) -> Vec<Waiting> {
        let mut state = self.state.lock();
        let count = state.waiting.len().min(TERMS_TOGETHER_MAX);
        if count == 0 {
            state.working = false;
        } else {
            state.several = count > 1;
        }
        state.waiting.drain(..count).collect()
    }
}

impl Exchange {
    /// Has this node's key sign a digest, together with others that come at the same time.
    pub(crate) async fn signed(&self, digest: B256) -> Result<Signed, ExchangeError> {
        let (reply, signed) = oneshot::channel();
        if self.inner.signing.enter(Waiting { digest, reply }) {
            // On its own, since the others' must be signed also if this caller gives up.
            tokio::spawn(self.clone().sign_all());
        }
        let signed = signed.await.map_err(|_| ExchangeError::Stopping)?;
        signed.map_err(|reason| ExchangeError::Signature { reason })
    }

    async fn sign_all(self) {
        loop {
            if self.inner.signing.expects_more() {
                tokio::time::sleep(PAUSE).await;
            } else {
                // Whoever is ready to enter his digest does so first.
                tokio::task::yield_now().await;
            }
            let waiting = self.inner.signing.next();
            if waiting.is_empty() {
                return;
            }
            let digests: Vec<_> = waiting.iter().map(|waiting| waiting.digest).collect();
            // There is one, and not too many.
            let Some((root, paths)) = together(&digests) else {
                continue;
            };
            let signature = self.inner.peers.sign(root);
            for (waiting, path) in waiting.into_iter().zip(paths) {
                let signed = signature.clone();
                let signed = signed.map(|signature| Signed { signature, path });
                // Who gave up meanwhile does not want to know.
                drop(waiting.reply.send(signed));
            }
        }
    }
}

/// Whose signatures have been seen lately.
#[derive(Debug, Default)]
pub(crate) struct Signers {
    seen: Mutex<VecDeque<(B256, [u8; 65], NodeKey)>>,
}

impl Signers {
    /// Whose signature over a digest this is.
    pub(crate) fn of(&self, signature: &[u8; 65], digest: B256) -> Option<NodeKey> {
        let known = |(seen, by, _): &&(B256, [u8; 65], NodeKey)| *seen == digest && by == signature;
        if let Some((_, _, node)) = self.seen.lock().iter().rev().find(known) {
            return Some(*node);
        }
        let node = signer(signature, digest)?;
        let mut seen = self.seen.lock();
        if seen.len() >= SEEN_MAX {
            seen.pop_front();
        }
        seen.push_back((digest, *signature, node));
        Some(node)
    }
}

#[cfg(test)]
mod tests {
    use alloy_primitives::keccak256;
    use secp256k1::{Message, SECP256K1, SecretKey};

    use super::*;

    fn signature(secret: u8, digest: B256) -> [u8; 65] {
        let secret = SecretKey::from_byte_array([secret; 32]).unwrap();
        let message = Message::from_digest(digest.0);
        let (id, compact) = SECP256K1
            .sign_ecdsa_recoverable(message, &secret)
            .serialize_compact();
        let mut bytes = [0; 65];
        bytes[..64].copy_from_slice(&compact);
        bytes[64] = u8::try_from(i32::from(id)).unwrap();
        bytes
    }

    #[test]
    fn a_signature_is_recognised_by_itself_and_its_digest_however_many_came_since() {
        let signers = Signers::default();
        let digests: Vec<_> = (0..SEEN_MAX + 10)
            .map(|n| keccak256(n.to_be_bytes()))
            .collect();
        for _ in 0..2 {
            for digest in &digests {
                for secret in [1, 2] {
                    let bytes = signature(secret, *digest);
                    let by = signer(&bytes, *digest);
                    assert!(by.is_some());
                    for _ in 0..2 {
                        assert_eq!(signers.of(&bytes, *digest), by);
                    }
                }
            }
        }
        assert_eq!(signers.seen.lock().len(), SEEN_MAX);
        // Under another digest it is somebody else's, or nobody's.
        let bytes = signature(1, digests[0]);
        let by = signers.of(&bytes, digests[0]);
        assert_ne!(signers.of(&bytes, digests[1]), by);
        assert_eq!(signers.of(&[0; 65], digests[0]), None);
    }

    #[test]
    fn digests_that_wait_are_taken_together_and_one_signer_is_enough() {
        let signing = Signing::default();
        let enter = || {
            let (reply, _) = oneshot::channel();
            let digest = B256::ZERO;
            signing.enter(Waiting { digest, reply })
        };
        assert!(enter());
        assert!(!signing.expects_more());
        for _ in 0..TERMS_TOGETHER_MAX + 1 {
            assert!(!enter());
        }
        assert_eq!(signing.next().len(), TERMS_TOGETHER_MAX);
        assert!(signing.expects_more());
        assert_eq!(signing.next().len(), 2);
        assert!(!enter());
        assert_eq!(signing.next().len(), 1);
        assert!(!signing.expects_more());
        assert!(signing.next().is_empty());
        assert!(enter());
    }
}
