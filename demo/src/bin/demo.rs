//! `make demo`: runs the documentation's reboot action as the Tink Agent does, and prints a
//! timeline.
//!
//! As root: in a throw-away machine, which really reboots. Without root but with a running Docker:
//! on that Docker, with a user container that only prints.

use std::fs;
use std::io::{BufRead, BufReader, IsTerminal, Lines, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lab::agent::Agent;
use lab::image;
use lab::machine::{Machine, REBOOTED};
use lab::paths;
use lab::system::System;
use lab::until::until;
use serde_json::json;

/// The action container's name, as the Tink Agent makes it from action and ID.
const ACTION: &str = "tinkerbell_reboot_demo";
/// The time limit for each step; all except the wait itself take a second or two.
const LIMIT: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    match demo() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nthe demo failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn demo() -> Result<()> {
    let wait: u64 = match std::env::var("DEMO_WAIT") {
        Ok(text) if !text.is_empty() => text.parse().context("DEMO_WAIT is a number of seconds")?,
        _ => 5,
    };
    let folder = std::env::temp_dir().join(format!("waitdaemon-demo-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let user = folder.join("user.tar");
    let nerdctl = std::env::var("ENGINE").is_ok_and(|engine| engine == "nerdctl");
    let result = match (is_root()?, nerdctl) {
        (true, false) => reboot(wait, &user),
        (true, true) => reboot_captain(wait),
        (false, _) => print_only(wait, &user),
    };
    fs::remove_dir_all(folder)?;
    result
}

/// Runs the action in a machine of its own, up to the reboot.
fn reboot(wait: u64, user: &Path) -> Result<()> {
    image::busybox(user, "alpine:latest", &json!({"Cmd": ["/bin/sh"]}), &[])?;
    println!(
        "Booting a throw-away machine like HookOS: its own PID 1 (BusyBox init), its own dockerd, no network."
    );
    let begin = Instant::now();
    let mut machine = Machine::boot(System::DockerOld)?;
    println!(
        "Booted in {:.1} s. Nothing was started on this host itself.",
        begin.elapsed().as_secs_f64()
    );
    machine.load(user)?;
    machine.load(&paths::root().join("dist/waitdaemon.tar"))?;
    let mut show = Timeline::new(
        || machine.engine_command(),
        "alpine",
        wait,
        &["reboot"],
        &["--privileged", "--pid", "host"],
    )?;
    show.until_started("alpine: reboot");
    let code = machine.wait_for_end(LIMIT)?;
    ensure!(code == REBOOTED, "the machine ended with {code}, not with {REBOOTED} (reboot)");
    show.line("machine rebooted: reboot(2) ended it");
    drop(machine);
    println!(
        "\nThe action had ended with 0 before the machine went down: no endless loop. The throw-away machine is gone."
    );
    Ok(())
}

/// The same on a machine like CaptainOS, with the real Tink Agent, up to the reboot.
fn reboot_captain(wait: u64) -> Result<()> {
    println!(
        "Booting a throw-away machine like CaptainOS: systemd as PID 1, its own containerd, nerdctl, no network."
    );
    let begin = Instant::now();
    let mut captain = Machine::boot(System::CaptainOS)?;
    println!(
        "Booted in {:.1} s. Nothing was started on this host itself.",
        begin.elapsed().as_secs_f64()
    );
    // The machine has a root of its own: it sees this folder but not /tmp.
    let user = captain.out().join("user.tar");
    image::busybox(&user, "alpine:latest", &json!({"Cmd": ["/bin/sh"]}), &[])?;
    captain.load(&user)?;
    captain.load(&paths::root().join("dist/waitdaemon.tar"))?;
    let actions = captain.out().join("actions.yaml");
    let environment = json!({"IMAGE": "alpine", "WAIT_SECONDS": wait.to_string()});
    let action = json!([{"name": "reboot", "image": "waitdaemon:dev", "timeout": 90, "pid": "host",
                         "command": ["reboot"], "environment": environment}]);
    fs::write(&actions, action.to_string())?;
    let said =
        |captain: &Machine, words: &str| captain.container_logs().contains(words).then_some(());
    println!("\n  seconds");
    let show = Clock::start();
    let agent = Agent::start(&captain, &actions)?;
    let report = |state: &str| {
        until(state, LIMIT, || {
            Ok(agent.reports()?.into_iter().find(|report| report.state == state))
        })
    };
    report("RUNNING")?;
    show.line("the Tink Agent starts the action");
    until("the waiter to be armed", LIMIT, || Ok(said(&captain, "armed")))?;
    report("SUCCESS")?;
    let ended = Instant::now();
    show.line("waiter armed, action ended with 0: the Tink Agent has reported SUCCESS");
    show.count(wait, ended);
    until("the user container", LIMIT, || Ok(said(&captain, "user container started")))?;
    show.line("user container started (alpine: reboot), which systemd does not act on");
    // A machine that goes down quickly may do so before the line reaches the disk.
    until("the waiter to ask systemd", LIMIT, || {
        Ok(said(&captain, "asking systemd").or(captain.ended()?.map(drop)))
    })?;
    show.line("the machine still runs: the waiter asks systemd");
    let code = captain.wait_for_end(LIMIT)?;
    ensure!(code == REBOOTED, "the machine ended with {code}, not with {REBOOTED} (reboot)");
    show.line("machine rebooted in order: reboot(2) ended it");
    println!("\nThe throw-away machine is gone.");
    Ok(())
}

/// Runs the action on the existing Docker, with a harmless user container.
fn print_only(wait: u64, user: &Path) -> Result<()> {
    println!(
        "Without root there is no machine to reboot. So: your own Docker, and a user container that only prints."
    );
    // The name must not be that of an image that you may have.
    let image = "waitdaemon-demo:user";
    image::busybox(user, image, &json!({}), &[])?;
    let docker = || Command::new("docker");
    let tar = paths::root().join("dist/waitdaemon.tar");
    for archive in [user, tar.as_path()] {
        let loaded =
            docker().args(["load", "-q", "-i"]).arg(archive).stdout(Stdio::null()).status()?;
        ensure!(loaded.success(), "docker load failed");
    }
    let result =
        Timeline::new(docker, image, wait, &["echo", "hello from the user container"], &[])
            .and_then(|mut show| {
                show.until_started("echo");
                until("the containers' end", LIMIT, || {
                    let left = docker()
                        .args(["ps", "-aq", "--filter", &format!("name={ACTION}")])
                        .output()?;
                    Ok(left.stdout.is_empty().then_some(()))
                })?;
                show.line("user container ended with 0; it and the waiter removed themselves");
                Ok(())
            });
    docker().args(["image", "rm", image, "waitdaemon:dev"]).stdout(Stdio::null()).status()?;
    result
}

/// The action, and what is printed about it.
struct Timeline {
    clock: Clock,
    events: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

/// Prints lines with the seconds since its start.
struct Clock {
    begin: Instant,
    live: bool,
}

impl Timeline {
    /// Runs the action as the Tink Agent's Docker runtime does: create, start, wait, force-remove.
    /// Returns when the wait is over.
    fn new(
        docker: impl Fn() -> Command,
        image: &str,
        wait: u64,
        command: &[&str],
        flags: &[&str],
    ) -> Result<Self> {
        let run = |arguments: &[&str]| -> Result<String> {
            let output = docker().args(arguments).output()?;
            ensure!(
                output.status.success(),
                "docker {}: {}",
                arguments[0],
                String::from_utf8_lossy(&output.stderr)
            );
            Ok(String::from_utf8(output.stdout)?.trim().to_owned())
        };
        let mut watch = docker();
        watch.args([
            "events",
            "--filter",
            "type=container",
            "--format",
            "{{.Action}} {{.Actor.Attributes.name}}",
        ]);
        let mut events = watch.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let lines = BufReader::new(events.stdout.take().context("no events")?).lines();
        let mut show = Self { clock: Clock::start(), events, lines };
        println!("\n  seconds");
        let (image, seconds) = (format!("IMAGE={image}"), format!("WAIT_SECONDS={wait}"));
        let socket = "/var/run/docker.sock:/var/run/docker.sock";
        let fixed = ["create", "--name", ACTION, "-v", socket, "-e", &image, "-e", &seconds];
        run(&[&fixed[..], flags, &["waitdaemon:dev"], command].concat())?;
        show.clock = Clock::start();
        show.line("action container started, as the Tink Agent does it");
        run(&["start", ACTION])?;
        show.until(&format!("start {ACTION}-waiter"))?;
        show.line(
            "waiter started; it arms itself: knows the user container, counts on the action's end",
        );
        show.until(&format!("die {ACTION}"))?;
        let ended = Instant::now();
        let code = run(&["wait", ACTION])?;
        if code != "0" {
            let said = docker().args(["logs", ACTION]).output()?;
            eprintln!(
                "{}{}",
                String::from_utf8_lossy(&said.stdout),
                String::from_utf8_lossy(&said.stderr)
            );
        }
        ensure!(code == "0", "the action ended with {code}");
        let armed = run(&["logs", &format!("{ACTION}-waiter")])?;
        ensure!(
            armed.contains("\"message\":\"armed\""),
            "the waiter did not say that it is armed:\n{armed}"
        );
        show.clock
            .at(ended, "waiter armed, action ended with 0: an agent would report SUCCESS here");
        run(&["rm", "-f", ACTION])?;
        show.clock.count(wait, ended);
        Ok(show)
    }

    /// A reboot can end the engine before it has reported the start; then the engine's end counts
    /// instead.
    fn until_started(&mut self, what: &str) {
        let told = self.until(&format!("start {ACTION}-user")).is_ok();
        let also = if told { "" } else { "; the engine goes down already" };
        self.line(&format!("user container started ({what}){also}"));
    }

    /// Reads the engine's events up to this one.
    fn until(&mut self, event: &str) -> Result<()> {
        for line in self.lines.by_ref() {
            if line? == event {
                return Ok(());
            }
        }
        bail!("the engine's events ended before: {event}")
    }

    fn line(&self, text: &str) {
        self.clock.line(text);
    }
}

impl Clock {
    fn start() -> Self {
        Self { begin: Instant::now(), live: std::io::stdout().is_terminal() }
    }

    /// Prints a line that counts the seconds; only on a terminal, where it can be overwritten.
    fn count(&self, wait: u64, ended: Instant) {
        self.line(&format!("waiting {wait} s"));
        let end = ended + Duration::from_secs(wait);
        let width = usize::try_from(wait.min(40)).unwrap_or(40);
        while self.live && Instant::now() < end {
            let done = ended.elapsed().as_secs().min(wait);
            let bar = "#".repeat(
                width * usize::try_from(done).unwrap_or(0)
                    / usize::try_from(wait.max(1)).unwrap_or(1),
            );
            print!(
                "\r  {:>7.2}  [{bar:<width$}] {done}/{wait} s",
                self.begin.elapsed().as_secs_f64()
            );
            let _ = std::io::stdout().flush();
            std::thread::sleep((end - Instant::now()).min(Duration::from_millis(200)));
        }
        if self.live {
            print!("\r{:70}\r", "");
        }
    }

    fn line(&self, text: &str) {
        self.at(Instant::now(), text);
    }

    fn at(&self, time: Instant, text: &str) {
        println!("  {:>7.2}  {text}", time.duration_since(self.begin).as_secs_f64());
    }
}

impl Drop for Timeline {
    fn drop(&mut self) {
        let _ = self.events.kill();
        let _ = self.events.wait();
    }
}

fn is_root() -> Result<bool> {
    let status = fs::read_to_string("/proc/self/status")?;
    let uid = status.lines().find_map(|line| line.strip_prefix("Uid:")).context("no Uid")?;
    Ok(uid.split_whitespace().nth(1) == Some("0"))
}
