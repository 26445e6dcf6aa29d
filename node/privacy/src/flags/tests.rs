use super::*;

fn key(number: u8) -> PublicKey {
    PublicKey::from_bytes([number; 32])
}

fn keys(numbers: &[u8]) -> BTreeSet<PublicKey> {
    numbers.iter().map(|number| key(*number)).collect()
}

const FLAGS: [PrivacyFlag; 4] = [
    PrivacyFlag::Standard,
    PrivacyFlag::PartyProtection,
    PrivacyFlag::MandatoryParties,
    PrivacyFlag::StateValidation,
];

fn contract(flag: PrivacyFlag, parties: &[u8], mandatory: &[u8]) -> ContractMetadata {
    ContractMetadata {
        address: Address::repeat_byte(1),
        creation_transaction: B256::ZERO,
        creation_hash: PayloadHash::from_bytes([5; 64]),
        flag,
        parties: (flag == PrivacyFlag::StateValidation).then(|| keys(parties)),
        mandatory: keys(mandatory),
        creator: key(1),
        as_recipient: key(1),
        created_at: 1,
    }
}

fn check(
    flag: PrivacyFlag,
    parties: &[u8],
    named: Option<u8>,
    metadata: Option<ContractMetadata>,
) -> Result<(), FlagViolation> {
    let address = Address::repeat_byte(1);
    let parties = keys(parties);
    let affected = named
        .map(|byte| (address, PayloadHash::from_bytes([byte; 64])))
        .into_iter()
        .collect();
    let claim = Claim {
        flag,
        parties: &parties,
        affected: &affected,
    };
    check_contracts(&claim, &[(address, metadata)].into())
}

#[test]
fn only_contracts_of_the_same_flag_are_affected() {
    for sent in FLAGS {
        for of_contract in FLAGS {
            let metadata = contract(of_contract, &[1, 2], &[]);
            let result = check(sent, &[1, 2], Some(5), Some(metadata));
            if sent == of_contract {
                assert_eq!(result, Ok(()));
            } else if of_contract == PrivacyFlag::Standard {
                assert!(matches!(result, Err(FlagViolation::NoFlag { .. })));
            } else {
                assert!(matches!(result, Err(FlagViolation::OtherFlag { .. })));
            }
        }
    }
}

#[test]
fn a_contract_of_unknown_creation_counts_as_one_without_flag() {
    assert_eq!(check(PrivacyFlag::Standard, &[1], None, None), Ok(()));
    for flag in &FLAGS[1..] {
        let result = check(*flag, &[1], Some(5), None);
        assert!(matches!(result, Err(FlagViolation::NoFlag { .. })));
    }
}

#[test]
fn each_rule_has_its_violation() {
    use FlagViolation::{MandatoryMissing, NotProven, OtherParties};
    let protection = |named| {
        let flag = PrivacyFlag::PartyProtection;
        check(flag, &[9], named, Some(contract(flag, &[], &[])))
    };
    assert_eq!(protection(Some(5)), Ok(()));
    assert!(matches!(protection(None), Err(NotProven { .. })));
    assert!(matches!(protection(Some(6)), Err(NotProven { .. })));
    let mandatory = |parties: &[u8]| {
        let flag = PrivacyFlag::MandatoryParties;
        check(flag, parties, Some(5), Some(contract(flag, &[], &[2, 3])))
    };
    assert_eq!(mandatory(&[1, 2, 3, 4]), Ok(()));
    assert!(matches!(mandatory(&[1, 3]), Err(MandatoryMissing { party, .. }) if party == key(2)));
    let validated = |parties: &[u8]| {
        let flag = PrivacyFlag::StateValidation;
        check(flag, parties, Some(5), Some(contract(flag, &[1, 2], &[])))
    };
    assert_eq!(validated(&[1, 2]), Ok(()));
    for parties in [&[1][..], &[1, 2, 3], &[1, 3]] {
        assert!(matches!(validated(parties), Err(OtherParties { .. })));
    }
}

#[test]
fn the_root_counts_where_the_terms_have_one() {
    let terms = |flag, exec_root| Terms {
        hash: PayloadHash::from_bytes([7; 64]),
        flag,
        group: None,
        sender: key(1),
        from: None,
        parties: keys(&[1, 2]),
        mandatory: keys(&[]),
        affected: BTreeMap::new(),
        exec_root,
        base: BTreeMap::new(),
        sender_node: Default::default(),
        acknowledgements: crate::Acknowledgements::All,
    };
    let nothing = BTreeMap::new();
    let root = |byte| Some(B256::repeat_byte(byte));
    let validated = terms(PrivacyFlag::StateValidation, root(1));
    assert_eq!(judge(&validated, &nothing, root(1)), Ok(()));
    assert!(matches!(
        judge(&validated, &nothing, root(2)),
        Err(FlagViolation::OtherRoot { .. })
    ));
    let silent = terms(PrivacyFlag::StateValidation, None);
    assert!(judge(&silent, &nothing, root(2)).is_err());
    let standard = terms(PrivacyFlag::Standard, None);
    assert_eq!(judge(&standard, &nothing, None), Ok(()));
}

#[test]
fn the_sender_is_a_party_without_being_named() {
    let address = Address::repeat_byte(1);
    let flag = PrivacyFlag::MandatoryParties;
    let terms = |mandatory: &[u8]| Terms {
        hash: PayloadHash::from_bytes([7; 64]),
        flag,
        group: None,
        sender: key(1),
        from: None,
        parties: BTreeSet::new(),
        mandatory: keys(mandatory),
        affected: [(address, PayloadHash::from_bytes([5; 64]))].into(),
        exec_root: None,
        base: BTreeMap::new(),
        sender_node: Default::default(),
        acknowledgements: crate::Acknowledgements::All,
    };
    let called = [(address, Some(contract(flag, &[], &[1, 2])))].into();
    assert_eq!(judge(&terms(&[2]), &called, None), Ok(()));
    assert!(judge(&terms(&[3]), &called, None).is_err());
}
