//! What a plan finds about the machine's end: what would prevent it, and which other waiters wait
//! on this machine.

use crate::end::Init;
use crate::engine::{Life, Seen};
use crate::error::Failure;
use crate::lifecycle::Lifecycle;
use crate::names::Role;
use crate::ticket::{Duty, Ticket};

/// Returns why waitdaemon could not end the machine if it had to.
pub fn problems(duty: &Duty) -> Vec<Failure> {
    let mut problems = Vec::new();
    if duty.ends_machine() && !duty.has_host_pids {
        let what = match (duty.own_end, duty.fallback) {
            (Some(end), _) => format!("command {} without IMAGE", end.name()),
            (None, _) => "WAITDAEMON_FALLBACK".to_owned(),
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

/// Warns of what may be in the way of an action that takes the machine down.
pub async fn warn(lifecycle: &Lifecycle<'_>, duty: &Duty, others: &[Seen]) {
    if !duty.has_host_pids && duty.own_end.is_none() {
        log::warn!(field = "pid", fix = "add to the action:  pid: host"; "the command is to take the machine down, and without the host's PIDs it only ends its own container");
    }
    for waiter in others.iter().filter(|seen| still_waits(seen, others)) {
        let what = if others.iter().any(|user| is_user_of(waiter, user)) {
            "user container"
        } else {
            "end of the machine"
        };
        let when = match wait_of(lifecycle, waiter).await {
            Some(seconds) if seconds >= duty.wait_seconds => {
                format!(
                    "its {what} is due {} s later than this action's",
                    seconds - duty.wait_seconds
                )
            }
            Some(seconds) => {
                format!("its {what} is due {} s before this action's", duty.wait_seconds - seconds)
            }
            None => format!("nobody knows when its {what} is due"),
        };
        log::warn!(container = waiter.id.as_str(), field = "environment.WAIT_SECONDS", fix = "let this action wait longer than the other one and what it runs take, or leave one of them out"; "another action's waiter, {}, still waits on this machine, which is to go down: {when}",
            waiter.name);
    }
}

fn is_user_of(waiter: &Seen, user: &Seen) -> bool {
    user.role == Some(Role::User) && user.handoff == waiter.handoff
}

/// True for a waiter that runs and has not started anything.
fn still_waits(seen: &Seen, others: &[Seen]) -> bool {
    let runs = seen.role == Some(Role::Waiter) && matches!(seen.life, Life::Running { .. });
    let user = others.iter().find(|user| is_user_of(seen, user));
    runs && user.is_none_or(|user| user.life.is_before_start())
}

/// Returns how many seconds a waiter waits, by its ticket; `None` if it waits for a signal.
async fn wait_of(lifecycle: &Lifecycle<'_>, waiter: &Seen) -> Option<u64> {
    let whole = lifecycle.inspect(&waiter.id).await.ok()??.whole;
    let duty = Ticket::from_argument(whole.command.last()?).ok()?.duty;
    duty.signal.is_none().then_some(duty.wait_seconds)
}
