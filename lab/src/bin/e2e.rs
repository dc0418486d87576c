//! `make e2e`: the documentation's reboot through the real Tink Agent and the real Tinkerbell server, to the next boot.
//! Prints a timeline of each run, and fails where a run does not end as it must.

use std::fs;
use std::ops::Deref;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use lab::agent::{Runtime, start_agent};
use lab::captain::Captain;
use lab::image;
use lab::machine::{Engine, Machine};
use lab::nest::{Inside, Nest, REBOOTED};
use lab::paths;
use lab::tinkerbell::{ADDRESS, AGENTS_PORT, SMEE, Server, states};
use lab::until::until;
use lab::watch::{Watch, now};
use serde_json::{Value, json};

/// Longer than each step takes, the longest wait included.
const LIMIT: Duration = Duration::from_secs(120);
/// The port of the slow line to the server.
const SLOW_PORT: u16 = 42114;
/// How late the slow server takes the report.
const LATE_SECONDS: u64 = 20;
/// How often an agent that is back has asked until it counts that it gets nothing. It asks again only once it was answered, and
/// logs an answer that is an error or an action, but not one that there is nothing (Tink Agent v0.25.0, agent.go).
const ASKED: usize = 4;

#[derive(Clone, Copy, PartialEq, Eq)]
enum System {
    HookOs,
    CaptainOs,
}

/// How a run ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    /// The Workflow is SUCCESS, netboot is off, and the agent that comes back gets nothing to do.
    NothingToDo,
    /// The machine went down too early: netboot is on, and the same action is served again.
    TheSameAgain,
}

struct Run {
    title: &'static str,
    name: &'static str,
    system: System,
    example: &'static str,
    late_seconds: u64,
    next: Next,
}

const RUNS: [Run; 4] = [
    Run {
        title: "HookOS-like, netboot-off",
        name: "hook",
        system: System::HookOs,
        example: "netboot-off.yaml",
        late_seconds: 0,
        next: Next::NothingToDo,
    },
    Run {
        title: "CaptainOS-like, netboot-off",
        name: "captain",
        system: System::CaptainOs,
        example: "netboot-off.yaml",
        late_seconds: 0,
        next: Next::NothingToDo,
    },
    Run {
        title: "HookOS-like, a server that takes the report 20 s late, fixed wait of 10 s",
        name: "slow-fixed",
        system: System::HookOs,
        example: "reboot.yaml",
        late_seconds: LATE_SECONDS,
        next: Next::TheSameAgain,
    },
    Run {
        title: "HookOS-like, a server that takes the report 20 s late, netboot-off",
        name: "slow-netboot-off",
        system: System::HookOs,
        example: "netboot-off.yaml",
        late_seconds: LATE_SECONDS,
        next: Next::NothingToDo,
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
    for (number, run) in RUNS.iter().enumerate().filter(|(_, run)| only.is_empty() || run.name == only) {
        println!("\n{}", run.title);
        let outcome = perform(&server, run, &format!("02:00:00:00:00:{number:02x}"));
        outcome.with_context(|| format!("{}: {}", run.name, server.logs()))?;
    }
    println!("\nEvery run ended as it must.");
    Ok(())
}

/// One machine, from the action to what its next boot finds.
fn perform(server: &Server, run: &Run, mac: &str) -> Result<()> {
    let script = format!("/ipxe/script/{mac}/auto.ipxe");
    let actions = fs::read_to_string(paths::root().join("examples").join(run.example))?;
    let actions = match run.system {
        // Its containers see the kernel's own command line, which Tinkerbell did not write here: the setting takes its place.
        System::HookOs => {
            actions.replace("netboot-off\n", &format!("netboot-off\n    WAITDAEMON_SMEE_URL: \"{SMEE}{script}\"\n"))
        }
        System::CaptainOs => actions,
    };
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
    let smee = Watch::of(server.network_command(program("netboot-watch")).args([&format!("{ADDRESS}:7080"), &script]))?;

    let mut machine = Booted::boot(run.system, server, mac)?;
    let agent = machine.agent(mac)?;
    server.create_workflow(run.name, mac, &actions)?;
    let code = machine.nest_mut().wait_for_end(LIMIT).with_context(|| machine.logs())?;
    let rebooted = now();
    drop(agent);
    ensure!(code == REBOOTED, "unshare(1) says {code}");

    let (ended, started) = machine.moments()?;
    let state = |wanted: &str| {
        let states = states(&workflows, run.name);
        states.into_iter().find(|(_, object)| object["status"]["state"] == wanted).map(|(time, _)| time)
    };
    let off = |object: &Value| object["spec"]["interfaces"][0]["netboot"]["allowPXE"] == false;
    let not_allowed = states(&hardware, run.name).into_iter().find(|(_, object)| off(object)).map(|(time, _)| time);
    let not_found = smee.lines().into_iter().skip_while(|(_, status)| status != "200");
    let not_found = not_found.into_iter().find(|(_, status)| status == "404").map(|(time, _)| time);

    let mut line_up = vec![
        (ended, "the action ended with 0"),
        (started, "user container started: reboot"),
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
    match run.next {
        Next::NothingToDo => ensure!(success && netboot_off, "the user container started too early"),
        Next::TheSameAgain => ensure!(!success && not_found.is_none(), "the fixed wait did not lose the race"),
    }
    let (asked, again) = returned(server, run, mac, &said)?;
    println!("  after the reboot: {again}");
    ensure!(asked == run.next, "that is not what must happen");
    Ok(())
}

/// Boots the machine again, as if it had netbooted, and tells what its agent gets to do.
fn returned(server: &Server, run: &Run, mac: &str, said: &dyn Fn(&str) -> usize) -> Result<(Next, String)> {
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
        let state = server.workflow(run.name)?["status"]["state"].as_str().unwrap_or_default().to_owned();
        Ok((asked >= ASKED + refused).then(|| {
            (
                Next::NothingToDo,
                format!("Workflow {state}, netboot is off; an agent that is started all the same gets nothing to do"),
            )
        }))
    });
    returned.with_context(|| machine.logs())
}

/// A machine of either system, in the server's network.
enum Booted {
    HookOs(Machine),
    CaptainOs(Captain),
}

impl Deref for Booted {
    type Target = Nest;
    fn deref(&self) -> &Nest {
        match self {
            Self::HookOs(machine) => machine,
            Self::CaptainOs(captain) => captain,
        }
    }
}

impl Booted {
    fn boot(system: System, server: &Server, mac: &str) -> Result<Self> {
        let (ours, image) = (paths::root().join("dist/waitdaemon.tar"), "ghcr.io/waitdaemon/waitdaemon:latest");
        let user = |nest: &Nest| {
            let path = nest.out().join("user.tar");
            image::busybox(&path, "alpine:latest", &json!({"Cmd": ["/bin/sh"]}), &[]).map(|()| path)
        };
        let booted = match system {
            System::HookOs => {
                let machine = Machine::boot(Engine::Moby)?;
                machine.load(&ours)?;
                machine.load(&user(&machine)?)?;
                machine.docker(&["tag", "waitdaemon:dev", image])?;
                Self::HookOs(machine)
            }
            System::CaptainOs => {
                let captain = Captain::boot()?;
                captain.load(&ours)?;
                captain.load(&user(&captain)?)?;
                captain.nerdctl(&["tag", "waitdaemon:dev", image])?;
                captain.set_command_line(&format!("quiet grpc_authority={ADDRESS}:{AGENTS_PORT} worker_id={mac}\n"))?;
                Self::CaptainOs(captain)
            }
        };
        server.connect(&booted)?;
        Ok(booted)
    }

    fn nest_mut(&mut self) -> &mut Nest {
        match self {
            Self::HookOs(machine) => machine,
            Self::CaptainOs(captain) => captain,
        }
    }

    fn agent(&self, id: &str) -> Result<Inside> {
        let runtime = match self {
            Self::HookOs(_) => Runtime::Docker,
            Self::CaptainOs(_) => Runtime::Containerd,
        };
        start_agent(self, runtime, &format!("{ADDRESS}:{SLOW_PORT}"), id, &self.agent_log())
    }

    fn agent_log(&self) -> PathBuf {
        self.out().join("agent.log")
    }

    /// When the action ended and when the user container started, in seconds since 1970, as was recorded.
    fn moments(&self) -> Result<(f64, f64)> {
        match self {
            // dockerd removes the waiter, and so its log, where it goes down in order.
            Self::HookOs(machine) => {
                let events = machine.events()?;
                let of = |action: &str, end: &str| {
                    let mut events = events.iter().filter(|one| one.action == action);
                    events.find(|one| one.name.starts_with("tinkerbell_reboot_") && one.name.ends_with(end))
                };
                let started = of("start", "-user").context("no start of the user container")?;
                let action = started.name.trim_end_matches("-user");
                let ended = of("die", action).context("no end of the action")?;
                ensure!(ended.exit_code == Some(0), "the action ended with {:?}", ended.exit_code);
                Ok((ended.time, started.time))
            }
            Self::CaptainOs(captain) => {
                let executed = |line: &Value| line["msg"] == "executed action";
                let started = |line: &Value| line["message"] == "user container started";
                let log = fs::read_to_string(self.agent_log())?;
                let agent = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).find(executed);
                let waiter = captain.logged().into_iter().find(started);
                let ended = agent.context("the agent has not seen the action's end")?;
                let started = waiter.context("the waiter has not started the user container")?;
                Ok((seconds(&ended["time"])?, seconds(&started["time"])?))
            }
        }
    }

    fn nest_logs(&self) -> String {
        Nest::logs(self, &["boot.log", "out/agent.log"])
    }

    fn logs(&self) -> String {
        let lines = match self {
            Self::HookOs(machine) => machine.logged(),
            Self::CaptainOs(captain) => captain.logged(),
        };
        let lines: Vec<String> = lines.iter().map(Value::to_string).collect();
        format!("{}\n{}", self.nest_logs(), lines.join("\n"))
    }
}

/// The seconds since 1970 of a time in the log.
fn seconds(time: &Value) -> Result<f64> {
    let Some(text) = time.as_str() else { bail!("no time: {time}") };
    Ok(humantime::parse_rfc3339(text)?.duration_since(UNIX_EPOCH)?.as_secs_f64())
}
