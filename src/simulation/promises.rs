//! The promises of docs/design.md, held against what happened in a run.

use std::time::Duration;

use super::scenario::{Event, Target};
use super::stage::{Attempt, Stage};
use crate::engine::Life;
use crate::engine::fake::{Container, Fault, Ways};
use crate::names::Role;

/// Everything that a handoff left and did.
struct Handed<'a> {
    attempt: Attempt,
    user: Option<&'a Container>,
    waiter: Option<&'a Container>,
}

/// Notes every promise that the run broke.
pub fn check(stage: &Stage) {
    let mut broken: Vec<String> = Vec::new();
    {
        let world = stage.world.borrow();
        let mut handoffs: Vec<&str> = world.all().map(|found| found.handoff.as_str()).collect();
        handoffs.retain(|handoff| !handoff.is_empty());
        handoffs.sort_unstable();
        handoffs.dedup();
        for handoff in handoffs {
            let of = |role| world.all().find(|found| found.handoff == handoff && found.role == Some(role));
            let (user, waiter) = (of(Role::User), of(Role::Waiter));
            let duty = user.or(waiter).and_then(|found| found.duty.as_ref());
            let Some(attempt) = duty.and_then(|duty| stage.attempt_of(&duty.action_id)) else { continue };
            broken.extend(of_handoff(stage, &Handed { attempt, user, waiter }));
        }
        let busy = world.containers.values().filter(|found| found.role == Some(Role::Waiter));
        for waiter in busy.filter(|found| matches!(found.life, Life::Running { .. })) {
            broken.push(format!("{} still runs after an hour", waiter.name));
        }
        // The same action served alone, with at most one thing that passes: it must succeed (promise 12).
        let attempts = stage.attempts.borrow();
        if let [attempt] = attempts.as_slice()
            && passes(stage)
            && attempt.code.is_some_and(|code| code != 0)
        {
            broken.push(format!("one fault that passes failed the action: exit code {:?} (promise 12)", attempt.code));
        }
    }
    let mut world = stage.world.borrow_mut();
    for text in broken {
        world.violate(text);
    }
}

/// True if at most one thing went wrong in this run, which passes.
fn passes(stage: &Stage) -> bool {
    let scenario = &stage.scenario;
    let killed = scenario.faults(|fault| matches!(fault, Fault::KilledBefore | Fault::KilledAfter));
    // A start that hangs is given up: the handoff waits 30 s for the waiter, no longer.
    let hangs = scenario.faults(|fault| matches!(fault, Fault::Hang | Fault::HangAfter | Fault::Delay));
    scenario.events.is_empty()
        && scenario.faults.len() <= 1
        && killed + hangs == 0
        && scenario.timeout > Duration::from_secs(60)
}

fn of_handoff(stage: &Stage, handed: &Handed<'_>) -> Vec<String> {
    let mut broken = Vec::new();
    let Handed { attempt, user, waiter } = handed;
    let (scenario, world) = (&stage.scenario, stage.world.borrow());
    let starts = user.map_or(0, |user| user.starts);
    let succeeded = match scenario.ways {
        // The exit code is all that a waiter on Docker knows.
        Ways::Docker => attempt.code == Some(0),
        Ways::Containerd => attempt.reported == Some(true),
    };
    if starts > 1 {
        broken.push(format!("the user container ran {starts} times (promise 3)"));
    }
    if starts > 0 && !succeeded {
        broken.push(format!("the user container ran although the action did not succeed: {attempt:?} (promise 3)"));
    }
    if let (Some(started), Some(ended)) = (user.and_then(|user| user.started_at), attempt.ended_at)
        && started + Duration::from_millis(1) < ended + Duration::from_secs(scenario.wait_seconds)
    {
        broken.push("the user container started before its time (promise 3)".into());
    }
    let there = |found: &Container| world.containers.contains_key(&found.id);
    let user_left = user.filter(|user| there(user));
    let waiter_left = waiter.filter(|waiter| there(waiter));
    let waiter_said = waiter_left.is_some_and(|waiter| waiter.said && matches!(waiter.life, Life::Ended { .. }));
    let told = waiter.and_then(|waiter| stopped_at(stage, &waiter.id));

    if succeeded && starts == 0 && !waiter_said && excuse(stage, handed).is_none() {
        broken.push("SUCCESS, the user container never ran, and nobody said so (promises 2, 3, 10)".into());
    }
    if succeeded && starts == 0 && waiter_said && may_pass(stage) {
        broken.push("SUCCESS, and what passes kept the user container from running (promise 8)".into());
    }
    // Told to stop before the start, the waiter removes the user container.
    if let (Some(told), Some(started)) = (told, user.and_then(|user| user.started_at))
        && told + Duration::from_millis(500) < started
        && !scenario.has(|event| matches!(event, Event::Kill(Target::Waiter) | Event::Engine { .. }))
        && scenario.faults.is_empty()
    {
        broken.push("the waiter was told to stop, and the user container ran all the same (promise 3)".into());
    }
    if !succeeded && attempt.code.is_some_and(|code| code != 0) && !abandoned(stage, attempt) {
        for left in [user_left, waiter_left].into_iter().flatten() {
            broken.push(format!("{} is left of a handoff that failed (promise 2)", left.name));
        }
    }
    let (lasts, code) = scenario.user;
    let watched = scenario.watch_seconds > lasts.as_secs();
    if succeeded && starts == 1 && watched && undisturbed(stage) && !waiter.is_some_and(exhausted) {
        match code {
            0 => {
                for left in [user_left, waiter_left].into_iter().flatten() {
                    broken.push(format!("{} is left although all went well (promise 2)", left.name));
                }
            }
            _ if user_left.is_none() || !waiter_said => {
                broken.push("the user container failed, and what explains it is gone (promise 10)".into());
            }
            _ => {}
        }
    }
    broken
}

fn stopped_at(stage: &Stage, waiter: &str) -> Option<tokio::time::Instant> {
    stage.stopped.borrow().iter().find(|(id, _)| id == waiter).map(|(_, at)| *at)
}

/// Why a user container need not run although its action succeeded.
fn excuse(stage: &Stage, handed: &Handed<'_>) -> Option<&'static str> {
    let scenario = &stage.scenario;
    if handed.waiter.is_some_and(|waiter| stopped_at(stage, &waiter.id).is_some()) {
        return Some("the waiter was told to stop");
    }
    if [handed.user, handed.waiter].into_iter().flatten().any(|found| found.superseded) {
        return Some("the same action came again and took its place");
    }
    if handed.waiter.is_some_and(exhausted) {
        return Some("the waiter was killed more often than an engine starts it again");
    }
    // What a waiter that is ended with its engine forgets is another issue's.
    let forgets = |event: &Event| {
        matches!(event, Event::Engine { containers_live: false, .. } | Event::Engine { forgets: true, .. })
    };
    if scenario.has(forgets) {
        return Some("the engine ended all containers, or forgot");
    }
    None
}

/// True if it was killed more often than an engine starts it again.
fn exhausted(waiter: &Container) -> bool {
    waiter.starts > 3
}

/// True if all that went wrong passes.
fn may_pass(stage: &Stage) -> bool {
    let scenario = &stage.scenario;
    let again = scenario.has(|event| matches!(event, Event::Again));
    let unknown = scenario.faults(|fault| *fault == Fault::Unknown);
    let engine = scenario.has(|event| matches!(event, Event::Engine { .. }));
    let waiter = scenario.has(|event| matches!(event, Event::Stop(Target::Waiter)));
    !again && !engine && !waiter && unknown < 3
}

/// True if the action could not clear up behind itself: killed, or pressed for time.
fn abandoned(stage: &Stage, attempt: &Attempt) -> bool {
    let scenario = &stage.scenario;
    let pressed = scenario.has(|event| matches!(event, Event::Stop(Target::Action) | Event::Engine { .. }));
    let slow = scenario.faults(|fault| matches!(fault, Fault::Hang | Fault::HangAfter | Fault::Delay | Fault::Refused));
    let timed_out = scenario.timeout < Duration::from_secs(60);
    let again = scenario.has(|event| matches!(event, Event::Again));
    attempt.code == Some(137) || pressed || again || (timed_out && slow + scenario.faults.len() > 0) || slow > 1
}

/// True if nothing happened to the waiter but what it can recover from.
fn undisturbed(stage: &Stage) -> bool {
    let scenario = &stage.scenario;
    let engine = scenario.has(|event| matches!(event, Event::Engine { .. } | Event::Again | Event::Stop(_)));
    !engine
}
