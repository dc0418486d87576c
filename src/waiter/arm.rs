//! The waiter's first step: it knows both other containers and awaits the action's end. In a later life it remembers.

use std::future::ready;
use std::time::Duration;

use tokio::time::timeout;

use super::journal::{Fact, Journal, Memory};
use crate::engine::{End, Seen};
use crate::error::{Context, Failure};
use crate::lifecycle::Lifecycle;
use crate::names::Role;
use crate::process::Process;
use crate::retry::retry_within;
use crate::ticket::Duty;

/// Between two looks for a user container that is still being created.
const PAUSE: Duration = Duration::from_millis(100);

/// What the waiter knows when it is armed.
pub struct Armed {
    /// The waiter's own container ID.
    pub waiter: String,
    /// The user container's ID.
    pub user: String,
    /// The wait for the action's end, if it is open.
    pub pending: Option<End>,
    /// What an earlier life noted.
    pub memory: Memory,
    /// Where this one does.
    pub journal: Journal,
}

/// Why a waiter is not armed.
pub enum NotArmed {
    /// Nobody counts on it: the handoff fails or is gone. Nothing of it may stay.
    Useless(Failure),
    /// It cannot even find itself. An earlier life may have been armed.
    Lost(Failure),
}

impl From<Failure> for NotArmed {
    fn from(failure: Failure) -> Self {
        Self::Useless(failure)
    }
}

/// Finds the waiter's own container and its journal; in its first life opens the wait for the action's end, too, and
/// finds the user container.
///
/// # Errors
/// If one of them is not there or not this handoff's, or nothing would tell how the action ends.
pub async fn arm(lifecycle: &Lifecycle<'_>, process: &Process, duty: &Duty) -> Result<Armed, NotArmed> {
    let names = [Role::Waiter, Role::User].map(|role| role.container_name(&duty.action_name));
    let found = lifecycle.look(&[&names[0], &names[1]]).await;
    let mut found = found.context(format!("cannot inspect {} and {}", names[0], names[1])).map_err(NotArmed::Lost)?;
    let mut take = |name: &str| found.iter().position(|seen| seen.name == name).map(|at| found.swap_remove(at));
    let (own, user) = (take(&names[0]), take(&names[1]));
    let own = ours(own, Role::Waiter, &names[0], duty)?;
    let journal = open_journal(process, &own);
    let mut memory = journal.memory();
    if let Some(user) = memory.armed.clone() {
        return Ok(Armed { waiter: own.id, user, pending: None, memory, journal });
    }
    let open = || lifecycle.engine.wait(&duty.action_id, duty.action_pid);
    let opened = retry_within(lifecycle.patience, "waiting for the action container", open).await;
    let mut pending = opened.context("cannot watch the action: it has ended, or the engine does not answer")?;
    let user = match user {
        None if lifecycle.engine.about().starts_waiter_early => await_user(lifecycle, &names[1], &mut pending).await?,
        user => user,
    };
    let user = ours(user, Role::User, &names[1], duty)?;
    // An earlier life without a journal started it.
    memory.started = !user.life.is_before_start();
    journal.keep(&Fact::Armed(user.id.clone())).context("cannot write the waiter's journal")?;
    Ok(Armed { waiter: own.id, user: user.id, pending: Some(pending), memory, journal })
}

fn open_journal(process: &Process, own: &Seen) -> Journal {
    let kept = own.folder.as_deref().map(|folder| (process.keep)(folder));
    match kept {
        Some(Ok(kept)) => return Journal::of(kept),
        Some(Err(error)) => {
            tracing::warn!(%error, "cannot keep a journal; ended and started again, the waiter will not know what it did")
        }
        None => tracing::warn!(
            "there is no place for a journal; ended and started again, the waiter will not know what it did"
        ),
    }
    Journal::lost()
}

fn ours(found: Option<Seen>, role: Role, name: &str, duty: &Duty) -> Result<Seen, Failure> {
    let seen = found.ok_or_else(|| Failure::new(format!("the container {name} is not there")))?;
    if seen.handoff != duty.handoff.as_str() || seen.role != Some(role) {
        return Err(Failure::new(format!("the container {name} is not this handoff's")));
    }
    Ok(seen)
}

/// Awaits the user container, which is still being made, for as long as the action goes on.
async fn await_user(lifecycle: &Lifecycle<'_>, name: &str, pending: &mut End) -> Result<Option<Seen>, Failure> {
    loop {
        // Once the action has ended nobody makes it any more; one more look, for it may have ended since.
        let end = timeout(PAUSE, &mut *pending).await;
        let ended = end.is_ok();
        if let Ok(end) = end {
            *pending = Box::pin(ready(end));
        }
        let found = lifecycle.look_at(name).await.context(format!("cannot inspect {name}"))?;
        if found.is_some() || ended {
            return Ok(found);
        }
    }
}
