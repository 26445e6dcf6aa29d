//! Extending a private contract to a new party: the three steps, checked by what this node knows, and then the exchange.

use std::collections::BTreeSet;

use alloy_primitives::Address;
use quorate_enclave::{PrivacyFlag, PublicKey};
use quorate_exchange::Distribution;
use quorate_privacy::{
    Content, Extension, ExtensionState, ExtensionStep, OfferRefusal, check_offer,
};
use quorate_rpc::{Distributed, ExtensionAction, ExtensionSend, PrivacyError, PrivateArguments};

use super::errors::{of_exchange, of_read};
use super::service::PrivacyService;

impl PrivacyService {
    pub(super) async fn send_extension(
        &self,
        send: ExtensionSend,
    ) -> Result<Distributed, PrivacyError> {
        let arguments = PrivateArguments {
            privacy_flag: PrivacyFlag::Standard,
            mandatory_for: Vec::new(),
            ..send.arguments
        };
        let (step, how) = match send.action {
            ExtensionAction::Offer {
                contract,
                newcomer,
                newcomer_account,
            } => {
                self.offer(contract, newcomer, newcomer_account, arguments)
                    .await?
            }
            ExtensionAction::Vote { offer, accept } => {
                let known = self.active(&offer)?;
                if send.from != known.newcomer_account {
                    return Err(refused(
                        "only the account that the offer names may vote on it",
                    ));
                }
                let step = ExtensionStep::Vote { offer, accept };
                (step, self.among(known.newcomer, &known, arguments).await?)
            }
            ExtensionAction::Cancel { offer } => {
                let known = self.active(&offer)?;
                if send.from != known.initiator {
                    return Err(refused(
                        "only the account that offered the contract may cancel",
                    ));
                }
                let step = ExtensionStep::Cancel { offer };
                (
                    step,
                    self.among(known.initiator_key, &known, arguments).await?,
                )
            }
        };
        let how = Distribution {
            from: Some(send.from),
            ..how
        };
        let sent = self
            .exchange
            .distribute(Content::Extension(step), how)
            .await;
        self.distributed(sent)
    }

    async fn offer(
        &self,
        contract: Address,
        newcomer: PublicKey,
        newcomer_account: Address,
        arguments: PrivateArguments,
    ) -> Result<(ExtensionStep, Distribution), PrivacyError> {
        if !self.is_announced(&newcomer) {
            return Err(PrivacyError::UnknownKey {
                key: newcomer.to_string(),
            });
        }
        let metadata = self.ledger.contract(&contract).map_err(of_read)?;
        let metadata =
            metadata.ok_or_else(|| refused(&format!("contract {contract} is not private here")))?;
        let nobody_named = arguments.private_for.is_empty();
        let resolved = self
            .resolve(&PrivateArguments {
                private_from: arguments.private_from.or(Some(metadata.as_recipient)),
                ..arguments
            })
            .await?;
        let mut parties = resolved.parties.clone();
        if nobody_named && let Some(known) = &metadata.parties {
            parties.extend(known);
        }
        parties.remove(&newcomer);
        let sender = resolved.sender;
        let creation = check_offer(&self.ledger, &contract, &sender, &newcomer, &parties);
        let creation = creation.map_err(|error| match error {
            OfferRefusal::Rule { reason } => PrivacyError::Refused { reason },
            OfferRefusal::Read(error) => of_read(error),
        })?;
        let recipients = parties.iter().copied().chain([newcomer]);
        let mut how = Distribution {
            sender: Some(sender),
            acknowledgements: resolved.acknowledgements,
            ..Distribution::to(recipients.filter(|key| *key != sender))
        };
        how.affected.insert(contract, creation);
        let step = ExtensionStep::Offer {
            contract,
            newcomer,
            newcomer_account,
            parties,
        };
        Ok((step, how))
    }

    /// To all who take part in an extension, and whom the client names beside them.
    async fn among(
        &self,
        sender: PublicKey,
        known: &Extension,
        arguments: PrivateArguments,
    ) -> Result<Distribution, PrivacyError> {
        let resolved = self
            .resolve(&PrivateArguments {
                private_from: Some(arguments.private_from.unwrap_or(sender)),
                ..arguments
            })
            .await?;
        if resolved.sender != sender {
            return Err(refused(&format!("privateFrom must be {sender}")));
        }
        let mut keys: BTreeSet<PublicKey> = resolved.parties;
        keys.extend(&known.parties);
        keys.insert(known.newcomer);
        keys.remove(&sender);
        // A party that nobody can reach could not vouch for the contract.
        if let Some(key) = keys.iter().find(|key| !self.is_announced(key)) {
            return Err(of_exchange(
                quorate_exchange::ExchangeError::UnknownRecipient { key: *key },
            ));
        }
        Ok(Distribution {
            sender: Some(sender),
            acknowledgements: resolved.acknowledgements,
            ..Distribution::to(keys)
        })
    }

    fn active(&self, offer: &Address) -> Result<Extension, PrivacyError> {
        let known = self.ledger.extension(offer).map_err(of_read)?;
        let known = known.ok_or_else(|| refused(&format!("there is no extension {offer} here")))?;
        if known.state != ExtensionState::Active {
            return Err(refused(&format!("the extension {offer} has ended")));
        }
        Ok(known)
    }
}

fn refused(reason: &str) -> PrivacyError {
    PrivacyError::Refused {
        reason: reason.to_owned(),
    }
}
