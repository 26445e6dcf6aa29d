//! The end of a membership, and the answer to those who seek one.

use std::time::Duration;

use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p::{PeerId, Stream, swarm::ConnectionId};
use tokio::{sync::oneshot, time::timeout};

use super::{Done, Network};
use crate::{
    admission::Applicant,
    frame,
    peer::Connection,
    streams::{Channel, StreamReply},
    wire::Control,
};

/// A removed member's connections end after this time, told or not.
const FAREWELL_LIMIT: Duration = Duration::from_millis(500);

/// A frame with a status and nothing else.
const ANSWER_BYTES: usize = frame::HEAD + 1;

impl Network {
    /// Tells a member that was just removed, on each of its connections. It is in no table any more, so nothing that
    /// arrives meanwhile is delivered.
    pub(super) fn say_farewell(&mut self, peer: PeerId, connections: &[Connection]) {
        let mut streams = Vec::new();
        for connection in connections {
            let (reply, stream): (StreamReply, _) = oneshot::channel();
            self.swarm
                .behaviour_mut()
                .streams
                .open(peer, connection.id, Channel::Control, reply);
            streams.push(stream);
        }
        let connections: Vec<_> = connections.iter().map(|connection| connection.id).collect();
        self.swarm.behaviour_mut().gossip.part(peer);
        self.tasks.spawn(async move {
            let saying = futures::future::join_all(streams.into_iter().map(say));
            if timeout(FAREWELL_LIMIT, saying).await.is_err() {
                tracing::debug!(%peer, limit = ?FAREWELL_LIMIT, "a removed member did not hear it in time");
            }
            Done::Farewell { peer, connections }
        });
    }

    /// Cuts off a removed member, now that it was told.
    pub(super) fn part(&mut self, peer: PeerId, connections: &[ConnectionId]) {
        for connection in connections {
            self.swarm.close_connection(*connection);
        }
        // It may be back by now.
        if !self.table.contains_peer(&peer) {
            self.swarm.behaviour_mut().allowed.disallow_peer(peer);
        }
    }

    /// Answers an application for admission, beside everything else.
    pub(super) fn answer_applicant(&mut self, applicant: Applicant) {
        let serving = applicant.serve(self.control.clone(), self.shared.timing.clone());
        self.tasks.spawn(async move {
            serving.await;
            Done::Ended
        });
    }
}

/// Writes a farewell and waits for the answer: then it was read.
async fn say(stream: oneshot::Receiver<Result<Stream, String>>) {
    let Ok(Ok(mut stream)) = stream.await else {
        return;
    };
    let saying = async {
        frame::write_frame(&mut stream, Control::Farewell.encode()).await?;
        stream.read_exact(&mut [0; ANSWER_BYTES]).await?;
        stream.close().await
    };
    if let Err(error) = saying.await {
        tracing::debug!(%error, "a removed member was perhaps not told");
    }
}
