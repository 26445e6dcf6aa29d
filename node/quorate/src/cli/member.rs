//! `quorate member`: who belongs to the consortium, and changing it while it runs.

mod ask;
mod steps;
mod table;

use std::time::{Duration, Instant, SystemTime};

use anyhow::{anyhow, bail};
use clap::{Args, Subcommand};
use quorate_chain::{MemberRole, NodeId};
use quorate_proto::v1;
use quorate_proto::v1::membership_fault::Reason;
use quorate_rpc::{ChangeRequest, ChangeStep, MembershipView};
use serde_json::json;

use self::ask::{CHANGE_MAX, Members, READ_MAX, Refused};
use self::steps::{
    ChangeId, MemberName, NewAddress, NewMember, from_wire, parse_raft_id, plan, to_wire,
};
use super::output;
use crate::config::parse_duration;

/// How often a new member's lag is looked at.
const LAG_INTERVAL: Duration = Duration::from_millis(500);
/// Pause before a broken stream is opened again, at the next member.
const RECONNECT_PAUSE: Duration = Duration::from_secs(1);

const EXAMPLES: &str = "\
Any member takes a change; it reaches the leader by itself. All steps of a change are made at once or not at all, and the
command ends with 0 when the change is in force. Each change has an id: the same id is never applied twice, so a command whose
outcome is not known can be repeated with --change-id.

Examples:
  quorate member list
  quorate member add 0x02… node5.example:30303 --organisation BankE --wait-caught-up --promote
  quorate member remove 3
  quorate member set-address 2 node2.elsewhere.example:30303
  quorate member change --add-learner 0x02…@node6.example:30303 --promote 5 --remove 1 --dry-run
  quorate member transfer 2
  quorate member list --grpc http://a.example:50051 --grpc http://b.example:50051";

/// Members of a running consortium.
#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub enum MemberCommand {
    /// Who belongs to the consortium, how each is doing, and who waits to be admitted.
    List(ListArgs),
    /// Add a member; it learns first and votes when it is promoted.
    Add(AddArgs),
    /// Make learners voters.
    Promote(RaftIdsArgs),
    /// Make voters learners.
    Demote(RaftIdsArgs),
    /// Remove members for ever. A leader hands over first.
    Remove(RaftIdsArgs),
    /// Make several changes at once.
    Change(Box<ChangeArgs>),
    /// Tell everyone that a member moved.
    SetAddress(SetAddressArgs),
    /// Hand leadership to another voter.
    Transfer(TransferArgs),
    /// Show the members, and show them again after each change, until stopped.
    Watch(WatchArgs),
}

/// Arguments of `quorate member list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    #[command(flatten)]
    members: Members,
    /// As JSON, for scripts.
    #[arg(long)]
    json: bool,
}

/// What all changes take.
#[derive(Debug, Args)]
struct ChangeOptions {
    #[command(flatten)]
    members: Members,
    /// Make the change even if the voters that are reachable now would be no majority. Nothing can be committed until one is.
    #[arg(long)]
    force: bool,
    /// Id of an earlier attempt whose outcome is not known; without it a new one is chosen.
    #[arg(long, value_name = "HEX")]
    change_id: Option<ChangeId>,
    /// As JSON, for scripts.
    #[arg(long)]
    json: bool,
}

/// Arguments of `quorate member add`.
#[derive(Debug, Args)]
pub struct AddArgs {
    /// Its node id, or key and address in one: an enode URL, `<node id>@<address>`, or a multiaddress that ends in /p2p/….
    #[arg(value_name = "NODE")]
    node: MemberName,
    /// Where its p2p port is reached: host:port or a multiaddress.
    address: Option<String>,
    /// Who runs it.
    #[arg(long, value_name = "NAME", default_value = "")]
    organisation: String,
    /// Let it vote at once, although it has nothing yet: it counts for the majority and cannot help to reach it.
    #[arg(long, conflicts_with_all = ["wait_caught_up", "promote"])]
    voter: bool,
    /// Wait until it has nearly everything that the others have.
    #[arg(long)]
    wait_caught_up: bool,
    /// Then make it a voter.
    #[arg(long, requires = "wait_caught_up")]
    promote: bool,
    /// Log entries that it may be behind and count as caught up.
    #[arg(long, value_name = "ENTRIES", default_value_t = 100)]
    lag_max: u64,
    /// How long to wait for that.
    #[arg(long, default_value = "1h", value_parser = parse_duration)]
    wait_max: Duration,
    #[command(flatten)]
    options: ChangeOptions,
}

/// Arguments of `quorate member promote`, `demote` and `remove`.
#[derive(Debug, Args)]
pub struct RaftIdsArgs {
    /// Raft ids, as `quorate member list` shows them.
    #[arg(value_name = "RAFT_ID", required = true, value_parser = parse_raft_id)]
    raft_ids: Vec<u64>,
    #[command(flatten)]
    options: ChangeOptions,
}

/// Arguments of `quorate member change`.
#[derive(Debug, Args)]
#[group(skip)]
pub struct ChangeArgs {
    /// Add a member that votes at once.
    #[arg(long, value_name = "ID@ADDRESS")]
    add_voter: Vec<NewMember>,
    /// Add a member that learns.
    #[arg(long, value_name = "ID@ADDRESS")]
    add_learner: Vec<NewMember>,
    /// Who runs the new members.
    #[arg(long, value_name = "NAME", default_value = "")]
    organisation: String,
    /// Make a learner a voter.
    #[arg(long, value_name = "RAFT_ID", value_parser = parse_raft_id)]
    promote: Vec<u64>,
    /// Make a voter a learner.
    #[arg(long, value_name = "RAFT_ID", value_parser = parse_raft_id)]
    demote: Vec<u64>,
    /// Remove a member for ever.
    #[arg(long, value_name = "RAFT_ID", value_parser = parse_raft_id)]
    remove: Vec<u64>,
    /// A member moved.
    #[arg(long, value_name = "RAFT_ID=ADDRESS")]
    set_address: Vec<NewAddress>,
    /// Refuse if the member table is not the one of this log index any more.
    #[arg(long, value_name = "INDEX")]
    if_table_index: Option<u64>,
    /// Only show what the members would be.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    options: ChangeOptions,
}

/// Arguments of `quorate member set-address`.
#[derive(Debug, Args)]
pub struct SetAddressArgs {
    /// The member that moved.
    #[arg(value_name = "RAFT_ID", value_parser = parse_raft_id)]
    raft_id: u64,
    /// Where its p2p port is reached now: host:port or a multiaddress.
    address: String,
    #[command(flatten)]
    options: ChangeOptions,
}

/// Arguments of `quorate member transfer`.
#[derive(Debug, Args)]
pub struct TransferArgs {
    /// The voter that is to lead; without it, whoever is furthest along.
    #[arg(value_name = "RAFT_ID", value_parser = parse_raft_id)]
    raft_id: Option<u64>,
    #[command(flatten)]
    members: Members,
    /// As JSON, for scripts.
    #[arg(long)]
    json: bool,
}

/// Arguments of `quorate member watch`.
#[derive(Debug, Args)]
pub struct WatchArgs {
    #[command(flatten)]
    members: Members,
    /// As JSON, one line for each change.
    #[arg(long)]
    json: bool,
}

impl MemberCommand {
    /// Does it.
    ///
    /// # Errors
    /// If no member does it; the text says why, and what to do next.
    pub fn run(&self) -> anyhow::Result<()> {
        super::block_on(async {
            match self {
                Self::List(args) => args.run().await,
                Self::Add(args) => args.run().await,
                Self::Promote(args) => args.set_role(MemberRole::Voter).await,
                Self::Demote(args) => args.set_role(MemberRole::Learner).await,
                Self::Remove(args) => args.remove().await,
                Self::Change(args) => args.run().await,
                Self::SetAddress(args) => args.run().await,
                Self::Transfer(args) => args.run().await,
                Self::Watch(args) => args.run().await,
            }
        })?
    }
}

async fn view(members: &Members) -> anyhow::Result<MembershipView> {
    let listed = members.ask(
        v1::ListMembersRequest {},
        READ_MAX,
        async |client, request| Ok(client.list(request).await?.into_inner()),
    );
    from_wire(listed.await.map_err(|refused| anyhow!(refused.text))?)
}

impl ListArgs {
    async fn run(&self) -> anyhow::Result<()> {
        let view = view(&self.members).await?;
        match self.json {
            true => output::print_json(&table::json(&view))?,
            false => output::print(&table::text(&view, SystemTime::now()))?,
        }
        Ok(())
    }
}

impl ChangeOptions {
    fn request(&self, steps: Vec<ChangeStep>) -> ChangeRequest {
        let change_id = self.change_id.map_or_else(rand::random, |id| id.0);
        ChangeRequest {
            change_id: Some(change_id),
            steps,
            force: self.force,
            if_table_index: None,
        }
    }

    /// Makes the change, and says so.
    async fn make(&self, request: &ChangeRequest) -> anyhow::Result<v1::ChangeMembersResponse> {
        // What cannot be is refused before anybody is asked.
        request.check()?;
        let done = self
            .members
            .ask(to_wire(request), CHANGE_MAX, async |client, request| {
                Ok(client.change(request).await?.into_inner())
            })
            .await
            .map_err(|refused| explain(&refused, request.change_id.map(ChangeId)))?;
        match self.json {
            true => output::print_json(&report_json(&done))?,
            false => output::print(&report_text(&done))?,
        }
        Ok(done)
    }
}

fn report_json(done: &v1::ChangeMembersResponse) -> serde_json::Value {
    json!({
        "changeId": format!("0x{}", hex::encode(&done.change_id)),
        "tableIndex": done.table_index,
        "added": done.added,
        "joint": done.joint,
    })
}

fn report_text(done: &v1::ChangeMembersResponse) -> String {
    let added = match done.added.as_slice() {
        [] => String::new(),
        ids => {
            let ids: Vec<String> = ids.iter().map(u64::to_string).collect();
            format!("; new: raft id {}", ids.join(", "))
        }
    };
    let joint = if done.joint {
        ", through a joint configuration"
    } else {
        ""
    };
    format!(
        "in force: member table at log index {}{joint}{added}",
        done.table_index
    )
}

/// What was said, and what to do about it.
fn explain(refused: &Refused, change_id: Option<ChangeId>) -> anyhow::Error {
    let advice = match refused.reason {
        Some(Reason::NoLeader) => {
            "; no change is possible without a leader: start members until a majority of the voters runs"
        }
        Some(Reason::Pending) => "; see whether it goes on with: quorate member list",
        Some(Reason::QuorumAtRisk) => {
            "; bring the missing members back, or add new ones as learners and promote them when they have caught up (quorate \
             member add --wait-caught-up --promote)"
        }
        Some(Reason::UnknownMember | Reason::TableMoved) => "; see: quorate member list",
        Some(Reason::NotAMember) => "; name a member with --grpc",
        Some(Reason::LearnerNotAllowed) => "; name a voter with --grpc",
        Some(
            Reason::Unspecified
            | Reason::Invalid
            | Reason::NotApplied
            | Reason::Undecided
            | Reason::Failed,
        )
        | None => "",
    };
    let undecided = match change_id {
        Some(id) if refused.uncertain => format!(
            "; it is not known whether the change is in force: repeat the command with --change-id {id} to find out, the same id is \
             never applied twice"
        ),
        _ => String::new(),
    };
    anyhow!("{}{advice}{undecided}", refused.text)
}

impl RaftIdsArgs {
    async fn set_role(&self, role: MemberRole) -> anyhow::Result<()> {
        self.each(|raft_id| ChangeStep::SetRole { raft_id, role })
            .await
    }

    async fn remove(&self) -> anyhow::Result<()> {
        self.each(|raft_id| ChangeStep::Remove { raft_id }).await
    }

    async fn each(&self, step: impl Fn(u64) -> ChangeStep) -> anyhow::Result<()> {
        let steps = self.raft_ids.iter().map(|raft_id| step(*raft_id));
        let request = self.options.request(steps.collect());
        self.options.make(&request).await?;
        Ok(())
    }
}

impl SetAddressArgs {
    async fn run(&self) -> anyhow::Result<()> {
        let request = self.options.request(vec![ChangeStep::SetAddress {
            raft_id: self.raft_id,
            address: self.address.clone(),
        }]);
        self.options.make(&request).await?;
        Ok(())
    }
}

impl AddArgs {
    fn named(&self) -> anyhow::Result<(NodeId, String)> {
        match (&self.node, &self.address) {
            (MemberName::Key(node_id), Some(address)) => Ok((*node_id, address.clone())),
            (MemberName::Url(new), None) => Ok((new.node_id, new.address.clone())),
            (MemberName::Key(_), None) => {
                bail!("where is it reached? quorate member add <node id> <host:port>")
            }
            (MemberName::Url(new), Some(address)) => bail!(
                "two addresses were given, {} and {address}: leave one out",
                new.address
            ),
        }
    }

    async fn run(&self) -> anyhow::Result<()> {
        let (node_id, address) = self.named()?;
        let role = match self.voter {
            true => MemberRole::Voter,
            false => MemberRole::Learner,
        };
        let request = self.options.request(vec![ChangeStep::Add {
            node_id,
            address,
            organisation: self.organisation.clone(),
            role,
        }]);
        let done = self.options.make(&request).await?;
        let Some(raft_id) = done.added.first().copied() else {
            bail!("the answer names no raft id: is --change-id that of another change?");
        };
        if self.wait_caught_up {
            self.wait(raft_id).await?;
        }
        if self.promote {
            let promote = ChangeRequest {
                // A change of its own.
                change_id: Some(rand::random()),
                ..self.options.request(vec![ChangeStep::SetRole {
                    raft_id,
                    role: MemberRole::Voter,
                }])
            };
            self.options.make(&promote).await?;
        }
        Ok(())
    }

    /// Waits until the member has nearly everything.
    async fn wait(&self, raft_id: u64) -> anyhow::Result<()> {
        let started = Instant::now();
        let mut shown = None;
        loop {
            let view = view(&self.options.members).await?;
            let Some(state) = view.member(raft_id) else {
                bail!("raft id {raft_id} is no member any more: someone removed it meanwhile");
            };
            if state.lag.is_some_and(|lag| lag <= self.lag_max) {
                output::note(&format!("raft id {raft_id} has caught up"));
                return Ok(());
            }
            if started.elapsed() >= self.wait_max {
                let lag = state.lag.map_or("its lag is not known".into(), |lag| {
                    format!("it is {lag} entries behind")
                });
                bail!(
                    "raft id {raft_id} has not caught up within {:?}: {lag}; it stays a learner. When it follows: quorate member promote {raft_id}",
                    self.wait_max
                );
            }
            let progress = match state.lag {
                Some(lag) => format!("raft id {raft_id} is {lag} entries behind"),
                None => format!("raft id {raft_id} has not been heard of yet; is it running?"),
            };
            // One line when something is new, not twice a second.
            if shown.as_ref() != Some(&progress) {
                output::note(&progress);
                shown = Some(progress);
            }
            tokio::time::sleep(LAG_INTERVAL).await;
        }
    }
}

impl ChangeArgs {
    fn steps(&self) -> Vec<ChangeStep> {
        let add = |role| {
            move |new: &NewMember| ChangeStep::Add {
                node_id: new.node_id,
                address: new.address.clone(),
                organisation: self.organisation.clone(),
                role,
            }
        };
        let set_role = |role| {
            move |raft_id: &u64| ChangeStep::SetRole {
                raft_id: *raft_id,
                role,
            }
        };
        let voters = self.add_voter.iter().map(add(MemberRole::Voter));
        let learners = self.add_learner.iter().map(add(MemberRole::Learner));
        let promoted = self.promote.iter().map(set_role(MemberRole::Voter));
        let demoted = self.demote.iter().map(set_role(MemberRole::Learner));
        let moved = self.set_address.iter().map(|new| ChangeStep::SetAddress {
            raft_id: new.raft_id,
            address: new.address.clone(),
        });
        let removed = self
            .remove
            .iter()
            .map(|raft_id| ChangeStep::Remove { raft_id: *raft_id });
        voters
            .chain(learners)
            .chain(promoted)
            .chain(demoted)
            .chain(moved)
            .chain(removed)
            .collect()
    }

    async fn run(&self) -> anyhow::Result<()> {
        let request = ChangeRequest {
            if_table_index: self.if_table_index,
            ..self.options.request(self.steps())
        };
        if !self.dry_run {
            self.options.make(&request).await?;
            return Ok(());
        }
        request.check()?;
        let view = view(&self.options.members).await?;
        let plan = plan(&request, &view)?;
        match self.options.json {
            true => output::print_json(&plan_json(&plan))?,
            false => output::print(&plan_text(&plan))?,
        }
        Ok(())
    }
}

fn plan_json(plan: &steps::Plan) -> serde_json::Value {
    json!({
        "after": table::json(&plan.after),
        "joint": plan.joint,
        "voters": plan.voters,
        "needed": plan.needed,
        "connected": plan.connected,
    })
}

fn plan_text(plan: &steps::Plan) -> String {
    let joint = if plan.joint {
        "through a joint configuration"
    } else {
        "in one step"
    };
    format!(
        "Nothing was changed. The members would be, {joint}:\n{}\n{} voters, {} of them needed for a majority; {} of them are connected \
         to the member that was asked",
        table::members(&plan.after),
        plan.voters,
        plan.needed,
        plan.connected
    )
}

impl TransferArgs {
    async fn run(&self) -> anyhow::Result<()> {
        let message = v1::TransferLeadershipRequest {
            raft_id: self.raft_id.unwrap_or(0),
        };
        let leader = self
            .members
            .ask(message, CHANGE_MAX, async |client, request| {
                Ok(client
                    .transfer_leadership(request)
                    .await?
                    .into_inner()
                    .leader)
            })
            .await
            .map_err(|refused| explain(&refused, None))?;
        match self.json {
            true => output::print_json(&json!({ "leader": leader }))?,
            false => output::print(&format!("raft id {leader} leads"))?,
        }
        Ok(())
    }
}

impl WatchArgs {
    /// Ends only with the process, or when no member answers any more.
    async fn run(&self) -> anyhow::Result<()> {
        let mut at = 0;
        loop {
            let (connected, mut client) = self.members.connect_any(at).await?;
            let url = self
                .members
                .urls()
                .get(connected)
                .cloned()
                .unwrap_or_default();
            let stream = client.watch_changes(v1::WatchMembershipRequest {}).await;
            let ended = match stream {
                Ok(stream) => self.follow(stream.into_inner()).await?,
                Err(status) => status.message().to_owned(),
            };
            output::note(&format!("{url}: {ended}; trying the next member"));
            at = connected + 1;
            tokio::time::sleep(RECONNECT_PAUSE).await;
        }
    }

    /// Prints views until the stream ends; says why it did.
    async fn follow(
        &self,
        mut views: tonic::Streaming<v1::MembershipView>,
    ) -> anyhow::Result<String> {
        loop {
            let view = match views.message().await {
                Ok(Some(view)) => from_wire(view)?,
                Ok(None) => return Ok("the node stopped".into()),
                Err(status) => return Ok(status.message().to_owned()),
            };
            match self.json {
                true => output::print(&table::json(&view).to_string())?,
                false => output::print(&format!("{}\n", table::text(&view, SystemTime::now())))?,
            }
        }
    }
}

#[cfg(test)]
mod tests;
