//! Faults at every step: whatever goes wrong, the user container ran exactly once and the action succeeded,
//! or it did not run, the action failed, and nothing is left.

pub mod captain;
pub mod docker;
pub mod steps;

use lab::machine::Engine;

use crate::fidelity::PlainCase;

/// One case for each fault, in which it happens at every step.
pub fn cases() -> Vec<crate::Case> {
    let case = |fault: &'static steps::Fault| -> crate::Case {
        (format!("faults::{}", fault.name), Box::new(move |engine: Engine| docker::at_every_step(engine, fault)))
    };
    steps::FAULTS.iter().map(case).collect()
}

/// The same between waitdaemon and nerdctl.
pub fn captain_cases() -> Vec<PlainCase> {
    let case = |fault: &'static steps::Fault| -> PlainCase {
        (format!("captain::faults::{}", fault.name), Box::new(move || captain::at_every_call(fault)))
    };
    steps::CALL_FAULTS.iter().map(case).collect()
}
