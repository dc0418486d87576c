//! The waiter's first step: it knows both other containers and awaits the action's end.

use std::time::Duration;

use tokio::time::timeout;

use crate::engine::{End, Listen, Seen};
use crate::error::{Context, Failure};
use crate::lifecycle::Lifecycle;
use crate::logging::{self, ARMED};
use crate::names::Role;
use crate::retry::retry_within;
use crate::ticket::Duty;

/// Between two looks for a user container that is still being created.
const PAUSE: Duration = Duration::from_millis(100);
/// How long reading our own earlier output may take.
const REPLAY_LIMIT: Duration = Duration::from_secs(2);

/// What the waiter knows when it is armed.
pub struct Armed {
    /// The waiter's own container ID.
    pub waiter: String,
    /// The user container's ID.
    pub user: String,
    /// The action container's end; `None` if the container is gone.
    pub pending: Option<End>,
    /// The user container was started before: by an earlier life of this waiter, which was killed.
    pub started: bool,
    /// The action was seen alive, in this life or an earlier one.
    pub saw_action: bool,
}

/// Opens the wait for the action's end, and finds the waiter's own container and the user container.
///
/// # Errors
/// If one of them is not there or not this handoff's, or nothing would tell how the action ends.
pub async fn arm(lifecycle: &Lifecycle<'_>, duty: &Duty) -> Result<Armed, Failure> {
    let engine = lifecycle.engine;
    let open = || engine.wait(&duty.action_id, duty.action_pid);
    let mut pending = match retry_within(lifecycle.patience, "waiting for the action container", open).await {
        Ok(end) => Some(end),
        Err(refusal) if refusal.is_gone() => None,
        Err(refusal) => return Err(refusal).context("cannot wait for the action container"),
    };
    let mut saw_action = pending.is_some();
    let [own, user] = find_both(lifecycle, duty, &mut pending).await?;
    if !saw_action && duty.deleted_on_success {
        // That it is gone says something only to a waiter that was armed while it was there.
        saw_action = was_armed(lifecycle, duty, &own).await;
        if !saw_action {
            return Err(Failure::new("cannot watch the action's process: it has ended"));
        }
    }
    let started = !user.life.is_before_start();
    Ok(Armed { waiter: own.id, user: user.id, pending, started, saw_action })
}

/// Finds the waiter's own container and the user container. The latter may still be in the making, for as long as the
/// action goes on.
async fn find_both(lifecycle: &Lifecycle<'_>, duty: &Duty, pending: &mut Option<End>) -> Result<[Seen; 2], Failure> {
    let names = [Role::Waiter, Role::User].map(|role| role.container_name(&duty.action_name));
    let mut may_come = lifecycle.engine.about().starts_waiter_early;
    loop {
        let found = lifecycle.look(&[&names[0], &names[1]]).await;
        let found = found.context(format!("cannot inspect {} and {}", names[0], names[1]))?;
        if let Some(foreign) = found.iter().find(|seen| seen.handoff != duty.handoff.as_str()) {
            return Err(Failure::new(format!("the container {} is not this handoff's", foreign.name)));
        }
        let mut both = found.into_iter();
        let of_role = |seen: &Seen, role| seen.role == Some(role);
        match (both.next(), both.next()) {
            (Some(own), Some(user)) if of_role(&own, Role::Waiter) && of_role(&user, Role::User) => {
                return Ok([own, user]);
            }
            (first, _) if may_come => {
                let Some(end) = pending.as_mut() else { return Err(missing(&names, first)) };
                // Once the action has ended nobody makes it any more; one more look, for it may have ended since.
                if timeout(PAUSE, end).await.is_ok() {
                    (may_come, *pending) = (false, None);
                }
            }
            (first, _) => return Err(missing(&names, first)),
        }
    }
}

fn missing(names: &[String; 2], found: Option<Seen>) -> Failure {
    let missing = if found.is_some_and(|seen| seen.role == Some(Role::Waiter)) { &names[1] } else { &names[0] };
    Failure::new(format!("the container {missing} is not there"))
}

/// True if this waiter said in an earlier life that it was armed.
async fn was_armed(lifecycle: &Lifecycle<'_>, duty: &Duty, own: &Seen) -> bool {
    let listen = Listen { container: &own.id, tty: false, replay: true, ours: true };
    let open = || lifecycle.engine.output(listen);
    let Ok(mut output) = retry_within(lifecycle.patience, "reading our own output", open).await else { return false };
    let mut said = String::new();
    let read = async {
        while let Ok(Some(piece)) = output.next().await {
            said.push_str(&String::from_utf8_lossy(&piece));
            if logging::announces(&said, ARMED, &duty.handoff) {
                return true;
            }
        }
        false
    };
    timeout(REPLAY_LIMIT, read).await.unwrap_or(false)
}
