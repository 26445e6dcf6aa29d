//! What all members agree on before the first block.

use std::collections::BTreeSet;

use alloy_consensus::Header;
use alloy_genesis::GenesisAccount;
use alloy_primitives::{Address, B256, Bytes, keccak256};
use serde::{Deserialize, Serialize};

use crate::header::seal_fork_fields;
use crate::{ChainSpec, Member, MemberRole, PRIVACY_PRECOMPILE};

/// Limits on one block, equal on every member. Gas is limited by genesis `gasLimit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct BlockLimits {
    /// Most transactions in a block.
    pub max_transactions: u64,
    /// Most bytes of transactions in a block (sum of network forms).
    pub max_bytes: u64,
    /// Largest transaction in bytes (network form).
    pub max_transaction_bytes: u64,
}

impl Default for BlockLimits {
    fn default() -> Self {
        Self {
            max_transactions: 5_000,
            max_bytes: 4 << 20,
            max_transaction_bytes: 128 << 10,
        }
    }
}

/// What a genesis without `quorate.privacy`, or with nothing in it, says.
const PRIVACY_SUITE_DEFAULT: u16 = 1;

/// Private payloads, as all members must read them alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PrivacySection {
    /// How payloads are encrypted. 1: NaCl (XSalsa20-Poly1305, X25519), as Tessera does. 2: HPKE with a hybrid of X25519 and
    /// ML-KEM, against adversaries who keep ciphertexts until they have a quantum computer.
    pub suite: u16,
}

impl Default for PrivacySection {
    fn default() -> Self {
        Self {
            suite: PRIVACY_SUITE_DEFAULT,
        }
    }
}

/// The `quorate` section of `genesis.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ConsortiumSection {
    /// The initial members.
    pub members: Vec<Member>,
    /// Limits on one block.
    #[serde(default)]
    pub block_limits: BlockLimits,
    /// Private payloads. Absent in genesis files that do not care, and then no part of the genesis hash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub privacy: Option<PrivacySection>,
}

/// Why a genesis file is refused.
#[derive(Debug, thiserror::Error)]
pub enum GenesisError {
    /// Not JSON, or not geth's format.
    #[error("genesis does not parse: {reason}")]
    Malformed {
        /// What the parser found.
        reason: String,
    },
    /// The `quorate` section is missing or wrong.
    #[error("genesis section \"quorate\": {reason}")]
    Section {
        /// What is wrong.
        reason: String,
    },
    /// A value is outside what is allowed.
    #[error("genesis field {field}: {reason}")]
    Value {
        /// The field's path.
        field: &'static str,
        /// What is allowed.
        reason: String,
    },
}

/// A checked genesis: geth's `genesis.json` plus the `quorate` section.
#[derive(Debug, Clone)]
pub struct Genesis {
    geth: alloy_genesis::Genesis,
    consortium: ConsortiumSection,
    spec: ChainSpec,
}

impl Genesis {
    /// Parses and checks a genesis file.
    ///
    /// # Errors
    /// [`GenesisError`] naming the field and what is allowed.
    pub fn parse(json: &str) -> Result<Self, GenesisError> {
        let mut value: serde_json::Value = serde_json::from_str(json).map_err(malformed)?;
        let fields = value
            .as_object_mut()
            .ok_or_else(|| GenesisError::Malformed {
                reason: "the file must hold one JSON object".into(),
            })?;
        let section = fields
            .remove("quorate")
            .ok_or_else(|| GenesisError::Section {
                reason: "missing".into(),
            })?;
        let consortium: ConsortiumSection =
            serde_json::from_value(section).map_err(|e| GenesisError::Section {
                reason: e.to_string(),
            })?;
        // Fields that geth wants and that mean nothing here get geth's usual value when absent.
        for (name, default) in [
            ("nonce", "0x0"),
            ("timestamp", "0x0"),
            ("extraData", "0x"),
            ("difficulty", "0x0"),
            (
                "mixHash",
                "0x0000000000000000000000000000000000000000000000000000000000000000",
            ),
            ("coinbase", "0x0000000000000000000000000000000000000000"),
        ] {
            fields.entry(name).or_insert_with(|| default.into());
        }
        let chain_id = fields
            .get("config")
            .and_then(|config| config.get("chainId"));
        if chain_id.is_none() {
            return Err(GenesisError::Value {
                field: "config.chainId",
                reason: "missing".into(),
            });
        }
        let geth: alloy_genesis::Genesis = serde_json::from_value(value).map_err(malformed)?;
        Self::new(geth, consortium)
    }

    /// Checks the parts of a genesis made in memory.
    ///
    /// # Errors
    /// [`GenesisError`] naming the field and what is allowed.
    pub fn new(
        geth: alloy_genesis::Genesis,
        consortium: ConsortiumSection,
    ) -> Result<Self, GenesisError> {
        let value = |field, reason: &str| {
            Err(GenesisError::Value {
                field,
                reason: reason.into(),
            })
        };
        match geth.config.chain_id {
            0 => return value("config.chainId", "must not be 0"),
            // Quorum's private marker v = 37/38 is what EIP-155 gives for chain id 1.
            1 => {
                return value(
                    "config.chainId",
                    "1 is Ethereum's own and is refused; choose another",
                );
            }
            _ => {}
        }
        if geth.gas_limit < 1_000_000 {
            return value("gasLimit", "must be at least 1000000 (0xf4240)");
        }
        let limits = consortium.block_limits;
        if !(1..=100_000).contains(&limits.max_transactions) {
            return value(
                "quorate.blockLimits.maxTransactions",
                "must lie between 1 and 100000",
            );
        }
        if !(65_536..=(16 << 20)).contains(&limits.max_bytes) {
            return value(
                "quorate.blockLimits.maxBytes",
                "must lie between 65536 and 16777216",
            );
        }
        // Gossip takes messages of up to 2 MiB.
        if !(1_024..=limits.max_bytes.min(1 << 20)).contains(&limits.max_transaction_bytes) {
            return value(
                "quorate.blockLimits.maxTransactionBytes",
                "must lie between 1024 and 1048576, and not above blockLimits.maxBytes",
            );
        }
        if let Some(privacy) = consortium.privacy
            && !matches!(privacy.suite, 1 | 2)
        {
            return value(
                "quorate.privacy.suite",
                "must be 1 (NaCl, as Tessera) or 2 (post-quantum hybrid)",
            );
        }
        // Markers of private transactions are calls of an address without code, on all members.
        let precompile = geth.alloc.get(&PRIVACY_PRECOMPILE);
        if precompile
            .is_some_and(|account| account.code.as_ref().is_some_and(|code| !code.is_empty()))
        {
            return value(
                "alloc",
                "code at 0x000000000000000000000000000000000000007a is refused: private transactions are sent to this address",
            );
        }
        check_members(&consortium.members)?;
        let spec = ChainSpec::from_config(&geth.config);
        Ok(Self {
            geth,
            consortium,
            spec,
        })
    }

    /// Chain id and forks.
    pub fn spec(&self) -> &ChainSpec {
        &self.spec
    }

    /// The initial members.
    pub fn members(&self) -> &[Member] {
        &self.consortium.members
    }

    /// Limits on one block.
    pub fn block_limits(&self) -> BlockLimits {
        self.consortium.block_limits
    }

    /// How private payloads are encrypted in this consortium: 1 or 2, see [`PrivacySection::suite`].
    pub fn privacy_suite(&self) -> u16 {
        self.consortium.privacy.unwrap_or_default().suite
    }

    /// Gas limit of every block.
    pub fn gas_limit(&self) -> u64 {
        self.geth.gas_limit
    }

    /// The accounts that exist from the start, in address order.
    pub fn alloc(&self) -> impl Iterator<Item = (&Address, &GenesisAccount)> {
        self.geth.alloc.iter()
    }

    /// The header of block 0, given the state root of [`Self::alloc`].
    ///
    /// `extraData` carries [`Self::consortium_digest`], so that consortia that differ in anything but
    /// addresses of members have different genesis hashes.
    pub fn header(&self, state_root: B256) -> Header {
        let mut header = Header {
            state_root,
            gas_limit: self.geth.gas_limit,
            timestamp: self.geth.timestamp,
            beneficiary: self.geth.coinbase,
            mix_hash: self.geth.mix_hash,
            extra_data: Bytes::copy_from_slice(self.consortium_digest().as_slice()),
            ..Header::default()
        };
        seal_fork_fields(&mut header, &self.spec);
        header
    }

    /// keccak256 over what the genesis header does not commit to by itself: chain id, fork schedule, block
    /// limits, the members' ids, keys, organisations and roles, and `privacy` if the file has it. Addresses are left out, so
    /// that an operator can correct one before the first start.
    pub fn consortium_digest(&self) -> B256 {
        #[derive(Serialize)]
        struct Committed<'a> {
            config: &'a alloy_genesis::ChainConfig,
            limits: BlockLimits,
            members: Vec<(u64, String, &'a str, MemberRole)>,
            // Left out if absent: the hash of a genesis from before this section stays what it was.
            #[serde(skip_serializing_if = "Option::is_none")]
            privacy: Option<PrivacySection>,
        }
        let members = self.consortium.members.iter();
        let committed = Committed {
            config: &self.geth.config,
            limits: self.consortium.block_limits,
            members: members
                .map(|m| {
                    (
                        m.raft_id,
                        m.node_id.to_string(),
                        m.organisation.as_str(),
                        m.role,
                    )
                })
                .collect(),
            privacy: self.consortium.privacy,
        };
        // Struct fields serialise in declaration order and maps inside are ordered: the text is canonical.
        keccak256(serde_json::to_vec(&committed).unwrap_or_default())
    }

    /// The file's text: geth's fields and the `quorate` section.
    pub fn to_json(&self) -> serde_json::Value {
        let mut value = serde_json::to_value(&self.geth).unwrap_or_default();
        if let Some(fields) = value.as_object_mut() {
            let section = serde_json::to_value(&self.consortium).unwrap_or_default();
            fields.insert("quorate".into(), section);
        }
        value
    }
}

fn malformed(e: serde_json::Error) -> GenesisError {
    GenesisError::Malformed {
        reason: e.to_string(),
    }
}

fn check_members(members: &[Member]) -> Result<(), GenesisError> {
    let refuse = |reason: String| {
        Err(GenesisError::Value {
            field: "quorate.members",
            reason,
        })
    };
    if !members.iter().any(|m| m.role == MemberRole::Voter) {
        return refuse("at least one voter is needed".into());
    }
    let mut ids = BTreeSet::new();
    let mut keys = BTreeSet::new();
    for member in members {
        if member.raft_id == 0 {
            return refuse("raftId 0 is not allowed".into());
        }
        if !ids.insert(member.raft_id) {
            return refuse(format!("raftId {} stands twice", member.raft_id));
        }
        if !keys.insert(member.node_id) {
            return refuse(format!("nodeId {} stands twice", member.node_id));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use alloy_consensus::EMPTY_ROOT_HASH;

    use super::*;

    const KEY: &str = "0x0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798";

    fn genesis(chain_id: u64, address: &str, organisation: &str) -> String {
        format!(
            r#"{{"config": {{"chainId": {chain_id}}}, "gasLimit": "0x1c9c380", "alloc": {{}},
              "quorate": {{"members": [{{"raftId": 1, "nodeId": "{KEY}", "address": "{address}",
              "organisation": "{organisation}"}}]}}}}"#
        )
    }

    fn hash(json: &str) -> B256 {
        Genesis::parse(json).unwrap().header(B256::ZERO).hash_slow()
    }

    #[test]
    fn the_genesis_hash_binds_chain_id_and_members_but_not_addresses() {
        let base = hash(&genesis(1337, "a:1", "A"));
        assert_eq!(base, hash(&genesis(1337, "b:2", "A")));
        assert_ne!(base, hash(&genesis(1338, "a:1", "A")));
        assert_ne!(base, hash(&genesis(1337, "a:1", "B")));
    }

    #[test]
    fn a_genesis_survives_being_written_and_read() {
        let first = Genesis::parse(&genesis(1337, "a:1", "A")).unwrap();
        let second = Genesis::parse(&first.to_json().to_string()).unwrap();
        assert_eq!(first.header(B256::ZERO), second.header(B256::ZERO));
    }

    #[test]
    fn numbers_that_this_node_does_not_know_are_the_same_again_when_a_genesis_is_written() {
        let plain = genesis(1337, "node1:30303", "Bank A");
        let unknown = r#""config": {"other": {"limit": 1337777777777777777777777777777777777777777777777777777777777}, "#;
        let first = plain.replacen(r#""config": {"#, unknown, 1);
        assert_ne!(hash(&first), hash(&plain));
        let written = Genesis::parse(&first).unwrap().to_json().to_string();
        assert_eq!(hash(&written), hash(&first));
    }

    fn with_privacy(section: &str) -> String {
        genesis(1337, "a:1", "A").replace(
            "\"quorate\": {",
            &format!("\"quorate\": {{\"privacy\": {section}, "),
        )
    }

    #[test]
    fn the_genesis_hash_binds_the_privacy_suite_only_if_the_file_names_it() {
        let old = genesis(1337, "a:1", "A");
        let header = Genesis::parse(&old).unwrap().header(EMPTY_ROOT_HASH);
        // What `quorate init` said of this file before there was such a section.
        let before = "0xad7828a914117787c8108c2ea76386192ff2ac2e929a2c72406883ecab07f242";
        assert_eq!(header.hash_slow().to_string(), before);
        let suite = |json: &str| Genesis::parse(json).unwrap().privacy_suite();
        assert_eq!(suite(&old), 1);
        let named = with_privacy("{\"suite\": 1}");
        let hybrid = with_privacy("{\"suite\": 2}");
        assert_eq!((suite(&named), suite(&hybrid)), (1, 2));
        assert_eq!(suite(&with_privacy("{}")), 1);
        assert_eq!(hash(&named), hash(&with_privacy("{}")));
        let hashes: BTreeSet<B256> = [&old, &named, &hybrid].map(|json| hash(json)).into();
        assert_eq!(hashes.len(), 3);
        // Writing and reading adds no section and loses none.
        for json in [old, named, hybrid] {
            let written = Genesis::parse(&json).unwrap().to_json().to_string();
            assert_eq!(hash(&written), hash(&json));
        }
    }

    #[test]
    fn the_privacy_precompile_has_a_balance_at_most() {
        let alloc = |account: &str| {
            let accounts =
                format!("\"alloc\": {{\"0x000000000000000000000000000000000000007a\": {account}}}");
            Genesis::parse(&genesis(1337, "a:1", "A").replace("\"alloc\": {}", &accounts))
        };
        for allowed in [
            r#"{"balance": "0x5"}"#,
            r#"{"balance": "0x5", "code": "0x"}"#,
        ] {
            assert!(alloc(allowed).is_ok());
        }
        let refused = alloc(r#"{"balance": "0x0", "code": "0x00"}"#).unwrap_err();
        assert!(matches!(
            refused,
            GenesisError::Value { field: "alloc", .. }
        ));
    }

    #[test]
    fn faults_name_the_field() {
        let cases = [
            (genesis(1, "a:1", "A"), "config.chainId"),
            (
                genesis(1337, "a:1", "A").replace("0x1c9c380", "0x5208"),
                "gasLimit",
            ),
            (
                genesis(1337, "a:1", "A").replace("\"raftId\": 1", "\"raftId\": 0"),
                "quorate.members",
            ),
            (
                genesis(1337, "a:1", "A").replace(KEY, "0x00"),
                "node id must be 33 bytes",
            ),
            (
                genesis(1337, "a:1", "A").replace("quorate", "quorum"),
                "\"quorate\": missing",
            ),
            (with_privacy(r#"{"suite": 3}"#), "quorate.privacy.suite"),
            (with_privacy(r#"{"suite": 0}"#), "quorate.privacy.suite"),
            (with_privacy(r#"{"suites": 1}"#), "unknown field"),
            ("{]".to_string(), "does not parse"),
            ("[]".to_string(), "one JSON object"),
        ];
        for (json, expected) in cases {
            let error = Genesis::parse(&json).unwrap_err().to_string();
            assert!(error.contains(expected), "{error} should name {expected}");
        }
    }
}
