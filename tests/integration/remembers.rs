//! The waiter resumes where it was, whatever happens to it and its engine.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Instant, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use lab::machine::{Machine, Variant};
use lab::until::until;

use crate::by_agent::own_volumes;
use crate::case;
use crate::cases::{ON_ALL, ON_CAPTAIN, ON_CAPTAINS, ON_DOCKER, ON_DOCKER_MAIN, ON_MAIN};
use crate::world::{
    ACTION, Action, LIMIT, RUN, USER, WAITER, await_event, count, kill_waiter, log,
    machine_variant, nothing_left, own_image_with_nerdctl, process, ran_at, ran_once, runs,
    started_once_after, waits,
};

/// What a waiter notes in its journal, in order.
pub const LINES: [&str; 6] = ["armed", "word", "succeeded", "starting", "started", "done"];

fn now() -> Result<f64> {
    Ok(UNIX_EPOCH.elapsed()?.as_secs_f64())
}

/// An action whose user container's runs can be counted.
pub fn writes<'a>(machine: &'a Machine, wait: &str) -> Action<'a> {
    Action::alpine(machine).wait(wait).script(RUN)
}

case!(waiter_is_killed_while_it_waits, ON_ALL, |machine: Shared| {
    writes(&machine, "6").run_well()?;
    kill_waiter(&machine)?;
    ensure!(runs(&machine) == 0, "the wait was over before the waiter was killed");
    ran_once(&machine)
});

// The timer of the wait uses a clock that setting the time does not move and that keeps counting
// during suspend.
case!(the_wait_is_counted_since_boot, ON_MAIN, |machine: Shared| {
    writes(&machine, "60").run_well()?;
    waits(&machine)?;
    let pid = process(&machine, WAITER)?;
    let clocks =
        machine.command("sh").args(["-c", &format!("cat /proc/{pid}/fdinfo/*")]).output()?;
    let text = String::from_utf8_lossy(&clocks.stdout).into_owned();
    // These are timerfd's own lines (proc_pid_fdinfo(5)); 7 is CLOCK_BOOTTIME.
    let clock = text
        .lines()
        .find(|line| line.starts_with("clockid:"))
        .with_context(|| format!("no timer: {text}"))?;
    ensure!(clock.trim_start_matches("clockid:").trim() == "7", "{clock}");
    Ok(())
});

// If containers survive a restart of the engine, so does the wait; the engine makes a new socket.
case!(an_engine_restarts_and_keeps_its_containers, ON_DOCKER, |system: System| {
    let machine = machine_variant(system, Variant::LiveRestore)?;
    writes(&machine, "4").run_well()?;
    machine.kill_engine("TERM")?;
    machine.start_engine()?;
    ensure!(runs(&machine) == 0, "the wait was over before the engine was back");
    ran_once(&machine)
});

case!(containerd_restarts_during_the_wait, ON_CAPTAINS, |machine| {
    writes(&machine, "8").run_well()?;
    let restarted = machine.command("systemctl").args(["restart", "containerd"]).status()?;
    ensure!(restarted.success(), "systemctl: {restarted}");
    ran_once(&machine)
});

case!(an_engine_is_stopped_and_ends_its_containers, ON_DOCKER, |machine| ends_its_containers(
    &machine, "TERM"
));

case!(an_engine_is_killed_and_ends_its_containers, ON_DOCKER, |machine| ends_its_containers(
    &machine, "KILL"
));

/// Checks that without live-restore, as HookOS ships, the wait resumes and does not start over.
fn ends_its_containers(machine: &Machine, signal: &str) -> Result<()> {
    const WAIT: f64 = 12.0;
    writes(machine, "12").run_well()?;
    let ended = now()?;
    machine.kill_engine(signal)?;
    machine.start_engine()?;
    let back = now()?;
    ensure!(runs(machine) == 0, "it ran before its time");
    nothing_left(machine).with_context(|| machine.logs())?;
    ensure!(runs(machine) == 1, "it ran {} times", runs(machine));
    let (waited, since) = (ran_at(machine)? - ended, ran_at(machine)? - back);
    ensure!(waited >= WAIT - 0.7, "it ran {waited:.2} s after the action's end");
    // Docker itself may take a while to restart it.
    ensure!(
        since < WAIT || waited < WAIT + 3.0,
        "the wait began anew: {since:.2} s after the engine was back"
    );
    Ok(())
}

// Without root: in our image anybody can write to the journal's folder.
case!(the_journal_works_without_root, ON_DOCKER_MAIN, |machine| {
    ensure!(
        machine
            .command("chmod")
            .arg("666")
            .arg(machine.run_path("docker.sock"))
            .status()?
            .success()
    );
    Action::alpine(&machine)
        .flags(&["--user", "1000:1000"])
        .wait("4")
        .command(&["true"])
        .run_well()?;
    let journal = journal_of(&machine)?;
    ensure!(fs::read_to_string(&journal)?.starts_with("armed "), "{journal:?}");
    kill_waiter(&machine)?;
    nothing_left(&machine)?;
    ensure!(count(&machine, "start", USER)? == 1);
    Ok(())
});

// The journal is as it is if the machine goes down when the user container is about to be started,
// and boots again with its containers.
case!(a_boot_before_the_start_was_noted, ON_DOCKER_MAIN, |machine: Shared| {
    let boots_again = |script: &str| {
        Action::alpine(&machine).wait("4").script(script).run_well()?;
        waits(&machine)?;
        let mut journal = fs::OpenOptions::new().append(true).open(journal_of(&machine)?)?;
        writeln!(journal, "starting another-boot")?;
        kill_waiter(&machine)
    };
    // It may have been what ended the machine.
    boots_again(&format!("{RUN}; # reboot"))?;
    until("the waiter's removal", LIMIT, || Ok((!machine.has(WAITER)).then_some(())))?;
    ensure!(machine.seen(USER).is_some() && runs(&machine) == 0, "it was started");
    machine.engine(&["rm", USER])?;
    // It cannot have been.
    boots_again(RUN)?;
    ran_once(&machine)
});

case!(nothing_of_the_journal_is_left, ON_DOCKER_MAIN, |machine: Shared| {
    Action::alpine(&machine).wait("1").command(&["true"]).run_well()?;
    let (_, volumes) = machine.ask("GET", "/volumes", None)?;
    ensure!(
        volumes["Volumes"].as_array().is_some_and(|all| all.len() == 1),
        "one volume, the waiter's: {volumes}"
    );
    started_once_after(&machine, 1.0)?;
    nothing_left(&machine)?;
    let (_, volumes) = machine.ask("GET", "/volumes", None)?;
    ensure!(volumes["Volumes"].as_array().is_none_or(Vec::is_empty), "left: {volumes}");
    Ok(())
});

// The engine also ends the running user container: that is a failure, and the log says so.
case!(a_user_container_ended_by_the_engine_is_reported, ON_DOCKER_MAIN, |machine| {
    Action::alpine(&machine).wait("0").command(&["sleep", "1000"]).run_well()?;
    await_event(&machine, "start", USER)?;
    machine.kill_engine("TERM")?;
    machine.start_engine()?;
    let error = until("the waiter's error", LIMIT, || {
        Ok(log(&machine, WAITER)?.1.into_iter().find(|line| line["level"] == "ERROR"))
    })?;
    ensure!(
        error["message"].to_string().contains("the user container failed with exit code"),
        "{error}"
    );
    until("the waiter's end", LIMIT, || {
        Ok((machine.inspect(WAITER)?["State"]["Status"] == "exited").then_some(()))
    })?;
    ensure!(machine.inspect(USER)?["State"]["Status"] == "exited", "it was started again");
    ensure!(machine.inspect(WAITER)?["State"]["ExitCode"] == 2, "the waiter's exit code");
    Ok(())
});

/// The path of the waiter's journal, as we reach it.
pub fn journal_of(machine: &Machine) -> Result<PathBuf> {
    let mounts = machine.inspect(WAITER)?["Mounts"].clone();
    let mut mounts = mounts.as_array().into_iter().flatten();
    let mount = mounts
        .find(|mount| mount["Destination"] == "/journal")
        .context("no volume for the journal")?;
    let source = mount["Source"].as_str().context("no source")?;
    Ok(PathBuf::from(format!("/proc/{}/root{source}/waitdaemon-journal", machine.init())))
}

/// Waits until a journal has this line.
fn noted(journal: &Path, line: &str) -> Result<()> {
    let begin = Instant::now();
    loop {
        let text = fs::read_to_string(journal).unwrap_or_default();
        if text.lines().any(|found| found.split(' ').next() == Some(line)) {
            return Ok(());
        }
        ensure!(begin.elapsed() < LIMIT, "{line} is not noted: {text:?}");
        std::thread::yield_now();
    }
}

// The waiter is killed as soon as each line is visible: the user container runs once, and nothing
// is left.
case!(killed_at_each_line_of_the_journal, ON_DOCKER_MAIN, |machine: Shared| {
    for line in LINES {
        let _ = fs::remove_file(machine.out().join("runs"));
        let killed = || -> Result<()> {
            writes(&machine, "1").start()?;
            until("the waiter", LIMIT, || Ok(machine.inspect(WAITER).is_ok().then_some(())))?;
            let journal = journal_of(&machine)?;
            let pid = until("the waiter's process", LIMIT, || {
                Ok(machine.inspect(WAITER)?["State"]["Pid"].as_i64().filter(|pid| *pid > 1))
            })?;
            noted(&journal, line)?;
            // After the last line the waiter may already be gone.
            let _ = machine.signal(pid, "KILL");
            let end = until("the action's end", LIMIT, || {
                Ok(Some(machine.inspect(ACTION)?["State"].clone())
                    .filter(|state| state["Status"] == "exited"))
            })?;
            machine.engine(&["rm", "-f", ACTION])?;
            nothing_left(&machine)?;
            let (code, runs) = (end["ExitCode"].as_i64(), runs(&machine));
            // Before the word, a handoff may see that its waiter is gone, and fails.
            let failed = line == "armed" && code == Some(1) && runs == 0;
            ensure!(
                failed || code == Some(0) && runs == 1,
                "exit code {code:?}, it ran {runs} times"
            );
            Ok(())
        };
        killed().with_context(|| format!("killed at {line}"))?;
    }
    Ok(())
});

/// Waits for the waiter's process and its journal; returns both, as we reach them.
fn waiter_on(machine: &Machine) -> Result<(i64, PathBuf)> {
    until("the waiter", LIMIT, || {
        let Ok(seen) = machine.inspect(WAITER) else { return Ok(None) };
        let pid = seen["Process"]["Pid"].as_i64().filter(|pid| *pid > 1);
        let folder = seen["Labels"]["nerdctl/state-dir"].as_str();
        let journal = |folder: &str| {
            format!("/proc/{}/root{folder}/waitdaemon-journal", machine.init()).into()
        };
        Ok(pid.zip(folder.map(journal)))
    })
}

case!(killed_when_it_succeeded, ON_CAPTAINS, |machine: Shared| killed_at(
    &machine,
    true,
    "succeeded"
));

case!(killed_at_each_line_on_containerd, ON_CAPTAIN.soak(), |machine| killed_at_each_line(
    &machine, true
));

case!(killed_at_each_line_with_own_nerdctl, ON_CAPTAIN.soak(), |machine| {
    machine.load(&own_image_with_nerdctl())?;
    killed_at_each_line(&machine, false)
});

fn killed_at_each_line(machine: &Machine, in_host: bool) -> Result<()> {
    for line in LINES {
        killed_at(machine, in_host, line).with_context(|| format!("killed at {line}"))?;
    }
    Ok(())
}

fn killed_at(machine: &Machine, in_host: bool, line: &str) -> Result<()> {
    let _ = fs::remove_file(machine.out().join("runs"));
    let mut action = writes(machine, "1");
    if !in_host {
        action = action
            .image("waitdaemon:dev-nerdctl")
            .env("NERDCTL_HOST", "false")
            .volumes(own_volumes(machine));
    }
    let action = action.start()?;
    let (pid, journal) = waiter_on(machine)?;
    noted(&journal, line)?;
    let _ = machine.signal(pid, "KILL");
    let said = action.end()?;
    ensure!(line == "armed" || said.code == 0, "{said:?}");
    nothing_left(machine).with_context(|| format!("{said:?}"))?;
    ensure!(
        runs(machine) == usize::from(said.code == 0),
        "it ran {} times: {said:?}",
        runs(machine)
    );
    Ok(())
}
