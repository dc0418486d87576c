//! A dry run finds out what the handoff would do, and changes nothing.

use anyhow::{Context, Result, ensure};
use lab::machine::Machine;
use lab::registry::Registry;
use serde_json::{Value, json};

use crate::case;
use crate::cases::{ON_CAPTAIN, ON_DOCKER_MAIN, ON_MAIN};
use crate::world::{ACTION, Action, Said, USER, WAITER, watches};

/// The plan that a dry run printed.
fn plan(said: &str) -> Result<Value> {
    let lines = said.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut plan = lines
        .into_iter()
        .find(|line| line["message"] == "dry run: nothing was changed")
        .context("no plan")?;
    Ok(plan["plan"].take())
}

/// The messages of the plan's problems.
fn problems(plan: &Value) -> Vec<&str> {
    plan["problems"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|problem| problem["message"].as_str())
        .collect()
}

/// Everything that a handoff changes: containers and images, without the age that nerdctl also
/// shows.
fn state(machine: &Machine) -> Result<Vec<String>> {
    let containers = machine.engine(&["ps", "-a", "--format", "{{.ID}} {{.Names}}"])?;
    let images = machine.engine(&["images", "--format", "{{.Repository}} {{.Tag}} {{.ID}}"])?;
    // On containerd the agent keeps the container of a failed action.
    let others = containers.lines().filter(|line| !line.ends_with(ACTION));
    let mut state: Vec<String> = others.chain(images.lines()).map(str::to_owned).collect();
    state.sort();
    Ok(state)
}

/// Runs the action as a dry run; its container must leave nothing.
fn dry(machine: &Machine, action: Action) -> Result<(Said, Value)> {
    let before = state(machine)?;
    let said = action.env("WAITDAEMON_DRY_RUN", "true").run()?;
    ensure!(state(machine)? == before, "something was changed: {said:?}");
    let plan = plan(&said.out).with_context(|| format!("{said:?}"))?;
    ensure!(plan["exit_code"] == said.code, "{plan} but {}", said.code);
    // Each problem is also an error in the log, as the handoff would write it.
    let errors = said.err.lines().filter(|line| line.contains("\"level\":\"ERROR\"")).count();
    ensure!(errors == problems(&plan).len(), "{errors} errors: {said:?}");
    Ok((said, plan))
}

case!(the_handoff_does_what_the_plan_says, ON_DOCKER_MAIN, |machine: Shared| {
    let action = || {
        let flags = ["-v", "named:/named", "--label", "mine=1", "--memory", "64m"];
        let action = Action::alpine(&machine).flags(&flags).env("SECRET", "not shown").wait("3600");
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
        // Labels have dots in their names. Each handoff has its own mark, and each container its
        // own hostname.
        if [
            "Config.Hostname",
            "Config.Labels.waitdaemon.handoff",
            "Config.Labels.waitdaemon.made-by",
            "Config.Labels.waitdaemon.request",
        ]
        .contains(&field)
        {
            continue;
        }
        let found = match field.strip_prefix("Config.Labels.") {
            Some(label) => &user["Config"]["Labels"][label],
            None => user.pointer(&format!("/{}", field.replace('.', "/"))).unwrap_or(&Value::Null),
        };
        let said = &difference["user"];
        let held = match (said, found) {
            (Value::Array(said), Value::Array(found)) => {
                said.iter().all(|entry| found.contains(entry))
            }
            (said, found) => said == found,
        };
        ensure!(held, "{difference}, but the user container has {found}");
    }
    let fields: Vec<_> =
        differences.iter().filter_map(|difference| difference["field"].as_str()).collect();
    ensure!(
        fields.contains(&"Config.Image") && !fields.contains(&"HostConfig.Memory"),
        "{fields:?}"
    );
    Ok(())
});

case!(all_problems_are_found, ON_MAIN, |machine| {
    machine.engine(&["create", "--name", USER, "alpine"])?;
    let (said, plan) =
        dry(&machine, Action::new(&machine).env("IMAGE", "127.0.0.1:5000/nothing:1"))?;
    ensure!(said.code == 1, "{said:?}");
    let taken = format!("the name {USER} is taken by another container");
    ensure!(
        problems(&plan) == [taken.as_str(), "cannot pull the image 127.0.0.1:5000/nothing:1"],
        "{plan}"
    );
    // The image has no command of its own, and the action gives none.
    crate::world::load(&machine, "neither")?;
    machine.engine(&["rm", USER])?;
    let (said, plan) = dry(&machine, Action::new(&machine).env("IMAGE", "neither:1"))?;
    ensure!(
        said.code == 1 && problems(&plan) == ["neither the action nor IMAGE says what to run"],
        "{plan}"
    );
    Ok(())
});

case!(an_earlier_attempt_is_seen, ON_MAIN, |machine: Shared| {
    let action = |wait| Action::alpine(&machine).wait(wait).command(&["sleep", "1000"]);
    action("3600").run_well()?;
    let (said, plan) = dry(&machine, action("0"))?;
    let earlier =
        json!([format!("{USER} would be removed"), format!("{WAITER} would be ended and removed")]);
    ensure!(said.code == 0 && plan["earlier_attempt"] == earlier, "{plan}");
    action("0").run_well()?;
    watches(&machine)?;
    let (said, plan) = dry(&machine, action("0"))?;
    let text = plan["earlier_attempt"].to_string();
    ensure!(
        said.code == 0 && text.contains("is already running; it would be left alone"),
        "{plan}"
    );
    Ok(())
});

case!(the_registry_is_asked, ON_MAIN, |machine| {
    let _registry = Registry::start(&machine)?;
    for (image, code) in [("127.0.0.1:5000/ok:1", 0), ("127.0.0.1:5000/ok:2", 1)] {
        let (said, plan) =
            dry(&machine, Action::new(&machine).env("IMAGE", image).command(&["true"]))?;
        ensure!(said.code == code && plan["image"]["on_this_machine"] == false, "{image}: {plan}");
        if code == 1 {
            said.expect(code, "environment.IMAGE", "cannot pull the image")?;
        }
    }
    Ok(())
});

case!(reports_settings_and_engines, ON_MAIN, |machine: Shared| {
    let (said, plan) = dry(&machine, Action::new(&machine).wait("1m"))?;
    ensure!(said.code == 78 && problems(&plan).len() == 2, "{plan}");
    let (said, plan) = dry(
        &machine,
        Action::new(&machine).with_own_pids().without_socket().env("IMAGE", "alpine"),
    )?;
    ensure!(said.code == 12 && problems(&plan).len() == 3, "{plan}");
    said.expect(12, "volumes", "/var/run/docker.sock")?;
    let wrong = Action::alpine(&machine).env("WAITDAEMON_DRY_RUN", "perhaps").run()?;
    wrong.expect(78, "environment.WAITDAEMON_DRY_RUN", "neither true nor false")
});

case!(prints_text_on_a_terminal, ON_DOCKER_MAIN, |machine: Shared| {
    let action = || {
        Action::new(&machine)
            .flags(&["-t"])
            .env("WAITDAEMON_DRY_RUN", "1")
            .command(&["reboot", "-d", "1"])
    };
    let said = action().env("IMAGE", "alpine").run()?;
    for words in [
        "dry run: nothing was changed",
        "wait seconds     10",
        "- Config.Image: waitdaemon:dev -> alpine",
    ] {
        ensure!(said.out.contains(words), "no {words:?}: {}", said.out);
    }
    let said = action().run()?;
    ensure!(
        said.code == 78
            && said.out.contains("- IMAGE is not set")
            && !said.out.contains("{\"time\""),
        "{said:?}"
    );
    Ok(())
});

case!(what_nerdctl_would_get, ON_CAPTAIN, |machine: Shared| {
    let action = Action::alpine(&machine).env("SECRET", "not shown").flags(&["--label=mine=1"]);
    let (said, plan) = dry(&machine, action.command(&["reboot"]))?;
    ensure!(
        said.code == 0 && problems(&plan).is_empty() && plan["asks_systemd_for"] == "reboot",
        "{plan}"
    );
    ensure!(plan["user_container"]["runs"] == json!(["reboot"]), "{plan}");
    let differences = plan["user_container"]["differences"].to_string();
    ensure!(differences.contains(&format!("--name={USER}")), "{plan}");
    ensure!(!differences.contains("not shown") && !differences.contains("mine=1"), "{plan}");

    // Run by the agent, with a setting that nerdctl cannot express.
    let (_, plan) = dry(
        &machine,
        Action::alpine(&machine).env("HOSTNAME", &"x".repeat(65)).command(&["reboot"]),
    )?;
    let refused = "cannot carry every setting of the action over to the user container";
    ensure!(problems(&plan) == [refused], "{plan}");

    machine.engine(&["create", "--name", WAITER, "alpine"])?;
    let (said, plan) = dry(&machine, Action::alpine(&machine).command(&["reboot"]))?;
    let taken = format!("the name {WAITER} is taken by another container");
    ensure!(said.code == 1 && problems(&plan) == [taken.as_str()], "{plan}");
    Ok(())
});
