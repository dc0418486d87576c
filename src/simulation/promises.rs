//! Checks the promises of docs/design.md against what happened in a run.

use std::time::Duration;

use super::scenario::{Agent, Event, Target};
use super::stage::{Attempt, Stage};
use crate::engine::Life;
use crate::engine::fake::{Container, Fault, Ways};
use crate::names::Role;

/// How long after a failure the fallback is due.
const FALLBACK: Duration = Duration::from_secs(60);

/// Everything that a handoff left and did.
struct Handed<'a> {
    attempt: Attempt,
    user: Option<&'a Container>,
    waiter: Option<&'a Container>,
}

/// Records every promise that the run broke.
pub fn check(stage: &Stage) {
    let mut broken: Vec<String> = Vec::new();
    {
        let world = stage.world.borrow();
        let mut handoffs: Vec<&str> = world.all().map(|found| found.handoff.as_str()).collect();
        handoffs.retain(|handoff| !handoff.is_empty());
        handoffs.sort_unstable();
        handoffs.dedup();
        for handoff in handoffs {
            // A handoff that met another one created them anew.
            let made = |role| {
                world
                    .all()
                    .filter(move |found| found.handoff == handoff && found.role == Some(role))
            };
            let of = |role| made(role).max_by(|one, other| one.id.cmp(&other.id));
            let (user, waiter) = (of(Role::User), of(Role::Waiter));
            let duty = user.or(waiter).and_then(|found| found.duty.as_ref());
            let Some(attempt) = duty.and_then(|duty| stage.attempt_of(&duty.action_id)) else {
                continue;
            };
            broken.extend(of_handoff(stage, &Handed { attempt, user, waiter }));
        }
        let busy = world.containers.values().filter(|found| found.role == Some(Role::Waiter));
        for waiter in busy.filter(|found| matches!(found.life, Life::Running { .. })) {
            broken.push(format!("{} still runs after an hour", waiter.name));
        }
        // An action served only once, with at most one fault that passes, must succeed (promise
        // 12).
        let attempts = stage.attempts.borrow();
        if let [attempt] = attempts.as_slice()
            && passes(stage)
            && attempt.code.is_some_and(|code| code != 0)
        {
            broken.push(format!(
                "one fault that passes failed the action: exit code {:?} (promise 12)",
                attempt.code
            ));
        }
    }
    let mut world = stage.world.borrow_mut();
    let attempts = stage.attempts.borrow();
    let only_again = stage.scenario.events.iter().all(|(_, event)| *event == Event::Again);
    if only_again
        && !world.down
        && stage.scenario.is_calm()
        && attempts.iter().any(|attempt| attempt.code != Some(0))
    {
        broken.push(format!(
            "the same action came again, and one attempt failed: {attempts:?} (promise 6)"
        ));
    }
    for text in broken {
        world.violate(text);
    }
}

/// True if at most one thing went wrong in this run, and it passes.
fn passes(stage: &Stage) -> bool {
    let scenario = &stage.scenario;
    let killed = scenario.faults(|fault| matches!(fault, Fault::KilledBefore | Fault::KilledAfter));
    // A start that hangs is given up: the handoff waits no longer than 30 s for the waiter.
    let hangs =
        scenario.faults(|fault| matches!(fault, Fault::Hang | Fault::HangAfter | Fault::Delay));
    scenario.events.is_empty()
        && scenario.journal_death.is_none()
        && scenario.faults.len() <= 1
        && killed + hangs == 0
        && scenario.timeout > Duration::from_secs(60)
}

fn of_handoff(stage: &Stage, handed: &Handed<'_>) -> Vec<String> {
    let mut broken = Vec::new();
    let Handed { attempt, user, waiter } = handed;
    let (scenario, world) = (&stage.scenario, stage.world.borrow());
    let asked_at = asked_by(stage, handed);
    // An end of our own takes the place of the user container.
    let starts = if scenario.own_end {
        u32::from(asked_at.is_some())
    } else {
        user.map_or(0, |user| user.starts)
    };
    let started_at =
        if scenario.own_end { asked_at } else { user.and_then(|user| user.started_at) };
    let reported = attempt.reported == Some(true);
    let code_0 = attempt.code == Some(0);
    let (may, succeeded) = match (scenario.ways, scenario.agent) {
        // On Docker, a waiter knows only the exit code.
        (Ways::Docker, _) => (code_0, code_0),
        (_, Agent::DeletesAll) => (code_0 || killed_after_its_word(handed), code_0 && reported),
        _ => (reported, reported),
    };
    if starts > 1 {
        broken.push(format!("the user container ran {starts} times (promise 3)"));
    }
    if starts > 0 && !may {
        broken.push(format!(
            "the user container ran although the action did not succeed: {attempt:?} (promise 3)"
        ));
    }
    if let (Some(started), Some(ended)) = (started_at, attempt.ended_at)
        && started + Duration::from_millis(1) < ended + Duration::from_secs(scenario.wait_seconds)
    {
        broken.push("the user container started before its time (promise 3)".into());
    }
    if let (Some(started), Some(reported)) = (started_at, attempt.reported_at)
        && scenario.ways == Ways::Containerd
        && started + Duration::from_millis(1)
            < reported + Duration::from_secs(scenario.wait_seconds)
    {
        broken
            .push("the wait began before the agent was done with its container (promise 3)".into());
    }
    if let Some(asked) = asked_at.filter(|_| !scenario.own_end) {
        let failed = user.and_then(|user| user.started_at).or(attempt.ended_at);
        if !scenario.fallback || !may || failed.is_none_or(|failed| asked < failed + FALLBACK) {
            broken.push(format!(
                "the machine was ended without a reason, or too early: {attempt:?} (promise 9)"
            ));
        }
    }
    let ends = scenario.own_end || (scenario.fallback && starts > 0);
    if succeeded
        && ends
        && !world.down
        && excuse(stage, handed).is_none()
        && may_pass(stage)
        && undisturbed(stage)
    {
        broken.push("SUCCESS, and the machine still runs (promise 9)".into());
    }
    if world.down {
        // Nothing is left on a machine that is down.
        return broken;
    }
    let there = |found: &Container| world.containers.contains_key(&found.id);
    let user_left = user.filter(|user| there(user));
    let waiter_left = waiter.filter(|waiter| there(waiter));
    let waiter_said =
        waiter_left.is_some_and(|waiter| waiter.said && matches!(waiter.life, Life::Ended { .. }));
    let told = waiter.and_then(|waiter| stopped_at(stage, &waiter.id));

    if succeeded && starts == 0 && !waiter_said && excuse(stage, handed).is_none() {
        broken.push(
            "SUCCESS, the user container never ran, and nobody said so (promises 2, 3, 10)".into(),
        );
    }
    if succeeded && starts == 0 && waiter_said && may_pass(stage) {
        broken.push(
            "SUCCESS, and what passes kept the user container from running (promise 8)".into(),
        );
    }
    // If told to stop before the start, the waiter removes the user container.
    if let (Some(told), Some(started)) = (told, started_at)
        && told + Duration::from_millis(500) < started
        && scenario.journal_death.is_none()
        && !scenario
            .has(|event| matches!(event, Event::Kill(Target::Waiter) | Event::Engine { .. }))
        && scenario.faults.is_empty()
    {
        broken.push(
            "the waiter was told to stop, and the user container ran all the same (promise 3)"
                .into(),
        );
    }
    if !succeeded && attempt.code.is_some_and(|code| code != 0) && !abandoned(stage, attempt) {
        for left in [user_left, waiter_left].into_iter().flatten() {
            broken.push(format!("{} is left of a handoff that failed (promise 2)", left.name));
        }
    }
    let (lasts, code) = scenario.user;
    let watched = scenario.watch_seconds > lasts.as_secs();
    if succeeded && starts == 1 && watched && undisturbed(stage) {
        match code {
            0 => {
                for left in [user_left, waiter_left].into_iter().flatten() {
                    broken
                        .push(format!("{} is left although all went well (promise 2)", left.name));
                }
            }
            _ if user_left.is_none() || !waiter_said => {
                broken.push(
                    "the user container failed, and what explains it is gone (promise 10)".into(),
                );
            }
            _ => {}
        }
    }
    broken
}

/// Returns when this handoff's waiter asked to take the machine down.
fn asked_by(stage: &Stage, handed: &Handed<'_>) -> Option<tokio::time::Instant> {
    let waiter = handed.waiter?;
    stage.world.borrow().asked.iter().find(|(id, _)| *id == waiter.id).map(|(_, at)| *at)
}

/// True if SIGKILL came between the action's word and its exit, which are next to each other, and
/// the exit code was unknown when the waiter asked: the report is then wrong, and nothing shows it.
fn killed_after_its_word(handed: &Handed<'_>) -> bool {
    let word = |waiter: &Container| waiter.journal.iter().any(|line| line == "word\n");
    handed.attempt.code == Some(137) && handed.waiter.is_some_and(word)
}

fn stopped_at(stage: &Stage, waiter: &str) -> Option<tokio::time::Instant> {
    stage.stopped.borrow().iter().find(|(id, _)| id == waiter).map(|(_, at)| *at)
}

/// Returns why a user container need not run although its action succeeded.
fn excuse(stage: &Stage, handed: &Handed<'_>) -> Option<&'static str> {
    let world = stage.world.borrow();
    let before =
        |found: &Container| found.started_at.is_some_and(|at| Some(at) <= handed.attempt.ended_at);
    let user = handed.user.map(|user| user.id.as_str());
    if world.all().any(|found| {
        found.role == Some(Role::User) && Some(found.id.as_str()) != user && before(found)
    }) {
        return Some("another attempt's user container ran already");
    }
    if handed.waiter.is_some_and(|waiter| stopped_at(stage, &waiter.id).is_some()) {
        return Some("the waiter was told to stop");
    }
    if [handed.user, handed.waiter].into_iter().flatten().any(|found| found.superseded) {
        return Some("the same action came again and took its place");
    }
    None
}

/// True if everything that went wrong passes.
fn may_pass(stage: &Stage) -> bool {
    let scenario = &stage.scenario;
    let again = scenario.has(|event| matches!(event, Event::Again));
    let waiter = scenario.has(|event| matches!(event, Event::Stop(Target::Waiter)));
    // Without the word, and with the exit code forgotten, nothing is known.
    let forgets = scenario.has(|event| matches!(event, Event::Engine { forgets: true, .. }));
    let deaf = !scenario.faults.is_empty() || scenario.journal_death == Some((1, false));
    let speechless = forgets && deaf;
    !again && !waiter && !speechless
}

/// True if the action could not clean up after itself: it was killed, or short of time.
fn abandoned(stage: &Stage, attempt: &Attempt) -> bool {
    let scenario = &stage.scenario;
    let pressed =
        scenario.has(|event| matches!(event, Event::Stop(Target::Action) | Event::Engine { .. }));
    let slow = scenario.faults(|fault| {
        matches!(fault, Fault::Hang | Fault::HangAfter | Fault::Delay | Fault::Refused)
    });
    let timed_out = scenario.timeout < Duration::from_secs(60);
    let again = scenario.has(|event| matches!(event, Event::Again));
    attempt.code == Some(137)
        || pressed
        || again
        || (timed_out && slow + scenario.faults.len() > 0)
        || slow > 1
}

/// True if nothing happened to the waiter that it cannot recover from.
fn undisturbed(stage: &Stage) -> bool {
    let scenario = &stage.scenario;
    let engine =
        scenario.has(|event| matches!(event, Event::Engine { .. } | Event::Again | Event::Stop(_)));
    !engine
}
