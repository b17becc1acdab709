//! Questions to the loop: closures that run between two events.

use tokio::sync::{mpsc, oneshot};

use super::Daemon;

/// Something to be asked of the loop's state. It must do a bounded piece of work.
pub(crate) type Question = Box<dyn FnOnce(&mut Daemon) + Send>;

/// The loop has ended.
#[derive(Debug, thiserror::Error)]
#[error("the speaker is stopping")]
pub(crate) struct Stopping;

/// A pair of ends: for those who ask, and for the loop.
pub(crate) fn questions() -> (Asker, Questions) {
    let (sender, receiver) = mpsc::channel(64);
    (Asker(sender), Questions(receiver))
}

/// Asks the loop. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Asker(mpsc::Sender<Question>);

impl Asker {
    /// Runs `question` in the loop and returns its answer.
    ///
    /// # Errors
    ///
    /// When the loop has ended.
    pub(crate) async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Daemon) -> T + Send + 'static,
    ) -> Result<T, Stopping> {
        let (answer, answered) = oneshot::channel();
        let question: Question = Box::new(move |daemon| {
            // Whoever asked may have gone.
            let _ = answer.send(question(daemon));
        });
        self.0.send(question).await.map_err(|_| Stopping)?;
        answered.await.map_err(|_| Stopping)
    }
}

/// The loop's end of the questions.
pub(crate) struct Questions(mpsc::Receiver<Question>);

impl Questions {
    /// The next one; `None` when nobody can ask any more. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<Question> {
        self.0.recv().await
    }
}
