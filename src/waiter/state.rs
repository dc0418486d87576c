//! The states of a waiter's journey, and where a restarted waiter goes on.

use super::journal::Memory;
use crate::end::End;
use crate::engine::{Output, PendingEnd};
use crate::machine::clock::Moment;

/// Where a waiter is in its journey. Each state holds what it needs to go on from there.
pub enum State {
    /// The action container has not ended, as far as the waiter knows.
    AwaitEnd {
        /// The wait for it, if it is open.
        pending: Option<PendingEnd>,
    },
    /// The action succeeded; the user container is to start at the safe moment.
    Waiting {
        /// When success became known.
        since: Moment,
    },
    /// The user container is to be started now, or the machine is to be ended.
    Starting,
    /// The user container was started.
    Watching {
        /// Its output, if it was attached to before the start.
        output: Option<Box<dyn Output>>,
    },
    /// The user container, which was to take the machine down, ended with success, but the machine
    /// still runs.
    StillRunning {
        /// When it ended.
        since: Moment,
    },
    /// The user's own work failed; the fallback is due after its delay.
    FallingBack {
        /// When it failed.
        since: Moment,
    },
    /// The machine is to end.
    Ending {
        /// Which end.
        end: End,
        /// When the machine was first asked.
        since: Moment,
    },
    /// The user container must not run.
    Cancelled {
        /// Why.
        why: String,
    },
    /// The waiter failed and said so. The user container must not run, and the waiter's container
    /// stays to explain why.
    Failed,
    /// Nothing else is to be done; the containers that remain explain why.
    Retired,
    /// A signal told the waiter to stop.
    Stopped {
        /// The signal's name.
        signal: &'static str,
        /// The user container was started.
        started: bool,
    },
    /// The user container ended with success and is to be removed.
    Ended,
    /// Everything is done, and the waiter removes itself.
    Done,
    /// The same as [`State::Done`] for a waiter that was told to stop, which must not take long.
    LastCall,
    /// The machine or the engine goes down.
    Interrupted,
}

/// Returns where to go on, by what an earlier run noted. It is `now`, in the boot with this ID;
/// `ends` tells whether the waiter or the user container may end the machine. Pure except for its
/// log line.
pub fn resume(
    memory: &Memory,
    pending: Option<PendingEnd>,
    now: Moment,
    boot: &str,
    ends: bool,
) -> State {
    // An engine's containers may outlive the machine's end. What was begun before is not begun
    // again: it may have been the cause.
    let begun_before = memory.starting.as_ref().is_some_and(|of| of != boot);
    let (state, at) = match *memory {
        Memory { done: true, .. } => (State::Ended, "the user container had ended with success"),
        Memory { cancelled: true, started: false, .. } => {
            let why = "the user container was about to be removed".to_owned();
            (State::Cancelled { why }, "it was removing the user container")
        }
        Memory { ending: None, failed: Some(_), .. } if begun_before => {
            (State::Retired, "the machine has booted again since the failure")
        }
        Memory { ref ending, .. } if begun_before && (ends || ending.is_some()) => {
            (State::Done, "the machine has booted again")
        }
        Memory { ending: Some((since, end)), .. } => {
            (State::Ending { end, since: since.min(now) }, "the machine was about to end")
        }
        Memory { failed: Some(since), .. } => {
            (State::FallingBack { since: since.min(now) }, "it was waiting for the fallback")
        }
        Memory { started, .. } if started || begun_before => {
            (State::Watching { output: None }, "the user container was started before")
        }
        Memory { starting: Some(_), .. } => (State::Starting, "the wait was over"),
        // A machine that has rebooted counts from the start again.
        Memory { succeeded: Some(since), .. } => {
            (State::Waiting { since: since.min(now) }, "the wait goes on")
        }
        Memory { armed: true, .. } => (State::AwaitEnd { pending }, "the action's end is awaited"),
        Memory { .. } => return State::AwaitEnd { pending },
    };
    log::warn!("the waiter was restarted: {at}");
    state
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_begun_again_after_another_boot() {
        let now = Moment::from_nanoseconds(5);
        let starting = Memory { armed: true, starting: Some("a".into()), ..Memory::default() };
        let started = Memory { started: true, ..starting.clone() };
        let failed = Memory { failed: Some(now), ..started.clone() };
        let ending = Memory { ending: Some((now, End::Reboot)), ..failed.clone() };
        let resumed = |memory, boot, ends| resume(memory, None, now, boot, ends);
        assert!(matches!(resumed(&starting, "a", true), State::Starting));
        assert!(matches!(resumed(&started, "a", true), State::Watching { .. }));
        assert!(matches!(resumed(&failed, "a", true), State::FallingBack { .. }));
        assert!(matches!(resumed(&ending, "a", true), State::Ending { .. }));
        for memory in [&starting, &started, &ending] {
            assert!(matches!(resumed(memory, "b", true), State::Done));
        }
        // What became of other work is looked at, and a failure is kept, but nothing acts on it.
        for memory in [&starting, &started] {
            assert!(matches!(resumed(memory, "b", false), State::Watching { .. }));
        }
        assert!(matches!(resumed(&failed, "b", true), State::Retired));
        let cancelled = Memory { cancelled: true, ..starting.clone() };
        assert!(matches!(resumed(&cancelled, "b", true), State::Cancelled { .. }));
        let waiting = Memory { succeeded: Some(now), ..Memory::default() };
        assert!(matches!(resumed(&waiting, "b", true), State::Waiting { .. }));
    }
}
