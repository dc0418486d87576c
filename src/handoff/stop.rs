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
        signal = signals.next_stop() => Err(stopped(signal).into()),
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
            Err(cut_off(signal, finished).into())
        }
    }
}

fn cut_off(signal: &str, finished: bool) -> Failure {
    let failure = stopped(signal);
    let may_be_left = "the last step was cut off; what it creates may be left";
    if finished { failure } else { failure.cause(may_be_left) }
}

fn stopped(signal: &str) -> Failure {
    Failure::new(format!("stopped by {signal} before the handoff was done")).field("timeout").fix(
        "if the action's timeout was over, raise the timeout: pulling IMAGE is part of the action",
    )
}

impl From<Failure> for Vec<Failure> {
    fn from(failure: Failure) -> Self {
        vec![failure]
    }
}
