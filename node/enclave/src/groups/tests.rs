use quorate_kv::MemoryKv;

use super::*;

/// Computed apart from this code, by Python's hashlib.
const GOLDEN_ID: &str = "6ba111e627a4dc86c0f56e4db935a2a2fe37975d5fee880526c424245aed4b58";

fn members(of: &[u8]) -> BTreeSet<PublicKey> {
    let keys = of.iter().map(|byte| PublicKey::from_bytes([*byte; 32]));
    keys.collect()
}

fn new(name: &str, of: &[u8]) -> NewGroup {
    NewGroup {
        name: name.to_owned(),
        description: "what it is for".to_owned(),
        members: members(of),
        payloads_live_ms: Some(60_000),
    }
}

#[test]
fn a_group_is_made_once_found_every_way_and_deleted() {
    let kv = Arc::new(MemoryKv::new());
    let groups = PrivacyGroups::open(kv.clone(), 10).unwrap();
    let made = groups.create(new("trade", &[2, 3]), 5).unwrap();
    // Again, by another hand: as it was.
    let mut again = new("trade", &[3, 2]);
    again.description = "another text".to_owned();
    assert_eq!(groups.create(again, 6).unwrap(), made);
    let other = groups.create(new("loans", &[2, 3, 4]), 7).unwrap();

    assert_eq!(groups.get(&made.id).unwrap(), Some(made.clone()));
    assert_eq!(groups.resolve("trade").unwrap(), made);
    assert_eq!(groups.resolve(&made.id.to_string()).unwrap(), made);
    let found = groups.find(&members(&[2, 3]), 10);
    assert_eq!(found.unwrap(), vec![made.clone()]);
    assert_eq!(groups.find(&members(&[2]), 10).unwrap(), []);
    let of_two = groups.of_member(&PublicKey::from_bytes([2; 32]), None, 10);
    assert_eq!(of_two.unwrap().len(), 2);
    let (first, rest) = (made.id.min(other.id), made.id.max(other.id));
    let behind = groups.of_member(&PublicKey::from_bytes([2; 32]), Some(&first), 10);
    let behind: Vec<_> = behind.unwrap().into_iter().map(|group| group.id).collect();
    assert_eq!(behind, [rest]);
    let of_four = groups.of_member(&PublicKey::from_bytes([4; 32]), None, 10);
    assert_eq!(of_four.unwrap(), vec![other.clone()]);

    // It survives a crash, since making it ended with a barrier.
    kv.crash();
    let groups = PrivacyGroups::open(kv.clone(), 10).unwrap();
    assert_eq!(groups.delete(&made.id).unwrap(), Some(made.clone()));
    assert_eq!(groups.delete(&made.id).unwrap(), None);
    assert!(matches!(
        groups.resolve("trade"),
        Err(GroupError::Unknown { .. })
    ));
    assert_eq!(groups.list(None, 10).unwrap(), [other]);
    assert_eq!(groups.find(&members(&[2, 3]), 10).unwrap(), []);
}

#[test]
fn the_id_depends_on_chain_name_and_members_alone() {
    let id = GroupId::of(10, "trade", &members(&[2, 3]));
    assert_eq!(id, GroupId::of(10, "trade", &members(&[3, 2])));
    assert_ne!(id, GroupId::of(11, "trade", &members(&[2, 3])));
    assert_ne!(id, GroupId::of(10, "trades", &members(&[2, 3])));
    assert_ne!(id, GroupId::of(10, "trade", &members(&[2])));
    // Two nodes that never spoke about it agree; the value is written down so that versions agree, too.
    assert_eq!(hex::encode(id.as_bytes()), GOLDEN_ID);
    assert_eq!(id.to_string().parse::<GroupId>().unwrap(), id);
    assert!("trade".parse::<GroupId>().is_err());
}

#[test]
fn a_name_that_several_groups_have_is_ambiguous() {
    let groups = PrivacyGroups::open(Arc::new(MemoryKv::new()), 10).unwrap();
    groups.create(new("trade", &[2, 3]), 1).unwrap();
    let second = groups.create(new("trade", &[2, 4]), 1).unwrap();
    groups.create(new("trade2", &[2, 4]), 1).unwrap();
    assert_eq!(
        groups.resolve("trade"),
        Err(GroupError::Ambiguous {
            name: "trade".to_owned(),
            count: 2
        })
    );
    assert_eq!(groups.resolve(&second.id.to_string()).unwrap(), second);
}

#[test]
fn groups_are_listed_in_pages() {
    let groups = PrivacyGroups::open(Arc::new(MemoryKv::new()), 10).unwrap();
    for n in 0..7 {
        groups
            .create(new(&format!("group {n}"), &[2, 3]), 1)
            .unwrap();
    }
    let mut seen = Vec::new();
    let mut after = None;
    loop {
        let page = groups.list(after.as_ref(), 3).unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.id);
        seen.extend(page.into_iter().map(|group| group.id));
    }
    assert_eq!(seen.len(), 7);
    assert!(seen.is_sorted());
}

#[test]
fn what_is_out_of_range_is_refused_by_field() {
    let groups = PrivacyGroups::open(Arc::new(MemoryKv::new()), 10).unwrap();
    let check = |change: fn(&mut NewGroup), field: &str| {
        let mut new = new("trade", &[2, 3]);
        change(&mut new);
        match groups.create(new, 1) {
            Err(GroupError::Malformed { field: found, .. }) => assert_eq!(found, field),
            other => panic!("{field}: {other:?}"),
        }
    };
    check(|g| g.name.clear(), "name");
    check(|g| g.name = "a".repeat(65), "name");
    check(|g| g.name = "a\0b".to_owned(), "name");
    check(|g| g.description = "a".repeat(1025), "description");
    check(|g| g.members.clear(), "members");
    check(|g| g.members = members(&[0]), "members");
    check(
        |g| {
            let key = |n: u16| {
                let mut bytes = [7; 32];
                bytes[..2].copy_from_slice(&n.to_be_bytes());
                PublicKey::from_bytes(bytes)
            };
            g.members = (0..257).map(key).collect();
        },
        "members",
    );
    check(|g| g.payloads_live_ms = Some(0), "payloads_live_ms");
    assert_eq!(groups.list(None, 10).unwrap(), []);
}
