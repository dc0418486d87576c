//! Container operations, with each promise in one place for all engines: created once, started
//! once, removed for certain.
//!
//! Each call to the engine does one thing and may fail, lose its answer or answer late. A query is
//! repeated. A change is repeated only after asking the engine what became of the last attempt.

use std::cell::Cell;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::engine::{
    Answer, Created, Detail, Engine, Image, Kind, Life, PendingEnd, Refusal, Removal, Request,
    Seen, Which,
};
use crate::error::{Context, Failure};
use crate::names::{HandoffId, RequestMark};
use crate::retry::{Attempts, Retry, Transient, retry};

/// How long to retry an engine that does not answer at first: longer than one query may take.
pub const FIRST_QUERIES_PATIENCE: Duration = Duration::from_secs(20);
/// How long the handoff retries if the engine fails.
pub const HANDOFF_PATIENCE: Duration = Duration::from_secs(60);
/// How long the waiter retries; it has more time.
pub const WAITER_PATIENCE: Duration = Duration::from_secs(300);

/// How long to wait for another handoff of the same action: longer than its waiter may take to be
/// armed and to receive the word.
const SETTLE_LIMIT: Duration = Duration::from_secs(60);
/// How long a wait for a container's end must have been open to count as healthy.
const HEALTHY_AFTER: Duration = Duration::from_secs(20);
/// The pause between two checks for another handoff.
const SETTLE_PAUSE: Duration = Duration::from_millis(500);

const QUERY: &str = "querying the engine";

/// What became of a user container that is not to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Discarded {
    /// It has not run and is gone.
    Removed,
    /// It had already been started and is left alone.
    Started,
}

/// What an earlier attempt of the same action left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EarlierAttempt {
    /// Nothing that matters now: there was nothing, or it was pending and has been removed.
    Cleared,
    /// Its user container, by ID, runs. It and its waiter are left alone.
    Running(String),
    /// The user container, by name, of another action with the same name. It runs or waits to run.
    OfAnother(String),
}

/// An engine, and how long a journey retries its calls. Methods with many callers are boxed, so
/// that their code exists once.
#[derive(Clone, Copy)]
pub struct Lifecycle<'a> {
    /// The engine.
    pub engine: &'a dyn Engine,
    /// How long calls are retried.
    pub patience: Duration,
    /// True if a refusal that may be final is retried that long too, because nobody waits for the
    /// answer, and nobody else will do what is to be done.
    persistent: bool,
}

impl<'a> Lifecycle<'a> {
    /// Wraps an engine with this much patience.
    pub fn new(engine: &'a dyn Engine, patience: Duration) -> Self {
        Self { engine, patience, persistent: false }
    }

    /// Retries doubtful refusals for the whole patience, too: for what happens after SUCCESS.
    pub fn persistent(self) -> Self {
        Self { persistent: true, ..self }
    }

    /// Asks until there is an answer or a final error, for as long as this journey has patience.
    ///
    /// # Errors
    /// If no attempt succeeds: the last attempt's refusal.
    pub fn ask<T, F: Future<Output = Result<T, Refusal>>>(
        &self,
        what: &str,
        ask: impl FnMut() -> F,
    ) -> impl Future<Output = Result<T, Refusal>> {
        retry(self.patience, self.persistent, what, ask)
    }

    fn attempts(&self) -> Attempts {
        Attempts::within(self.patience).persistent(self.persistent)
    }

    /// Returns those of these containers that exist.
    ///
    /// # Errors
    /// If the engine does not answer.
    pub fn inspect_all<'b>(&'b self, containers: &'b [&'b str]) -> Answer<'b, Vec<Seen>> {
        Box::pin(async move {
            if containers.is_empty() {
                return Ok(Vec::new());
            }
            self.ask(QUERY, || self.engine.inspect(containers, Detail::Life)).await
        })
    }

    /// Returns one container; `None` if it is gone.
    ///
    /// # Errors
    /// If the engine does not answer.
    pub fn inspect<'b>(&'b self, container: &'b str) -> Answer<'b, Option<Seen>> {
        Box::pin(async move { Ok(self.inspect_all(&[container]).await?.pop()) })
    }

    /// Returns one container with its document; `None` if it is gone.
    ///
    /// # Errors
    /// If the engine does not answer.
    pub async fn inspect_whole(&self, container: &str) -> Result<Option<Seen>, Refusal> {
        let one = [container];
        let seen = self.ask(QUERY, || self.engine.inspect(&one, Detail::Whole)).await;
        Ok(seen?.pop())
    }

    /// Lists the IDs of containers.
    ///
    /// # Errors
    /// If the engine does not answer.
    pub fn list<'b>(&'b self, which: Which<'b>) -> Answer<'b, Vec<String>> {
        Box::pin(async move { self.ask(QUERY, || self.engine.list(which)).await })
    }

    /// Returns an image; `None` if it is not on this machine.
    ///
    /// # Errors
    /// If the engine does not answer, or does not accept the name.
    pub fn image<'b>(&'b self, image: &'b str) -> Answer<'b, Option<Image>> {
        Box::pin(async move { self.ask(QUERY, || self.engine.image(image)).await })
    }

    /// Creates a container exactly once and completes it. If the answer is lost, the engine may
    /// still have created it: then a container with its name and this handoff's mark exists.
    ///
    /// # Errors
    /// If it cannot be created; the refusal says why.
    pub fn create_once<'b>(&'b self, request: &'b Request) -> Answer<'b, Created> {
        Box::pin(async move {
            let created = self.create(request).await?;
            self.ask("completing a container", || self.engine.complete(request, &created.id))
                .await?;
            Ok(created)
        })
    }

    /// Returns whether a name that is taken may be free a little later. It will be if another
    /// handoff of the same action, which is under way or ending, holds it. It may be if the
    /// container that held it is gone.
    ///
    /// # Errors
    /// If the engine does not answer.
    pub async fn may_be_freed(&self, request: &Request, action: &str) -> Result<Retry, Refusal> {
        Ok(match self.inspect(&request.name).await? {
            Some(seen) if seen.action == action && seen.handoff != request.handoff.as_str() => {
                Retry::UntilDeadline
            }
            Some(_) => Retry::Never,
            None => Retry::AFewTimes,
        })
    }

    async fn create(&self, request: &Request) -> Result<Created, Refusal> {
        let mut attempts = self.attempts();
        loop {
            let refusal = match self.engine.create(request).await {
                Ok(created) => return Ok(created),
                Err(refusal) => refusal,
            };
            // On a second attempt the engine may say that the name is taken: by the first attempt's
            // container.
            let taken = attempts.failed() > 0 && matches!(refusal.kind, Kind::NameTaken { .. });
            if refusal.retry() == Retry::Never && !taken {
                return Err(refusal);
            }
            match self.inspect(&request.name).await? {
                Some(seen) if seen.handoff == request.handoff.as_str() => {
                    return Ok(Created { id: seen.id, started: false });
                }
                // Another container has the name; if the engine has not said so yet, it will.
                Some(_) if taken => return Err(refusal),
                _ => {}
            }
            // The name is taken, but no container is visible: the first attempt is still in
            // progress.
            let retry = if taken { Retry::UntilDeadline } else { refusal.retry() };
            if !attempts.wait_as(retry, "creating a container", &refusal).await {
                return Err(refusal);
            }
        }
    }

    /// Starts a container exactly once. Before each attempt, and so also after a lost answer, it
    /// checks that the container has not been started.
    ///
    /// # Errors
    /// If it cannot be started; [`Kind::Gone`] if it does not exist.
    pub fn start_once<'b>(&'b self, container: &'b str) -> Answer<'b, ()> {
        Box::pin(async move {
            let mut attempts = self.attempts();
            loop {
                let Err(refusal) = self.start(container).await else { return Ok(()) };
                let retry = match refusal.kind {
                    Kind::Unrecognized if self.persistent => Retry::UntilDeadline,
                    _ => refusal.retry(),
                };
                if !attempts.wait_as(retry, "starting a container", &refusal).await {
                    // A lost answer or an unrecognized message does not mean that it was not
                    // started.
                    let found = self.engine.inspect(&[container], Detail::Life).await;
                    let has_run =
                        found.is_ok_and(|found| found.iter().any(|seen| seen.life.has_run()));
                    return if has_run { Ok(()) } else { Err(refusal) };
                }
            }
        })
    }

    /// Makes one attempt to start a container, unless it has been started already.
    async fn start(&self, container: &str) -> Result<(), Refusal> {
        let gone = || Refusal::new(Kind::Gone, "it was removed before it was started");
        let seen = self.engine.inspect(&[container], Detail::Life).await?.pop().ok_or_else(gone)?;
        match &seen.life {
            Life::Created | Life::Starting { .. } => self.engine.start(&seen).await,
            Life::Running { .. } | Life::Ended { .. } => Ok(()),
            Life::Removing => Err(Refusal::new(Kind::Gone, "it is being removed")),
            Life::Unknown(said) => Err(Refusal::passing(said)),
        }
    }

    /// Waits for the end of a container and reopens the wait if its answer is lost. `pid` is the
    /// container's process, if known. `pending` is a wait that is already open.
    ///
    /// # Errors
    /// If the container does not exist ([`Kind::Gone`]), or the engine does not answer.
    pub fn await_end<'b>(
        &'b self,
        container: &'b str,
        pid: Option<u32>,
        pending: Option<PendingEnd>,
    ) -> Answer<'b, Life> {
        Box::pin(async move {
            let mut attempts = self.attempts();
            let mut pending = pending;
            let mut since = Instant::now();
            loop {
                let opened = match pending.take() {
                    Some(end) => Ok(end),
                    None => self.engine.wait(container, pid).await,
                };
                let refusal = match opened {
                    Ok(end) => match end.await {
                        Ok(life) => return Ok(life),
                        Err(refusal) => refusal,
                    },
                    Err(refusal) => refusal,
                };
                // A wait that broke after it was open for a while is a new failure, however long
                // ago the first one began.
                if since.elapsed() > HEALTHY_AFTER {
                    attempts = self.attempts();
                }
                if !attempts.wait("waiting for the end of a container", &refusal).await {
                    return Err(refusal);
                }
                since = Instant::now();
            }
        })
    }

    /// Removes a container and returns when it is gone. The engine's word is not enough, so the
    /// container is looked up.
    ///
    /// # Errors
    /// If it still exists in the end, or if it runs and `how` is [`Removal::Idle`].
    pub fn ensure_removed<'b>(&'b self, container: &'b str, how: Removal) -> Answer<'b, ()> {
        Box::pin(async move {
            let mut attempts = self.attempts();
            loop {
                let said = self.engine.remove(container, how).await.err();
                let refusal = match self.inspect(container).await {
                    Ok(None) => return Ok(()),
                    Ok(Some(seen)) => {
                        let refusal = said.unwrap_or_else(|| {
                            Refusal::new(
                                Kind::RemovalInProgress,
                                "the engine said it was removed, and it is still there",
                            )
                        });
                        if how == Removal::Idle && seen.life.is_running() {
                            return Err(Refusal { kind: Kind::Final, ..refusal });
                        }
                        refusal
                    }
                    Err(refusal) => refusal,
                };
                if !attempts.wait_as(Retry::UntilDeadline, "removing a container", &refusal).await {
                    return Err(refusal);
                }
            }
        })
    }

    /// Clears what other attempts of an action left pending; `own` is this attempt's container.
    ///
    /// The user container goes first, and the engine refuses to remove it if it runs. So either it
    /// never ran and its waiter is no longer needed, or it runs and keeps its waiter.
    ///
    /// Sets `removes_waiter` before it removes one, for then nobody takes care of what that waiter
    /// was to do.
    ///
    /// # Errors
    /// If a container cannot be removed.
    pub async fn clear_earlier(
        &self,
        own: &Seen,
        request: &RequestMark,
        removes_waiter: &Cell<bool>,
    ) -> Result<EarlierAttempt, Failure> {
        let failed = |refusal: Refusal| {
            Failure::new("cannot clear what an earlier attempt of this action left")
                .fix(self.engine.about().check)
                .cause(refusal)
        };
        let found = self.await_other_handoffs(own).await.map_err(failed)?;
        if let Some(other) = of_another_request(&found, request) {
            return Ok(EarlierAttempt::OfAnother(other.name.clone()));
        }
        if let Some(user) = running_user(&found) {
            return Ok(EarlierAttempt::Running(user.id.clone()));
        }
        for user in found.iter().filter(|seen| seen.is_user()) {
            log::warn!(container = user.id.as_str(); "removing the user container of an earlier attempt of this action");
            if let Err(refusal) = self.ensure_removed(&user.id, Removal::Idle).await {
                let now = self.inspect_all(&[&user.id]).await.map_err(failed)?;
                return match running_user(&now) {
                    Some(user) => Ok(EarlierAttempt::Running(user.id.clone())),
                    None => Err(failed(refusal)),
                };
            }
        }
        for waiter in found.iter().filter(|seen| !seen.is_user()) {
            log::warn!(container = waiter.id.as_str(); "removing the waiter of an earlier attempt of this action");
            removes_waiter.set(true);
            self.ensure_removed(&waiter.id, Removal::Any).await.map_err(failed)?;
        }
        Ok(EarlierAttempt::Cleared)
    }

    /// Returns the containers of an action once no other handoff of it is under way. While the
    /// action container that made one of them runs, its handoff may make more or remove them. This
    /// is a lock that ends with its process.
    async fn await_other_handoffs(&self, own: &Seen) -> Result<Vec<Seen>, Refusal> {
        let end = Instant::now() + SETTLE_LIMIT;
        let mut before: Option<Vec<String>> = None;
        loop {
            let ours = self.list(Which::Ours).await?;
            let found = self.of_action(&own.name, &ours).await?;
            let mut makers: Vec<&str> = found.iter().map(|seen| seen.made_by.as_str()).collect();
            makers.retain(|maker| *maker != own.id);
            let makers = self.inspect_all(&makers).await?;
            let under_way = makers.iter().any(|maker| maker.life.is_running());
            let now: Vec<String> = found.iter().map(|seen| seen.id.clone()).collect();
            // A list from before the makers were seen to have ended may be out of date.
            if Instant::now() >= end || (!under_way && before.as_ref() == Some(&now)) {
                return Ok(found);
            }
            before = (!under_way).then_some(now);
            if under_way {
                sleep(SETTLE_PAUSE).await;
            }
        }
    }

    /// Returns those of these containers that belong to an action.
    ///
    /// # Errors
    /// If the engine does not answer.
    pub async fn of_action(&self, action: &str, ours: &[String]) -> Result<Vec<Seen>, Refusal> {
        let ids: Vec<&str> = ours.iter().map(String::as_str).collect();
        let mut found = self.inspect_all(&ids).await?;
        found.retain(|seen| seen.action == action);
        Ok(found)
    }

    /// Removes a user container that must not run, unless it was started.
    ///
    /// # Errors
    /// If it cannot be removed.
    pub async fn discard(&self, user: &str) -> Result<Discarded, Failure> {
        let failed = "cannot remove the cancelled user container";
        match self.inspect(user).await.context(failed)? {
            None => return Ok(Discarded::Removed),
            Some(seen) if seen.life.has_run() => return Ok(Discarded::Started),
            Some(_) => {}
        }
        match self.ensure_removed(user, Removal::Idle).await {
            Ok(()) => Ok(Discarded::Removed),
            Err(refusal) if refusal.kind == Kind::Final => Ok(Discarded::Started),
            Err(refusal) => Err(refusal).context(failed),
        }
    }

    /// Removes every container that the handoff made, the waiter last, because it may be the
    /// caller: then `waiter` is [`Removal::Own`]. A user container that runs is not removed: then
    /// the action did succeed.
    ///
    /// # Errors
    /// If a container cannot be removed; the others are removed anyway.
    pub async fn roll_back(&self, handoff: &HandoffId, waiter: Removal) -> Result<(), Failure> {
        let failed = "cannot remove what this handoff made";
        let made = self.list(Which::OfHandoff(handoff)).await.context(failed)?;
        let ids: Vec<&str> = made.iter().map(String::as_str).collect();
        let found = self.inspect_all(&ids).await.context(failed)?;
        let (waiters, others): (Vec<Seen>, Vec<Seen>) =
            found.into_iter().partition(Seen::is_waiter);
        let mut result = Ok(());
        for seen in others.into_iter().chain(waiters) {
            let how = if seen.is_waiter() { waiter } else { Removal::Idle };
            let removed = self.ensure_removed(&seen.id, how).await;
            result = result.and(removed.context(format!("{failed}: {}", seen.id)));
        }
        result
    }
}

/// Returns the container of another action with the same name, if it runs or waits to run: its user
/// container, or its waiter if it has no user container. Containers of the first edition of
/// waitdaemon do not record what the action asked for; they count as this action's.
pub fn of_another_request<'a>(found: &'a [Seen], request: &RequestMark) -> Option<&'a Seen> {
    let runs = |seen: &Seen| seen.life.is_running();
    let others = found
        .iter()
        .filter(|seen| *request != seen.request && seen.request != RequestMark::default());
    let mut main = others.filter(|seen| {
        let has_user = || found.iter().any(|user| user.is_user() && user.handoff == seen.handoff);
        seen.is_user() || !has_user()
    });
    main.find(|seen| {
        let mut of_handoff = found.iter().filter(|other| other.handoff == seen.handoff);
        runs(seen) || (seen.life.is_before_start() && of_handoff.any(runs))
    })
}

/// Returns the first user container that runs.
pub fn running_user(found: &[Seen]) -> Option<&Seen> {
    found.iter().find(|seen| seen.is_user() && seen.life.is_running())
}
