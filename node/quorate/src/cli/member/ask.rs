//! Asking members over gRPC: if one does not answer, or cannot help now, the next is asked. A change keeps its id through all
//! attempts, so it is made at most once.

use std::time::{Duration, Instant};

use anyhow::anyhow;
use clap::Args;
use quorate_proto::v1;
use quorate_proto::v1::membership_client::MembershipClient;
use quorate_proto::v1::membership_fault::Reason;
use quorate_rpc::membership_fault;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use crate::config::parse_duration;

/// Building a connection on a network that works takes far less.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A member that accepts a connection and then says nothing must not use up the time of the others: with more than one to ask,
/// none is waited for longer. Reading takes milliseconds, a change a few elections at worst.
pub const READ_MAX: Duration = Duration::from_secs(3);
/// The same for a change; it goes on at the member that took it, and the next one is asked under the same id.
pub const CHANGE_MAX: Duration = Duration::from_secs(20);
/// A watched connection that is dead without a word is noticed by pings in this interval.
const PING_INTERVAL: Duration = Duration::from_secs(10);
/// Pause after all members were asked in vain; it doubles up to the second figure.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(2));

/// Whom to ask, and for how long.
#[derive(Debug, Clone, Args)]
pub struct Members {
    /// gRPC address of a member; may be repeated: the next is asked when one does not answer.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:50051")]
    grpc: Vec<String>,
    /// How long to try, over all members.
    #[arg(long, default_value = "60s", value_parser = parse_duration)]
    timeout: Duration,
}

/// Why there was no answer that helps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// For the operator, with the member that said it.
    pub text: String,
    /// What the member said, for programs.
    pub reason: Option<Reason>,
    /// True if an attempt may have had an effect that nobody told us about.
    pub uncertain: bool,
}

/// What to make of one failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// Everyone would say the same.
    Final,
    /// This member cannot help; another may.
    Elsewhere,
    /// It may work in a moment.
    Later,
}

fn verdict(status: &Status, fault: Option<&v1::MembershipFault>) -> Verdict {
    if let Some(fault) = fault {
        return match fault.reason() {
            Reason::NotAMember | Reason::LearnerNotAllowed => Verdict::Elsewhere,
            _ if fault.retryable => Verdict::Later,
            _ => Verdict::Final,
        };
    }
    match status.code() {
        // The connection broke, or the member stops or is busy.
        Code::Unavailable
        | Code::Unknown
        | Code::Cancelled
        | Code::DeadlineExceeded
        | Code::ResourceExhausted => Verdict::Later,
        // Something else answers there, or an older node.
        Code::Unimplemented => Verdict::Elsewhere,
        _ => Verdict::Final,
    }
}

/// True if the request may have been carried out all the same.
fn is_uncertain(status: &Status, fault: Option<&v1::MembershipFault>) -> bool {
    match fault {
        Some(fault) => fault.reason() == Reason::Undecided,
        None => matches!(
            status.code(),
            Code::Unavailable
                | Code::Unknown
                | Code::Cancelled
                | Code::DeadlineExceeded
                | Code::Internal
        ),
    }
}

impl Members {
    /// Their addresses.
    pub fn urls(&self) -> &[String] {
        &self.grpc
    }

    /// Asks one member after the other until one gives an answer; with others to ask, waits for each at most for
    /// `attempt_max`.
    ///
    /// # Errors
    /// [`Refused`] with the answer that counts, or the last one when the time is up.
    pub async fn ask<M, T, F>(
        &self,
        message: M,
        attempt_max: Duration,
        call: F,
    ) -> Result<T, Refused>
    where
        M: Clone,
        F: AsyncFn(&mut MembershipClient<Channel>, Request<M>) -> Result<T, Status>,
    {
        let end = Instant::now() + self.timeout;
        let mut pause = PAUSE.0;
        let mut uncertain = false;
        loop {
            let mut last = None;
            let mut may_help = false;
            for url in &self.grpc {
                let left = end.saturating_duration_since(Instant::now());
                if left.is_zero() && last.is_some() {
                    break;
                }
                let mut client = match connect(url, left).await {
                    Ok(client) => client,
                    Err(error) => {
                        may_help = true;
                        last = Some((format!("{error:#}"), None));
                        continue;
                    }
                };
                let mut request = Request::new(message.clone());
                request.set_timeout(match self.grpc.len() {
                    0 | 1 => left,
                    _ => left.min(attempt_max),
                });
                let status = match call(&mut client, request).await {
                    Ok(answer) => return Ok(answer),
                    Err(status) => status,
                };
                let fault = membership_fault(&status);
                uncertain |= is_uncertain(&status, fault.as_ref());
                let text = format!("{url}: {}", said(&status));
                let reason = fault.as_ref().map(v1::MembershipFault::reason);
                match verdict(&status, fault.as_ref()) {
                    Verdict::Final => {
                        return Err(Refused {
                            text,
                            reason,
                            uncertain,
                        });
                    }
                    Verdict::Elsewhere => {}
                    Verdict::Later => may_help = true,
                }
                // What a member that may help says is worth more than that another cannot.
                if last.is_none() || may_help {
                    last = Some((text, reason));
                }
            }
            if !may_help || Instant::now() + pause >= end {
                let (text, reason) = last.unwrap_or_else(|| ("no address was given".into(), None));
                return Err(Refused {
                    text,
                    reason,
                    uncertain,
                });
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    /// A connection to the first member that answers, for a stream. `first` is where to begin.
    ///
    /// # Errors
    /// If none answers.
    pub async fn connect_any(
        &self,
        first: usize,
    ) -> anyhow::Result<(usize, MembershipClient<Channel>)> {
        let count = self.grpc.len();
        let mut failure = anyhow!("no address was given");
        for at in (0..count).map(|i| (first + i) % count) {
            let Some(url) = self.grpc.get(at) else {
                continue;
            };
            match connect(url, self.timeout).await {
                Ok(client) => return Ok((at, client)),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }
}

async fn connect(url: &str, left: Duration) -> anyhow::Result<MembershipClient<Channel>> {
    let endpoint = Endpoint::from_shared(url.to_owned())
        .ok()
        .filter(|endpoint| endpoint.uri().scheme_str() == Some("http"))
        .ok_or_else(|| anyhow!("{url:?} is not http://host:port"))?;
    let endpoint = endpoint
        .connect_timeout(CONNECT_TIMEOUT.min(left.max(Duration::from_millis(1))))
        .tcp_nodelay(true)
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_INTERVAL);
    let channel = endpoint.connect().await.map_err(|e| {
        let cause = std::error::Error::source(&e)
            .map(|c| format!(": {c}"))
            .unwrap_or_default();
        anyhow!("{url} does not answer gRPC: {e}{cause}")
    })?;
    Ok(MembershipClient::new(channel))
}

/// The text of a status, or its code where it has none.
fn said(status: &Status) -> String {
    match status.message() {
        "" => format!("{:?}", status.code()),
        text => text.to_owned(),
    }
}

#[cfg(test)]
mod tests;
