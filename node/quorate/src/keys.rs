//! Node keys: one secp256k1 secret per member, 64 hexadecimal digits in a file that only its owner may read.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use anyhow::{Context as _, anyhow};
use quorate_chain::NodeId;
use secp256k1::{SECP256K1, SecretKey};
use serde_json::{Value, json};

/// Reads a secret key.
///
/// # Errors
/// If the file cannot be read or holds no key.
pub fn read_node_key(path: &Path) -> anyhow::Result<SecretKey> {
    let text = fs::read_to_string(path)
        .with_context(|| format!("node key {} cannot be read", path.display()))?;
    if let Ok(metadata) = fs::metadata(path)
        && metadata.permissions().mode() & 0o007 != 0
    {
        tracing::warn!(file = %path.display(), "everybody on this machine may read the node key: chmod 600");
    }
    parse_key(&text).with_context(|| format!("node key {}", path.display()))
}

/// Reads 64 hexadecimal digits; `0x` and space around them are allowed.
///
/// # Errors
/// What is allowed. The text is not repeated: it may be almost a key.
pub fn parse_key(text: &str) -> anyhow::Result<SecretKey> {
    let digits = text.trim();
    let digits = digits.strip_prefix("0x").unwrap_or(digits);
    let mut bytes = [0u8; 32];
    hex::decode_to_slice(digits, &mut bytes)
        .map_err(|_| anyhow!("a secret key is 64 hexadecimal digits"))?;
    SecretKey::from_byte_array(bytes)
        .map_err(|_| anyhow!("not a secp256k1 key: zero, or above the group order"))
}

/// Makes a new key.
pub fn new_key() -> SecretKey {
    SecretKey::new(&mut rand::rng())
}

/// Writes a key into a new file of mode 0600. Never overwrites.
///
/// # Errors
/// If the file is there already or cannot be written.
pub fn write_node_key(path: &Path, key: &SecretKey) -> anyhow::Result<()> {
    let file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    let mut file =
        file.with_context(|| format!("node key {} cannot be written", path.display()))?;
    file.write_all(format!("{}\n", hex::encode(key.secret_bytes())).as_bytes())?;
    file.sync_all()
        .with_context(|| format!("node key {}", path.display()))
}

/// What others know a key by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicIdentity {
    /// As in genesis.
    pub node_id: NodeId,
    /// `coinbase` of the blocks that the member mints.
    pub address: String,
    /// On the members' network.
    pub peer_id: String,
}

impl PublicIdentity {
    /// The public side of a secret key.
    ///
    /// # Errors
    /// Never for a valid key.
    pub fn of(key: &SecretKey) -> anyhow::Result<Self> {
        let node_id = NodeId::of(&key.public_key(SECP256K1));
        Ok(Self {
            node_id,
            address: node_id.address().to_string(),
            peer_id: quorate_p2p::peer_id_of(node_id.as_bytes())?,
        })
    }

    /// For scripts.
    pub fn to_json(&self) -> Value {
        json!({ "nodeId": self.node_id.to_string(), "address": self.address, "peerId": self.peer_id })
    }
}

impl std::fmt::Display for PublicIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "node id  {}", self.node_id)?;
        writeln!(f, "address  {}", self.address)?;
        write!(f, "peer id  {}", self.peer_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_its_file_and_is_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node.key");
        let key = new_key();
        write_node_key(&path, &key).unwrap();
        assert_eq!(read_node_key(&path).unwrap(), key);
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert!(write_node_key(&path, &new_key()).is_err());
        assert_eq!(read_node_key(&path).unwrap(), key);
    }

    #[test]
    fn what_is_no_key_is_refused_without_repeating_it() {
        let short = "ab".repeat(31);
        for text in [
            "",
            "0x",
            &short,
            &"0".repeat(64),
            &"f".repeat(64),
            &"g".repeat(64),
        ] {
            let error = parse_key(text).unwrap_err().to_string();
            assert!(text.len() < 10 || !error.contains(text));
        }
        let one = format!("0x{:064x}\n", 1);
        assert_eq!(parse_key(&one).unwrap().secret_bytes()[31], 1);
    }

    #[test]
    fn the_identity_of_a_known_key_is_known() {
        let identity = PublicIdentity::of(&parse_key(&format!("{:064x}", 1)).unwrap()).unwrap();
        assert_eq!(
            identity.node_id.to_string(),
            "0x0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798"
        );
        assert_eq!(
            identity.address,
            "0x7E5F4552091A69125d5DfCb7b8C2659029395Bdf"
        );
        assert!(identity.peer_id.starts_with("16Uiu2"));
    }
}
