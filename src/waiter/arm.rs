//! The waiter's first step: finds both other containers and opens the wait for the action's end. A
//! restarted waiter remembers them from its journal.

use std::future::ready;
use std::io;
use std::time::Duration;

use tokio::time::timeout;

use super::journal::{Fact, Journal, Memory};
use crate::engine::{Life, PendingEnd, Seen};
use crate::error::{Context, Failure};
use crate::lifecycle::Lifecycle;
use crate::names::Role;
use crate::process::Process;
use crate::ticket::Duty;

/// The pause between two looks for a user container that is still being created.
const PAUSE: Duration = Duration::from_millis(100);

const NO_JOURNAL: &str = "cannot write the waiter's journal";

/// What the waiter knows when it is armed.
pub struct Armed {
    /// The waiter's own container ID.
    pub waiter: String,
    /// The user container's ID, if there is one.
    pub user: Option<String>,
    /// The wait for the action's end, if it is open.
    pub pending: Option<PendingEnd>,
    /// What an earlier run of the waiter noted.
    pub memory: Memory,
    /// Where this run notes what it does.
    pub journal: Journal,
}

/// Why a waiter is not armed.
pub enum NotArmed {
    /// No handoff relies on this waiter: it has failed or is gone. Everything that it created must
    /// go.
    Abandoned(Failure),
    /// The waiter cannot even find itself. An earlier run may have been armed.
    Lost(Failure),
}

impl From<Failure> for NotArmed {
    fn from(failure: Failure) -> Self {
        Self::Abandoned(failure)
    }
}

/// Finds the waiter's own container and its journal. The first run also opens the wait for the
/// action's end and finds the user container, if there is to be one.
///
/// # Errors
/// If a container is missing or belongs to another handoff, or nothing would tell how the action
/// ends.
pub async fn arm(
    lifecycle: &Lifecycle<'_>,
    process: &Process,
    duty: &Duty,
) -> Result<Armed, NotArmed> {
    let names = [Role::Waiter, Role::User].map(|role| role.container_name(&duty.action_name));
    let wanted: Vec<&str> =
        names.iter().map(String::as_str).take(if duty.own_end.is_some() { 1 } else { 2 }).collect();
    let found = lifecycle.inspect_all(&wanted).await;
    let mut found = found
        .context(format!("cannot inspect {}", wanted.join(" and ")))
        .map_err(NotArmed::Lost)?;
    let mut take = |name: &str| {
        found.iter().position(|seen| seen.name == name).map(|at| found.swap_remove(at))
    };
    let (own, user) = (take(&names[0]), take(&names[1]));
    let own = ours(own, Role::Waiter, &names[0], duty)?;
    let journal = open_journal(process, &own);
    let mut memory = journal.memory();
    if memory.armed {
        // What is to end the machine may have done so before the engine noted its start.
        let is_told = lifecycle.engine.about().keeps_lives && !duty.may_end_machine();
        if is_told && user.is_some_and(|user| user.life == Life::Created) {
            memory.starting = None;
        }
        return Ok(Armed {
            waiter: own.id,
            user: memory.user.clone(),
            pending: None,
            memory,
            journal,
        });
    }
    let open = || lifecycle.engine.wait(&duty.action_id, duty.action_pid);
    let opened = lifecycle.ask("waiting for the action container", open).await;
    let mut pending =
        opened.context("cannot watch the action: it has ended, or the engine does not answer")?;
    if duty.own_end.is_some() {
        journal.keep(&Fact::Armed(None)).context(NO_JOURNAL)?;
        return Ok(Armed { waiter: own.id, user: None, pending: Some(pending), memory, journal });
    }
    let user = match user {
        None if lifecycle.engine.about().starts_waiter_early => {
            await_user(lifecycle, &names[1], &mut pending).await?
        }
        user => user,
    };
    let user = ours(user, Role::User, &names[1], duty)?;
    // If it was started, an earlier run without a journal did so.
    memory.started = user.life.has_run();
    journal.keep(&Fact::Armed(Some(user.id.clone()))).context(NO_JOURNAL)?;
    Ok(Armed { waiter: own.id, user: Some(user.id), pending: Some(pending), memory, journal })
}

fn open_journal(process: &Process, own: &Seen) -> Journal {
    let folder = own.folder.as_deref().ok_or_else(|| io::ErrorKind::NotFound.into());
    match folder.and_then(|folder| (process.open_journal)(folder)) {
        Ok(kept) => Journal::of(kept),
        Err(error) => {
            log::warn!(error = error.to_string().as_str(); "cannot keep a journal; after a restart the waiter will not know what it has done");
            Journal::lost()
        }
    }
}

fn ours(found: Option<Seen>, role: Role, name: &str, duty: &Duty) -> Result<Seen, Failure> {
    let seen = found.ok_or_else(|| Failure::new(format!("the container {name} is not there")))?;
    if seen.handoff != duty.handoff.as_str() || seen.role != Some(role) {
        return Err(Failure::new(format!("the container {name} is not this handoff's")));
    }
    Ok(seen)
}

/// Waits for the user container, which is still being created, for as long as the action goes on.
async fn await_user(
    lifecycle: &Lifecycle<'_>,
    name: &str,
    pending: &mut PendingEnd,
) -> Result<Option<Seen>, Failure> {
    loop {
        // Once the action has ended, nobody creates the container any more. Look once more, because
        // it may have been created since the last look.
        let end = timeout(PAUSE, &mut *pending).await;
        let ended = end.is_ok();
        if let Ok(end) = end {
            *pending = Box::pin(ready(end));
        }
        let found = lifecycle.inspect(name).await.context(format!("cannot inspect {name}"))?;
        if found.is_some() || ended {
            return Ok(found);
        }
    }
}
