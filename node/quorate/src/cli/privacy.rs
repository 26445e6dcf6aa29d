//! `quorate privacy`: private transactions of a running node, over gRPC.

mod ask;
mod extension;
mod group;
mod names;
mod show;

use std::time::Duration;

use clap::{Args, Subcommand};
use quorate_proto::v1;
use serde_json::{Value, json};

use self::ask::{NodeArgs, Question};
use self::extension::ExtensionCommand;
use self::group::GroupCommand;
use self::names::{AccountAddress, PayloadName, TransactionHash};
use super::output;

/// Entries of one page; the node's own limit is the same.
const PAGE: u32 = 1_000;

/// For answers that take as long as there are payloads, without `--timeout`.
const LONG_WAIT: Duration = Duration::from_secs(3_600);

const EXAMPLES: &str = "\
A payload is named by its hash: 0x and 128 hexadecimal digits as in a transaction's input, or base64 as Tessera writes it. The
commands ask one node, and tell what that node knows: other parties may know more, or less.

Examples:
  quorate privacy status
  quorate privacy status --grpc http://127.0.0.1:50052 --json
  quorate privacy deliveries 0x4f1e…
  quorate privacy payload 0x4f1e…
  quorate privacy resync --timeout 1h
  quorate privacy erase 0x4f1e… --note \"request 4711\"
  quorate privacy give-up 0x4f1e… --note \"its sender is gone\"
  quorate privacy group create --name clearing --member BULe… --member QfeD…
  quorate privacy extension offer 0x5fbd… --newcomer QfeD… --newcomer-account 0x7099… --from 0xf39f…
  quorate privacy extension accept 0xcf7e… --from 0x7099…";

/// Private transactions of a running node.
#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub enum PrivacyCommand {
    /// How private execution, the exchange of payloads and the enclave are doing.
    Status(StatusArgs),
    /// This node's own keys, and those of all members.
    Keys(PlainArgs),
    /// A payload in the clear, and its terms.
    Payload(PayloadArgs),
    /// What became of the deliveries of a payload that this node sent.
    Deliveries(PayloadArgs),
    /// What came of a private transaction, by the hash of its public one.
    Receipt(ReceiptArgs),
    /// How a private contract came to be.
    Contract(ContractArgs),
    /// Alarms: parties that ended with different private states after the same transaction.
    Alarms(AlarmsArgs),
    /// Ask all other members for every payload that this node may read. Needed after a disk was lost.
    Resync(ResyncArgs),
    /// Erase a payload on this node for ever. Its hash stays on the chain, and a record of the erasure here.
    Erase(EraseArgs),
    /// Go on without payloads that do not come, or a contract that is not handed over: what private state becomes is this node's own.
    GiveUp(GiveUpArgs),
    /// What was erased on this node, and what it goes on without.
    Erasures(PlainArgs),
    /// Privacy groups: names for sets of parties.
    #[command(subcommand)]
    Group(GroupCommand),
    /// Bring a new party into a private contract.
    #[command(subcommand)]
    Extension(ExtensionCommand),
}

/// Arguments of commands that need nothing else.
#[derive(Debug, Args)]
pub struct PlainArgs {
    #[command(flatten)]
    node: NodeArgs,
}

/// Arguments of `quorate privacy status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    #[command(flatten)]
    node: NodeArgs,
    /// Show the status again whenever it changes, until stopped.
    #[arg(long)]
    watch: bool,
}

/// Arguments of commands about one payload.
#[derive(Debug, Args)]
pub struct PayloadArgs {
    /// The payload.
    #[arg(value_name = "PAYLOAD")]
    hash: PayloadName,
    #[command(flatten)]
    node: NodeArgs,
}

/// Arguments of `quorate privacy receipt`.
#[derive(Debug, Args)]
pub struct ReceiptArgs {
    /// Hash of the public transaction.
    #[arg(value_name = "TRANSACTION")]
    hash: TransactionHash,
    #[command(flatten)]
    node: NodeArgs,
}

/// Arguments of `quorate privacy contract`.
#[derive(Debug, Args)]
pub struct ContractArgs {
    /// Address of the contract.
    address: AccountAddress,
    #[command(flatten)]
    node: NodeArgs,
}

/// Arguments of `quorate privacy alarms`.
#[derive(Debug, Args)]
pub struct AlarmsArgs {
    #[command(flatten)]
    node: NodeArgs,
    /// Only those with a greater number.
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    after: u64,
}

/// Arguments of `quorate privacy resync`.
#[derive(Debug, Args)]
pub struct ResyncArgs {
    #[command(flatten)]
    node: NodeArgs,
}

/// Arguments of `quorate privacy erase`.
#[derive(Debug, Args)]
pub struct EraseArgs {
    /// The payload.
    #[arg(value_name = "PAYLOAD")]
    hash: PayloadName,
    /// Who asked for it, or what else is to be remembered. The record is kept for ever: no personal data.
    #[arg(long, default_value = "")]
    note: String,
    #[command(flatten)]
    node: NodeArgs,
}

/// Arguments of `quorate privacy give-up`.
#[derive(Debug, Args)]
pub struct GiveUpArgs {
    /// The payload that private execution waits for.
    #[arg(value_name = "PAYLOAD", required_unless_present = "erased")]
    hash: Option<PayloadName>,
    /// Instead, after a lost disk: all that are not here and that another member erased, as a resync found.
    #[arg(long, conflicts_with = "hash")]
    erased: bool,
    /// Who decided it, or what else is to be remembered. The record is kept for ever: no personal data.
    #[arg(long, default_value = "")]
    note: String,
    #[command(flatten)]
    node: NodeArgs,
}

impl PrivacyCommand {
    /// Does it.
    ///
    /// # Errors
    /// What the node said, or that it does not answer.
    pub fn run(self) -> anyhow::Result<()> {
        super::block_on(async {
            match self {
                Self::Status(args) => args.run().await,
                Self::Keys(args) => keys(&args.node).await,
                Self::Payload(args) => args.payload().await,
                Self::Deliveries(args) => args.deliveries().await,
                Self::Receipt(args) => args.run().await,
                Self::Contract(args) => args.run().await,
                Self::Alarms(args) => args.run().await,
                Self::Resync(args) => args.run().await,
                Self::Erase(args) => args.run().await,
                Self::GiveUp(args) => args.run().await,
                Self::Erasures(args) => erasures(&args.node).await,
                Self::Group(command) => command.run().await,
                Self::Extension(command) => command.run().await,
            }
        })?
    }
}

/// As JSON for scripts, or as text for people.
fn print(node: &NodeArgs, json: &Value, text: impl FnOnce() -> String) -> anyhow::Result<()> {
    match node.json {
        true => output::print_json(json)?,
        false => output::print(&text())?,
    }
    Ok(())
}

impl StatusArgs {
    async fn run(&self) -> anyhow::Result<()> {
        let question = self.node.question().await?;
        let show = |status: &v1::PrivacyStatus| {
            print(&self.node, &show::status_json(status), || {
                show::status_text(status)
            })
        };
        if !self.watch {
            let status = question
                .ask(v1::PrivacyStatusRequest {}, async |client, request| {
                    client.status(request).await
                })
                .await?;
            return show(&status);
        }
        let mut stream = question
            .watch(v1::WatchPrivacyStatusRequest {}, async |client, request| {
                client.watch_status(request).await
            })
            .await?;
        while let Some(status) = question.next(&mut stream).await? {
            show(&status)?;
        }
        Ok(())
    }
}

async fn keys(node: &NodeArgs) -> anyhow::Result<()> {
    let keys = node
        .question()
        .await?
        .ask(v1::PrivacyKeysRequest {}, async |client, request| {
            client.keys(request).await
        })
        .await?;
    print(node, &show::keys_json(&keys), || show::keys_text(&keys))
}

impl PayloadArgs {
    async fn payload(&self) -> anyhow::Result<()> {
        let request = v1::PayloadRequest {
            hash: self.hash.bytes(),
        };
        let payload = self
            .node
            .question()
            .await?
            .ask(request, async |client, request| {
                client.payload(request).await
            })
            .await?;
        print(&self.node, &show::payload_json(&payload), || {
            show::payload_text(&payload)
        })
    }

    async fn deliveries(&self) -> anyhow::Result<()> {
        let request = v1::DeliveriesRequest {
            hash: self.hash.bytes(),
        };
        let answer = self
            .node
            .question()
            .await?
            .ask(request, async |client, request| {
                client.deliveries(request).await
            })
            .await?;
        let all: Vec<Value> = answer.deliveries.iter().map(show::delivery_json).collect();
        print(&self.node, &all.into(), || {
            show::lines(
                answer.deliveries.iter().map(show::delivery_text),
                "this node sent it to nobody else",
            )
        })
    }
}

impl ReceiptArgs {
    async fn run(&self) -> anyhow::Result<()> {
        let request = v1::PrivateReceiptRequest {
            hash: self.hash.bytes(),
        };
        let receipt = self
            .node
            .question()
            .await?
            .ask(request, async |client, request| {
                client.private_receipt(request).await
            })
            .await?;
        print(&self.node, &show::receipt_json(&receipt), || {
            show::receipt_text(&receipt)
        })
    }
}

impl ContractArgs {
    async fn run(&self) -> anyhow::Result<()> {
        let request = v1::ContractMetadataRequest {
            address: self.address.bytes(),
        };
        let contract = self
            .node
            .question()
            .await?
            .ask(request, async |client, request| {
                client.contract_metadata(request).await
            })
            .await?;
        print(&self.node, &show::contract_json(&contract), || {
            show::contract_text(&contract)
        })
    }
}

impl AlarmsArgs {
    async fn run(&self) -> anyhow::Result<()> {
        let question = self.node.question().await?;
        let mut alarms: Vec<v1::DivergenceAlarm> = Vec::new();
        loop {
            let after = alarms.last().map_or(self.after, |alarm| alarm.number);
            let request = v1::AlarmsRequest { after, limit: PAGE };
            let page = question
                .ask(request, async |client, request| {
                    client.alarms(request).await
                })
                .await?;
            let more = !page.alarms.is_empty();
            alarms.extend(page.alarms);
            if !more {
                break;
            }
        }
        let all: Vec<Value> = alarms.iter().map(show::alarm_json).collect();
        print(&self.node, &all.into(), || {
            show::lines(alarms.iter().map(show::alarm_text), "there are no alarms")
        })
    }
}

impl ResyncArgs {
    async fn run(&self) -> anyhow::Result<()> {
        let question = self.node.question_for(LONG_WAIT).await?;
        let done = question
            .ask(v1::ResyncRequest {}, async |client, request| {
                client.resync(request).await
            })
            .await?;
        print(&self.node, &show::resync_json(&done), || {
            show::resync_text(&done)
        })?;
        if !done.complete {
            anyhow::bail!(
                "not every other member has given all that it has: run it again when they answer"
            );
        }
        Ok(())
    }
}

impl EraseArgs {
    async fn run(&self) -> anyhow::Result<()> {
        let request = v1::EraseRequest {
            hash: self.hash.bytes(),
            note: self.note.clone(),
        };
        let record = self
            .node
            .question()
            .await?
            .ask(request, async |client, request| client.erase(request).await)
            .await?;
        print(&self.node, &show::erasure_json(&record), || {
            show::erasure_text(&record)
        })
    }
}

impl GiveUpArgs {
    async fn run(&self) -> anyhow::Result<()> {
        use v1::give_up_request::What;
        let what = match &self.hash {
            Some(hash) => What::Hash(hash.bytes()),
            None => What::Erased(self.erased),
        };
        let request = v1::GiveUpRequest {
            what: Some(what),
            note: self.note.clone(),
        };
        let done = self
            .node
            .question_for(LONG_WAIT)
            .await?
            .ask(request, async |client, request| {
                client.give_up(request).await
            })
            .await?;
        print(&self.node, &json!({ "givenUp": done.given_up }), || {
            format!("goes on without {} payloads", done.given_up)
        })
    }
}

async fn erasures(node: &NodeArgs) -> anyhow::Result<()> {
    let question: Question = node.question().await?;
    let mut records: Vec<v1::ErasureRecord> = Vec::new();
    loop {
        let request = v1::ErasuresRequest {
            after: records.last().map(|record| record.sequence),
            limit: PAGE,
        };
        let page = question
            .ask(request, async |client, request| {
                client.erasures(request).await
            })
            .await?;
        let more = !page.erasures.is_empty();
        records.extend(page.erasures);
        if !more {
            break;
        }
    }
    let all: Vec<Value> = records.iter().map(show::erasure_json).collect();
    print(node, &json!(all), || {
        show::lines(
            records.iter().map(show::erasure_text),
            "nothing was erased on this node",
        )
    })
}
