//! The table of scenarios, and the ways in which it is run.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use super::parties::{Disturbance, Form, Parties};
use super::{basics, dual_state, events, flags, groups, limits, nested, raw, third_party};

/// Something that a user does, and what must come of it.
#[derive(Clone, Copy)]
pub struct Scenario {
    pub name: &'static str,
    pub run: fn(&mut Parties),
    /// False for those that only see refusals: there is no middle in which something could fail.
    pub disturbable: bool,
}

/// The scenarios of a file: those that can be disturbed in their middle, and the others.
macro_rules! scenarios {
    (disturbed: [$($disturbed:ident),* $(,)?], calm: [$($calm:ident),* $(,)?]) => {
        pub const SCENARIOS: &[$crate::privacy::table::Scenario] = &[
            $($crate::privacy::table::Scenario {
                name: stringify!($disturbed), run: $disturbed, disturbable: true,
            },)*
            $($crate::privacy::table::Scenario {
                name: stringify!($calm), run: $calm, disturbable: false,
            },)*
        ];
    };
}
pub(super) use scenarios;

/// One half of the table each, so that no test takes too long.
const EXECUTION: &[&[Scenario]] = &[
    basics::SCENARIOS,
    nested::SCENARIOS,
    dual_state::SCENARIOS,
    events::SCENARIOS,
];
const AGREEMENTS: &[&[Scenario]] = &[
    raw::SCENARIOS,
    flags::SCENARIOS,
    limits::SCENARIOS,
    groups::SCENARIOS,
    third_party::SCENARIOS,
];

/// Runs scenarios one after the other in one consortium, and names all that failed.
fn run(form: Form, disturbance: Disturbance, table: &[&[Scenario]]) {
    let only = std::env::var("QUORATE_SCENARIO").unwrap_or_default();
    let scenarios: Vec<Scenario> = table
        .iter()
        .flat_map(|scenarios| scenarios.iter().copied())
        .filter(|scenario| disturbance == Disturbance::Nothing || scenario.disturbable)
        .filter(|scenario| scenario.name.contains(&only))
        .collect();
    if scenarios.is_empty() {
        assert!(!only.is_empty(), "the table is empty");
        return;
    }
    let mut parties = Parties::of(form).disturbed_by(disturbance);
    let mut failed = Vec::new();
    for scenario in &scenarios {
        let (started, before) = (Instant::now(), parties.disturbed);
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            (scenario.run)(&mut parties);
            parties.settle();
            let disturbed = parties.disturbed > before;
            assert_eq!(
                disturbed,
                disturbance != Disturbance::Nothing,
                "was it disturbed?"
            );
        }));
        let outcome = outcome.map_err(|panic| match panic.downcast::<String>() {
            Ok(text) => *text,
            Err(panic) => panic
                .downcast_ref::<&str>()
                .map_or("?", |text| text)
                .to_owned(),
        });
        let took = started.elapsed().as_millis();
        match outcome {
            Ok(()) => eprintln!("ok      {} ({took} ms)", scenario.name),
            Err(reason) => {
                eprintln!("FAILED  {} ({took} ms): {reason}", scenario.name);
                failed.push(format!("{}: {reason}", scenario.name));
                parties.restore();
            }
        }
    }
    if catch_unwind(AssertUnwindSafe(|| parties.finish())).is_err() {
        failed.push("the end of all scenarios".to_owned());
    }
    assert!(
        failed.is_empty(),
        "{} of {} scenarios failed with {form:?}, {disturbance:?}:\n{}",
        failed.len(),
        scenarios.len(),
        failed.join("\n")
    );
}

#[test]
fn there_are_sixty_scenarios_or_more_and_no_two_have_one_name() {
    let all = EXECUTION
        .iter()
        .chain(AGREEMENTS)
        .flat_map(|scenarios| scenarios.iter());
    let names: std::collections::BTreeSet<&str> =
        all.clone().map(|scenario| scenario.name).collect();
    assert_eq!(names.len(), all.clone().count());
    assert!(names.len() >= 60, "{}", names.len());
    let disturbable = all.filter(|scenario| scenario.disturbable).count();
    assert!(disturbable >= 40, "{disturbable}");
}

#[test]
fn private_execution_holds_with_markers() {
    run(Form::Marker, Disturbance::Nothing, EXECUTION);
}

#[test]
fn private_execution_holds_in_quorums_form() {
    run(Form::Quorum, Disturbance::Nothing, EXECUTION);
}

#[test]
fn private_execution_holds_with_markers_while_leaders_are_killed() {
    run(Form::Marker, Disturbance::LeaderKilled, EXECUTION);
}

#[test]
fn private_execution_holds_in_quorums_form_while_leaders_are_killed() {
    run(Form::Quorum, Disturbance::LeaderKilled, EXECUTION);
}

#[test]
fn private_execution_holds_with_markers_while_an_enclave_is_down() {
    run(Form::Marker, Disturbance::EnclaveDown, EXECUTION);
}

#[test]
fn private_execution_holds_in_quorums_form_while_an_enclave_is_down() {
    run(Form::Quorum, Disturbance::EnclaveDown, EXECUTION);
}

#[test]
fn agreements_of_parties_hold_with_markers() {
    run(Form::Marker, Disturbance::Nothing, AGREEMENTS);
}

#[test]
fn agreements_of_parties_hold_in_quorums_form() {
    run(Form::Quorum, Disturbance::Nothing, AGREEMENTS);
}

#[test]
fn agreements_of_parties_hold_with_markers_while_leaders_are_killed() {
    run(Form::Marker, Disturbance::LeaderKilled, AGREEMENTS);
}

#[test]
fn agreements_of_parties_hold_in_quorums_form_while_leaders_are_killed() {
    run(Form::Quorum, Disturbance::LeaderKilled, AGREEMENTS);
}

#[test]
fn agreements_of_parties_hold_with_markers_while_an_enclave_is_down() {
    run(Form::Marker, Disturbance::EnclaveDown, AGREEMENTS);
}

#[test]
fn agreements_of_parties_hold_in_quorums_form_while_an_enclave_is_down() {
    run(Form::Quorum, Disturbance::EnclaveDown, AGREEMENTS);
}
