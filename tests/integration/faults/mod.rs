//! Faults at every step: whatever goes wrong, the user container ran exactly once and the action succeeded,
//! or it did not run, the action failed, and nothing is left.

pub mod captain;
pub mod docker;
mod empty;
mod frozen;
mod half_started;
pub mod kills;
pub mod page;
pub mod steps;

use lab::machine::Engine;

use crate::fidelity::PlainCase;

/// True for the long campaign, `make soak`: all faults, not merely the most telling.
fn soak() -> bool {
    std::env::var_os("SOAK").is_some()
}

/// One case for each fault, in which it happens at every step.
pub fn cases() -> Vec<crate::Case> {
    let case = |fault: &'static steps::Fault| -> crate::Case {
        (format!("faults::{}", fault.name), Box::new(move |engine: Engine| docker::at_every_step(engine, fault)))
    };
    let all = soak();
    let mut cases: Vec<crate::Case> = steps::FAULTS.iter().filter(|fault| all || fault.quick).map(case).collect();
    if all {
        cases.extend(kills::engine_cases());
    }
    cases.push(("faults::action_is_killed".into(), Box::new(kills::action_is_killed)));
    cases.push(("faults::waiter_is_killed".into(), Box::new(kills::waiter_is_killed)));
    cases
        .push(("faults::waiter_is_killed_while_it_watches".into(), Box::new(kills::waiter_is_killed_while_it_watches)));
    cases.extend(empty::cases());
    cases
}

/// The same between waitdaemon and nerdctl.
pub fn captain_cases() -> Vec<PlainCase> {
    let case = |fault: &'static steps::Fault| -> PlainCase {
        (format!("captain::faults::{}", fault.name), Box::new(move || captain::at_every_call(fault)))
    };
    let all = soak();
    let mut cases: Vec<PlainCase> = steps::CALL_FAULTS.iter().filter(|fault| all || fault.quick).map(case).collect();
    cases.push(("captain::faults::action_is_killed".into(), Box::new(captain::action_is_killed)));
    cases.push((
        "captain::faults::action_is_killed_after_the_waiter_is_armed".into(),
        Box::new(captain::action_is_killed_after_the_waiter_is_armed),
    ));
    cases.push(("captain::faults::agent_is_killed".into(), Box::new(captain::agent_is_killed)));
    cases.push((
        "captain::faults::nerdctl_warns_after_the_waiters_end".into(),
        Box::new(captain::nerdctl_warns_after_the_waiters_end),
    ));
    cases.extend(frozen::cases());
    cases.extend(half_started::cases());
    if all {
        cases.push(("captain::faults::waiter_is_killed".into(), Box::new(captain::waiter_is_killed)));
        cases.push(("captain::faults::engine_is_killed".into(), Box::new(captain::engine_is_killed)));
        let long = crate::remembers::captain_soak().into_iter();
        cases.extend(
            long.map(|(name, case)| (name.replace("captain::", "captain::faults::"), Box::new(case) as Box<_>)),
        );
    }
    cases
}
