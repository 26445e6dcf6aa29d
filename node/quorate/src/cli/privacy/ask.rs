//! One question to one node.

use std::time::Duration;

use anyhow::anyhow;
use clap::Args;
use quorate_proto::v1::privacy_client::PrivacyClient;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status, Streaming};

use crate::config::parse_duration;

/// Building a connection on a network that works takes far less.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A connection that is dead without a word is noticed by pings in this interval.
const PING_INTERVAL: Duration = Duration::from_secs(10);
/// A payload may have 16 MiB, and a page of records is smaller.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// Without `--timeout`.
const USUAL_WAIT: Duration = Duration::from_secs(60);

/// Which node to ask, and how to print what it says.
#[derive(Debug, Clone, Args)]
pub struct NodeArgs {
    /// gRPC address of the node.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:50051")]
    grpc: String,
    /// How long to wait for its answer; without it 60s, for a resync and for giving up 1h.
    #[arg(long, value_parser = parse_duration)]
    timeout: Option<Duration>,
    /// As JSON, for scripts.
    #[arg(long)]
    pub json: bool,
}

/// A connection to the node.
#[derive(Debug)]
pub struct Question {
    client: PrivacyClient<Channel>,
    url: String,
    wait: Duration,
}

impl NodeArgs {
    /// Connects, for answers that come soon.
    ///
    /// # Errors
    /// If the node does not answer.
    pub async fn question(&self) -> anyhow::Result<Question> {
        self.question_for(USUAL_WAIT).await
    }

    /// Connects, for answers that may take `usual`.
    ///
    /// # Errors
    /// If the node does not answer.
    pub async fn question_for(&self, usual: Duration) -> anyhow::Result<Question> {
        let endpoint = Endpoint::from_shared(self.grpc.clone())
            .ok()
            .filter(|endpoint| endpoint.uri().scheme_str() == Some("http"))
            .ok_or_else(|| anyhow!("{:?} is not http://host:port", self.grpc))?;
        let wait = self.timeout.unwrap_or(usual);
        let endpoint = endpoint
            .connect_timeout(CONNECT_TIMEOUT.min(wait.max(Duration::from_millis(1))))
            .tcp_nodelay(true)
            .http2_keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_INTERVAL);
        let channel = endpoint.connect().await.map_err(|e| {
            let cause = std::error::Error::source(&e)
                .map(|c| format!(": {c}"))
                .unwrap_or_default();
            anyhow!("{} does not answer gRPC: {e}{cause}", self.grpc)
        })?;
        Ok(Question {
            client: PrivacyClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX),
            url: self.grpc.clone(),
            wait,
        })
    }
}

impl Question {
    /// Asks, and waits for the answer within the time.
    ///
    /// # Errors
    /// What the node said.
    pub async fn ask<M, T, F>(&self, message: M, call: F) -> anyhow::Result<T>
    where
        F: AsyncFn(&mut PrivacyClient<Channel>, Request<M>) -> Result<Response<T>, Status>,
    {
        let mut request = Request::new(message);
        request.set_timeout(self.wait);
        let mut client = self.client.clone();
        let answer = call(&mut client, request).await;
        answer
            .map(Response::into_inner)
            .map_err(|status| self.explain(&status))
    }

    /// Asks for a stream, which has no end of its own.
    ///
    /// # Errors
    /// What the node said.
    pub async fn watch<M, T, F>(&self, message: M, call: F) -> anyhow::Result<Streaming<T>>
    where
        F: AsyncFn(
            &mut PrivacyClient<Channel>,
            Request<M>,
        ) -> Result<Response<Streaming<T>>, Status>,
    {
        let mut client = self.client.clone();
        let answer = call(&mut client, Request::new(message)).await;
        answer
            .map(Response::into_inner)
            .map_err(|status| self.explain(&status))
    }

    /// The next message of a stream; `None` at its end.
    ///
    /// # Errors
    /// Why the stream broke.
    pub async fn next<T>(&self, stream: &mut Streaming<T>) -> anyhow::Result<Option<T>> {
        stream
            .message()
            .await
            .map_err(|status| self.explain(&status))
    }

    fn explain(&self, status: &Status) -> anyhow::Error {
        let said = match status.message() {
            "" => format!("{:?}", status.code()),
            text => text.to_owned(),
        };
        let advice = match status.code() {
            Code::Unimplemented => {
                "; is it a node that knows private transactions, at its gRPC address?"
            }
            Code::DeadlineExceeded | Code::Cancelled => "; allow it more with --timeout",
            _ => "",
        };
        anyhow!("{}: {said}{advice}", self.url)
    }
}
