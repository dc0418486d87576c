//! How the action ended: only what is known to be success lets the user container run.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::engine::{End, Life};
use crate::lifecycle::Lifecycle;
use crate::machine::clock::{Clock, Moment};
use crate::ticket::Duty;

/// How long the agent may take to delete the container of an action that succeeded; it needs
/// milliseconds for it (Tink Agent v0.25.0). One that failed it keeps.
const DELETION_LIMIT: Duration = Duration::from_secs(30);
/// Between two looks whether it has.
const PAUSE: Duration = Duration::from_millis(100);

/// The action container's end, as far as the waiter can know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It exited with 0: the agent reports SUCCESS.
    Succeeded,
    /// It ended in another way; says how.
    Failed(String),
    /// It is gone and nothing tells how it ended; says why.
    Unknown(String),
}

/// What a verdict is based on, besides what the engine says.
pub struct Evidence<'a> {
    /// What the handoff knew of the action.
    pub duty: &'a Duty,
    /// The clock of the wait.
    pub clock: Clock,
    /// The action was seen alive by this waiter.
    pub saw_action: bool,
}

/// Waits for the action container's end; returns how and when it ended.
pub async fn verdict(lifecycle: &Lifecycle<'_>, evidence: &Evidence<'_>, pending: Option<End>) -> (Verdict, Moment) {
    let duty = evidence.duty;
    let end = lifecycle.await_end(&duty.action_id, duty.action_pid, pending).await;
    let ended = evidence.clock.now();
    let verdict = match end {
        Ok(Life::Ended { code, note }) if !duty.deleted_on_success => of_code(code, &note),
        Err(refusal) if !refusal.is_gone() => Verdict::Unknown(refusal.said),
        _ => by_looking(lifecycle, evidence).await,
    };
    (verdict, ended)
}

/// The verdict on an action whose process is gone, by what becomes of its container. An agent that deletes the
/// container of an action that succeeded keeps any other; its exit code says less: an agent that lost containerd
/// meanwhile reports FAILED whatever it was (seen with containerd killed). If it cannot delete the container it reports
/// SUCCESS all the same, and has removed its log. A container that somebody ran by hand keeps
/// its exit code, and nobody reports it.
async fn by_looking(lifecycle: &Lifecycle<'_>, evidence: &Evidence<'_>) -> Verdict {
    let Evidence { duty, saw_action, .. } = evidence;
    let ended = Instant::now();
    loop {
        match lifecycle.look_at(&duty.action_id).await {
            Ok(None) if duty.deleted_on_success && *saw_action => return Verdict::Succeeded,
            Ok(None) => return Verdict::Unknown("the action container is gone".into()),
            Ok(Some(seen)) => match seen.life {
                Life::Ended { code: 0, .. } if duty.deleted_on_success && seen.log_removed => {
                    return Verdict::Succeeded;
                }
                Life::Ended { code: 0, .. } if duty.deleted_on_success => {}
                Life::Ended { code, note } => return of_code(code, &note),
                _ => {}
            },
            // nerdctl stumbles over a container that is deleted while it looks at it.
            Err(refusal) if ended.elapsed() < DELETION_LIMIT => {
                tracing::debug!(error = %refusal, "cannot inspect the action container, looking again");
            }
            Err(refusal) => return Verdict::Unknown(refusal.said),
        }
        if ended.elapsed() > DELETION_LIMIT {
            return Verdict::Failed("the agent keeps its container, as it does with an action that failed".into());
        }
        sleep(PAUSE).await;
    }
}

/// Only exit code 0 without an error is success. Pure.
fn of_code(code: i64, note: &str) -> Verdict {
    if code == 0 && note.is_empty() {
        Verdict::Succeeded
    } else {
        Verdict::Failed(format!("exit code {code} {note}").trim().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_exit_code_0_without_an_error_is_success() {
        assert_eq!(of_code(0, ""), Verdict::Succeeded);
        assert_eq!(of_code(137, ""), Verdict::Failed("exit code 137".into()));
        assert!(matches!(of_code(0, "x"), Verdict::Failed(_)));
    }
}
