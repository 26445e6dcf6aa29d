//! The process that a node runs in: its runtime, and the signals that ask it to end.

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::exit::Ended;

/// Catches SIGTERM and Ctrl-C from now on, and what the node runs on.
///
/// To be made before anything else: a signal that comes earlier ends the process as if nobody had been there to listen.
#[derive(Debug)]
pub struct Process {
    pub(crate) runtime: tokio::runtime::Runtime,
    /// Cancelled when the process was asked to end.
    pub(crate) terminate: CancellationToken,
}

impl Process {
    /// Starts listening.
    ///
    /// # Errors
    /// If the system gives no threads.
    pub fn new() -> Result<Self, Ended> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .thread_name("io")
            .build()
            .context("starting the runtime")?;
        let terminate = CancellationToken::new();
        let signals = runtime.block_on(async { Signals::new() });
        runtime.spawn(signals.listen(terminate.clone()));
        Ok(Self { runtime, terminate })
    }
}

/// Handlers for the life of the process: a signal counts at whatever moment it comes.
struct Signals {
    terminate: std::io::Result<Signal>,
    interrupt: std::io::Result<Signal>,
}

impl Signals {
    /// Installs the handlers. To be called inside the runtime.
    fn new() -> Self {
        Self {
            terminate: signal(SignalKind::terminate()),
            interrupt: signal(SignalKind::interrupt()),
        }
    }

    async fn listen(mut self, terminate: CancellationToken) {
        for handler in [&self.terminate, &self.interrupt] {
            if let Err(e) = handler {
                tracing::warn!(error = %e, "a signal that should stop this node in order will end it at once");
            }
        }
        let signal = tokio::select! {
            () = caught(&mut self.terminate) => "terminate",
            () = caught(&mut self.interrupt) => "interrupt",
        };
        tracing::info!(signal, "asked to stop");
        terminate.cancel();
    }
}

/// Returns when the signal came; never, if nobody listens for it.
async fn caught(handler: &mut std::io::Result<Signal>) {
    let came = match handler {
        Ok(handler) => handler.recv().await,
        Err(_) => None,
    };
    if came.is_none() {
        std::future::pending().await
    }
}
