//! What the rooms of private transactions refuse, as clients are told.

use quorate_enclave::{EnclaveError, GroupError};
use quorate_exchange::{ExchangeError, Unacknowledged};
use quorate_privacy::{PrivateReadError, PrivateStatus, SimulationRefusal};
use quorate_rpc::PrivacyError;

pub fn of_exchange(error: ExchangeError) -> PrivacyError {
    let names = |nodes: &[Unacknowledged]| nodes.iter().map(ToString::to_string).collect();
    match error {
        ExchangeError::UnknownRecipient { key } => PrivacyError::UnknownKey {
            key: key.to_string(),
        },
        ExchangeError::Malformed { field, allowed } => {
            PrivacyError::argument(field, format!("must be {allowed}"))
        }
        ExchangeError::NotAcknowledged { nodes, after_ms } => PrivacyError::NotAcknowledged {
            nodes: names(&nodes),
            waited_ms: after_ms,
        },
        ExchangeError::Refused { nodes } => {
            let (node, reason) = nodes.first().map_or_else(Default::default, |node| {
                (
                    format!("member {} ({})", node.raft_id, node.organisation),
                    node.reason.clone(),
                )
            });
            PrivacyError::RefusedByRecipient { node, reason }
        }
        ExchangeError::Conflict { contract, .. } => PrivacyError::Conflict { contract },
        ExchangeError::Busy { .. } => PrivacyError::Busy {
            what: "too many private payloads are being distributed".into(),
        },
        ExchangeError::Missing { hash } => PrivacyError::UnknownPayload { hash },
        ExchangeError::Enclave(error) => of_enclave(error),
        ExchangeError::Group(error) => of_group(error),
        ExchangeError::Outbox(error @ quorate_enclave::OutboxError::Full { .. }) => {
            PrivacyError::Busy {
                what: error.to_string(),
            }
        }
        ExchangeError::Stopping => PrivacyError::Stopping,
        error @ (ExchangeError::Erased { .. }
        | ExchangeError::Here { .. }
        | ExchangeError::Incomplete
        | ExchangeError::NoKey { .. }
        | ExchangeError::NotOurs { .. }
        | ExchangeError::NoHybridKey { .. }
        | ExchangeError::AlreadyExecuted { .. }
        | ExchangeError::Terms(_)) => PrivacyError::Refused {
            reason: error.to_string(),
        },
        error @ (ExchangeError::Signature { .. }
        | ExchangeError::PrivateState { .. }
        | ExchangeError::Store(_)
        | ExchangeError::Outbox(_)
        | ExchangeError::Records(_)) => PrivacyError::internal(error),
    }
}

pub fn of_enclave(error: EnclaveError) -> PrivacyError {
    match error {
        EnclaveError::Refused(refusal) => PrivacyError::Refused {
            reason: refusal.to_string(),
        },
        other => PrivacyError::Enclave {
            reason: other.to_string(),
        },
    }
}

pub fn of_group(error: GroupError) -> PrivacyError {
    match error {
        GroupError::Unknown { name } => PrivacyError::UnknownGroup { name },
        other => PrivacyError::Refused {
            reason: other.to_string(),
        },
    }
}

pub fn of_simulation(error: SimulationRefusal) -> PrivacyError {
    match error {
        SimulationRefusal::Behind(error) => of_read(error),
        SimulationRefusal::Busy => PrivacyError::Busy {
            what: error.to_string(),
        },
        error @ (SimulationRefusal::Flag(_)
        | SimulationRefusal::Parties { .. }
        | SimulationRefusal::TooManyContracts { .. }
        | SimulationRefusal::Execution(_)) => PrivacyError::Refused {
            reason: error.to_string(),
        },
        error @ (SimulationRefusal::Read(_) | SimulationRefusal::Block { .. }) => {
            PrivacyError::internal(error)
        }
    }
}

pub fn of_read(error: PrivateReadError) -> PrivacyError {
    match error {
        PrivateReadError::Behind {
            wanted,
            cursor,
            waiting,
        } => match waiting {
            Some(waiting) => PrivacyError::Behind {
                wanted,
                cursor: waiting.height,
                payload: Some(waiting.hash),
                reason: waiting.reason,
            },
            None => PrivacyError::Behind {
                wanted,
                cursor,
                payload: None,
                reason: String::new(),
            },
        },
        PrivateReadError::BeforeStart { wanted, starts_at } => {
            PrivacyError::BeforeStart { wanted, starts_at }
        }
        PrivateReadError::Read(error) => PrivacyError::internal(error),
    }
}

/// Private execution that has stopped for good is worth another word than one that is late.
pub fn of_read_at(error: PrivateReadError, status: &PrivateStatus) -> PrivacyError {
    match (&error, &status.halted) {
        (PrivateReadError::Behind { .. }, Some(reason)) => PrivacyError::Halted {
            reason: reason.clone(),
        },
        _ => of_read(error),
    }
}
