//! What all cases share: a machine with images, and ways to inspect the outcome of an action.

use std::fs;
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use lab::image::{self, Architecture, Entry};
use lab::machine::{Event, Machine, Seen, State, Variant, output};
use lab::paths;
use lab::system::System;
use lab::until::until;
use serde_json::{Value, json};

pub use crate::action::{Action, Said};

/// The action container's name, as the agent forms it.
pub const ACTION: &str = "tinkerbell_last_a0";
/// The waiter's name.
pub const WAITER: &str = "tinkerbell_last_a0-waiter";
/// The user container's name.
pub const USER: &str = "tinkerbell_last_a0-user";
/// The volume that Docker needs.
pub const SOCKET: &str = "/var/run/docker.sock:/var/run/docker.sock";
/// Longer than anything here takes on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(60);
/// What a user container's shell runs so that its runs can be counted; see [`runs`].
pub const RUN: &str = "echo run >> /out/runs";
/// What the waiter logs when it knows that the action succeeded.
pub const SUCCEEDED: &str = "the action succeeded; starting the wait";

/// The folder with the archives of the user images.
pub fn images() -> PathBuf {
    paths::root().join("target/images")
}

/// The archive with waitdaemon's image; a negative control sets another one.
pub fn own_image() -> PathBuf {
    std::env::var_os("WAITDAEMON_TAR")
        .map_or_else(|| paths::root().join("dist/waitdaemon.tar"), PathBuf::from)
}

/// The program in that image.
pub fn own_program() -> PathBuf {
    let built = || paths::program_for(Architecture::NATIVE);
    std::env::var_os("WAITDAEMON_PROGRAM").map_or_else(built, PathBuf::from)
}

/// The image that bundles nerdctl.
pub fn own_image_with_nerdctl() -> PathBuf {
    paths::root().join("dist/waitdaemon-nerdctl.tar")
}

/// Makes the user images once, before the cases run.
pub fn make_images() -> Result<()> {
    image::busybox(
        &images().join("alpine.tar"),
        "alpine:latest",
        &json!({"Cmd": ["/bin/sh"]}),
        &[],
    )?;
    // Stands in for the kexec action's image; like a real kexec, it does not return.
    let script = "#!/bin/sh\necho \"kexec stand-in: $BLOCK_DEVICE $FS_TYPE\"\nexec sleep 1000\n";
    let entry = Entry::Text("kexec.sh", 0o755, script.into());
    let kexec = "quay.io/tinkerbell-actions/kexec:v1.0.0";
    image::busybox(
        &images().join("kexec.tar"),
        kexec,
        &json!({"Entrypoint": ["/kexec.sh"]}),
        &[entry],
    )?;
    // Runs under our program's name and does nothing.
    let idle = Entry::Text("waitdaemon", 0o755, "#!/bin/sh\nexec sleep 1000\n".into());
    image::busybox(
        &images().join("decoy.tar"),
        "decoy:1",
        &json!({"Entrypoint": ["/waitdaemon"]}),
        &[idle],
    )?;
    let config = json!({"Cmd": ["sh", "-c", "echo from the image > /out/cmd"]});
    image::busybox(&images().join("cmd.tar"), "with-cmd:1", &config, &[])
}

/// True if a row or a step is to run: its name contains the words of `ONLY`, which a negative
/// control sets, or `ONLY` is not set.
pub fn is_meant(name: &str) -> bool {
    std::env::var("ONLY").map_or(true, |words| name.contains(&words))
}

/// A booted machine with waitdaemon's image and `alpine`.
pub fn machine(system: System) -> Result<Machine> {
    machine_variant(system, Variant::Usual)
}

/// As [`machine`], with something unusual about it.
pub fn machine_variant(system: System, variant: Variant) -> Result<Machine> {
    let machine = Machine::boot_variant(system, variant)?;
    machine.load(&own_image())?;
    machine.engine(&["tag", "waitdaemon:dev", "ghcr.io/waitdaemon/waitdaemon:latest"])?;
    machine.load(&images().join("alpine.tar"))?;
    Ok(machine)
}

/// Machines that were given back, each with what its engine had at first.
static SPARE: Mutex<Vec<(Machine, String)>> = Mutex::new(Vec::new());

/// A machine that other cases also use.
pub struct Shared<'a>(&'a Machine);

impl Deref for Shared<'_> {
    type Target = Machine;
    fn deref(&self) -> &Machine {
        self.0
    }
}

/// Runs a case on a machine that the system's cases share, because booting is half of what a short
/// case costs. A machine whose engine has other images, networks or volumes afterwards is not used
/// again.
pub fn shared(system: System, case: fn(Shared) -> Result<()>) -> Result<()> {
    let spare = || SPARE.lock().unwrap_or_else(PoisonError::into_inner);
    let free = {
        let mut spare = spare();
        let at = spare.iter().position(|(machine, _)| machine.system() == system);
        at.map(|at| spare.swap_remove(at))
    };
    let (mut machine, holdings) = match free {
        Some(free) => free,
        None => {
            let machine = boot_for_all(system)?;
            let holdings = machine.holdings()?;
            (machine, holdings)
        }
    };
    case(Shared(&machine))?;
    machine.forget()?;
    if machine.holdings()? == holdings {
        spare().push((machine, holdings));
    }
    Ok(())
}

/// Boots a machine from a thread that never ends: the kernel kills the machine with the thread that
/// started it (prctl(2), PR_SET_PDEATHSIG), and the threads of the cases end one by one.
fn boot_for_all(system: System) -> Result<Machine> {
    let (sender, booted) = mpsc::channel();
    thread::spawn(move || {
        let _ = sender.send(machine(system));
        loop {
            thread::park();
        }
    });
    booted.recv()?
}

/// Ends the machines that were given back.
pub fn end_spare_machines() {
    drop(std::mem::take(&mut *SPARE.lock().unwrap_or_else(PoisonError::into_inner)));
}

/// Loads one more of the images made by [`make_images`].
pub fn load(machine: &Machine, name: &str) -> Result<()> {
    machine.load(&images().join(format!("{name}.tar")))
}

/// The lines of a container's log that are JSON, by stream: standard output, standard error.
pub fn log(machine: &Machine, container: &str) -> Result<(Vec<Value>, Vec<Value>)> {
    let (out, error) = machine.log_of(container)?;
    let lines =
        |text: &str| text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    Ok((lines(&out), lines(&error)))
}

/// The lines that waiters have logged and that still exist.
pub fn waiter_log(machine: &Machine) -> Vec<Value> {
    machine.logged().into_iter().filter(|line| line["phase"] == "waiter").collect()
}

/// Waits for a line logged by a waiter.
pub fn waiter_line(
    machine: &Machine,
    what: &str,
    is_meant: impl Fn(&Value) -> bool,
) -> Result<Value> {
    until(&format!("the waiter to say: {what}"), LIMIT, || {
        Ok(waiter_log(machine).into_iter().find(&is_meant))
    })
    .with_context(|| format!("{:?}\n{}", waiter_log(machine), machine.logs()))
}

/// Waits for a line logged by a waiter whose message contains these words.
pub fn waiter_says(machine: &Machine, words: &str) -> Result<Value> {
    waiter_line(machine, words, |line| {
        line["message"].as_str().is_some_and(|text| text.contains(words))
    })
}

/// Waits until the waiter knows that the action succeeded and has begun its wait.
pub fn waits(machine: &Machine) -> Result<()> {
    waiter_line(machine, "that it waits", |line| line["wait_seconds"].is_number()).map(drop)
}

/// Waits until the waiter has started the user container and watches it.
pub fn watches(machine: &Machine) -> Result<()> {
    waiter_says(machine, "user container started").map(drop)
}

/// How often the user container ran, if its script is [`RUN`].
pub fn runs(machine: &Machine) -> usize {
    fs::read_to_string(machine.out().join("runs")).unwrap_or_default().lines().count()
}

/// Waits until nothing is left, and asserts that the user container ran exactly once.
pub fn ran_once(machine: &Machine) -> Result<()> {
    let left = nothing_left(machine);
    left.with_context(|| format!("it ran {} times: {:?}", runs(machine), waiter_log(machine)))?;
    ensure!(runs(machine) == 1, "it ran {} times", runs(machine));
    Ok(())
}

/// When the user container last ran, in seconds since 1970.
pub fn ran_at(machine: &Machine) -> Result<f64> {
    let ran = fs::metadata(machine.out().join("runs")).context("it never ran")?;
    Ok(ran.modified()?.duration_since(UNIX_EPOCH)?.as_secs_f64())
}

/// The name and the state of a container, which must be running.
pub fn running(machine: &Machine, name: &str) -> Result<(String, Seen)> {
    let seen = machine.seen(name).with_context(|| format!("there is no {name}"))?;
    ensure!(seen.state == State::Running, "{name}: {seen:?}");
    Ok((name.to_owned(), seen))
}

/// The process of a container, by its PID in the machine.
pub fn process(machine: &Machine, name: &str) -> Result<i64> {
    running(machine, name)?.1.pid.with_context(|| format!("{name} has no process"))
}

/// Kills the waiter with SIGKILL and waits for its process to end.
pub fn kill_waiter(machine: &Machine) -> Result<()> {
    let pid = process(machine, WAITER)?;
    machine.signal(pid, "KILL")?;
    until("the waiter's end", LIMIT, || {
        Ok((machine.seen(WAITER).and_then(|seen| seen.pid) != Some(pid)).then_some(()))
    })
}

/// The name and the state of the waiter and the user container, if they exist.
pub fn ours(machine: &Machine) -> Result<String> {
    let ours = |line: &&str| [WAITER, USER].iter().any(|name| line.starts_with(name));
    Ok(machine.list()?.lines().filter(ours).collect::<Vec<_>>().join("\n"))
}

/// Waits until no container is left. On containerd, where the agent keeps its own container if it
/// failed, waits until none of ours is left.
pub fn nothing_left(machine: &Machine) -> Result<()> {
    let gone = until("no container", LIMIT, || {
        if machine.is_docker() {
            return Ok(machine.ids()?.is_empty().then_some(()));
        }
        let named = [WAITER, USER].iter().any(|name| machine.has(name));
        Ok((!named && ours(machine)?.is_empty()).then_some(()))
    });
    gone.with_context(|| {
        format!("{}\n{:?}", machine.list().unwrap_or_default(), waiter_log(machine))
    })
}

/// Asserts that there is no container now; on containerd, none of ours.
pub fn nothing_there(machine: &Machine) -> Result<()> {
    let there = if machine.is_docker() { machine.list()? } else { ours(machine)? };
    ensure!(there.is_empty(), "containers are left: {there}");
    Ok(())
}

/// The host's address in the action's usual network.
pub fn host(machine: &Machine) -> Result<String> {
    let said =
        output(machine.command("ip").args(["-4", "-oneline", "address", "show", "docker0"]))?;
    let said = String::from_utf8(said.stdout)?;
    let address = said.split_whitespace().skip_while(|word| *word != "inet").nth(1);
    let address = address.and_then(|all| all.split('/').next());
    Ok(address.with_context(|| format!("docker0 has no address: {said}"))?.to_owned())
}

/// The events of a container, in order (Docker only).
pub fn events_of(machine: &Machine, action: &str, name: &str) -> Result<Vec<Event>> {
    let is_meant = |event: &Event| event.action == action && event.name == name;
    Ok(machine.events()?.into_iter().filter(is_meant).collect())
}

/// The first event of a container (Docker only).
pub fn event(machine: &Machine, action: &str, name: &str) -> Result<Option<Event>> {
    Ok(events_of(machine, action, name)?.into_iter().next())
}

/// Waits for an event of a container (Docker only).
pub fn await_event(machine: &Machine, action: &str, name: &str) -> Result<Event> {
    until(&format!("{action} of {name}"), LIMIT, || event(machine, action, name))
        .with_context(|| format!("events: {:#?}", machine.events()))
}

/// How often an event happened to a container (Docker only).
pub fn count(machine: &Machine, action: &str, name: &str) -> Result<usize> {
    Ok(events_of(machine, action, name)?.len())
}

/// The time of a log line, in seconds since 1970.
pub fn seconds(line: &Value) -> Result<f64> {
    let time = humantime::parse_rfc3339(line["time"].as_str().context("no time")?)?;
    Ok(time.duration_since(UNIX_EPOCH)?.as_secs_f64())
}

/// Asserts that the user container started exactly once, and not before `wait` after the action's
/// end (Docker only).
pub fn started_once_after(machine: &Machine, wait: f64) -> Result<()> {
    let (end, start) = (await_event(machine, "die", ACTION)?, await_event(machine, "start", USER)?);
    ensure!(end.exit_code == Some(0), "the action ended with {:?}", end.exit_code);
    let waited = start.time - end.time;
    ensure!(waited >= wait, "started {waited:.3} s after the action's end, not {wait} s");
    // Generous, because a busy machine starts containers slowly.
    ensure!(waited < wait + 5.0, "started only {waited:.3} s after the action's end");
    let starts = count(machine, "start", USER)?;
    ensure!(starts == 1, "started {starts} times");
    Ok(())
}
