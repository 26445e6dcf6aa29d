//! KeyStoreTests: key files (version 3) that a password opens, through the library that our key files use.

use alloy_signer_local::PrivateKeySigner;
use serde_json::Value;

use super::json;

/// Opens the key file and compares the key.
pub fn check(test: &Value) -> Result<(), String> {
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let file = folder.path().join("key");
    let content = test.get("json").ok_or("json: missing")?.to_string();
    std::fs::write(&file, content).map_err(|e| e.to_string())?;
    let signer = PrivateKeySigner::decrypt_keystore(&file, json::text(test, "password")?)
        .map_err(|e| e.to_string())?;
    let expected = json::bytes(json::text(test, "priv")?)?;
    let found = signer.to_bytes();
    if found.as_slice() == expected.as_ref() {
        Ok(())
    } else {
        Err(format!("key {found}, expected {expected}"))
    }
}
