//! Stops a handoff on a signal.

use std::time::Duration;

use tokio::time::timeout;

use crate::error::Failure;
use crate::signals::Signals;

/// How long a step that is under way may go on after a signal.
const LAST_STEP_LIMIT: Duration = Duration::from_millis(1500);

/// Returns the step's result, or a failure as soon as a signal stops us.
pub async fn or_stopped<T, E: From<Failure>>(
    signals: &mut Signals,
    step: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    tokio::select! {
        biased;
        signal = signals.next_stop() => Err(stopped(signal, true).into()),
        result = step => result,
    }
}

/// Does the same as [`or_stopped`], but gives a step that is under way [`LAST_STEP_LIMIT`] to
/// finish.
pub async fn finish_then_stop<T, E: From<Failure>>(
    signals: &mut Signals,
    step: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    tokio::pin!(step);
    tokio::select! {
        biased;
        result = &mut step => result,
        signal = signals.next_stop() => {
            let finished = timeout(LAST_STEP_LIMIT, step).await.is_ok();
            Err(stopped(signal, finished).into())
        }
    }
}

fn stopped(signal: &str, finished: bool) -> Failure {
    let fix = if finished {
        "if the action's timeout was over, raise the timeout: pulling IMAGE is part of the action"
    } else {
        "raise the timeout; a container that never runs may be left"
    };
    let message = format!("stopped by {signal} before the handoff was done");
    Failure::new(message).field("timeout").fix(fix)
}

impl From<Failure> for Vec<Failure> {
    fn from(failure: Failure) -> Self {
        vec![failure]
    }
}
