//! `quorate privacy extension`.

use std::time::Duration;

use bytes::Bytes;
use clap::{Args, Subcommand};
use quorate_proto::v1;
use serde_json::Value;

use super::ask::NodeArgs;
use super::names::{AccountAddress, PartyKey};
use super::{PAGE, print, show};

/// A step waits for its block and for private execution.
const STEP_WAIT: Duration = Duration::from_secs(120);

/// Bringing a new party into a private contract.
#[derive(Debug, Subcommand)]
pub enum ExtensionCommand {
    /// Offer a contract to a new party. Prints the address of the extension.
    Offer(OfferArgs),
    /// Accept an offer. Asked of the new party's node.
    Accept(StepArgs),
    /// Decline an offer. Asked of the new party's node.
    Decline(StepArgs),
    /// Take an offer back.
    Cancel(StepArgs),
    /// List the extensions that this node takes part in.
    List(ListArgs),
    /// Show one extension.
    Show(ShowArgs),
}

/// Who signs, and whom the step waits for.
#[derive(Debug, Args)]
pub struct SignArgs {
    /// Account of this node that signs the step.
    #[arg(long, value_name = "ACCOUNT")]
    from: AccountAddress,
    /// Further party, a key or a privacy group; may be repeated.
    #[arg(long = "for", value_name = "PARTY")]
    private_for: Vec<String>,
    /// The sender's key, if it is not the one that the step needs anyway.
    #[arg(long, value_name = "KEY")]
    private_from: Option<PartyKey>,
    /// Wait for the acknowledgements of this many parties only; the others get the step later.
    #[arg(long, value_name = "COUNT")]
    acknowledged_by: Option<u16>,
    /// Sign it elsewhere: print the data of the transaction that the account must send to the privacy precompile.
    #[arg(long)]
    signed_elsewhere: bool,
    #[command(flatten)]
    node: NodeArgs,
}

/// Arguments of `quorate privacy extension offer`.
#[derive(Debug, Args)]
pub struct OfferArgs {
    /// The contract.
    contract: AccountAddress,
    /// Key of the new party.
    #[arg(long, value_name = "KEY")]
    newcomer: PartyKey,
    /// The account whose vote counts.
    #[arg(long, value_name = "ACCOUNT")]
    newcomer_account: AccountAddress,
    #[command(flatten)]
    sign: SignArgs,
}

/// Arguments of the other steps.
#[derive(Debug, Args)]
pub struct StepArgs {
    /// Address of the extension.
    extension: AccountAddress,
    #[command(flatten)]
    sign: SignArgs,
}

/// Arguments of `quorate privacy extension list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Only those that have not ended.
    #[arg(long)]
    active: bool,
    #[command(flatten)]
    node: NodeArgs,
}

/// Arguments of `quorate privacy extension show`.
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// Address of the extension.
    extension: AccountAddress,
    #[command(flatten)]
    node: NodeArgs,
}

impl ExtensionCommand {
    /// Does it.
    ///
    /// # Errors
    /// What the node said, that it does not answer, or that the step failed on the chain.
    pub async fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Offer(args) => args.run().await,
            Self::Accept(args) => args.vote(true).await,
            Self::Decline(args) => args.vote(false).await,
            Self::Cancel(args) => args.cancel().await,
            Self::List(args) => args.run().await,
            Self::Show(args) => args.run().await,
        }
    }
}

impl SignArgs {
    fn transaction(&self) -> v1::ExtensionTransaction {
        use v1::acknowledgement_policy::Policy;
        let acknowledgements = self.acknowledged_by.map(|count| v1::AcknowledgementPolicy {
            policy: Some(Policy::AtLeast(count.into())),
        });
        v1::ExtensionTransaction {
            from: self.from.bytes(),
            nonce: None,
            gas_price: Bytes::new(),
            arguments: Some(v1::PrivateArguments {
                private_from: self.private_from.map(PartyKey::bytes).unwrap_or_default(),
                private_for: self.private_for.clone(),
                acknowledgements,
                ..v1::PrivateArguments::default()
            }),
            signed_elsewhere: self.signed_elsewhere,
            wait: !self.signed_elsewhere,
        }
    }

    /// Prints what came of the step. One that did nothing is a failure for scripts, too.
    fn told(&self, step: &v1::ExtensionStepResponse) -> anyhow::Result<()> {
        print(&self.node, &show::step_json(step), || show::step_text(step))?;
        match &step.receipt {
            Some(receipt) if !receipt.success => anyhow::bail!("it failed: {}", receipt.reason),
            Some(_) | None => Ok(()),
        }
    }
}

impl OfferArgs {
    async fn run(&self) -> anyhow::Result<()> {
        let request = v1::OfferExtensionRequest {
            contract: self.contract.bytes(),
            newcomer: self.newcomer.bytes(),
            newcomer_account: self.newcomer_account.bytes(),
            transaction: Some(self.sign.transaction()),
        };
        let question = self.sign.node.question_for(STEP_WAIT).await?;
        let step = question
            .ask(request, async |client, request| {
                client.offer_extension(request).await
            })
            .await?;
        self.sign.told(&step)
    }
}

impl StepArgs {
    async fn vote(&self, accept: bool) -> anyhow::Result<()> {
        let request = v1::VoteOnExtensionRequest {
            extension: self.extension.bytes(),
            accept,
            transaction: Some(self.sign.transaction()),
        };
        let question = self.sign.node.question_for(STEP_WAIT).await?;
        let step = question
            .ask(request, async |client, request| {
                client.vote_on_extension(request).await
            })
            .await?;
        self.sign.told(&step)
    }

    async fn cancel(&self) -> anyhow::Result<()> {
        let request = v1::CancelExtensionRequest {
            extension: self.extension.bytes(),
            transaction: Some(self.sign.transaction()),
        };
        let question = self.sign.node.question_for(STEP_WAIT).await?;
        let step = question
            .ask(request, async |client, request| {
                client.cancel_extension(request).await
            })
            .await?;
        self.sign.told(&step)
    }
}

impl ListArgs {
    async fn run(&self) -> anyhow::Result<()> {
        let question = self.node.question().await?;
        let (mut found, mut after) = (Vec::new(), Bytes::new());
        loop {
            let request = v1::ListExtensionsRequest { after, limit: PAGE };
            let page = question
                .ask(request, async |client, request| {
                    client.list_extensions(request).await
                })
                .await?;
            let Some(last) = page.extensions.last() else {
                break;
            };
            after = last.extension.clone();
            let is_active = |extension: &v1::ContractExtension| {
                extension.state() == v1::contract_extension::State::Active
            };
            let shown = page.extensions.into_iter();
            found.extend(shown.filter(|extension| !self.active || is_active(extension)));
        }
        let all: Vec<Value> = found.iter().map(show::extension_json).collect();
        print(&self.node, &all.into(), || {
            show::lines(found.iter().map(show::extension_line), "there are none")
        })
    }
}

impl ShowArgs {
    async fn run(&self) -> anyhow::Result<()> {
        let request = v1::GetExtensionRequest {
            extension: self.extension.bytes(),
        };
        let extension = self
            .node
            .question()
            .await?
            .ask(request, async |client, request| {
                client.get_extension(request).await
            })
            .await?;
        print(&self.node, &show::extension_json(&extension), || {
            show::extension_text(&extension)
        })
    }
}
