use std::os::unix::fs::PermissionsExt as _;

use tempfile::TempDir;

use super::*;
use crate::KeyFolder;
use crate::KeyFolderError;

/// Cheap, for tests.
const COST: PassphraseCost = PassphraseCost {
    memory_kib: 64,
    iterations: 1,
    parallelism: 1,
};

fn protection() -> Protection {
    Protection::Passphrase(Passphrase::new("correct horse"), COST)
}

#[test]
fn an_open_file_of_tesseras_is_read() {
    // The key pair of NaCl's published example.
    let json =
        br#"{"type":"unlocked","data":{"bytes":"dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo="}}"#;
    let file = KeyFile::decode(json).unwrap();
    assert!(!file.is_locked());
    assert_eq!(file.public_key(), None);
    let identity = file.unlock(None).unwrap();
    assert!(identity.hybrid_secret().is_none());
    assert_eq!(
        identity.public().to_string(),
        "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo="
    );
}

#[test]
fn a_locked_file_that_constellation_wrote_opens_with_its_passphrase() {
    // From Constellation's own test of old files; Tessera took the form over.
    let json = br#"{"data":{"aopts":{"variant":"i","memory":8192,"iterations":2,"parallelism":2},
        "snonce":"LJ7QUiZ0kD/mPf/aHvCEQKDhlUucZM0s",
        "asalt":"I5bvdFhNpr8hlknzOHIO7Q3S5Ubs9ucUdVneghrebZQ=",
        "sbox":"iHJAfcpWWE5PsvwZRwr5gCtwMKu7xXZAAPCVRGfx06l/I5QgXs0V/czOqYsMxoEG"},"type":"argon2sbox"}"#;
    let file = KeyFile::decode(json).unwrap();
    assert!(file.is_locked());
    assert!(file.unlock(Some(&Passphrase::new("foo"))).is_ok());
    assert!(matches!(
        file.unlock(Some(&Passphrase::new("fooo"))),
        Err(KeyFileError::WrongPassphrase)
    ));
    assert!(matches!(file.unlock(None), Err(KeyFileError::Locked)));
}

#[test]
fn our_files_read_back_under_a_passphrase_and_without_one() {
    let dir = TempDir::new().unwrap();
    let identity = Identity::generate().unwrap();
    for (name, protection) in [("locked", protection()), ("open", Protection::None)] {
        let path = dir.path().join(name);
        write_new(&path, &identity, &protection).unwrap();
        let file = KeyFile::read(&path).unwrap();
        assert_eq!(file.public_key(), Some(identity.public()));
        let passphrase = Passphrase::new("correct horse");
        let again = file.unlock(Some(&passphrase)).unwrap();
        assert_eq!(again.announcement(), identity.announcement());
        assert_eq!(again.secret(), identity.secret());
        assert_eq!(again.hybrid_secret(), identity.hybrid_secret());
        assert_eq!(file.is_locked(), name == "locked");
        if file.is_locked() {
            let wrong = file.unlock(Some(&Passphrase::new("wrong horse")));
            assert_eq!(wrong.unwrap_err(), KeyFileError::WrongPassphrase);
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(!text.contains("bytes"), "{text}");
        }
    }
}

#[test]
fn a_key_file_is_its_owners_alone_and_is_never_overwritten() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("a.1.key");
    let identity = Identity::generate().unwrap();
    write_new(&path, &identity, &Protection::None).unwrap();
    let before = std::fs::read(&path).unwrap();
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    let other = Identity::generate().unwrap();
    assert_eq!(
        write_new(&path, &other, &Protection::None),
        Err(KeyFileError::Exists { file: path.clone() })
    );
    assert_eq!(std::fs::read(&path).unwrap(), before);
    // Nothing else was left in the folder.
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);

    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
    assert!(matches!(
        KeyFile::read(&path),
        Err(KeyFileError::Exposed { mode: 0o640, .. })
    ));
    assert!(KeyFile::read_mounted(&path).is_ok());
}

#[test]
fn a_changed_or_exchanged_part_of_a_file_is_noticed() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("a");
    let (one, two) = (Identity::generate().unwrap(), Identity::generate().unwrap());
    for (protection, expected) in [
        (protection(), KeyFileError::WrongPassphrase),
        (
            Protection::None,
            KeyFileError::OtherKey {
                named: two.public(),
            },
        ),
    ] {
        write_new(&path, &one, &protection).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        // Another public key on top of the same secret.
        let text = text.replace(&one.public().to_string(), &two.public().to_string());
        let file = KeyFile::decode(text.as_bytes()).unwrap();
        let passphrase = Passphrase::new("correct horse");
        assert_eq!(file.unlock(Some(&passphrase)).unwrap_err(), expected);
        std::fs::remove_file(&path).unwrap();
    }
}

#[test]
fn what_is_no_key_file_is_refused_by_field_and_nothing_of_it_is_quoted() {
    let check = |json: &str, field: &str| match KeyFile::decode(json.as_bytes()) {
        Err(e @ KeyFileError::Malformed { field: found, .. }) => {
            assert_eq!(found, field);
            assert!(!e.to_string().contains("sesame"), "{e}");
        }
        other => panic!("{json}: {other:?}"),
    };
    check("", "content");
    check(r#"{"type":"sesame"}"#, "type");
    check(r#"{"type":"unlocked"}"#, "content");
    check(r#"{"type":"unlocked","data":{}}"#, "data.bytes");
    check(
        r#"{"type":"unlocked","data":{"bytes":"sesame"}}"#,
        "data.bytes",
    );
    check(
        r#"{"type":"unlocked","data":{"bytes":"AAAA"}}"#,
        "data.bytes",
    );
    check(r#"{"type":"argon2sbox","data":{}}"#, "data.aopts");
    let locked = |variant: &str, memory: u64, iterations: u64, parallelism: u64| {
        format!(
            r#"{{"type":"argon2sbox","data":{{"aopts":{{"variant":"{variant}","memory":{memory},"iterations":{iterations},
            "parallelism":{parallelism}}},"snonce":"","asalt":"","sbox":""}}}}"#
        )
    };
    check(&locked("x", 64, 1, 1), "data.aopts.variant");
    // Refused before any memory is taken.
    check(&locked("id", 4_294_967_295, 1, 1), "memory");
    check(&locked("id", 64, 1001, 1), "iterations");
    check(&locked("id", 64, 1, 65), "parallelism");
    check(&locked("id", 8, 1, 2), "memory");
    check(&locked("id", 64, 1, 1), "data.snonce");
}

#[test]
fn a_passphrase_file_may_end_in_a_line_break_and_must_not_be_empty() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("passphrase");
    for (content, expected) in [("abc", "abc"), ("abc\n", "abc"), ("abc \r\n", "abc ")] {
        std::fs::write(&path, content).unwrap();
        let read = Passphrase::read(&path).unwrap();
        assert_eq!(read.as_bytes(), expected.as_bytes());
    }
    std::fs::write(&path, "\n").unwrap();
    assert!(Passphrase::read(&path).is_err());
    std::fs::write(&path, vec![b'a'; 4097]).unwrap();
    assert!(Passphrase::read(&path).is_err());
}

#[test]
fn no_debug_text_shows_a_secret() {
    let secret = [0xabu8; 32];
    let held: crate::identity::Secret = Box::new(Zeroizing::new(secret));
    let identity = Identity::from_secrets(held.clone(), Some(held.clone()));
    let encoded = Document::encode(&identity, &Protection::None).unwrap();
    let file = KeyFile::decode(&encoded).unwrap();
    let mut ring = crate::KeyRing::empty();
    ring.add(identity);
    let text = format!(
        "{ring:?} {file:?} {:?} {:?} {:?}",
        crate::LocalEnclave::new(crate::KeyRing::generate(1).unwrap()),
        Protection::Passphrase(Passphrase::new("sesame"), COST),
        crate::fixtures::request(crate::Suite::Nacl, &[], &secret),
    );
    let base64 = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, secret);
    for form in ["abab", "171, 171", base64.trim_end_matches('='), "sesame"] {
        assert!(
            !text.to_lowercase().contains(&form.to_lowercase()),
            "{form} in {text}"
        );
    }
}

#[test]
fn a_folder_makes_lists_rotates_and_loads_keys() {
    let dir = TempDir::new().unwrap();
    let folder = KeyFolder::open(dir.path().join("keys")).unwrap();
    let first = folder.generate("bank", &protection()).unwrap();
    let other = folder.generate("audit", &Protection::None).unwrap();
    assert_eq!(
        folder.generate("bank", &protection()),
        Err(KeyFolderError::Taken {
            name: "bank".to_owned()
        })
    );
    let second = folder.rotate("bank", &protection()).unwrap();
    assert_eq!((first.generation, second.generation), (1, 2));
    assert!(matches!(
        folder.rotate("none", &protection()),
        Err(KeyFolderError::Unknown { .. })
    ));
    for name in ["", "Bank", "a.b", "../up", &"a".repeat(33)] {
        let made = folder.generate(name, &Protection::None);
        assert!(matches!(made, Err(KeyFolderError::Name { .. })), "{name}");
    }
    let listed: Vec<_> = folder
        .list()
        .unwrap()
        .into_iter()
        .map(|l| (l.name, l.generation, l.active, l.locked))
        .collect();
    let expected = [
        ("audit", 1, true, false),
        ("bank", 1, false, true),
        ("bank", 2, true, true),
    ];
    assert_eq!(listed, expected.map(|(n, g, a, l)| (n.to_owned(), g, a, l)));

    assert!(folder.load(None).is_err());
    let mut ring = folder
        .load(Some(&Passphrase::new("correct horse")))
        .unwrap();
    assert_eq!(ring.len(), 3);
    let active: Vec<_> = ring.announcements().into_iter().map(|a| a.key).collect();
    assert_eq!(active, [other.announcement.key, second.announcement.key]);
    assert!(ring.set_default(&second.announcement.key));
    assert!(!ring.set_default(&first.announcement.key));
    assert_eq!(ring.announcements()[0].key, second.announcement.key);
}

#[test]
fn what_was_sent_to_a_key_before_it_was_rotated_still_opens() {
    let dir = TempDir::new().unwrap();
    let folder = KeyFolder::open(dir.path()).unwrap();
    folder.generate("bank", &Protection::None).unwrap();
    let before = crate::LocalEnclave::new(folder.load(None).unwrap());
    let sealed = crate::fixtures::sealed(crate::Suite::Hybrid, &[&before], b"old");
    let old_key = crate::fixtures::name(&before);
    folder.rotate("bank", &Protection::None).unwrap();
    before.replace_keys(folder.load(None).unwrap());
    let opening = before.open_now(&sealed.envelope, sealed.envelope.context());
    let Ok(crate::Opening::Opened(opened)) = opening else {
        panic!("{opening:?}");
    };
    assert_eq!(opened.as_recipient, old_key);
    // But it does not send any more.
    let mut request = crate::fixtures::request(crate::Suite::Nacl, &[], b"new");
    request.sender = Some(old_key);
    assert_eq!(
        before.seal_now(&request),
        Err(crate::Refusal::UnknownSender { key: old_key }.into())
    );
}

#[test]
fn an_imported_key_of_tesseras_gains_an_x_wing_key_and_stays_the_same_party() {
    let dir = TempDir::new().unwrap();
    let folder = KeyFolder::open(dir.path()).unwrap();
    let json =
        br#"{"type":"unlocked","data":{"bytes":"dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo="}}"#;
    let file = KeyFile::decode(json).unwrap();
    let key = file.unlock(None).unwrap().public();
    let listing = folder.import("old", &file, None, &protection()).unwrap();
    assert_eq!(listing.announcement.key, key);
    assert!(listing.announcement.hybrid.is_some());
    assert!(matches!(
        folder.import("again", &file, None, &protection()),
        Err(KeyFolderError::Known { .. })
    ));
}
