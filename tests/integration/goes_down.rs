//! The machine goes down, or somebody is told: systemd ignores what BusyBox's commands signal, and
//! is asked instead.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::machine::{Machine, POWERED_OFF, REBOOTED, output};
use lab::until::until;

use crate::case;
use crate::cases::{ON_ALL, ON_CAPTAINS};
use crate::remembers::writes;
use crate::world::{Action, LIMIT, waiter_says, waits};

case!(poweroff, ON_ALL, |machine| ends_with(machine, "poweroff", POWERED_OFF));

case!(reboot, ON_CAPTAINS, |machine| ends_with(machine, "reboot", REBOOTED));

fn ends_with(mut machine: Machine, command: &str, code: i32) -> Result<()> {
    let said = Action::alpine(&machine).by_agent().wait("0").command(&[command]).run_well()?;
    let ended = machine.wait_for_end(LIMIT).with_context(|| format!("{said:?}"))?;
    ensure!(ended == code, "the machine ended with {ended}: {}", machine.logs());
    Ok(())
}

// The negative control of the two cases above, and what the Go waitdaemon does. But the log says
// that the machine still runs, and the evidence is kept.
case!(reboot_that_is_not_finished_does_nothing, ON_CAPTAINS, |mut machine| {
    let action = Action::alpine(&machine).wait("0").env("WAITDAEMON_FINISH_REBOOT", "false");
    action.command(&["reboot"]).run_well()?;
    waiter_says(&machine, "the machine still runs")?;
    until("the waiter's end", LIMIT, || Ok((!machine.runs("/waiter")?).then_some(())))?;
    // Nothing of ours that could still ask is running; systemd has re-executed itself and lives.
    let state = output(machine.command("systemctl").args(["is-system-running", "--wait"]))?;
    ensure!(!String::from_utf8_lossy(&state.stdout).contains("stopping"), "systemd is going down");
    ensure!(machine.ended()?.is_none(), "the machine ended");
    Ok(())
});

// A machine that is switched off during the wait goes down as fast as a machine without a waiter,
// which takes 0.3 s.
case!(a_power_off_does_not_wait, ON_CAPTAINS, |mut machine| {
    writes(&machine, "600").run_well()?;
    waits(&machine)?;
    let begin = Instant::now();
    let _ = output(machine.command("systemctl").arg("poweroff"))?;
    machine.wait_for_end(LIMIT).with_context(|| machine.logs())?;
    let took = begin.elapsed();
    ensure!(took < Duration::from_secs(4), "the machine took {took:?} to go down");
    Ok(())
});
