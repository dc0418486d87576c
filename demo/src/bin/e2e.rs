//! `make e2e`: runs the documentation's reboot with the real Tink Agent and the real Tinkerbell
//! server, up to the next boot. Prints a timeline of each run, and fails if a run does not end as
//! it must.

use std::fs;
use std::ops::{Deref, DerefMut};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use lab::agent::start_agent;
use lab::image;
use lab::machine::Machine;
use lab::nest::{Inside, Nest, REBOOTED};
use lab::paths;
use lab::system::System;
use lab::tinkerbell::{ADDRESS, AGENTS_PORT, SMEE, Server, states};
use lab::until::until;
use lab::watch::{Watch, now};
use serde_json::{Value, json};

/// The time limit for each step, including the longest wait.
const LIMIT: Duration = Duration::from_secs(120);
/// The port of the slow line to the server.
const SLOW_PORT: u16 = 42114;
/// How many seconds late the slow server accepts the report.
const LATE_SECONDS: u64 = 20;
/// How many questions show that an agent that is back gets nothing. The agent asks again only after
/// an answer, and logs an answer that is an error or an action, but not "nothing to do" (Tink Agent
/// v0.25.0, agent.go). The server looks for work for a minute before it says that there is none
/// (Tinkerbell v0.25.0, tink/server/internal/grpc/grpc.go, RetryOptions).
const ASKED: usize = 2;

/// The outcome of a run.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    /// The Workflow is SUCCESS, netboot is off, and the returned agent gets nothing to do.
    NothingToDo,
    /// The machine went down too early: netboot is on, and the same action is served again.
    TheSameAgain,
}

struct Run {
    title: &'static str,
    name: &'static str,
    system: System,
    example: &'static str,
    /// The longest time allowed from the action's end to the machine's, in seconds.
    limit: f64,
    late_seconds: u64,
    next: Next,
}

/// What most runs share.
const USUAL: Run = Run {
    title: "HookOS-like, netboot-off",
    name: "hook",
    system: System::HookOS,
    example: "netboot-off.yaml",
    limit: 60.0,
    late_seconds: 0,
    next: Next::NothingToDo,
};
const RUNS: [Run; 6] = [
    USUAL,
    Run {
        title: "CaptainOS-like, netboot-off",
        name: "captain",
        system: System::CaptainOS,
        ..USUAL
    },
    // Two seconds of each limit are the three answers of Smee that say that netboot is off; BusyBox
    // init takes two more.
    Run {
        title: "HookOS-like, netboot-off, reboot without IMAGE",
        name: "hook-own",
        example: "end-netboot-off.yaml",
        limit: 5.0,
        ..USUAL
    },
    Run {
        title: "CaptainOS-like, netboot-off, reboot without IMAGE",
        name: "captain-own",
        system: System::CaptainOS,
        example: "end-netboot-off.yaml",
        limit: 5.0,
        ..USUAL
    },
    Run {
        title: "HookOS-like, a server that takes the report 20 s late, fixed wait of 10 s",
        name: "slow-fixed",
        example: "reboot.yaml",
        late_seconds: LATE_SECONDS,
        next: Next::TheSameAgain,
        ..USUAL
    },
    Run {
        title: "HookOS-like, a server that takes the report 20 s late, netboot-off",
        name: "slow-netboot-off",
        late_seconds: LATE_SECONDS,
        ..USUAL
    },
];

fn main() -> ExitCode {
    match all() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nthe end-to-end run failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn all() -> Result<()> {
    let only = std::env::var("ONLY").unwrap_or_default();
    let begin = SystemTime::now();
    let server = Server::start()?;
    println!(
        "The Tinkerbell server v0.25.0 serves after {:.1} s, with {} MiB.",
        begin.elapsed()?.as_secs_f64(),
        server.resident()?
    );
    for (number, run) in
        RUNS.iter().enumerate().filter(|(_, run)| only.is_empty() || run.name == only)
    {
        println!("\n{}", run.title);
        let outcome = perform(&server, run, &format!("02:00:00:00:00:{number:02x}"));
        outcome.with_context(|| format!("{}: {}", run.name, server.logs()))?;
    }
    println!("\nEvery run ended as it must.");
    Ok(())
}

/// Runs one machine, from the action to what its next boot finds.
fn perform(server: &Server, run: &Run, mac: &str) -> Result<()> {
    let script = format!("/ipxe/script/{mac}/auto.ipxe");
    let actions = fs::read_to_string(paths::root().join("examples").join(run.example))?;
    let actions = if run.system.is_docker() {
        // The containers see the kernel's own command line, which Tinkerbell did not write here, so
        // the setting takes its place.
        actions.replace(
            "netboot-off\n",
            &format!("netboot-off\n    WAITDAEMON_SMEE_URL: \"{SMEE}{script}\"\n"),
        )
    } else {
        actions
    };
    // Without IMAGE the waiter itself ends the machine.
    let own_end = !actions.contains("IMAGE:");
    let program = |name: &str| paths::root().join("target/debug").join(name);
    let mut report = server.network_command(program("late-report"));
    report.args([
        format!("0.0.0.0:{SLOW_PORT}"),
        format!("127.0.0.1:{AGENTS_PORT}"),
        format!("default/{}", run.name),
        mac.to_owned(),
    ]);
    // The first report is RUNNING, the second SUCCESS.
    let line = Watch::of(report.args(["2", &run.late_seconds.to_string()]))?;
    let said = |word: &str| line.lines().iter().filter(|(_, line)| line == word).count();
    until("the line to the server", LIMIT, || Ok((said("LISTENING") > 0).then_some(())))?;
    let (workflows, hardware) = (server.watch("workflows")?, server.watch("hardware")?);
    let smee = Watch::of(
        server
            .network_command(program("netboot-watch"))
            .args([&format!("{ADDRESS}:7080"), &script]),
    )?;

    let mut machine = Booted::boot(run.system, server, mac)?;
    let agent = machine.agent(mac)?;
    server.create_workflow(run.name, mac, &actions)?;
    let code = machine.wait_for_end(LIMIT).with_context(|| machine.all_logs())?;
    let rebooted = now();
    drop(agent);
    ensure!(code == REBOOTED, "unshare(1) says {code}");

    let (ended, started) = machine.moments(own_end)?;
    let state = |wanted: &str| {
        let states = states(&workflows, run.name);
        states
            .into_iter()
            .find(|(_, object)| object["status"]["state"] == wanted)
            .map(|(time, _)| time)
    };
    let off = |object: &Value| object["spec"]["interfaces"][0]["netboot"]["allowPXE"] == false;
    let not_allowed = states(&hardware, run.name)
        .into_iter()
        .find(|(_, object)| off(object))
        .map(|(time, _)| time);
    let not_found = smee.lines().into_iter().skip_while(|(_, status)| status != "200");
    let not_found = not_found.into_iter().find(|(_, status)| status == "404").map(|(time, _)| time);

    let mut line_up = vec![
        (ended, "the action ended with 0"),
        (
            started,
            if own_end { "PID 1 is asked for reboot" } else { "user container started: reboot" },
        ),
        (rebooted, "the machine went down: reboot(2)"),
    ];
    line_up.extend(state("RUNNING").map(|time| (time, "Workflow RUNNING")));
    line_up.extend(state("SUCCESS").map(|time| (time, "Workflow SUCCESS")));
    line_up.extend(not_allowed.map(|time| (time, "Hardware: allowPXE is false")));
    line_up.extend(not_found.map(|time| (time, "Smee answers 404: netboot is off")));
    line_up.sort_by(|one, other| one.0.total_cmp(&other.0));
    println!("  seconds after the action's end");
    for (time, what) in line_up {
        println!("  {:>8.3}  {what}", time - ended);
    }
    drop(machine);

    let success = state("SUCCESS").is_some_and(|time| time < started);
    let netboot_off = not_found.is_some_and(|time| time < started);
    let took = rebooted - ended;
    ensure!(took <= run.limit, "the machine went down {took:.3} s after the action's end");
    match run.next {
        Next::NothingToDo => {
            ensure!(success && netboot_off, "the user container started too early")
        }
        Next::TheSameAgain => {
            ensure!(!success && not_found.is_none(), "the fixed wait did not lose the race")
        }
    }
    let (asked, again) = returned(server, run, mac, &said)?;
    println!("  after the reboot: {again}");
    ensure!(asked == run.next, "that is not what must happen");
    Ok(())
}

/// Boots the machine again, as if it had netbooted, and reports what its agent gets to do.
fn returned(
    server: &Server,
    run: &Run,
    mac: &str,
    said: &dyn Fn(&str) -> usize,
) -> Result<(Next, String)> {
    let machine = Booted::boot(run.system, server, mac)?;
    let before = said("question");
    let _agent = machine.agent(mac)?;
    let log = machine.agent_log();
    let returned = until("the agent's return", LIMIT, || {
        let asked = said("question") - before;
        let log = fs::read_to_string(&log)?;
        if log.contains("received action") {
            return Ok(Some((
                Next::TheSameAgain,
                "netboot is on, and the agent is served the same action again".to_owned(),
            )));
        }
        let refused = log.matches("error reading/retrieving action").count();
        let state =
            server.workflow(run.name)?["status"]["state"].as_str().unwrap_or_default().to_owned();
        Ok((asked >= ASKED + refused).then(|| {
            (
                Next::NothingToDo,
                format!("Workflow {state}, netboot is off; an agent that is started all the same gets nothing to do"),
            )
        }))
    });
    returned.with_context(|| {
        format!("{} questions before, {} now\n{}", before, said("question"), machine.all_logs())
    })
}

/// A machine in the server's network.
struct Booted(Machine);

impl Deref for Booted {
    type Target = Machine;
    fn deref(&self) -> &Machine {
        &self.0
    }
}

impl DerefMut for Booted {
    fn deref_mut(&mut self) -> &mut Machine {
        &mut self.0
    }
}

impl Booted {
    fn boot(system: System, server: &Server, mac: &str) -> Result<Self> {
        let machine = Machine::boot(system)?;
        let user = machine.out().join("user.tar");
        image::busybox(&user, "alpine:latest", &json!({"Cmd": ["/bin/sh"]}), &[])?;
        machine.load(&paths::root().join("dist/waitdaemon.tar"))?;
        machine.load(&user)?;
        machine.engine(&["tag", "waitdaemon:dev", "ghcr.io/waitdaemon/waitdaemon:latest"])?;
        if !machine.is_docker() {
            machine.set_command_line(&format!(
                "quiet grpc_authority={ADDRESS}:{AGENTS_PORT} worker_id={mac}\n"
            ))?;
        }
        server.connect(&machine)?;
        Ok(Self(machine))
    }

    fn agent(&self, id: &str) -> Result<Inside> {
        start_agent(self, &format!("{ADDRESS}:{SLOW_PORT}"), id, &self.agent_log())
    }

    fn agent_log(&self) -> PathBuf {
        self.out().join("agent.log")
    }

    /// The recorded times of the action's end and the user container's start, in seconds since
    /// 1970.
    fn moments(&self, own_end: bool) -> Result<(f64, f64)> {
        let asked =
            |line: &Value| line["message"].as_str().is_some_and(|text| text.starts_with("asking "));
        if self.is_docker() && own_end {
            let events = self.events()?;
            let is_action =
                |name: &str| name.starts_with("tinkerbell_reboot_") && !name.ends_with("-waiter");
            let ended = events.iter().find(|one| one.action == "die" && is_action(&one.name));
            let asked = self.logged().into_iter().find(asked).context("PID 1 was not asked")?;
            return Ok((ended.context("no end of the action")?.time, seconds(&asked["time"])?));
        }
        if self.is_docker() {
            // If dockerd goes down in order, it removes the waiter and so its log.
            let events = self.events()?;
            let of = |action: &str, end: &str| {
                let mut events = events.iter().filter(|one| one.action == action);
                events.find(|one| {
                    one.name.starts_with("tinkerbell_reboot_") && one.name.ends_with(end)
                })
            };
            let started = of("start", "-user").context("no start of the user container")?;
            let action = started.name.trim_end_matches("-user");
            let ended = of("die", action).context("no end of the action")?;
            ensure!(ended.exit_code == Some(0), "the action ended with {:?}", ended.exit_code);
            return Ok((ended.time, started.time));
        }
        let executed = |line: &Value| line["msg"] == "executed action";
        let started = |line: &Value| line["message"] == "user container started";
        let log = fs::read_to_string(self.agent_log())?;
        let agent =
            log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).find(executed);
        let waiter = self
            .logged()
            .into_iter()
            .find(|line| if own_end { asked(line) } else { started(line) });
        let ended = agent.context("the agent has not seen the action's end")?;
        let started = waiter.context("the waiter has not started the user container")?;
        Ok((seconds(&ended["time"])?, seconds(&started["time"])?))
    }

    fn all_logs(&self) -> String {
        let lines: Vec<String> = self.logged().iter().map(Value::to_string).collect();
        format!("{}\n{}", Nest::logs(self, &["boot.log", "out/agent.log"]), lines.join("\n"))
    }
}

/// A time in the log, as seconds since 1970.
fn seconds(time: &Value) -> Result<f64> {
    let Some(text) = time.as_str() else { bail!("no time: {time}") };
    Ok(humantime::parse_rfc3339(text)?.duration_since(UNIX_EPOCH)?.as_secs_f64())
}
