//! `quorate privacy group`.

use std::time::Duration;

use anyhow::bail;
use clap::{Args, Subcommand};
use quorate_proto::v1;
use serde_json::Value;

use super::ask::NodeArgs;
use super::names::{GroupName, PartyKey};
use super::{PAGE, print, show};
use crate::config::parse_duration;

/// Privacy groups.
#[derive(Debug, Subcommand)]
pub enum GroupCommand {
    /// Make a group and make it known to the members that belong to it.
    Create(CreateArgs),
    /// List the groups that this node knows.
    List(ListArgs),
    /// Find the groups with exactly these members, or the one with this name.
    Find(FindArgs),
    /// Forget a group on this node. What was sent to it stays readable.
    Delete(DeleteArgs),
}

/// Arguments of `quorate privacy group create`.
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// Its name, which `privateFor` may give: 1 to 64 bytes.
    #[arg(long)]
    name: String,
    /// What it is for.
    #[arg(long, default_value = "")]
    description: String,
    /// Key of a party; may be repeated.
    #[arg(long = "member", value_name = "KEY", required = true)]
    members: Vec<PartyKey>,
    /// Erase payloads that were sent to the group after so long. Without it they are kept.
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    payloads_live: Option<Duration>,
    #[command(flatten)]
    node: NodeArgs,
}

/// Arguments of `quorate privacy group list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    #[command(flatten)]
    node: NodeArgs,
}

/// Arguments of `quorate privacy group find`.
#[derive(Debug, Args)]
pub struct FindArgs {
    /// Key of a party; may be repeated.
    #[arg(
        long = "member",
        value_name = "KEY",
        required_unless_present = "name",
        conflicts_with = "name"
    )]
    members: Vec<PartyKey>,
    /// Name or id of the group.
    #[arg(long)]
    name: Option<String>,
    #[command(flatten)]
    node: NodeArgs,
}

/// Arguments of `quorate privacy group delete`.
#[derive(Debug, Args)]
pub struct DeleteArgs {
    /// Id of the group.
    #[arg(value_name = "ID")]
    id: GroupName,
    #[command(flatten)]
    node: NodeArgs,
}

impl GroupCommand {
    /// Does it.
    ///
    /// # Errors
    /// What the node said, or that it does not answer.
    pub async fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Create(args) => args.run().await,
            Self::List(args) => args.run().await,
            Self::Find(args) => args.run().await,
            Self::Delete(args) => args.run().await,
        }
    }
}

impl CreateArgs {
    async fn run(&self) -> anyhow::Result<()> {
        let lifetime = self.payloads_live.map(|live| live.as_millis());
        if lifetime == Some(0) {
            bail!("--payloads-live must be at least 1ms");
        }
        let request = v1::CreateGroupRequest {
            name: self.name.clone(),
            description: self.description.clone(),
            members: self.members.iter().map(|key| key.bytes()).collect(),
            payloads_live_ms: u64::try_from(lifetime.unwrap_or_default())?,
        };
        let group = self
            .node
            .question()
            .await?
            .ask(request, async |client, request| {
                client.create_group(request).await
            })
            .await?;
        one(&self.node, &group)
    }
}

impl ListArgs {
    async fn run(&self) -> anyhow::Result<()> {
        let question = self.node.question().await?;
        let mut groups: Vec<v1::PrivacyGroup> = Vec::new();
        loop {
            let request = v1::ListGroupsRequest {
                after: groups.last().map(|g| g.id.clone()).unwrap_or_default(),
                limit: PAGE,
            };
            let page = question
                .ask(request, async |client, request| {
                    client.list_groups(request).await
                })
                .await?;
            let more = !page.groups.is_empty();
            groups.extend(page.groups);
            if !more {
                break;
            }
        }
        many(&self.node, &groups)
    }
}

impl FindArgs {
    async fn run(&self) -> anyhow::Result<()> {
        let request = v1::FindGroupsRequest {
            members: self.members.iter().map(|key| key.bytes()).collect(),
            name: self.name.clone().unwrap_or_default(),
        };
        let found = self
            .node
            .question()
            .await?
            .ask(request, async |client, request| {
                client.find_groups(request).await
            })
            .await?;
        many(&self.node, &found.groups)
    }
}

impl DeleteArgs {
    async fn run(&self) -> anyhow::Result<()> {
        let request = v1::DeleteGroupRequest {
            id: self.id.bytes(),
        };
        let group = self
            .node
            .question()
            .await?
            .ask(request, async |client, request| {
                client.delete_group(request).await
            })
            .await?;
        one(&self.node, &group)
    }
}

fn one(node: &NodeArgs, group: &v1::PrivacyGroup) -> anyhow::Result<()> {
    print(node, &show::group_json(group), || show::group_text(group))
}

fn many(node: &NodeArgs, groups: &[v1::PrivacyGroup]) -> anyhow::Result<()> {
    let all: Vec<Value> = groups.iter().map(show::group_json).collect();
    print(node, &all.into(), || {
        show::lines(groups.iter().map(show::group_text), "there are none")
    })
}
