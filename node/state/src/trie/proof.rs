//! Merkle proofs: the nodes from the root down to a key, or to the place where it would be (as `eth_getProof` returns them,
//! EIP-1186).

use alloy_trie::Nibbles;

use super::Trie;
use super::codec;
use super::node::Body;
use super::reader::{NodeReader, TrieError};

impl Trie {
    /// RLP of the nodes on the way to `key`, root first. Nodes that lie inside their parent are not repeated. Empty for an
    /// empty trie.
    pub(crate) fn prove(
        &self,
        key: &Nibbles,
        reader: &NodeReader<'_>,
    ) -> Result<Vec<Vec<u8>>, TrieError> {
        let mut proof = Vec::new();
        let mut depth = 0;
        let mut next = self.root.as_ref();
        while let Some(link) = next {
            let node = link.resolve(&key.slice(..depth), reader)?;
            if depth == 0 || link.reference().is_hash() {
                let mut rlp = Vec::new();
                codec::encode(&node.body, &mut rlp);
                proof.push(rlp);
            }
            next = match &node.body {
                Body::Leaf { .. } => None,
                Body::Extension { key: part, child } => {
                    let goes_on = key.slice(depth..).starts_with(part);
                    depth += part.len();
                    goes_on.then_some(child)
                }
                Body::Branch { children, .. } => {
                    let child = key
                        .get(depth)
                        .and_then(|n| children[usize::from(n)].as_ref());
                    depth += 1;
                    child
                }
            };
        }
        Ok(proof)
    }
}
