//! What a plan finds about the machine's end: what would prevent it, and which other waiters wait
//! on this machine.

use crate::end::Init;
use crate::engine::Seen;
use crate::error::Failure;
use crate::lifecycle::Lifecycle;
use crate::logging;
use crate::ticket::{Duty, Ticket};

/// Returns why waitdaemon could not end the machine if it had to.
pub fn problems(duty: &Duty) -> Vec<Failure> {
    let mut problems = Vec::new();
    if duty.ends_machine() && !duty.has_host_pids {
        let what = match duty.own_end {
            Some(end) => format!("command {} without IMAGE", end.name()),
            None => "WAITDAEMON_FALLBACK".to_owned(),
        };
        let failure = Failure::new(format!(
            "{what} needs the host's PIDs: without them it would end a container"
        ));
        problems.push(failure.field("pid").fix("add to the action:  pid: host"));
    }
    if duty.ends_machine() && duty.init == Init::Other && duty.force_after_seconds == 0 {
        let failure = Failure::new(
            "this machine's PID 1 is of an unknown kind, and asking the kernel is disabled",
        );
        let fix = "leave WAITDAEMON_FORCE_AFTER_SECONDS out, so that the kernel is asked";
        problems.push(failure.field("environment.WAITDAEMON_FORCE_AFTER_SECONDS").fix(fix));
    }
    problems
}

/// Warns of what may be in the way of an action that takes the machine down, as the words of what
/// it `runs` say, and of another action that takes it down first.
pub async fn warn(lifecycle: &Lifecycle<'_>, duty: &Duty, runs: &[String], others: &[Seen]) {
    // HookOS itself watches for the file (its hook-bootkit), which needs no PIDs.
    let by_file = runs.iter().any(|word| word.contains("/worker/"));
    if duty.word_of_end.is_some() && !duty.has_host_pids && !by_file {
        let doubt = Failure::new(
            "the command should take the machine down, but without the host's PIDs it only ends its own container",
        );
        logging::warning(&doubt.field("pid").fix("add to the action:  pid: host"));
    }
    for waiter in others.iter().filter(|seen| still_waits(seen, others)) {
        let theirs = duty_of(lifecycle, waiter).await;
        if !duty.may_end_machine() && !theirs.as_ref().is_some_and(Duty::may_end_machine) {
            continue;
        }
        let what = if others.iter().any(|user| is_user_of(waiter, user)) {
            "user container"
        } else {
            "end of the machine"
        };
        let when = match theirs.filter(|theirs| theirs.signal.is_none()) {
            // It has already waited for some of that time.
            Some(theirs) => {
                let (theirs, ours) = (theirs.wait_seconds, duty.wait_seconds);
                format!("its {what} is due in {theirs} s at most, this action's in {ours}")
            }
            None => format!("its {what} is due when its signal comes"),
        };
        log::warn!(container = waiter.id.as_str(), field = "environment.WAIT_SECONDS", fix = "raise WAIT_SECONDS until the other action has finished, or leave one of the two out"; "another action's waiter, {}, is still waiting on this machine, which is about to go down: {when}",
            waiter.name);
    }
}

fn is_user_of(waiter: &Seen, user: &Seen) -> bool {
    user.is_user() && user.handoff == waiter.handoff
}

/// True for a waiter that runs and has not started anything.
fn still_waits(seen: &Seen, others: &[Seen]) -> bool {
    let runs = seen.is_waiter() && seen.life.is_running();
    let user = others.iter().find(|user| is_user_of(seen, user));
    runs && user.is_none_or(|user| user.life.is_before_start())
}

/// Returns what a waiter has to do, by its ticket.
async fn duty_of(lifecycle: &Lifecycle<'_>, waiter: &Seen) -> Option<Duty> {
    let whole = lifecycle.inspect_whole(&waiter.id).await.ok()??.whole;
    Some(Ticket::from_argument(whole.command.last()?).ok()?.duty)
}
