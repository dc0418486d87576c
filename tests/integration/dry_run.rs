//! A dry run finds what the handoff would do, and changes nothing.

use anyhow::{Context, Result, ensure};
use lab::captain::Captain;
use lab::machine::{Engine, Machine, output};
use lab::registry::Registry;
use lab::until::until;
use serde_json::{Value, json};

use crate::captain::{captain, reported};
use crate::world::{ACTION, Action, LIMIT, Said, USER, WAITER, machine};

pub fn cases() -> Vec<crate::Case> {
    crate::cases![
        the_handoff_does_what_the_plan_says,
        all_problems_are_found,
        an_earlier_attempt_is_seen,
        the_registry_is_asked,
        settings_and_engines_are_told_of,
        a_terminal_gets_words,
    ]
}

pub fn captain_cases() -> Vec<(&'static str, crate::Plain)> {
    vec![("captain::dry_run", on_captain)]
}

/// The plan that a dry run printed.
fn plan(said: &str) -> Result<Value> {
    let lines = said.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut plan =
        lines.into_iter().find(|line| line["message"] == "dry run: nothing was changed").context("no plan")?;
    Ok(plan["plan"].take())
}

/// The messages of the plan's problems.
fn problems(plan: &Value) -> Vec<&str> {
    plan["problems"].as_array().into_iter().flatten().filter_map(|problem| problem["message"].as_str()).collect()
}

/// All that a handoff changes: containers and images.
fn state(machine: &Machine) -> Result<[Vec<String>; 2]> {
    let images = machine.ask("GET", "/images/json?all=1", None)?.1;
    let mut state =
        [machine.ids()?, images.as_array().into_iter().flatten().map(|image| image["RepoTags"].to_string()).collect()];
    state.iter_mut().for_each(|list| list.sort());
    Ok(state)
}

/// Runs the action dry; its container may leave nothing.
fn dry(machine: &Machine, action: Action) -> Result<(Said, Value)> {
    let before = state(machine)?;
    let said = action.env("WAITDAEMON_DRY_RUN", "true").run()?;
    ensure!(state(machine)? == before, "something was changed: {said:?}");
    let plan = plan(&said.out).with_context(|| format!("{said:?}"))?;
    ensure!(plan["exit_code"] == said.code, "{plan} but {}", said.code);
    // Each problem is an error in the log too, as the handoff would write it.
    let errors = said.err.lines().filter(|line| line.contains("\"level\":\"ERROR\"")).count();
    ensure!(errors == problems(&plan).len(), "{errors} errors: {said:?}");
    Ok((said, plan))
}

fn the_handoff_does_what_the_plan_says(engine: Engine) -> Result<()> {
    let machine = machine(engine)?;
    let out = format!("{}:/out", machine.out().display());
    let action = || {
        let flags =
            ["-v", &out, "-v", "named:/named", "--label", "mine=1", "--memory", "64m", "-e", "SECRET=not shown"];
        let action = Action::new(&machine).flags(&flags).env("IMAGE", "alpine").env("WAIT_SECONDS", "3600");
        action.command(&["sh", "-c", "exit 0"])
    };
    let (said, plan) = dry(&machine, action())?;
    ensure!(said.code == 0 && problems(&plan).is_empty(), "{plan}");
    ensure!(!said.out.contains("not shown"), "a variable of the action is shown: {plan}");
    ensure!(plan["action"]["name"] == ACTION && plan["action"]["proof"].is_string(), "{plan}");
    ensure!(plan["image"] == json!({"name": "alpine", "on_this_machine": true}), "{plan}");
    ensure!(plan["wait_seconds"] == 3600 && plan["watch_seconds"] == 60, "{plan}");
    ensure!(plan["user_container"]["runs"] == json!(["sh", "-c", "exit 0"]), "{plan}");

    action().run_well()?;
    let user = machine.inspect(USER)?;
    let differences = plan["user_container"]["differences"].as_array().context("no differences")?;
    for difference in differences {
        let field = difference["field"].as_str().context("no field")?;
        // Labels have dots in their names; each handoff has a mark of its own, and each container a hostname.
        if ["Config.Hostname", "Config.Labels.waitdaemon.handoff", "Config.Labels.waitdaemon.made-by"].contains(&field)
        {
            continue;
        }
        let found = match field.strip_prefix("Config.Labels.") {
            Some(label) => &user["Config"]["Labels"][label],
            None => user.pointer(&format!("/{}", field.replace('.', "/"))).unwrap_or(&Value::Null),
        };
        let said = &difference["user"];
        let held = match (said, found) {
            (Value::Array(said), Value::Array(found)) => said.iter().all(|entry| found.contains(entry)),
            (said, found) => said == found,
        };
        ensure!(held, "{difference}, but the user container has {found}");
    }
    let fields: Vec<_> = differences.iter().filter_map(|difference| difference["field"].as_str()).collect();
    ensure!(fields.contains(&"Config.Image") && !fields.contains(&"HostConfig.Memory"), "{fields:?}");
    Ok(())
}

fn all_problems_are_found(engine: Engine) -> Result<()> {
    let machine = machine(engine)?;
    machine.docker(&["create", "--name", USER, "alpine"])?;
    let (said, plan) = dry(&machine, Action::new(&machine).env("IMAGE", "127.0.0.1:5000/nothing:1"))?;
    ensure!(said.code == 1, "{said:?}");
    let taken = format!("the name {USER} is taken by another container");
    ensure!(problems(&plan) == [taken.as_str(), "cannot pull the image 127.0.0.1:5000/nothing:1"], "{plan}");
    // The image's own command is none, and the action gives none.
    crate::world::load(&machine, "neither")?;
    machine.docker(&["rm", USER])?;
    let (said, plan) = dry(&machine, Action::new(&machine).env("IMAGE", "neither:1"))?;
    ensure!(said.code == 1 && problems(&plan) == ["neither the action nor IMAGE says what to run"], "{plan}");
    Ok(())
}

fn an_earlier_attempt_is_seen(engine: Engine) -> Result<()> {
    let machine = machine(engine)?;
    let action =
        |wait| Action::new(&machine).env("IMAGE", "alpine").env("WAIT_SECONDS", wait).command(&["sleep", "1000"]);
    action("3600").run_well()?;
    let (said, plan) = dry(&machine, action("0"))?;
    let earlier = json!([format!("{USER} would be removed"), format!("{WAITER} would be ended and removed")]);
    ensure!(said.code == 0 && plan["earlier_attempt"] == earlier, "{plan}");
    action("0").run_well()?;
    crate::world::await_event(&machine, "start", USER)?;
    let (said, plan) = dry(&machine, action("0"))?;
    let text = plan["earlier_attempt"].to_string();
    ensure!(said.code == 0 && text.contains("runs already; it would be left alone"), "{plan}");
    Ok(())
}

fn the_registry_is_asked(engine: Engine) -> Result<()> {
    let machine = machine(engine)?;
    let _registry = Registry::start(&machine, || machine.docker_command())?;
    for (image, code) in [("127.0.0.1:5000/ok:1", 0), ("127.0.0.1:5000/ok:2", 1)] {
        let (said, plan) = dry(&machine, Action::new(&machine).env("IMAGE", image).command(&["true"]))?;
        ensure!(said.code == code && plan["image"]["on_this_machine"] == false, "{image}: {plan}");
        if code == 1 {
            said.expect(code, "environment.IMAGE", "cannot pull the image")?;
        }
    }
    Ok(())
}

fn settings_and_engines_are_told_of(engine: Engine) -> Result<()> {
    let machine = machine(engine)?;
    let (said, plan) = dry(&machine, Action::new(&machine).env("WAIT_SECONDS", "1m"))?;
    ensure!(said.code == 78 && problems(&plan).len() == 2, "{plan}");
    let (said, plan) = dry(&machine, Action::new(&machine).with_own_pids().without_socket().env("IMAGE", "alpine"))?;
    ensure!(said.code == 12 && problems(&plan).len() == 3, "{plan}");
    said.expect(12, "volumes", "/var/run/docker.sock")?;
    let wrong = Action::new(&machine).env("IMAGE", "alpine").env("WAITDAEMON_DRY_RUN", "perhaps").run()?;
    wrong.expect(78, "environment.WAITDAEMON_DRY_RUN", "neither true nor false")
}

fn a_terminal_gets_words(engine: Engine) -> Result<()> {
    let machine = machine(engine)?;
    let action = || Action::new(&machine).flags(&["-t"]).env("WAITDAEMON_DRY_RUN", "1").command(&["reboot"]);
    let said = action().env("IMAGE", "alpine").run()?;
    for words in ["dry run: nothing was changed", "wait seconds     10", "- Config.Image: waitdaemon:dev -> alpine"] {
        ensure!(said.out.contains(words), "no {words:?}: {}", said.out);
    }
    let said = action().run()?;
    ensure!(said.code == 78 && said.out.contains("- IMAGE is not set") && !said.out.contains("{\"time\""), "{said:?}");
    Ok(())
}

/// Runs the action dry on containerd; returns its exit code and the plan.
fn dry_on(captain: &Captain, flags: &[&str], command: &[&str]) -> Result<(i32, Value)> {
    let state = || -> Result<String> { Ok(captain.nerdctl(&["ps", "-aq"])? + &captain.nerdctl(&["images", "-q"])?) };
    let before = state()?;
    let mut run = captain.nerdctl_command();
    run.args(["run", "--rm", "--name", ACTION, "--pid=host", "--privileged", "-e", "WAITDAEMON_DRY_RUN=true"]);
    let said = output(run.args(flags).arg("waitdaemon:dev").args(command))?;
    ensure!(state()? == before, "something was changed: {said:?}");
    let (out, error) = (String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
    Ok((said.status.code().unwrap_or(-1), plan(&out).with_context(|| format!("{out}{error}"))?))
}

fn on_captain() -> Result<()> {
    let captain = captain()?;
    let (code, plan) =
        dry_on(&captain, &["-e", "IMAGE=alpine", "-e", "SECRET=not shown", "--label=mine=1"], &["reboot"])?;
    ensure!(code == 0 && problems(&plan).is_empty() && plan["asks_systemd_for"] == "reboot", "{plan}");
    ensure!(plan["user_container"]["runs"] == json!(["reboot"]), "{plan}");
    let differences = plan["user_container"]["differences"].to_string();
    ensure!(differences.contains(&format!("--name={USER}")), "{plan}");
    ensure!(!differences.contains("not shown") && !differences.contains("mine=1"), "{plan}");

    let _registry = Registry::start(&captain, || captain.nerdctl_command())?;
    for (image, code) in [("127.0.0.1:5000/ok:1", 0), ("127.0.0.1:5000/ok:2", 1)] {
        let (got, plan) = dry_on(&captain, &["-e", &format!("IMAGE={image}")], &["true"])?;
        ensure!(got == code && plan["image"]["on_this_machine"] == false, "{image}: {plan}");
    }

    // By the agent, with what nerdctl cannot say.
    let environment = json!({"IMAGE": "alpine", "HOSTNAME": "two words", "WAITDAEMON_DRY_RUN": "true"});
    reported(&captain, json!({"command": ["reboot"], "environment": environment}), "FAILED")?;
    let refused = "cannot carry every setting of the action over to the user container";
    until("the problem in the log", LIMIT, || {
        let lines = captain.logged();
        let mut plans = lines.iter().map(|line| &line["plan"]);
        Ok(plans.find(|plan| problems(plan) == [refused]).map(drop))
    })?;

    captain.nerdctl(&["create", "--name", WAITER, "alpine"])?;
    let (code, plan) = dry_on(&captain, &["-e", "IMAGE=alpine"], &["reboot"])?;
    ensure!(code == 1 && problems(&plan) == [format!("the name {WAITER} is taken by another container")], "{plan}");
    Ok(())
}
