//! Through the real Tink Agent: the documentation's examples, and what the agent does to an action.

use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use lab::agent::{Agent, Report, Runtime};
use lab::machine::{Engine, Machine, REBOOTED};
use lab::paths;
use lab::registry::Registry;
use lab::until::until;
use serde_json::json;

use crate::world::{LIMIT, count, load, log, machine, nothing_left, nothing_there};

pub fn cases() -> Vec<crate::Case> {
    crate::cases![
        example_reboot,
        example_kexec,
        example_docker_only,
        example_wait,
        example_capt,
        example_dry_run,
        example_no_volumes,
        reboot_at_once,
        benign_command_runs_once,
        no_command_is_the_images_cmd,
        timeout_during_a_slow_pull,
    ]
}

/// The agent's name for the container of the only action.
fn container(action: &str) -> String {
    format!("tinkerbell_{action}_a0")
}

/// Runs the file's one action, which must be reported SUCCESS.
fn succeed(machine: &Machine, agent: &Agent) -> Result<Report> {
    let report = agent.final_report(LIMIT)?;
    ensure!(report.state == "SUCCESS", "reported {}: {}", report.state, machine.logs());
    Ok(report)
}

/// Runs an example that reboots: the machine ends by reboot(2), after SUCCESS, not before the wait.
fn reboots(engine: Engine, actions: &std::path::Path, wait: f64) -> Result<()> {
    let mut machine = machine(engine)?;
    let agent = Agent::start(&machine, Runtime::Docker, actions)?;
    let report = succeed(&machine, &agent)?;
    let code = machine.wait_for_end(Duration::from_secs_f64(wait) + LIMIT)?;
    let ended = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
    ensure!(code == REBOOTED, "the machine ended with {code}");
    let events = machine.events()?;
    let find = |action: &str, name: String| {
        let found = events.iter().find(|event| event.action == action && event.name == name);
        found.with_context(|| format!("no {action} of {name}: {events:#?}"))
    };
    let action_end = find("die", container("reboot"))?.time;
    // `reboot -f` ends the machine before the engine has told anybody of the user container's start.
    let user_start = find("start", format!("{}-user", container("reboot"))).map_or(ended, |event| event.time);
    ensure!(user_start - action_end >= wait, "started {:.3} s after the action's end", user_start - action_end);
    ensure!(user_start > report.time, "started before SUCCESS was reported");
    let states: Vec<String> = agent.reports()?.into_iter().map(|report| report.state).collect();
    ensure!(states == ["RUNNING", "SUCCESS"], "reports: {states:?}");
    Ok(())
}

fn example_reboot(engine: Engine) -> Result<()> {
    reboots(engine, &paths::root().join("examples/reboot.yaml"), 10.0)
}

fn example_docker_only(engine: Engine) -> Result<()> {
    reboots(engine, &paths::root().join("examples/docker-only.yaml"), 10.0)
}

fn example_wait(engine: Engine) -> Result<()> {
    reboots(engine, &paths::root().join("examples/wait.yaml"), 30.0)
}

/// The last action of the Template in the object for CAPT, with a shorter wait.
fn example_capt(engine: Engine) -> Result<()> {
    let text = fs::read_to_string(paths::root().join("examples/capt.yaml"))?;
    let start = text.find("              - name: \"reboot\"").context("the example has changed")?;
    let action: Vec<_> = text[start..].lines().map(|line| line.get(14..).unwrap_or_default()).collect();
    let action = action.join("\n").replace("WAIT_SECONDS: 30", "WAIT_SECONDS: 2");
    ensure!(action.starts_with("- name") && action.contains("WAIT_SECONDS: 2"), "the example has changed: {action}");
    let place = paths::root().join("target").join(format!("capt-{}.yaml", engine.name()));
    fs::write(&place, action)?;
    let result = reboots(engine, &place, 2.0);
    fs::remove_file(place)?;
    result
}

/// Without a volume the host's socket is reached through PID 1.
fn example_no_volumes(engine: Engine) -> Result<()> {
    reboots(engine, &paths::root().join("examples/no-volumes.yaml"), 10.0)
}

/// The action succeeds, and nothing comes of it.
fn example_dry_run(engine: Engine) -> Result<()> {
    let mut machine = machine(engine)?;
    let agent = Agent::start(&machine, Runtime::Docker, &paths::root().join("examples/dry-run.yaml"))?;
    succeed(&machine, &agent)?;
    until("no container", LIMIT, || Ok(machine.ids()?.is_empty().then_some(())))?;
    let created = machine.events()?.iter().filter(|event| event.action == "create").count();
    ensure!(created == 1 && machine.ended()?.is_none(), "{created} containers were created");
    Ok(())
}

fn example_kexec(engine: Engine) -> Result<()> {
    let machine = machine(engine)?;
    load(&machine, "kexec")?;
    let agent = Agent::start(&machine, Runtime::Docker, &paths::root().join("examples/kexec.yaml"))?;
    succeed(&machine, &agent)?;
    let user = format!("{}-user", container("kexec"));
    until("the kexec stand-in's words", LIMIT, || {
        Ok(machine.docker(&["logs", &user]).is_ok_and(|said| said == "kexec stand-in: /dev/sda1 ext4").then_some(()))
    })?;
    let document = machine.inspect(&user)?;
    ensure!(document["HostConfig"]["PidMode"] == "host" && document["HostConfig"]["Privileged"] == true);
    Ok(())
}

/// One action on Docker, as a file for the agent. JSON is YAML.
fn actions(machine: &Machine, action: serde_json::Value) -> Result<std::path::PathBuf> {
    let path = machine.out().join("actions.yaml");
    let mut whole = json!({
        "name": "last", "image": "ghcr.io/waitdaemon/waitdaemon:latest", "timeout": 90, "pid": "host",
        "volumes": ["/var/run/docker.sock:/var/run/docker.sock", format!("{}:/out", machine.out().display())],
    });
    if let (Some(whole), Some(action)) = (whole.as_object_mut(), action.as_object()) {
        whole.extend(action.clone());
    }
    fs::write(&path, serde_json::to_string(&json!([whole]))?)?;
    Ok(path)
}

fn reboot_at_once(engine: Engine) -> Result<()> {
    let place = paths::root().join("target").join(format!("reboot-at-once-{}.yaml", engine.name()));
    let text = fs::read_to_string(paths::root().join("examples/reboot.yaml"))?;
    let text = text
        .replace("[\"reboot\"]", "[\"reboot\", \"-f\"]")
        .replace("IMAGE: alpine", "IMAGE: alpine\n    WAIT_SECONDS: 2");
    ensure!(text.contains("-f") && text.contains("WAIT_SECONDS: 2"), "the example has changed: {text}");
    fs::write(&place, text)?;
    let result = reboots(engine, &place, 2.0);
    fs::remove_file(place)?;
    result
}

fn benign_command_runs_once(engine: Engine) -> Result<()> {
    let machine = machine(engine)?;
    let script = "echo run >> /out/runs; for a; do echo \"<$a>\" >> /out/arguments; done; env > /out/environment";
    let path = actions(
        &machine,
        json!({
            "command": ["sh", "-c", script, "name", "", "--", "-x", "two words", "ä\"'$HOME"],
            "environment": {"IMAGE": "alpine", "WAIT_SECONDS": "1", "PLAIN": "x=y", "EMPTY": "", "TRAILING": "blank ", "UTF": "ä"},
        }),
    )?;
    let agent = Agent::start(&machine, Runtime::Docker, &path)?;
    succeed(&machine, &agent)?;
    nothing_left(&machine)?;
    let read = |name: &str| fs::read_to_string(machine.out().join(name)).with_context(|| format!("no {name}"));
    ensure!(read("runs")? == "run\n", "it ran more than once");
    let arguments = "<>\n<-->\n<-x>\n<two words>\n<ä\"'$HOME>\n";
    ensure!(read("arguments")? == arguments, "arguments: {}", read("arguments")?);
    let environment = read("environment")?;
    for line in ["IMAGE=alpine", "WAIT_SECONDS=1", "PLAIN=x=y", "EMPTY=", "TRAILING=blank ", "UTF=ä"] {
        ensure!(environment.lines().any(|own| own == line), "{line:?} is missing: {environment}");
    }
    ensure!(!environment.contains("WAITDAEMON"), "ours leaked: {environment}");
    ensure!(count(&machine, "start", &format!("{}-user", container("last")))? == 1);
    Ok(())
}

fn no_command_is_the_images_cmd(engine: Engine) -> Result<()> {
    let machine = machine(engine)?;
    load(&machine, "cmd")?;
    let environment = json!({"IMAGE": "with-cmd:1", "WAIT_SECONDS": "0"});
    let agent = Agent::start(&machine, Runtime::Docker, &actions(&machine, json!({"environment": environment}))?)?;
    succeed(&machine, &agent)?;
    nothing_left(&machine)?;
    ensure!(fs::read_to_string(machine.out().join("cmd"))? == "from the image\n");
    Ok(())
}

/// The agent ends a timed-out action with SIGTERM. Nothing may be left, and nothing may run later.
fn timeout_during_a_slow_pull(engine: Engine) -> Result<()> {
    let machine = machine(engine)?;
    let mut registry = Registry::start(&machine, || machine.docker_command())?;
    registry.slow_link(&machine, 100_000)?;
    machine.docker(&["rmi", "-f", "alpine"])?;
    let environment = json!({"IMAGE": "127.0.0.1:5001/ok:1", "WAIT_SECONDS": "0"});
    let path = actions(&machine, json!({"timeout": 4, "environment": environment}))?;
    let agent = Agent::start(&machine, Runtime::Docker, &path)?;
    let report = agent.final_report(LIMIT)?;
    ensure!(matches!(report.state.as_str(), "TIMEOUT" | "FAILED"), "reported {}", report.state);
    nothing_left(&machine)?;
    // The same pull, not cut off, shows that it takes longer than the action had, and then is there:
    // had anything stayed behind to run the image, it could now.
    machine.docker(&["pull", "-q", "127.0.0.1:5001/ok:1"])?;
    nothing_there(&machine)?;
    let name = container("last");
    for role in ["waiter", "user"] {
        ensure!(
            count(&machine, "create", &format!("{name}-{role}"))? == 0,
            "a {role} was made: {:?}",
            machine.events()?
        );
    }
    ensure!(count(&machine, "start", &name)? == 1, "the action ran once");
    ensure!(log(&machine, &name)?.0.is_empty(), "the agent removed the action");
    Ok(())
}
