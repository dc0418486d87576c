//! What is done with containers, each promise at one place for all engines: created once, started once, removed for
//! certain.
//!
//! The engine is asked for one thing at a time and may fail, lose its answer or answer late. A question is asked again.
//! A change is made again only after the engine was asked what became of the last attempt.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::engine::{Answer, Created, Detail, End, Engine, Image, Kind, Life, Refusal, Removal, Request, Seen, Which};
use crate::error::{Context, Failure};
use crate::names::{HandoffId, Role};
use crate::retry::{Attempts, Retry, Transient, retry_within};

/// How long an engine that does not answer at first is asked again: longer than one question may take.
pub const REACH_LIMIT: Duration = Duration::from_secs(20);
/// How long the handoff asks again if the engine fails.
pub const HANDOFF_PATIENCE: Duration = Duration::from_secs(60);
/// How long the waiter does, which has more time.
pub const WAITER_PATIENCE: Duration = Duration::from_secs(300);
/// How long removing a container is tried: longer than an engine that hangs is waited for.
const REMOVAL_LIMIT: Duration = Duration::from_secs(60);

/// How long another handoff of the same action is waited for: longer than its waiter may take to be armed and to hear.
const SETTLE_LIMIT: Duration = Duration::from_secs(60);
/// Between two looks whether it is.
const SETTLE_PAUSE: Duration = Duration::from_millis(500);

const QUESTION: &str = "a question to the engine";

/// What became of a user container that is not to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Discarded {
    /// It has not run and is gone.
    Removed,
    /// Too late: it was started. It is left alone.
    Started,
}

/// How long a start that is refused is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Persistence {
    /// As the refusal says: one that nobody knows a few times, for somebody waits for it.
    AsTheRefusalSays,
    /// As long as the container was not started and the refusal is not final: nobody else will start it.
    WhateverMayPass,
}

/// What an earlier attempt of the same action left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EarlierAttempt {
    /// Nothing that matters now: nothing was there, or it was pending and has been removed.
    Cleared,
    /// Its user container runs; the ID. It and its waiter are left alone.
    Running(String),
}

/// An engine, and how long a journey has patience with it. What many call is boxed, so that its code is there once.
#[derive(Clone, Copy)]
pub struct Lifecycle<'a> {
    /// The engine.
    pub engine: &'a dyn Engine,
    /// How long it is asked again.
    pub patience: Duration,
}

impl<'a> Lifecycle<'a> {
    /// The engine with this much patience.
    pub fn new(engine: &'a dyn Engine, patience: Duration) -> Self {
        Self { engine, patience }
    }

    /// Shows those of these containers that exist.
    ///
    /// # Errors
    /// If the engine does not answer.
    pub fn look<'b>(&'b self, containers: &'b [&'b str]) -> Answer<'b, Vec<Seen>> {
        Box::pin(async move {
            if containers.is_empty() {
                return Ok(Vec::new());
            }
            retry_within(self.patience, QUESTION, || self.engine.look(containers, Detail::Life)).await
        })
    }

    /// Shows one container; `None` if it is gone.
    ///
    /// # Errors
    /// If the engine does not answer.
    pub fn look_at<'b>(&'b self, container: &'b str) -> Answer<'b, Option<Seen>> {
        Box::pin(async move { Ok(self.look(&[container]).await?.pop()) })
    }

    /// Shows one container with its document; `None` if it is gone.
    ///
    /// # Errors
    /// If the engine does not answer.
    pub async fn inspect(&self, container: &str) -> Result<Option<Seen>, Refusal> {
        let one = [container];
        let seen = retry_within(self.patience, QUESTION, || self.engine.look(&one, Detail::Whole)).await;
        Ok(seen?.pop())
    }

    /// Lists containers.
    ///
    /// # Errors
    /// If the engine does not answer.
    pub fn list<'b>(&'b self, which: Which<'b>) -> Answer<'b, Vec<String>> {
        Box::pin(async move { retry_within(self.patience, QUESTION, || self.engine.list(which)).await })
    }

    /// Shows an image; `None` if it is not on this machine.
    ///
    /// # Errors
    /// If the engine does not answer, or does not take the name.
    pub fn image<'b>(&'b self, image: &'b str) -> Answer<'b, Option<Image>> {
        Box::pin(async move { retry_within(self.patience, QUESTION, || self.engine.image(image)).await })
    }

    /// Creates a container exactly once and completes it. If the answer is lost, the engine may have made it: then a
    /// container with its name and this handoff's mark is there.
    ///
    /// # Errors
    /// Why it cannot be created.
    pub fn create_once<'b>(&'b self, request: &'b Request) -> Answer<'b, Created> {
        Box::pin(async move {
            let created = self.create(request).await?;
            retry_within(self.patience, "completing a container", || self.engine.complete(request, &created.id))
                .await?;
            Ok(created)
        })
    }

    /// Whether a name that is taken may be free a little later: by another handoff of the same action, which is under way
    /// or ends, it is; by a container that is not there any more it may be.
    ///
    /// # Errors
    /// If the engine does not answer.
    pub async fn may_be_freed(&self, request: &Request, action: &str) -> Result<Retry, Refusal> {
        Ok(match self.look_at(&request.name).await? {
            Some(seen) if seen.action == action && seen.handoff != request.handoff.as_str() => Retry::UntilDeadline,
            Some(_) => Retry::Never,
            None => Retry::AFewTimes,
        })
    }

    async fn create(&self, request: &Request) -> Result<Created, Refusal> {
        let mut attempts = Attempts::within(self.patience);
        loop {
            let refusal = match self.engine.create(request).await {
                Ok(created) => return Ok(created),
                Err(refusal) => refusal,
            };
            // To a second attempt the engine may say that the name is taken: by the first one's.
            let taken = attempts.failed() > 0 && matches!(refusal.kind, Kind::NameTaken { .. });
            if refusal.retry() == Retry::Never && !taken {
                return Err(refusal);
            }
            match self.look_at(&request.name).await? {
                Some(seen) if seen.handoff == request.handoff.as_str() => {
                    return Ok(Created { id: seen.id, started: false });
                }
                // Another's; if the engine has not said so yet, it will.
                Some(_) if taken => return Err(refusal),
                _ => {}
            }
            // Taken and not to be seen: the first attempt is still at work.
            let retry = if taken { Retry::UntilDeadline } else { refusal.retry() };
            if !attempts.wait_as(retry, "creating a container", &refusal).await {
                return Err(refusal);
            }
        }
    }

    /// Starts a container exactly once: only one that is seen not to have been started is started, before the first
    /// attempt as after one whose answer is lost.
    ///
    /// # Errors
    /// Why it cannot be started; [`Kind::Gone`] if it is not there.
    pub fn start_surely<'b>(&'b self, container: &'b str, persistence: Persistence) -> Answer<'b, ()> {
        Box::pin(async move {
            let mut attempts = Attempts::within(self.patience);
            loop {
                let Err(refusal) = self.start(container).await else { return Ok(()) };
                let retry = match (persistence, refusal.retry()) {
                    (Persistence::WhateverMayPass, Retry::AFewTimes) => Retry::UntilDeadline,
                    (Persistence::WhateverMayPass, _) if refusal.kind == Kind::Unrecognized => Retry::UntilDeadline,
                    (_, retry) => retry,
                };
                if !attempts.wait_as(retry, "starting a container", &refusal).await {
                    // A lost answer, or words that nobody knows, do not tell that it was not done.
                    let ran = |seen: &Seen| matches!(seen.life, Life::Running { .. } | Life::Ended { .. });
                    let found = self.engine.look(&[container], Detail::Life).await;
                    return if found.is_ok_and(|found| found.iter().any(ran)) { Ok(()) } else { Err(refusal) };
                }
            }
        })
    }

    /// Starts a container that is seen not to have been started, once.
    async fn start(&self, container: &str) -> Result<(), Refusal> {
        let gone = || Refusal::new(Kind::Gone, "it was removed by somebody before it was started");
        let seen = self.engine.look(&[container], Detail::Life).await?.pop().ok_or_else(gone)?;
        match &seen.life {
            Life::Created | Life::Starting { .. } => self.engine.start(&seen).await,
            Life::Running { .. } | Life::Ended { .. } => Ok(()),
            Life::Leaving => Err(Refusal::new(Kind::Gone, "somebody is removing it")),
            Life::Unknown(said) => Err(Refusal::new(Kind::MayPass(Retry::UntilDeadline), said)),
        }
    }

    /// Waits for the end of a container, whose process is `pid` if that is known; opens the wait again if its answer is
    /// lost. `pending` is a wait that is open already.
    ///
    /// # Errors
    /// [`Kind::Gone`] if the container is not there; else if the engine does not answer.
    pub fn await_end<'b>(&'b self, container: &'b str, pid: Option<u32>, pending: Option<End>) -> Answer<'b, Life> {
        Box::pin(async move {
            let mut attempts = Attempts::within(self.patience);
            let mut pending = pending;
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
                if !attempts.wait("waiting for the end of a container", &refusal).await {
                    return Err(refusal);
                }
            }
        })
    }

    /// Removes a container and returns when it is gone. The engine's word for it is not enough: it is looked for.
    ///
    /// # Errors
    /// If it is still there in the end, or runs and is to be removed only if it does not.
    pub fn remove_surely<'b>(&'b self, container: &'b str, how: Removal) -> Answer<'b, ()> {
        Box::pin(async move {
            let mut attempts = Attempts::within(REMOVAL_LIMIT);
            loop {
                let said = self.engine.remove(container, how).await.err();
                let Some(seen) = self.look_at(container).await? else { return Ok(()) };
                let refusal = said.unwrap_or_else(|| {
                    Refusal::new(Kind::RemovalInProgress, "the engine said it was removed, and it is still there")
                });
                if how == Removal::Idle && matches!(seen.life, Life::Running { .. }) {
                    return Err(Refusal { kind: Kind::Final, ..refusal });
                }
                if !attempts.wait_as(Retry::UntilDeadline, "removing a container", &refusal).await {
                    return Err(refusal);
                }
            }
        })
    }

    /// Clears what other attempts of the action `action` left pending; `own` is this one's container.
    ///
    /// The user container goes first, and the engine refuses to remove one that runs: so either it never ran and its
    /// waiter is of no use any more, or it runs and keeps its waiter.
    ///
    /// # Errors
    /// If one cannot be removed.
    pub async fn clear_earlier(&self, action: &str, own: &str) -> Result<EarlierAttempt, Failure> {
        let failed = |refusal: Refusal| {
            Failure::new("cannot clear what an earlier attempt of this action left")
                .fix(self.engine.about().check)
                .cause(refusal)
        };
        let found = self.settled(action, own).await.map_err(failed)?;
        if let Some(user) = running_user(&found) {
            return Ok(EarlierAttempt::Running(user.id.clone()));
        }
        for user in found.iter().filter(|seen| seen.role == Some(Role::User)) {
            tracing::warn!(container = user.id, "removing the user container of an earlier attempt of this action");
            if let Err(refusal) = self.remove_surely(&user.id, Removal::Idle).await {
                let now = self.look(&[&user.id]).await.map_err(failed)?;
                return match running_user(&now) {
                    Some(user) => Ok(EarlierAttempt::Running(user.id.clone())),
                    None => Err(failed(refusal)),
                };
            }
        }
        for waiter in found.iter().filter(|seen| seen.role != Some(Role::User)) {
            tracing::warn!(container = waiter.id, "removing the waiter of an earlier attempt of this action");
            self.remove_surely(&waiter.id, Removal::Any).await.map_err(failed)?;
        }
        Ok(EarlierAttempt::Cleared)
    }

    /// Shows what there is of an action once no other handoff of it is under way: while the action container runs that
    /// made one of them, that handoff may make more, or remove them. A lock that no process outlives.
    async fn settled(&self, action: &str, own: &str) -> Result<Vec<Seen>, Refusal> {
        let end = Instant::now() + SETTLE_LIMIT;
        loop {
            let ours = self.list(Which::Ours).await?;
            let found = self.of_action(action, &ours).await?;
            let mut makers: Vec<&str> = found.iter().map(|seen| seen.made_by.as_str()).collect();
            makers.retain(|maker| *maker != own);
            let makers = self.look(&makers).await?;
            let under_way = makers.iter().any(|maker| matches!(maker.life, Life::Running { .. }));
            if Instant::now() >= end || !under_way {
                return Ok(found);
            }
            sleep(SETTLE_PAUSE).await;
        }
    }

    /// Shows those of these containers that belong to an action.
    ///
    /// # Errors
    /// If the engine does not answer.
    pub async fn of_action(&self, action: &str, ours: &[String]) -> Result<Vec<Seen>, Refusal> {
        let ids: Vec<&str> = ours.iter().map(String::as_str).collect();
        let mut found = self.look(&ids).await?;
        found.retain(|seen| seen.action == action);
        Ok(found)
    }

    /// Removes a user container that is not to run, unless it was started.
    ///
    /// # Errors
    /// If it cannot be removed.
    pub async fn discard(&self, user: &str) -> Result<Discarded, Failure> {
        let failed = "cannot remove the user container, which is not to run";
        match self.look_at(user).await.context(failed)? {
            None => return Ok(Discarded::Removed),
            Some(seen) if matches!(seen.life, Life::Running { .. } | Life::Ended { .. }) => {
                return Ok(Discarded::Started);
            }
            Some(_) => {}
        }
        match self.remove_surely(user, Removal::Idle).await {
            Ok(()) => Ok(Discarded::Removed),
            Err(refusal) if refusal.kind == Kind::Final => Ok(Discarded::Started),
            Err(refusal) => Err(refusal).context(failed),
        }
    }

    /// Removes every container that the handoff made; the waiter last, for it may be the caller.
    ///
    /// # Errors
    /// If one cannot be removed; the others are removed all the same.
    pub async fn roll_back(&self, handoff: &HandoffId) -> Result<(), Failure> {
        let failed = "cannot remove what this handoff made";
        let made = self.list(Which::MadeBy(handoff)).await.context(failed)?;
        let ids: Vec<&str> = made.iter().map(String::as_str).collect();
        let found = self.look(&ids).await.context(failed)?;
        let is_waiter = |seen: &Seen| seen.role == Some(Role::Waiter);
        let (waiters, others): (Vec<Seen>, Vec<Seen>) = found.into_iter().partition(is_waiter);
        let mut result = Ok(());
        for seen in others.into_iter().chain(waiters) {
            let how = if seen.role == Some(Role::Waiter) { Removal::Own } else { Removal::Any };
            let removed = self.remove_surely(&seen.id, how).await;
            result = result.and(removed.context(format!("{failed}: {}", seen.id)));
        }
        result
    }
}

/// The first user container that runs.
pub fn running_user(found: &[Seen]) -> Option<&Seen> {
    found.iter().find(|seen| seen.role == Some(Role::User) && matches!(seen.life, Life::Running { .. }))
}
