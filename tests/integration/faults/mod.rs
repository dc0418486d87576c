//! Faults at every step. Either the user container ran exactly once and the action succeeded, or it
//! did not run, the action failed, and nothing is left.

pub mod calls;
pub mod docker;
mod empty;
mod frozen;
mod half_started;
pub mod hold;
mod kills;
mod page;
mod steps;

use anyhow::{Context, Result};
use lab::machine::Machine;
use lab::system::System;

use crate::case;
use crate::cases::{ON_CAPTAIN, ON_DOCKER, ON_MAIN, ON_VERSIONS, Systems};
use steps::{CALL_FAULTS, FAULTS};

/// Runs one fault at every step, in one machine.
fn at_every_step(machine: &Machine, fault: &str) -> Result<()> {
    let faults = if machine.is_docker() { &FAULTS[..] } else { &CALL_FAULTS[..] };
    let fault = faults.iter().find(|known| known.name == fault).context("no such fault")?;
    if machine.is_docker() {
        docker::at_every_step(machine, fault)
    } else {
        calls::at_every_call(machine, fault)
    }
}

/// The long campaign runs on every system with systemd or Docker: containerd's own faults need
/// systemd.
const SOAK: Systems =
    Systems::on(&[System::HookOS, System::DockerOld, System::DockerNew, System::CaptainOS]).soak();

// The most telling faults.
case!(lost, ON_VERSIONS, |machine| at_every_step(&machine, "lost"));
case!(status_503, ON_DOCKER, |machine: Shared| at_every_step(&machine, "503"));
case!(unknown, ON_CAPTAIN, |machine| at_every_step(&machine, "unknown"));
// The faults of both engines.
case!(refuse, SOAK, |machine| at_every_step(&machine, "refuse"));
case!(empty_answer, SOAK, |machine| at_every_step(&machine, "empty"));
case!(not_json, SOAK, |machine| at_every_step(&machine, "not-json"));
case!(delay, SOAK, |machine| at_every_step(&machine, "delay"));
case!(stall, SOAK, |machine| at_every_step(&machine, "stall"));
case!(stall_after, SOAK, |machine| at_every_step(&machine, "stall-after"));
// The faults of Docker's API only.
case!(half, ON_DOCKER.soak(), |machine| at_every_step(&machine, "half"));
case!(half_closed, ON_DOCKER.soak(), |machine| at_every_step(&machine, "half-closed"));
case!(status_500, ON_DOCKER.soak(), |machine| at_every_step(&machine, "500"));
case!(garbage, ON_DOCKER.soak(), |machine| at_every_step(&machine, "garbage"));
case!(not_object, ON_DOCKER.soak(), |machine| at_every_step(&machine, "not-object"));
// The faults of nerdctl only.
case!(mute, ON_CAPTAIN.soak(), |machine| at_every_step(&machine, "mute"));
case!(partial, ON_CAPTAIN.soak(), |machine| at_every_step(&machine, "partial"));
case!(partial_image, ON_CAPTAIN, |machine| calls::partial_image(&machine));
case!(mute_after, ON_CAPTAIN.soak(), |machine| at_every_step(&machine, "mute-after"));

case!(action_is_killed, ON_MAIN, |machine| {
    if machine.is_docker() {
        kills::action_is_killed(&machine)
    } else {
        calls::action_is_killed(&machine)
    }
});
case!(agent_is_killed, ON_CAPTAIN, |machine| calls::agent_is_killed(&machine));
case!(nerdctl_warns_after_the_waiters_end, ON_CAPTAIN, |machine| {
    calls::nerdctl_warns_after_the_waiters_end(&machine)
});
case!(waiter_is_killed_while_it_watches, ON_DOCKER, |machine: Shared| {
    kills::waiter_is_killed_while_it_watches(&machine)
});
case!(waiter_is_killed, ON_DOCKER, |machine: Shared| kills::waiter_is_killed(&machine));
case!(waiter_is_killed_at_each_call, ON_CAPTAIN.soak(), |machine| calls::waiter_is_killed(
    &machine
));

case!(engine_is_killed, ON_DOCKER.soak(), |system: System| kills::engine_goes(
    system, true, "KILL"
));
case!(engine_is_stopped, ON_DOCKER.soak(), |system: System| kills::engine_goes(
    system, true, "TERM"
));
case!(engine_is_killed_with_its_containers, ON_DOCKER.soak(), |system: System| {
    kills::engine_goes(system, false, "KILL")
});
case!(engine_is_stopped_with_its_containers, ON_DOCKER.soak(), |system: System| {
    kills::engine_goes(system, false, "TERM")
});
case!(containerd_is_killed, ON_CAPTAIN.soak(), |machine| calls::engine_is_killed(&machine));
