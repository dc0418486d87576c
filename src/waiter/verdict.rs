//! Decides how the action ended: only known success lets the user container run.
//!
//! Evidence of success is the exit code 0, from the engine or the kernel, or the handoff's word if
//! neither tells the code. A container that is gone is no evidence: the agent of Tinkerbell v0.23
//! deletes the container of an action that failed, too. If the agent shows what it reports, the
//! waiter waits for that as well.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::engine::{Life, NOTICE_LIMIT, PendingEnd};
use crate::lifecycle::Lifecycle;
use crate::retry;
use crate::ticket::Duty;

/// How long the agent may take to delete the container of an action that succeeded: it allows
/// itself 10 s for the network, 10 s for the task and 10 s for the container (Tink Agent v0.25.0).
/// An engine that hangs may double each of these. The agent keeps the container of an action that
/// failed.
const DELETION_LIMIT: Duration = Duration::from_secs(90);
/// An answer that takes longer comes from an engine that hangs.
const SLOW_ANSWER: Duration = Duration::from_secs(5);
/// The first pause between two looks; it grows to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(2);

/// How the action container ended, as far as the waiter can know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It exited with 0: the agent reports SUCCESS.
    Succeeded,
    /// It ended in another way; the text says how.
    Failed(String),
    /// Nothing tells how it ended; the text says why.
    Unknown(String),
}

/// Waits for the action container's end and returns how it ended. `word` tells whether the handoff
/// gave its word.
pub async fn await_verdict(
    lifecycle: &Lifecycle<'_>,
    duty: &Duty,
    pending: Option<PendingEnd>,
    word: &dyn Fn() -> bool,
) -> Verdict {
    let end = lifecycle.await_end(&duty.action_id, duty.action_pid, pending).await;
    match end {
        Ok(Life::Ended { code, note }) => match judge_code(code, &note) {
            Verdict::Succeeded if duty.deleted_on_success => {
                judge_by_container(lifecycle, duty, true, word).await
            }
            verdict => verdict,
        },
        Err(refusal) if !refusal.is_gone() && !word() => Verdict::Unknown(refusal.said),
        _ => judge_by_container(lifecycle, duty, false, word).await,
    }
}

/// Returns the verdict on an action that has ended, by what becomes of its container. `zero` tells
/// whether its exit code is known to be 0.
///
/// An agent that deletes the container of an action that succeeded keeps any other. If it lost
/// containerd meanwhile, it has reported something other than what the exit code says (seen with
/// containerd killed). If it cannot delete the container, it reports SUCCESS anyway, and has
/// removed its log.
async fn judge_by_container(
    lifecycle: &Lifecycle<'_>,
    duty: &Duty,
    mut zero: bool,
    word: &dyn Fn() -> bool,
) -> Verdict {
    let (mut ended, mut looks) = (Instant::now(), 0);
    loop {
        looks += 1;
        let asked = Instant::now();
        let pause = sleep(retry::pause(FIRST_PAUSE, MAX_PAUSE, looks));
        let seen = match lifecycle.inspect(&duty.action_id).await {
            Ok(seen) => seen,
            // nerdctl fails on a container that is deleted while it inspects it.
            Err(refusal) if ended.elapsed() < DELETION_LIMIT => {
                log::debug!(error = refusal.to_string().as_str(); "cannot inspect the action container, looking again");
                pause.await;
                continue;
            }
            Err(_) if word() && !duty.deleted_on_success => return Verdict::Succeeded,
            Err(refusal) => return Verdict::Unknown(refusal.said),
        };
        // While the engine hangs, the agent cannot delete its container either.
        ended += asked.elapsed().saturating_sub(SLOW_ANSWER);
        if let Some(Life::Ended { code, note }) = seen.as_ref().map(|seen| &seen.life) {
            match judge_code(*code, note) {
                Verdict::Succeeded => zero = true,
                verdict => return verdict,
            }
        }
        let evidence = zero || word();
        let reported =
            seen.as_ref().is_none_or(|seen| !duty.deleted_on_success || seen.log_removed);
        let may_be_told = seen.as_ref().is_some_and(|seen| seen.life.is_running());
        match (evidence, reported) {
            // The exit code may become known in a moment.
            (true, true) if !zero && may_be_told && ended.elapsed() < NOTICE_LIMIT => pause.await,
            (true, true) => return Verdict::Succeeded,
            (true, false) if ended.elapsed() > DELETION_LIMIT => {
                return Verdict::Failed(
                    "the agent keeps its container, as it does with an action that failed".into(),
                );
            }
            (false, _) if seen.is_none() => {
                return Verdict::Unknown("the action container is gone".into());
            }
            (false, _) if !may_be_told || ended.elapsed() > NOTICE_LIMIT => {
                return Verdict::Failed("there is no evidence that it exited with 0".into());
            }
            _ => pause.await,
        }
    }
}

/// Returns the verdict on an exit code. With 0 the engine's note tells of something later, such as a
/// removal that failed (moby, `SetRemovalError`); a start that failed has another code. Pure.
fn judge_code(code: i64, note: &str) -> Verdict {
    if code == 0 {
        Verdict::Succeeded
    } else {
        Verdict::Failed(format!("exit code {code} {note}").trim().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_exit_code_0_is_success() {
        assert_eq!(judge_code(0, ""), Verdict::Succeeded);
        assert_eq!(judge_code(0, "cannot remove it"), Verdict::Succeeded);
        assert_eq!(judge_code(137, ""), Verdict::Failed("exit code 137".into()));
        assert_eq!(judge_code(127, "no shell"), Verdict::Failed("exit code 127 no shell".into()));
    }
}
