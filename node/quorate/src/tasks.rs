//! Starting and watching the parts of the node.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::exit::{Exit, end_now};

/// So long a part that ended by itself waits for another one to say why.
const GRACE: Duration = Duration::from_secs(1);

/// What ended the node.
#[derive(Debug)]
pub struct Failure {
    /// Which part.
    pub task: &'static str,
    /// The code for the supervisor.
    pub exit: Exit,
    /// Why.
    pub reason: String,
}

/// The parts of one node. When a critical one ends before it was asked to, all the others are asked to stop,
/// and the first failure decides the exit code. A panic in a critical part ends the process at once.
#[derive(Debug, Clone)]
pub struct Tasks {
    /// Cancelled when the node is to stop.
    pub stop: CancellationToken,
    tracker: TaskTracker,
    failure: Arc<Mutex<Option<Failure>>>,
    reopen: Arc<AtomicBool>,
}

impl Tasks {
    /// No tasks yet.
    pub fn new() -> Self {
        Self {
            stop: CancellationToken::new(),
            tracker: TaskTracker::new(),
            failure: Arc::new(Mutex::new(None)),
            reopen: Arc::new(AtomicBool::new(false)),
        }
    }

    /// Records why the node ends; the first reason stands.
    pub fn fail(&self, task: &'static str, exit: Exit, reason: String) {
        tracing::error!(task, reason, "a part of the node failed: stopping");
        self.failure
            .lock()
            .get_or_insert(Failure { task, exit, reason });
        self.stop.cancel();
    }

    /// Stops the node so that it can be opened again at once, with other stores.
    pub fn reopen(&self, reason: &str) {
        tracing::info!(reason, "closing the node in order to open it again");
        self.reopen.store(true, Ordering::Release);
        self.stop.cancel();
    }

    /// True if the node is to be opened again.
    pub fn is_to_reopen(&self) -> bool {
        self.reopen.load(Ordering::Acquire)
    }

    /// The first failure, if any.
    pub fn take_failure(&self) -> Option<Failure> {
        self.failure.lock().take()
    }

    /// A task without which the node must not go on.
    pub fn critical<E: std::fmt::Display>(
        &self,
        name: &'static str,
        exit: Exit,
        future: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        let tasks = self.clone();
        self.tracker.spawn(async move {
            let outcome = AssertUnwindSafe(future).catch_unwind().await;
            match outcome
                .map(|ended| ended.map_err(|e| e.to_string()))
                .map_err(drop)
            {
                Ok(Ok(())) => {
                    // Parts that wait for one that failed end with it: let that one speak first.
                    tokio::time::timeout(GRACE, tasks.stop.cancelled())
                        .await
                        .ok();
                    tasks.ended(name);
                }
                Ok(Err(reason)) => tasks.fail(name, exit, reason),
                Err(_) => panicked(name),
            }
        });
    }

    /// A task that may end; a panic in it is counted and logged.
    pub fn worker(&self, name: &'static str, future: impl Future<Output = ()> + Send + 'static) {
        self.tracker.spawn(async move {
            if AssertUnwindSafe(future).catch_unwind().await.is_err() {
                metrics::counter!("quorate_task_panics_total", "task" => name).increment(1);
                tracing::error!(task = name, "task panicked");
            }
        });
    }

    /// A thread without which the node must not go on. Its name is its name in the operating system.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn critical_thread(
        &self,
        name: &'static str,
        body: impl FnOnce() -> Result<(), (Exit, String)> + Send + 'static,
    ) -> std::io::Result<JoinHandle<()>> {
        let tasks = self.clone();
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(
                move || match std::panic::catch_unwind(AssertUnwindSafe(body)) {
                    Ok(Ok(())) => {
                        let ended_at = Instant::now();
                        while !tasks.stop.is_cancelled() && ended_at.elapsed() < GRACE {
                            std::thread::sleep(GRACE / 50);
                        }
                        tasks.ended(name);
                    }
                    Ok(Err((exit, reason))) => tasks.fail(name, exit, reason),
                    Err(_) => panicked(name),
                },
            )
    }

    /// Waits until all tasks (not threads) have ended.
    pub async fn join(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }

    fn ended(&self, name: &'static str) {
        if self.stop.is_cancelled() {
            tracing::debug!(task = name, "ended");
        } else {
            self.fail(name, Exit::Task, "ended although the node runs".into());
        }
    }
}

fn panicked(name: &'static str) -> ! {
    // The panic's own message and place have been printed by the hook.
    tracing::error!(task = name, "critical task panicked: ending the process");
    end_now(Exit::Task)
}
