//! What is under way on a connection. Owns when one is idle: no request has been open for so long; refuses to know what is
//! asked.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::body::Body;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::{sync::watch, time::Instant};

/// The requests of one connection.
#[derive(Clone, Debug)]
pub(super) struct Activity(Arc<watch::Sender<State>>);

#[derive(Clone, Copy, Debug)]
struct State {
    open: usize,
    /// When the last one began or ended.
    changed_at: Instant,
}

impl Activity {
    /// A connection that begins.
    pub(super) fn begin() -> Self {
        let state = State {
            open: 0,
            changed_at: Instant::now(),
        };
        Self(Arc::new(watch::Sender::new(state)))
    }

    /// A request begins; it ends when what this gives is dropped.
    pub(super) fn open(&self) -> Open {
        self.change(|open| open + 1);
        Open(self.clone())
    }

    fn change(&self, count: impl FnOnce(usize) -> usize) {
        self.0.send_modify(|state| {
            state.open = count(state.open);
            state.changed_at = Instant::now();
        });
    }

    /// Ends when no request has been open for so long.
    pub(super) async fn idle(&self, idle_max: Option<Duration>) {
        let Some(idle_max) = idle_max else {
            return std::future::pending().await;
        };
        let mut state = self.0.subscribe();
        loop {
            let State { open, changed_at } = *state.borrow_and_update();
            let end = changed_at + idle_max;
            if open > 0 {
                let _ = state.changed().await;
            } else if end <= Instant::now() {
                return;
            } else {
                tokio::time::sleep_until(end).await;
            }
        }
    }
}

/// A request that is open.
#[derive(Debug)]
pub(super) struct Open(Activity);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.change(|open| open - 1);
    }
}

/// The body of an answer; its request is open as long as it is.
pub(super) struct Watched {
    body: Body,
    _open: Open,
}

impl Watched {
    pub(super) fn new(body: Body, open: Open) -> Self {
        Self { body, _open: open }
    }
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE_MAX: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_idle_once_no_request_has_been_open_for_so_long() {
        let (activity, started) = (Activity::begin(), Instant::now());
        activity.idle(Some(IDLE_MAX)).await;
        assert_eq!(started.elapsed(), IDLE_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_is_open_keeps_a_connection_however_long_it_takes() {
        let (activity, started) = (Activity::begin(), Instant::now());
        let open = activity.open();
        let takes = Duration::from_secs(3600);
        let request = async move {
            tokio::time::sleep(takes).await;
            drop(open);
        };
        tokio::join!(activity.idle(Some(IDLE_MAX)), request);
        assert_eq!(started.elapsed(), takes + IDLE_MAX);
    }
}
