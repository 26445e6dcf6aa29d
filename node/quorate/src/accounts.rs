//! Accounts whose keys this node holds: the development accounts, and keystore files (version 3, as geth writes them).

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use alloy_primitives::{Address, B256, Signature};
use alloy_signer_local::{MnemonicBuilder, PrivateKeySigner};
use anyhow::{Context as _, anyhow, bail};
use quorate_chain::address_of;
use quorate_rpc::{AccountSigner, SignError};
use secp256k1::{Message, SECP256K1, SecretKey};
use serde_json::Value;

use crate::config::NodeConfig;

/// The mnemonic behind the development accounts, known from Hardhat and Anvil. Everybody has these keys.
pub const DEVELOPMENT_MNEMONIC: &str =
    "test test test test test test test test test test test junk";
/// How many development accounts there are.
pub const DEVELOPMENT_ACCOUNTS: u32 = 10;
/// The variable with the passphrase of keystore files.
pub const PASSWORD_VARIABLE: &str = "QUORATE_PASSWORD";

/// The development accounts in their order: m/44'/60'/0'/0/0 to /9.
pub fn development_keys() -> Vec<(Address, SecretKey)> {
    (0..DEVELOPMENT_ACCOUNTS).map(development_key).collect()
}

#[expect(
    clippy::expect_used,
    reason = "mnemonic and path are constants; a test derives all ten"
)]
fn development_key(index: u32) -> (Address, SecretKey) {
    let signer = MnemonicBuilder::try_from_phrase_nth(DEVELOPMENT_MNEMONIC, index)
        .expect("a valid mnemonic");
    let key = SecretKey::from_byte_array(signer.to_bytes().0).expect("derived keys are valid");
    (signer.address(), key)
}

/// The address of a secret key.
pub fn address_of_key(key: &SecretKey) -> Address {
    address_of(&key.public_key(SECP256K1))
}

/// Signs a hash.
pub fn sign(key: &SecretKey, hash: B256) -> Signature {
    let signature = SECP256K1.sign_ecdsa_recoverable(Message::from_digest(hash.0), key);
    let (id, bytes) = signature.serialize_compact();
    Signature::from_bytes_and_parity(&bytes, i32::from(id) & 1 == 1)
}

/// The accounts of one node. Keys are read once.
#[derive(Default)]
pub struct Accounts {
    /// The development accounts in the order that everybody expects, if they are used.
    development: Vec<Address>,
    unlocked: BTreeMap<Address, SecretKey>,
    locked: BTreeSet<Address>,
}

impl std::fmt::Debug for Accounts {
    /// The keys stay out of logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let unlocked: Vec<_> = self.unlocked.keys().collect();
        f.debug_struct("Accounts")
            .field("unlocked", &unlocked)
            .field("locked", &self.locked)
            .finish()
    }
}

impl Accounts {
    /// What the configuration asks for.
    ///
    /// # Errors
    /// If an account that is to be unlocked has no keystore file, or the passphrase does not open it.
    pub fn of(config: &NodeConfig) -> anyhow::Result<Self> {
        let mut accounts = Self::default();
        let settings = &config.accounts;
        for listed in list(&settings.keystore_dir).context("accounts.keystore_dir")? {
            accounts.locked.insert(listed.address);
        }
        if !settings.unlock.is_empty() {
            let passphrases =
                passphrases(settings.password_file.as_deref(), settings.unlock.len())?;
            for (address, passphrase) in settings.unlock.iter().zip(&passphrases) {
                accounts
                    .unlock(&settings.keystore_dir, *address, passphrase)
                    .with_context(|| format!("accounts.unlock {address}"))?;
            }
        }
        if settings.dev_accounts {
            let keys = development_keys();
            accounts.development = keys.iter().map(|(address, _)| *address).collect();
            accounts.unlocked.extend(keys);
        }
        Ok(accounts)
    }

    /// Unlocks one account with its keystore file.
    ///
    /// # Errors
    /// If there is no such file, or the passphrase does not open it.
    pub fn unlock(
        &mut self,
        folder: &Path,
        address: Address,
        passphrase: &str,
    ) -> anyhow::Result<()> {
        let listed = list(folder)?;
        let found = listed.iter().find(|l| l.address == address);
        let found =
            found.ok_or_else(|| anyhow!("no keystore file for it in {}", folder.display()))?;
        let key = open(&found.file, passphrase)?;
        if address_of_key(&key) != address {
            bail!(
                "{} holds the key of {}",
                found.file.display(),
                address_of_key(&key)
            );
        }
        self.locked.remove(&address);
        self.unlocked.insert(address, key);
        Ok(())
    }
}

impl AccountSigner for Accounts {
    fn accounts(&self) -> Vec<Address> {
        // Asked for with every request that is to be signed: nothing may be derived here.
        let mut all = self.development.clone();
        let rest: BTreeSet<Address> = self.unlocked.keys().chain(&self.locked).copied().collect();
        let rest: Vec<Address> = rest
            .into_iter()
            .filter(|address| !all.contains(address))
            .collect();
        all.extend(rest);
        all
    }

    fn sign_hash(&self, account: Address, hash: B256) -> Result<Signature, SignError> {
        match self.unlocked.get(&account) {
            Some(key) => Ok(sign(key, hash)),
            None if self.locked.contains(&account) => Err(SignError::Locked { account }),
            None => Err(SignError::UnknownAccount { account }),
        }
    }
}

/// One passphrase for each of `count` accounts: from the file (one line for all, or one each), else from the variable.
fn passphrases(file: Option<&Path>, count: usize) -> anyhow::Result<Vec<String>> {
    let Some(file) = file else {
        let one = std::env::var(PASSWORD_VARIABLE).map_err(|_| {
            anyhow!(
                "accounts.unlock needs accounts.password_file or the variable {PASSWORD_VARIABLE}"
            )
        })?;
        return Ok(vec![one; count]);
    };
    let text = fs::read_to_string(file)
        .with_context(|| format!("accounts.password_file {}", file.display()))?;
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    match lines.as_slice() {
        [one] => Ok(vec![one.clone(); count]),
        lines if lines.len() >= count => Ok(lines.to_vec()),
        lines => bail!(
            "accounts.password_file {} has {} lines for {count} accounts in accounts.unlock; one line for all or one each",
            file.display(),
            lines.len()
        ),
    }
}

/// A keystore file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Whose key it holds, as it says itself.
    pub address: Address,
    /// Where it is.
    pub file: PathBuf,
}

/// The keystore files of a folder, by name (so by age); none if there is no such folder. Other files are passed over.
///
/// # Errors
/// If the folder cannot be read.
pub fn list(folder: &Path) -> anyhow::Result<Vec<Listed>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e).with_context(|| format!("keystore folder {}", folder.display())),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry
            .with_context(|| format!("keystore folder {}", folder.display()))?
            .path();
        if path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files
        .into_iter()
        .filter_map(|file| {
            Some(Listed {
                address: address_in(&file)?,
                file,
            })
        })
        .collect())
}

/// The address in a keystore file: in its content (geth), or at the end of its name.
fn address_in(file: &Path) -> Option<Address> {
    let content: Value = serde_json::from_str(&fs::read_to_string(file).ok()?).ok()?;
    content.get("crypto").or_else(|| content.get("Crypto"))?;
    if let Some(address) = content.get("address").and_then(Value::as_str) {
        return address.parse().ok();
    }
    file.file_name()?
        .to_str()?
        .rsplit("--")
        .next()?
        .parse()
        .ok()
}

/// Opens a keystore file.
///
/// # Errors
/// If it cannot be read, is none, or the passphrase is wrong.
pub fn open(file: &Path, passphrase: &str) -> anyhow::Result<SecretKey> {
    let signer = PrivateKeySigner::decrypt_keystore(file, passphrase).map_err(|e| {
        anyhow!(
            "keystore file {} cannot be opened (wrong passphrase?): {e}",
            file.display()
        )
    })?;
    SecretKey::from_byte_array(signer.to_bytes().0)
        .with_context(|| format!("key in {}", file.display()))
}

/// Writes a new keystore file, readable by its owner only. Never overwrites.
///
/// # Errors
/// If the account has a file already, or writing fails.
pub fn store(folder: &Path, key: &SecretKey, passphrase: &str) -> anyhow::Result<Listed> {
    let address = address_of_key(key);
    fs::create_dir_all(folder).with_context(|| format!("keystore folder {}", folder.display()))?;
    if let Some(existing) = list(folder)?.into_iter().find(|l| l.address == address) {
        bail!(
            "{address} has a keystore file already: {}",
            existing.file.display()
        );
    }
    // The library writes a file that others may read: only ever into a folder that is ours alone.
    let private = PrivateFolder::new(folder)?;
    PrivateKeySigner::encrypt_keystore(
        &private.0,
        &mut rand08::rngs::OsRng,
        key.secret_bytes(),
        passphrase,
        Some("key"),
    )
    .map_err(|e| anyhow!("encrypting the key: {e}"))?;
    let text = fs::read_to_string(private.0.join("key"))?;
    let mut content: Value = serde_json::from_str(&text)?;
    if let Some(fields) = content.as_object_mut() {
        fields.insert("address".into(), hex::encode(address).into());
    }
    let file = folder.join(format!("UTC--{}--{}", utc_now(), hex::encode(address)));
    let mut out = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&file)?;
    out.write_all(content.to_string().as_bytes())?;
    out.sync_all()?;
    Ok(Listed { address, file })
}

/// A folder of mode 0700 that goes away with this value.
struct PrivateFolder(PathBuf);

impl PrivateFolder {
    fn new(parent: &Path) -> anyhow::Result<Self> {
        use std::os::unix::fs::DirBuilderExt as _;
        let path = parent.join(format!(".new-{:016x}", rand::random::<u64>()));
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .with_context(|| format!("folder {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for PrivateFolder {
    fn drop(&mut self) {
        if let Err(e) = fs::remove_dir_all(&self.0) {
            tracing::warn!(folder = %self.0.display(), error = %e, "could not be removed");
        }
    }
}

/// The time as it stands in geth's file names: 2026-01-31T12-00-00.000000000Z.
fn utc_now() -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let (year, month, day) = civil_date(now.as_secs() / 86_400);
    let second = now.as_secs() % 86_400;
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}-{:02}-{:02}.{:09}Z",
        second / 3_600,
        second / 60 % 60,
        second % 60,
        now.subsec_nanos()
    )
}

/// Year, month and day of a day since 1970 in the Gregorian calendar. Years are counted from March, so that the leap day
/// is the last one of a year (H. Hinnant, "chrono-compatible low-level date algorithms").
fn civil_date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_development_accounts_are_the_well_known_ones() {
        let keys = development_keys();
        assert_eq!(keys.len(), 10);
        assert_eq!(
            keys[0].0.to_string(),
            "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"
        );
        assert_eq!(
            keys[9].0.to_string(),
            "0xa0Ee7A142d267C1f36714E4a8F75612F20a79720"
        );
        assert!(
            keys.iter()
                .all(|(address, key)| address_of_key(key) == *address)
        );
    }

    #[test]
    fn a_signature_recovers_to_the_account() {
        let (address, key) = development_keys()[3];
        for round in 0..20u8 {
            let hash = B256::repeat_byte(round);
            let signature = sign(&key, hash);
            assert_eq!(
                quorate_chain::recover_signer(&signature, hash).unwrap(),
                address
            );
        }
    }

    #[test]
    fn a_keystore_file_opens_with_its_passphrase_only_and_is_private() {
        let folder = tempfile::tempdir().unwrap();
        let (address, key) = development_keys()[1];
        let stored = store(folder.path(), &key, "right").unwrap();
        assert_eq!(
            fs::metadata(&stored.file).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(list(folder.path()).unwrap(), std::slice::from_ref(&stored));
        assert_eq!(open(&stored.file, "right").unwrap(), key);
        assert!(open(&stored.file, "wrong").is_err());
        assert!(
            store(folder.path(), &key, "right")
                .unwrap_err()
                .to_string()
                .contains("already")
        );
        // Nothing but the file is left.
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);

        let mut config = NodeConfig::default();
        config.accounts.keystore_dir = folder.path().to_owned();
        let locked = Accounts::of(&config).unwrap();
        assert_eq!(locked.accounts(), [address]);
        assert_eq!(
            locked.sign_hash(address, B256::ZERO),
            Err(SignError::Locked { account: address })
        );
        let other = development_keys()[2].0;
        assert_eq!(
            locked.sign_hash(other, B256::ZERO),
            Err(SignError::UnknownAccount { account: other })
        );

        let password = folder.path().join("password.txt");
        fs::write(&password, "right\n").unwrap();
        config.accounts.unlock = vec![address];
        config.accounts.password_file = Some(password.clone());
        let unlocked = Accounts::of(&config).unwrap();
        assert_eq!(
            unlocked.sign_hash(address, B256::ZERO),
            Ok(sign(&key, B256::ZERO))
        );
        fs::write(&password, "wrong\n").unwrap();
        assert!(format!("{:#}", Accounts::of(&config).unwrap_err()).contains("accounts.unlock"));
    }

    #[test]
    fn development_accounts_come_first_and_in_their_order() {
        let mut config = NodeConfig::default();
        config.accounts.keystore_dir = "/nonexistent/keystore".into();
        config.accounts.dev_accounts = true;
        let expected: Vec<Address> = development_keys()
            .into_iter()
            .map(|(address, _)| address)
            .collect();
        assert_eq!(Accounts::of(&config).unwrap().accounts(), expected);
    }

    #[test]
    fn dates_follow_the_calendar() {
        assert_eq!(civil_date(0), (1970, 1, 1));
        assert_eq!(civil_date(11_016), (2000, 2, 29));
        assert_eq!(civil_date(20_088), (2024, 12, 31));
        assert_eq!(civil_date(20_089), (2025, 1, 1));
    }
}
