//! Answers to appends, on their way from the writer's thread to the tasks that wait for them. Owns keeping that way short
//! for the writer; refuses to know what is answered.

use tokio::sync::mpsc;

use super::writer::Reply;
use crate::{
    limits,
    log::{AppendError, Appended},
    tasks::Tasks,
};

type Answers = (Vec<Reply>, Result<Vec<Appended>, AppendError>);

/// The way of answers to the runtime.
///
/// To wake a task from outside the runtime takes the writer a microsecond or two, and the first time a system call. A
/// batch's answers are therefore handed over at once, and a task wakes the others; the writer goes on with the next batch.
#[derive(Debug)]
pub(super) struct Replies(mpsc::Sender<Answers>);

impl Replies {
    /// A way to the current runtime. Its task ends with the writer.
    pub(super) fn start(tasks: &Tasks) -> Self {
        let (batches, mut inbox) = mpsc::channel(limits::REPLY_BATCHES_MAX);
        tasks.spawn(async move {
            while let Some((replies, result)) = inbox.recv().await {
                answer(replies, result);
            }
        });
        Self(batches)
    }

    /// Answers the appends of a batch. One alone is answered directly: there is nobody to wait for.
    pub(super) fn send(&self, replies: Vec<Reply>, result: Result<Vec<Appended>, AppendError>) {
        if replies.len() == 1 {
            return answer(replies, result);
        }
        if let Err(not_sent) = self.0.try_send((replies, result)) {
            let (replies, result) = not_sent.into_inner();
            answer(replies, result);
        }
    }
}

fn answer(replies: Vec<Reply>, result: Result<Vec<Appended>, AppendError>) {
    match result {
        Ok(outcomes) => {
            for (reply, outcome) in replies.into_iter().zip(outcomes) {
                let _ = reply.send(Ok(outcome));
            }
        }
        Err(error) => {
            for reply in replies {
                let _ = reply.send(Err(error.clone()));
            }
        }
    }
}
