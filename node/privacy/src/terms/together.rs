//! Terms that are signed together: their sending node signs the root of a hash tree over them, and each carries the way to it, so that
//! each can be shown alone, with one signature for all of them to make and one to check.
//!
//! ```text
//! pair   keccak256( "quorate private terms pair 1" | the lower digest (32) | the higher digest (32) )
//! tree   a row of digests becomes the row of its pairs, the last of an odd row goes up as it is; the last one left is signed
//! path   in each row that pairs a digest, the other one
//! ```
//! Of one digest alone it is that digest itself. What is paired is no digest of terms, and the other way round, by the words in front.

use alloy_primitives::{B256, Keccak256};

const PAIR_DOMAIN: &[u8] = b"quorate private terms pair 1";

/// Most terms that are signed together. More would save next to nothing, and make paths longer.
pub const TERMS_TOGETHER_MAX: usize = 16;
/// Longest path that so many come to.
pub(super) const PATH_MAX: usize = 4;

/// What is to be signed for these digests, at most [`TERMS_TOGETHER_MAX`], and the path of each to it. `None` if there are none,
/// or too many.
pub fn together(digests: &[B256]) -> Option<(B256, Vec<Vec<B256>>)> {
    if digests.len() > TERMS_TOGETHER_MAX {
        return None;
    }
    let mut paths = vec![Vec::new(); digests.len()];
    // Each digest of the row with the places of those that it stands for, which are neighbours.
    let mut row: Vec<(B256, std::ops::Range<usize>)> = digests
        .iter()
        .enumerate()
        .map(|(n, digest)| (*digest, n..n + 1))
        .collect();
    while row.len() > 1 {
        let pairs = row.chunks(2).filter_map(|chunk| match chunk {
            [(left, lefts), (right, rights)] => {
                for (places, other) in [(lefts, right), (rights, left)] {
                    for path in paths.get_mut(places.clone()).into_iter().flatten() {
                        path.push(*other);
                    }
                }
                Some((pair(left, right), lefts.start..rights.end))
            }
            [alone] => Some(alone.clone()),
            _ => None,
        });
        row = pairs.collect();
    }
    let (root, _) = row.pop()?;
    Some((root, paths))
}

/// Where a path leads from a digest.
pub(super) fn follow(digest: B256, path: &[B256]) -> B256 {
    path.iter()
        .fold(digest, |digest, other| pair(&digest, other))
}

fn pair(one: &B256, other: &B256) -> B256 {
    let mut hasher = Keccak256::new();
    hasher.update(PAIR_DOMAIN);
    hasher.update(one.min(other));
    hasher.update(one.max(other));
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use alloy_primitives::keccak256;

    use super::*;

    fn digests(count: usize) -> Vec<B256> {
        (0..count)
            .map(|n| keccak256([u8::try_from(n).unwrap()]))
            .collect()
    }

    #[test]
    fn every_path_leads_to_the_root_and_no_other_digest_takes_it_there() {
        for count in 1..=TERMS_TOGETHER_MAX {
            let digests = digests(count);
            let (root, paths) = together(&digests).unwrap();
            assert_eq!(paths.len(), count);
            for (digest, path) in digests.iter().zip(&paths) {
                assert!(path.len() <= PATH_MAX);
                assert_eq!(follow(*digest, path), root);
                assert_ne!(follow(keccak256(digest), path), root);
                for cut in 0..path.len() {
                    assert_ne!(follow(*digest, &path[..cut]), root);
                }
            }
        }
    }

    #[test]
    fn one_alone_is_signed_as_it_is_and_none_or_too_many_are_not() {
        let one = digests(1);
        assert_eq!(together(&one), Some((one[0], vec![vec![]])));
        assert_eq!(together(&[]), None);
        assert_eq!(together(&digests(TERMS_TOGETHER_MAX + 1)), None);
    }

    #[test]
    fn the_tree_is_as_it_is_described() {
        let digests = digests(3);
        let hash = |a: &B256, b: &B256| {
            let (low, high) = if a < b { (a, b) } else { (b, a) };
            let words = b"quorate private terms pair 1".as_slice();
            keccak256([words, low.as_slice(), high.as_slice()].concat())
        };
        let first = hash(&digests[0], &digests[1]);
        let (root, paths) = together(&digests).unwrap();
        assert_eq!(root, hash(&first, &digests[2]));
        assert_eq!(paths[0], [digests[1], digests[2]]);
        assert_eq!(paths[1], [digests[0], digests[2]]);
        assert_eq!(paths[2], [first]);
    }
}
