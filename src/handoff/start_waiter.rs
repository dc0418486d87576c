//! The handoff's side of the waiter: starts it, waits until it is armed, and gives it the word.

use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::engine::tail::Tail;
use crate::engine::{Created, Engine, Life, Listen, Refusal};
use crate::error::{Context, Failure};
use crate::lifecycle::{HANDOFF_PATIENCE, Lifecycle};
use crate::logging::{self, ARMED};
use crate::names::HandoffId;
use crate::retry::retry_within;

/// How long starting the waiter may take until it says that it is armed. Generous: 0.3 s is usual.
const ARMING_LIMIT: Duration = Duration::from_secs(30);
/// How long giving the word may take: a waiter that was killed meanwhile is started again;
/// containerd does so 10 s later.
const WORD_LIMIT: Duration = Duration::from_secs(20);
/// How long one attempt to give the word may take.
const WORD_EVERY: Duration = Duration::from_secs(3);
/// The pause between two checks whether a silent waiter still runs.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The pause before a waiter's output that ended is reopened.
const PAUSE: Duration = Duration::from_millis(200);

/// A waiter that is armed.
pub struct ArmedWaiter<'a> {
    engine: &'a dyn Engine,
    id: &'a str,
}

impl<'a> ArmedWaiter<'a> {
    /// Starts the waiter, unless it was started before, and returns it when it says that it is
    /// armed.
    ///
    /// # Errors
    /// If the waiter ends before, or takes longer than [`ARMING_LIMIT`].
    pub async fn start(
        engine: &'a dyn Engine,
        created: &'a Created,
        handoff: &HandoffId,
    ) -> Result<Self, Failure> {
        let armed = timeout(ARMING_LIMIT, start_until_armed(engine, created, handoff)).await;
        let late = || {
            Failure::new(format!("the waiter was not armed within {} s", ARMING_LIMIT.as_secs()))
        };
        let armed = armed.unwrap_or_else(|_| Err(late()));
        armed.map_err(|failure| {
            if failure.fix.is_empty() { failure.fix(engine.about().check) } else { failure }
        })?;
        Ok(Self { engine, id: &created.id })
    }

    /// Gives the waiter the word that we are about to exit 0.
    ///
    /// # Errors
    /// If the word cannot be given: then the waiter is not there to do its work either.
    pub async fn give_word(&self) -> Result<(), Failure> {
        let once = || async {
            let late = || Refusal::passing("no answer in time");
            let given = timeout(WORD_EVERY, self.engine.give_word(self.id)).await;
            given.unwrap_or_else(|_| Err(late()))
        };
        let give = retry_within(WORD_LIMIT, "giving the waiter the word", once);
        let failed = "the waiter was armed but can no longer be reached";
        let given = give.await.context(failed);
        given.map_err(|failure| failure.fix(self.engine.about().check))
    }
}

async fn start_until_armed(
    engine: &dyn Engine,
    waiter: &Created,
    handoff: &HandoffId,
) -> Result<(), Failure> {
    let (lifecycle, id) = (Lifecycle::new(engine, HANDOFF_PATIENCE), waiter.id.as_str());
    let open = |replay| {
        let listen = Listen { container: id, tty: false, replay, ours: true };
        lifecycle.ask("listening to the waiter", move || engine.output(listen))
    };
    // Attach before the start, which works with every log driver. The output of a waiter that may
    // have been started is read from its first line on.
    let mut output =
        open(engine.about().starts_waiter_early).await.context("cannot listen to the waiter")?;
    if !waiter.started {
        let started = lifecycle.start_once(id).await;
        started.context("cannot start the waiter")?;
    }
    let (mut heard, mut tail) = (String::new(), Tail::default());
    let mut next_check = Instant::now() + LOOK_EVERY;
    loop {
        let ended = tokio::select! {
            biased;
            piece = output.next() => match piece {
                Ok(Some(piece)) => {
                    tail.feed(&piece);
                    heard.push_str(&String::from_utf8_lossy(&piece));
                    if logging::announces(&heard, ARMED, handoff) {
                        return Ok(());
                    }
                    continue;
                }
                _ => true,
            },
            () = sleep_until(next_check) => false,
        };
        next_check = Instant::now() + LOOK_EVERY;
        let seen = lifecycle.inspect(id).await.context("lost the waiter before it was armed")?;
        if !seen
            .is_some_and(|seen| matches!(seen.life, Life::Running { .. } | Life::Starting { .. }))
        {
            let said = tail.into_lines().join(" | ");
            return Err(Failure::new("the waiter ended before it was armed")
                .fix("see what it said")
                .cause(said));
        }
        if ended {
            log::warn!("lost the waiter's output before it was armed, listening again");
            sleep(PAUSE).await;
            (heard, tail) = (String::new(), Tail::default());
            output = open(true).await.context("cannot listen to the waiter")?;
        }
    }
}
