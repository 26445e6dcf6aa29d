//! The JSON forms.

use std::fmt;

use argon2::{Algorithm, Argon2, Params, Version};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chacha20poly1305::aead::Payload;
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use crypto_secretbox::XSalsa20Poly1305;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize as _, Zeroizing};

use super::{KeyFileError, Passphrase, PassphraseCost, Protection};
use crate::identity::{Identity, Secret};
use crate::random::random;
use crate::{HybridKey, KeyAnnouncement, PublicKey};

const MEMORY_KIB_MAX: u32 = 4 << 20;
const ITERATIONS_MAX: u32 = 1000;
const PARALLELISM_MAX: u32 = 64;

/// What a key file says.
pub(crate) enum Document {
    TesseraOpen { secret: Secret },
    TesseraLocked(TesseraLocked),
    Ours(Ours),
}

pub(crate) struct TesseraLocked {
    algorithm: Algorithm,
    cost: PassphraseCost,
    salt: Vec<u8>,
    nonce: [u8; 24],
    sealed: Vec<u8>,
}

pub(crate) struct Ours {
    named: KeyAnnouncement,
    content: Content,
}

enum Content {
    Open(Zeroizing<Vec<u8>>),
    Locked {
        cost: PassphraseCost,
        salt: Vec<u8>,
        nonce: [u8; 24],
        sealed: Vec<u8>,
    },
}

impl fmt::Debug for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::TesseraOpen { .. } => "TesseraOpen",
            Self::TesseraLocked(_) => "TesseraLocked",
            Self::Ours(_) => "Ours",
        };
        f.debug_struct(name)
            .field("named", &self.named())
            .finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct AnyJson {
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
struct TesseraJson {
    data: TesseraData,
}

#[derive(Deserialize)]
struct TesseraData {
    bytes: Option<Zeroizing<String>>,
    aopts: Option<ArgonOptions>,
    asalt: Option<String>,
    snonce: Option<String>,
    sbox: Option<String>,
}

#[derive(Deserialize)]
struct ArgonOptions {
    variant: String,
    memory: u32,
    iterations: u32,
    parallelism: u32,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct OursJson {
    #[serde(rename = "type")]
    kind: String,
    version: u32,
    public_key: PublicKey,
    #[serde(skip_serializing_if = "Option::is_none")]
    hybrid_public_key: Option<String>,
    protection: ProtectionJson,
}

/// One struct for both kinds: an enum with a tag would be read by way of copies that nobody wipes.
#[derive(Deserialize, Serialize, Default)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ProtectionJson {
    kind: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<Zeroizing<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_kib: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    iterations: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parallelism: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    salt: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nonce: Option<String>,
    #[serde(rename = "box", skip_serializing_if = "Option::is_none")]
    sealed: Option<String>,
}

impl Document {
    pub(crate) fn decode(json: &[u8]) -> Result<Self, KeyFileError> {
        let any: AnyJson = read_json(json)?;
        match any.kind.as_str() {
            "unlocked" => {
                let data = read_json::<TesseraJson>(json)?.data;
                let bytes = data.bytes.ok_or_else(|| bad("data.bytes", "present"))?;
                let bytes = base64_bytes("data.bytes", &bytes)?;
                let secret = secret(&bytes).ok_or_else(|| bad("data.bytes", "32 bytes"))?;
                Ok(Self::TesseraOpen { secret })
            }
            "argon2sbox" => {
                let data = read_json::<TesseraJson>(json)?.data;
                Ok(Self::TesseraLocked(TesseraLocked::new(data)?))
            }
            "quorate" => Ok(Self::Ours(Ours::new(read_json(json)?)?)),
            _ => Err(bad("type", "quorate, unlocked or argon2sbox")),
        }
    }

    pub(crate) fn is_locked(&self) -> bool {
        match self {
            Self::TesseraOpen { .. } => false,
            Self::TesseraLocked(_) => true,
            Self::Ours(ours) => match ours.content {
                Content::Open(_) => false,
                Content::Locked { .. } => true,
            },
        }
    }

    /// What the file says in the open about its key.
    pub(crate) fn named(&self) -> Option<&KeyAnnouncement> {
        match self {
            Self::TesseraOpen { .. } | Self::TesseraLocked(_) => None,
            Self::Ours(ours) => Some(&ours.named),
        }
    }

    pub(crate) fn unlock(&self, passphrase: Option<&Passphrase>) -> Result<Identity, KeyFileError> {
        match self {
            Self::TesseraOpen { secret } => Ok(Identity::from_secrets(secret.clone(), None)),
            Self::TesseraLocked(locked) => locked.unlock(passphrase.ok_or(KeyFileError::Locked)?),
            Self::Ours(ours) => ours.unlock(passphrase),
        }
    }

    pub(crate) fn encode(
        identity: &Identity,
        protection: &Protection,
    ) -> Result<Zeroizing<Vec<u8>>, KeyFileError> {
        let named = identity.announcement();
        let mut keys = Zeroizing::new(Vec::with_capacity(64));
        keys.extend_from_slice(identity.secret());
        if let Some(hybrid) = identity.hybrid_secret() {
            keys.extend_from_slice(hybrid);
        }
        let protection = match protection {
            Protection::None => ProtectionJson {
                kind: "none".to_owned(),
                bytes: Some(Zeroizing::new(STANDARD.encode(&*keys))),
                ..ProtectionJson::default()
            },
            Protection::Passphrase(passphrase, cost) => lock(&named, &keys, passphrase, cost)?,
        };
        let json = OursJson {
            kind: "quorate".to_owned(),
            version: 1,
            public_key: named.key,
            hybrid_public_key: named.hybrid.map(|key| STANDARD.encode(key.as_bytes())),
            protection,
        };
        // Room for the largest form, so that no copies are left behind by a growing vector.
        let mut out = Zeroizing::new(Vec::with_capacity(8192));
        serde_json::to_writer_pretty(&mut *out, &json)
            .map_err(|_| bad("content", "fit for JSON"))?;
        out.push(b'\n');
        Ok(out)
    }
}

fn lock(
    named: &KeyAnnouncement,
    keys: &[u8],
    passphrase: &Passphrase,
    cost: &PassphraseCost,
) -> Result<ProtectionJson, KeyFileError> {
    if passphrase.as_bytes().is_empty() {
        return Err(bad("passphrase", "not empty"));
    }
    let salt: [u8; 32] = random()?;
    let nonce: [u8; 24] = random()?;
    let key = stretch(Algorithm::Argon2id, cost, passphrase, &salt)?;
    let aad = bound_to(named);
    let cipher = x_cha_cha(&key)?;
    let payload = Payload {
        msg: keys,
        aad: &aad,
    };
    let sealed = chacha20poly1305::aead::Aead::encrypt(&cipher, &XNonce::from(nonce), payload);
    let sealed = sealed.map_err(|_| bad("content", "short enough to encrypt"))?;
    Ok(ProtectionJson {
        kind: "argon2id".to_owned(),
        bytes: None,
        memory_kib: Some(cost.memory_kib),
        iterations: Some(cost.iterations),
        parallelism: Some(cost.parallelism),
        salt: Some(STANDARD.encode(salt)),
        nonce: Some(STANDARD.encode(nonce)),
        sealed: Some(STANDARD.encode(sealed)),
    })
}

impl TesseraLocked {
    fn new(data: TesseraData) -> Result<Self, KeyFileError> {
        let options = data.aopts.ok_or_else(|| bad("data.aopts", "present"))?;
        let algorithm = match options.variant.as_str() {
            "id" => Algorithm::Argon2id,
            "i" => Algorithm::Argon2i,
            "d" => Algorithm::Argon2d,
            _ => return Err(bad("data.aopts.variant", "id, i or d")),
        };
        let cost = PassphraseCost {
            memory_kib: options.memory,
            iterations: options.iterations,
            parallelism: options.parallelism,
        };
        check_cost(&cost)?;
        Ok(Self {
            algorithm,
            cost,
            salt: required("data.asalt", data.asalt.as_deref())?.to_vec(),
            nonce: required("data.snonce", data.snonce.as_deref())?
                .as_slice()
                .try_into()
                .map_err(|_| bad("data.snonce", "24 bytes"))?,
            sealed: required("data.sbox", data.sbox.as_deref())?.to_vec(),
        })
    }

    fn unlock(&self, passphrase: &Passphrase) -> Result<Identity, KeyFileError> {
        use crypto_secretbox::KeyInit as _;
        use crypto_secretbox::aead::Aead as _;

        let key = stretch(self.algorithm, &self.cost, passphrase, &self.salt)?;
        let cipher = XSalsa20Poly1305::new(key.as_slice().into());
        let opened = cipher.decrypt((&self.nonce).into(), self.sealed.as_slice());
        let opened = Zeroizing::new(opened.map_err(|_| KeyFileError::WrongPassphrase)?);
        let secret = secret(&opened).ok_or_else(|| bad("data.sbox", "32 bytes, encrypted"))?;
        Ok(Identity::from_secrets(secret, None))
    }
}

impl Ours {
    fn new(json: OursJson) -> Result<Self, KeyFileError> {
        if json.version != 1 {
            return Err(bad("version", "1"));
        }
        let hybrid = match &json.hybrid_public_key {
            None => None,
            Some(text) => {
                let key = HybridKey::from_bytes(&base64_bytes("hybridPublicKey", text)?);
                Some(key.ok_or_else(|| bad("hybridPublicKey", "an X-Wing key"))?)
            }
        };
        let named = KeyAnnouncement {
            key: json.public_key,
            hybrid,
        };
        let from = json.protection;
        let content = match from.kind.as_str() {
            "none" => {
                let bytes = from.bytes.as_ref().map(|text| text.as_str());
                Content::Open(required("protection.bytes", bytes)?)
            }
            "argon2id" => {
                let number = |field, value: Option<u32>| value.ok_or_else(|| bad(field, "present"));
                let cost = PassphraseCost {
                    memory_kib: number("protection.memoryKib", from.memory_kib)?,
                    iterations: number("protection.iterations", from.iterations)?,
                    parallelism: number("protection.parallelism", from.parallelism)?,
                };
                check_cost(&cost)?;
                Content::Locked {
                    cost,
                    salt: required("protection.salt", from.salt.as_deref())?.to_vec(),
                    nonce: required("protection.nonce", from.nonce.as_deref())?
                        .as_slice()
                        .try_into()
                        .map_err(|_| bad("protection.nonce", "24 bytes"))?,
                    sealed: required("protection.box", from.sealed.as_deref())?.to_vec(),
                }
            }
            _ => return Err(bad("protection.kind", "none or argon2id")),
        };
        Ok(Self { named, content })
    }

    fn unlock(&self, passphrase: Option<&Passphrase>) -> Result<Identity, KeyFileError> {
        let keys = match &self.content {
            Content::Open(keys) => keys.clone(),
            Content::Locked {
                cost,
                salt,
                nonce,
                sealed,
            } => {
                let passphrase = passphrase.ok_or(KeyFileError::Locked)?;
                let key = stretch(Algorithm::Argon2id, cost, passphrase, salt)?;
                let aad = bound_to(&self.named);
                let cipher = x_cha_cha(&key)?;
                let payload = Payload {
                    msg: sealed,
                    aad: &aad,
                };
                let nonce = XNonce::from(*nonce);
                let opened = chacha20poly1305::aead::Aead::decrypt(&cipher, &nonce, payload);
                Zeroizing::new(opened.map_err(|_| KeyFileError::WrongPassphrase)?)
            }
        };
        let wrong = || bad("keys", "32 or 64 bytes");
        let (first, rest) = keys.split_at_checked(32).ok_or_else(wrong)?;
        let hybrid = match rest.len() {
            0 => None,
            32 => secret(rest),
            _ => return Err(wrong()),
        };
        let identity = Identity::from_secrets(secret(first).ok_or_else(wrong)?, hybrid);
        if identity.announcement() != self.named {
            return Err(KeyFileError::OtherKey {
                named: self.named.key,
            });
        }
        Ok(identity)
    }
}

/// What the box of a key file is bound to.
fn bound_to(named: &KeyAnnouncement) -> Vec<u8> {
    let mut out = b"quorate/enclave/key-file/1".to_vec();
    out.extend_from_slice(named.key.as_bytes());
    if let Some(hybrid) = &named.hybrid {
        out.extend_from_slice(hybrid.as_bytes());
    }
    out
}

fn x_cha_cha(key: &Secret) -> Result<XChaCha20Poly1305, KeyFileError> {
    use chacha20poly1305::aead::KeyInit as _;
    XChaCha20Poly1305::new_from_slice(key.as_slice()).map_err(|_| bad("key", "32 bytes"))
}

fn stretch(
    algorithm: Algorithm,
    cost: &PassphraseCost,
    passphrase: &Passphrase,
    salt: &[u8],
) -> Result<Secret, KeyFileError> {
    check_cost(cost)?;
    let refused = |_| {
        bad(
            "Argon2 options",
            "what Argon2 takes: salt of 8 bytes or more",
        )
    };
    let params = Params::new(cost.memory_kib, cost.iterations, cost.parallelism, Some(32));
    let argon = Argon2::new(algorithm, Version::V0x13, params.map_err(refused)?);
    let mut key: Secret = Box::new(Zeroizing::new([0; 32]));
    argon
        .hash_password_into(passphrase.as_bytes(), salt, key.as_mut_slice())
        .map_err(refused)?;
    Ok(key)
}

/// Checked before the memory is taken.
fn check_cost(cost: &PassphraseCost) -> Result<(), KeyFileError> {
    if cost.memory_kib > MEMORY_KIB_MAX {
        return Err(bad("memory", "at most 4194304 KiB"));
    }
    if !(1..=ITERATIONS_MAX).contains(&cost.iterations) {
        return Err(bad("iterations", "1 to 1000"));
    }
    if !(1..=PARALLELISM_MAX).contains(&cost.parallelism) {
        return Err(bad("parallelism", "1 to 64"));
    }
    if cost.memory_kib < 8 * cost.parallelism {
        return Err(bad("memory", "at least 8 KiB for each lane"));
    }
    Ok(())
}

fn secret(bytes: &[u8]) -> Option<Secret> {
    let mut secret: Secret = Box::new(Zeroizing::new([0; 32]));
    if bytes.len() != secret.len() {
        return None;
    }
    secret.copy_from_slice(bytes);
    Some(secret)
}

fn required(field: &'static str, text: Option<&str>) -> Result<Zeroizing<Vec<u8>>, KeyFileError> {
    base64_bytes(field, text.ok_or_else(|| bad(field, "present"))?)
}

fn base64_bytes(field: &'static str, text: &str) -> Result<Zeroizing<Vec<u8>>, KeyFileError> {
    let mut bytes = Zeroizing::new(vec![0u8; text.len() / 4 * 3 + 3]);
    match STANDARD.decode_slice(text, &mut bytes) {
        Ok(length) => {
            bytes.truncate(length);
            Ok(bytes)
        }
        Err(_) => {
            bytes.zeroize();
            Err(bad(field, "standard base64"))
        }
    }
}

/// The text of the parser's error is dropped: it may quote what it met.
fn read_json<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T, KeyFileError> {
    serde_json::from_slice(json)
        .map_err(|_| bad("content", "the JSON of a key file with all of its fields"))
}

fn bad(field: &'static str, allowed: &'static str) -> KeyFileError {
    KeyFileError::Malformed { field, allowed }
}
