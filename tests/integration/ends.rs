//! The machine's end without a second image, the fallback if the user's own work does not bring it,
//! and who is told.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::image;
use lab::machine::{Machine, POWERED_OFF, REBOOTED};
use lab::reports::Reports;
use lab::smee::Smee;
use lab::system::System;
use lab::until::until;
use serde_json::{Value, json};

use crate::case;
use crate::cases::{ON_ALL, ON_CAPTAIN, ON_CAPTAINS, ON_DOCKER_MAIN, ON_MAIN};
use crate::world::{
    Action, LIMIT, USER, WAITER, kill_waiter, nothing_left, nothing_there, process, runs,
    waiter_line, waiter_says, waits,
};

case!(reboot, ON_ALL, |machine| ends_with(machine, "reboot", REBOOTED));
case!(poweroff, ON_MAIN, |machine| ends_with(machine, "poweroff", POWERED_OFF));
case!(halt, ON_MAIN, |machine| ends_with(machine, "halt", POWERED_OFF));

/// Long enough for the agent's report: with our own end nothing else takes time.
const SOON: &str = "2";

/// An action without IMAGE: the waiter itself ends the machine.
fn own<'a>(machine: &'a Machine, command: &str) -> Action<'a> {
    Action::new(machine).command(&[command])
}

fn ended(machine: &mut Machine, code: i32) -> Result<Duration> {
    let begin = Instant::now();
    let ended =
        machine.wait_for_end(LIMIT).with_context(|| machine.container_logs() + &machine.logs())?;
    ensure!(ended == code, "the machine ended with {ended}: {}", machine.logs());
    Ok(begin.elapsed())
}

/// Checks that the machine ends this way, run by the agent and without a volume. In order means
/// that systemd stops its units.
fn ends_with(mut machine: Machine, command: &str, code: i32) -> Result<()> {
    own(&machine, command).volumes(Vec::new()).by_agent().wait(SOON).run_well()?;
    ended(&mut machine, code)?;
    let has_systemd =
        machine.system().name().starts_with("captain") && machine.system() != System::CaptainV1;
    ensure!(
        !has_systemd || machine.out().join("stopped-in-order").exists(),
        "systemd did not stop its units"
    );
    Ok(())
}

// There is one container fewer, and a cancelled one leaves nothing.
case!(only_a_waiter_is_created, ON_MAIN, |mut machine| {
    let said = own(&machine, "poweroff").wait("600").run_well()?;
    waits(&machine)?;
    ensure!(machine.has(WAITER) && !machine.has(USER), "{}", machine.list()?);
    ensure!(!said.out.contains("user container"), "{said:?}");
    machine.signal(process(&machine, WAITER)?, "TERM")?;
    nothing_left(&machine)?;
    ensure!(machine.ended()?.is_none(), "the machine ended");
    Ok(())
});

// When the action is served again, the earlier attempt's waiter makes room: only one waits.
case!(the_same_action_again, ON_MAIN, |mut machine| {
    own(&machine, "halt").wait("600").run_well()?;
    waits(&machine)?;
    let before = process(&machine, WAITER)?;
    own(&machine, "halt").wait(SOON).run_well()?;
    ensure!(
        process(&machine, WAITER).map_or(true, |now| now != before),
        "the earlier waiter is there"
    );
    ended(&mut machine, POWERED_OFF).map(drop)
});

// A waiter that was killed resumes, and the machine ends.
case!(a_killed_waiter_resumes, ON_MAIN, |mut machine| {
    own(&machine, "reboot").wait("12").run_well()?;
    waits(&machine)?;
    kill_waiter(&machine)?;
    ended(&mut machine, REBOOTED).map(drop)
});

// PID 1 gets SIGSTOP from outside, which it cannot ignore, so the kernel is asked.
case!(an_init_that_does_nothing_is_forced, ON_MAIN, |mut machine| {
    own(&machine, "reboot").wait("3").env("WAITDAEMON_FORCE_AFTER_SECONDS", "4").run_well()?;
    waits(&machine)?;
    let begin = Instant::now();
    let stopped =
        std::process::Command::new("kill").args(["-STOP", &machine.init().to_string()]).status()?;
    ensure!(stopped.success(), "cannot stop PID 1");
    ended(&mut machine, REBOOTED)?;
    ensure!(begin.elapsed() > Duration::from_secs(4), "forced after {:?}", begin.elapsed());
    Ok(())
});

case!(without_the_hosts_pids_it_fails, ON_DOCKER_MAIN, |machine| {
    for action in [
        own(&machine, "reboot"),
        Action::alpine(&machine).script("true").env("WAITDAEMON_FALLBACK", "reboot"),
    ] {
        let said = action.with_own_pids().wait("0").run()?;
        ensure!(said.code == 1 && said.about("pid")?.contains("pid: host"), "{said:?}");
        nothing_there(&machine)?;
    }
    Ok(())
});

/// Loads an image with this configuration.
fn with_image(machine: &Machine, name: &str, config: &Value) -> Result<()> {
    let archive = machine.out().join(format!("{name}.tar"));
    image::busybox(&archive, &format!("{name}:1"), config, &[])?;
    machine.load(&archive)
}

/// Waits until the waiter logs at ERROR that the machine still runs; returns the line.
fn still_runs(machine: &mut Machine) -> Result<Value> {
    let line = waiter_line(machine, "that the machine still runs", |line| {
        line["level"] == "ERROR"
            && line["message"].as_str().is_some_and(|text| text.contains("still runs"))
    })?;
    ensure!(machine.ended()?.is_none(), "the machine ended");
    until("the waiter's end", LIMIT, || Ok((!machine.runs("/waiter")?).then_some(())))?;
    ensure!(
        machine.has(WAITER) && machine.has(USER),
        "what explains it is gone: {}",
        machine.list()?
    );
    Ok(line)
}

// A subcommand of another tool is not a reboot of this machine; the log still says that the machine
// runs.
case!(a_tool_with_a_subcommand_reboot, ON_CAPTAINS, |mut machine| {
    with_image(&machine, "tool", &json!({"Entrypoint": ["/bin/echo", "tool"]}))?;
    Action::new(&machine).env("IMAGE", "tool:1").wait("0").command(&["reboot"]).run_well()?;
    still_runs(&mut machine).map(drop)
});

case!(an_image_that_brings_reboot, ON_CAPTAINS, |mut machine| {
    with_image(&machine, "reboots", &json!({"Entrypoint": ["reboot"]}))?;
    Action::new(&machine).env("IMAGE", "reboots:1").wait("0").run_well()?;
    ended(&mut machine, REBOOTED).map(drop)
});

case!(an_image_that_brings_poweroff, ON_CAPTAIN, |mut machine| {
    with_image(&machine, "off", &json!({"Entrypoint": ["/bin/busybox"], "Cmd": ["poweroff"]}))?;
    Action::new(&machine).env("IMAGE", "off:1").wait("0").run_well()?;
    ended(&mut machine, POWERED_OFF).map(drop)
});

// waitdaemon does not guess what a script does, unless the action says so. But it sees that the
// machine still runs, also when the script took longer than a container is watched.
case!(a_script_that_reboots, ON_CAPTAINS, |mut machine| {
    let action = Action::alpine(&machine).wait("0").env("WAITDAEMON_WATCH_SECONDS", "1");
    action.script("sleep 3; reboot").run_well()?;
    still_runs(&mut machine).map(drop)
});

case!(a_scripts_reboot_is_finished_on_request, ON_CAPTAIN, |mut machine| {
    let action = Action::alpine(&machine).wait("0").script("sleep 1; reboot");
    action.env("WAITDAEMON_FINISH_REBOOT", "true").run_well()?;
    ended(&mut machine, REBOOTED).map(drop)
});

// Without the host's PIDs a reboot ends only its own container: the log says so before SUCCESS and
// afterwards.
case!(a_reboot_without_the_hosts_pids, ON_DOCKER_MAIN, |mut machine| {
    let said =
        Action::alpine(&machine).with_own_pids().wait("0").command(&["reboot"]).run_well()?;
    ensure!(said.err.contains("\"field\":\"pid\"") && said.err.contains("WARN"), "{said:?}");
    let line = still_runs(&mut machine)?;
    ensure!(
        line["field"] == "pid" && line["fix"].as_str().is_some_and(|fix| fix.contains("pid: host")),
        "{line}"
    );
    machine.forget()?;
    // The kernel ends the container's PID namespace with SIGHUP.
    Action::alpine(&machine).with_own_pids().wait("0").command(&["reboot", "-f"]).run_well()?;
    let line = waiter_says(&machine, "failed with exit code 129")?;
    ensure!(line["field"] == "pid", "{line}");
    machine.forget()?;
    let script = "(sleep 1; reboot) & exit 0";
    let said = Action::alpine(&machine).with_own_pids().wait("0").script(script).run_well()?;
    ensure!(said.err.contains("\"field\":\"pid\""), "{said:?}");
    machine.forget()?;
    let script = "mkdir -p /worker; touch /worker/reboot";
    let said = Action::alpine(&machine).with_own_pids().wait("0").script(script).run_well()?;
    ensure!(!said.err.contains("\"field\":\"pid\""), "{said:?}");
    Ok(())
});

case!(an_unwatched_file, ON_MAIN, |mut machine| {
    let action =
        Action::alpine(&machine).wait("0").script("mkdir -p /worker; touch /worker/reboot");
    action.run_well()?;
    let line = still_runs(&mut machine)?;
    ensure!(line["field"] == "command", "{line}");
    Ok(())
});

/// An action with a fallback one second after something goes wrong.
fn falls_back<'a>(machine: &'a Machine, end: &str) -> Action<'a> {
    let action = Action::alpine(machine).wait("0").env("WAITDAEMON_FALLBACK", end);
    action.env("WAITDAEMON_FALLBACK_AFTER_SECONDS", "1")
}

case!(fallback_after_a_failure, ON_MAIN, |mut machine| {
    falls_back(&machine, "poweroff").script("exit 3").run_well()?;
    ended(&mut machine, POWERED_OFF).map(drop)
});

case!(fallback_after_a_start_that_is_refused, ON_MAIN, |mut machine| {
    falls_back(&machine, "reboot").command(&["/nowhere"]).run_well()?;
    ended(&mut machine, REBOOTED).map(drop)
});

case!(fallback_after_a_success_without_effect, ON_MAIN, |mut machine| {
    falls_back(&machine, "reboot").script("true").run_well()?;
    ended(&mut machine, REBOOTED).map(drop)
});

fn fails_with_fallback(machine: &Machine, seconds: &str) -> Result<()> {
    let action = Action::alpine(machine).wait("0").env("WAITDAEMON_FALLBACK", "reboot");
    action.env("WAITDAEMON_FALLBACK_AFTER_SECONDS", seconds).script("exit 3").run_well().map(drop)
}

// The fallback does not come before its time, even if the waiter is killed meanwhile, and does not
// come at all if the waiter is stopped.
case!(fallback_waits_its_delay, ON_MAIN, |mut machine| {
    fails_with_fallback(&machine, "600")?;
    waiter_says(&machine, "falling back to reboot if")?;
    machine.signal(process(&machine, WAITER)?, "TERM")?;
    until("the waiter's end", LIMIT, || Ok((!machine.runs("/waiter")?).then_some(())))?;
    machine.forget()?;
    ensure!(machine.ended()?.is_none(), "the machine ended");
    let begin = Instant::now();
    fails_with_fallback(&machine, "14")?;
    waiter_says(&machine, "falling back to reboot if")?;
    kill_waiter(&machine)?;
    ended(&mut machine, REBOOTED)?;
    ensure!(begin.elapsed() >= Duration::from_secs(14), "too early: {:?}", begin.elapsed());
    Ok(())
});

// The fallback depends on success: an action that failed brings no end.
case!(no_fallback_for_an_action_that_failed, ON_MAIN, |mut machine| {
    let said = falls_back(&machine, "reboot")
        .env("IMAGE", "127.0.0.1:5999/none:1")
        .env("WAITDAEMON_PULL_TIMEOUT_SECONDS", "1");
    ensure!(said.script("true").run()?.code == 1, "it succeeded");
    nothing_there(&machine)?;
    ensure!(machine.ended()?.is_none(), "the machine ended");
    Ok(())
});

/// Waits for these events in this order; returns the reports.
fn reported(reports: &Reports, events: &[&str]) -> Result<Vec<Value>> {
    let found = || -> Result<Vec<Value>> {
        let mut all = reports.all()?;
        all.sort_by_key(|report| report["time"].as_str().unwrap_or_default().to_owned());
        Ok(all)
    };
    let wanted = until("the reports", LIMIT, || {
        let all = found()?;
        Ok((all
            .iter()
            .map(|report| report["event"].as_str().unwrap_or_default())
            .eq(events.iter().copied()))
        .then_some(all))
    });
    wanted.with_context(|| format!("{:?}", found()))
}

case!(a_failure_is_reported, ON_MAIN, |machine| {
    let reports = Reports::start(&machine)?;
    machine.set_command_line("worker_id=aa:bb:cc:00:11:22")?;
    let action = Action::alpine(&machine)
        .wait("0")
        .network("host")
        .env("WAITDAEMON_REPORT_URL", &Reports::url());
    // A server that reports an error is asked again.
    reports.answer(503)?;
    action.script("echo no such device; exit 3").run_well()?;
    waiter_says(&machine, "failed with exit code 3")?;
    reports.answer(204)?;
    let all = reported(&reports, &["started", "failed"])?;
    let failed = &all[1];
    for (field, value) in [
        ("version", json!(1)),
        ("action", json!("tinkerbell_last_a0")),
        ("worker", json!("aa:bb:cc:00:11:22")),
        ("exit_code", json!(3)),
        ("last_lines", json!(["no such device"])),
    ] {
        ensure!(failed[field] == value, "{field}: {failed}");
    }
    let said = machine.container_logs();
    ensure!(!said.contains("token=secret"), "the URL's query is in a log: {said}");
    Ok(())
});

// A report is sent before the end; the machine goes down even if nobody accepts the report.
case!(an_end_is_reported, ON_MAIN, |mut machine| {
    let reports = Reports::start(&machine)?;
    let action = own(&machine, "reboot").wait(SOON).network("host");
    action.env("WAITDAEMON_REPORT_URL", &Reports::url()).run_well()?;
    ended(&mut machine, REBOOTED)?;
    let all = reported(&reports, &["going-down"])?;
    ensure!(all[0]["message"] == "reboot", "{all:?}");
    Ok(())
});

case!(an_unaccepted_report_does_not_delay_the_end, ON_MAIN, |mut machine| {
    let action = own(&machine, "reboot").wait(SOON).network("host");
    action.env("WAITDAEMON_REPORT_URL", "http://127.0.0.1:9/").run_well()?;
    let took = ended(&mut machine, REBOOTED)?;
    ensure!(took < Duration::from_secs(20), "it took {took:?}");
    Ok(())
});

case!(the_waiters_story_is_reported, ON_MAIN, |machine| {
    let reports = Reports::start(&machine)?;
    let action =
        || Action::alpine(&machine).network("host").env("WAITDAEMON_REPORT_URL", &Reports::url());
    action().wait("600").script("true").run_well()?;
    waits(&machine)?;
    machine.signal(process(&machine, WAITER)?, "TERM")?;
    nothing_left(&machine)?;
    reported(&reports, &["cancelled"])?;
    action().wait("0").script(": reboot").run_well()?;
    reported(&reports, &["cancelled", "started", "still-running"]).map(drop)
});

case!(an_expired_wait_is_reported, ON_MAIN, |machine| {
    let reports = Reports::start(&machine)?;
    let _never = Smee::start(&machine, "127.0.0.1:7080", "503")?;
    let action = Action::alpine(&machine)
        .network("host")
        .env("WAITDAEMON_REPORT_URL", &Reports::url())
        .env("WAITDAEMON_WAIT_FOR", "http://127.0.0.1:7080/ready")
        .env("WAITDAEMON_WAIT_MAX_SECONDS", "1")
        .env("WAITDAEMON_WAIT_EXPIRED", "abort");
    action.script("echo run >> /out/runs").run_well()?;
    reported(&reports, &["expired"])?;
    waiter_says(&machine, "timed out after 1 s")?;
    ensure!(runs(&machine) == 0, "the user container ran");
    Ok(())
});

// Another action's container is still due when this action's command takes the machine down.
case!(another_actions_waiter_is_warned_of, ON_MAIN, |mut machine| {
    let first = Action::alpine(&machine).name("first").wait("20").script("echo run >> /out/runs");
    first.run_well()?;
    let said = own(&machine, "reboot").wait("3").run_well()?;
    let warned = said.err.contains("tinkerbell_first_a0-waiter, is still waiting")
        && said.err.contains("due in 20 s at most, this action's in 3");
    ensure!(warned && said.err.contains("WARN"), "{said:?}");
    ended(&mut machine, REBOOTED)?;
    ensure!(runs(&machine) == 0, "the other action's container ran");
    Ok(())
});
