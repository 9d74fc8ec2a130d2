//! Where concurrency starts. Owns `spawn`: every task and thread has a name and an owner that waits for its end.

use std::{cell::Cell, io, thread};

use tokio_util::{
    sync::CancellationToken,
    task::{AbortOnDropHandle, TaskTracker},
};

/// The tasks of one owner, with the signal that ends them.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
}

impl Tasks {
    /// Tasks that end when told.
    pub fn new() -> Self {
        Self::default()
    }

    /// Cancelled when the tasks have to end.
    pub fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// Starts a task.
    #[allow(clippy::disallowed_methods, reason = "this is where tasks are started")]
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tracker.spawn(task);
    }

    /// Starts a task that is cut off, wherever it waits, when the tasks have to end.
    pub fn spawn_until_stop(&self, task: impl Future + Send + 'static) {
        let stop = self.stop.clone();
        self.spawn(async move {
            stop.run_until_cancelled(task).await;
        });
    }

    /// Tells the tasks to end and waits until they have.
    pub async fn end(&self) {
        self.stop.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }
}

/// Starts a task that ends with its owner: dropping the handle ends it.
#[allow(clippy::disallowed_methods, reason = "this is where tasks are started")]
pub fn owned<T: Send + 'static>(task: impl Future<Output = T> + Send + 'static) -> AbortOnDropHandle<T> {
    AbortOnDropHandle::new(tokio::spawn(task))
}

/// Starts a named thread.
#[allow(
    clippy::expect_used,
    reason = "only at start, where nothing is lost by ending"
)]
pub fn thread(name: &str, body: impl FnOnce() + Send + 'static) -> thread::JoinHandle<()> {
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(body)
        .expect("the system refuses to start a thread")
}

thread_local! {
    static BLOCKS_IN_PLACE: Cell<bool> = const { Cell::new(false) };
}

/// Runs what blocks where it may.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    if BLOCKS_IN_PLACE.get() {
        return Ok(work());
    }
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)
}

/// From now on, what blocks runs on this thread, where it is asked for: for simulations, in which nothing may depend on how
/// threads take turns.
pub fn block_in_place() {
    BLOCKS_IN_PLACE.set(true);
}
