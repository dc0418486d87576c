//! Cases run by the real Tink Agent: the documentation's examples, and what the agent does to an
//! action.

use std::fs;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use lab::agent::{Agent, Report};
use lab::machine::{Machine, REBOOTED};
use lab::paths;
use lab::registry::Registry;
use lab::system::System;
use lab::until::until;

use crate::case;
use crate::cases::{ON_ALL, ON_CAPTAIN, ON_CAPTAINS, ON_DOCKER_MAIN, ON_MAIN, ON_VERSIONS};
use crate::world::{
    Action, LIMIT, RUN, count, load, machine, nothing_left, nothing_there, own_image_with_nerdctl,
    ran_at, ran_once, runs,
};

/// The agent's name for the container of an example's action.
fn container(action: &str) -> String {
    format!("tinkerbell_{action}_a0")
}

/// Runs the file's only action, which must be reported as SUCCESS.
fn succeed(machine: &Machine, agent: &Agent) -> Result<Report> {
    let report = agent.final_report(LIMIT)?;
    ensure!(
        report.state == "SUCCESS",
        "reported {}: {} {}",
        report.state,
        agent.log(),
        machine.logs()
    );
    Ok(report)
}

/// Runs an example that reboots. The machine must end by reboot(2), after SUCCESS and not before
/// the wait; under systemd, in order.
fn reboots(system: System, actions: &Path, wait: f64, in_order: bool) -> Result<()> {
    let mut machine = machine(system)?;
    let agent = Agent::start(&machine, actions)?;
    let report = succeed(&machine, &agent)?;
    let end = machine.wait_for_end(Duration::from_secs_f64(wait) + LIMIT);
    let code = end.with_context(|| format!("{}{}", machine.container_logs(), machine.logs()))?;
    let ended = UNIX_EPOCH.elapsed()?.as_secs_f64();
    ensure!(code == REBOOTED, "the machine ended with {code}");
    // SUCCESS is reported a moment after the action's end.
    ensure!(
        ended - report.time >= wait - 0.5,
        "rebooted {:.1} s after SUCCESS",
        ended - report.time
    );
    let states: Vec<String> = agent.reports()?.into_iter().map(|report| report.state).collect();
    ensure!(states == ["RUNNING", "SUCCESS"], "reports: {states:?}");
    let stopped = machine.out().join("stopped-in-order").exists();
    let by_systemd = matches!(system, System::CaptainOS | System::CaptainNext);
    ensure!(stopped == (by_systemd && in_order), "systemd stopped its units: {stopped}");
    if machine.is_docker() {
        let events = machine.events()?;
        let find = |action: &str, name: String| {
            let found = events.iter().find(|event| event.action == action && event.name == name);
            found.with_context(|| format!("no {action} of {name}: {events:#?}"))
        };
        let action_end = find("die", container("reboot"))?.time;
        // `reboot -f` ends the machine before the engine has reported the user container's start.
        let start = find("start", format!("{}-user", container("reboot")))
            .map_or(ended, |event| event.time);
        ensure!(
            start - action_end >= wait,
            "started {:.3} s after the action's end",
            start - action_end
        );
        ensure!(start > report.time, "started before SUCCESS was reported");
    }
    Ok(())
}

fn example(system: System, name: &str, wait: f64) -> Result<()> {
    reboots(system, &paths::root().join(format!("examples/{name}.yaml")), wait, true)
}

/// A changed copy of an example, in its own file.
fn changed(
    system: System,
    name: &str,
    wait: f64,
    in_order: bool,
    change: impl Fn(&str) -> String,
) -> Result<()> {
    let text = fs::read_to_string(paths::root().join(format!("examples/{name}.yaml")))?;
    let new = change(&text);
    ensure!(new != text, "the example has changed: {text}");
    let place = paths::root().join(format!("target/{name}-{}-{}.yaml", system.name(), new.len()));
    fs::write(&place, new)?;
    let result = reboots(system, &place, wait, in_order);
    fs::remove_file(place)?;
    result
}

fn with_network_host(text: &str) -> String {
    format!("{text}  namespaces:\n    network: host\n")
}

case!(example_reboot, ON_ALL, |system: System| example(system, "reboot", 10.0));

case!(example_reboot_with_network_host, ON_CAPTAIN, |system: System| {
    changed(system, "reboot", 10.0, true, with_network_host)
});

case!(example_end, ON_ALL, |system: System| example(system, "end", 10.0));

// The container ends and leaves the machine as it is, so the fallback is due.
case!(example_fallback, ON_MAIN, |system: System| {
    changed(system, "fallback", 10.0, true, |text| {
        let after = "WAITDAEMON_FALLBACK: reboot\n    WAITDAEMON_FALLBACK_AFTER_SECONDS: 1";
        text.replace("quay.io/tinkerbell-actions/kexec:v1.0.0", "alpine")
            .replace("WAITDAEMON_FALLBACK: reboot", after)
            .replace("\"kexec\"", "\"reboot\"")
    })
});

// These machines have no such disk, so the action says so and fails. tests/machines boots its
// kernel.
case!(example_own_kexec, ON_MAIN, |machine| {
    for (name, device) in [("end-kexec", "/dev/sda1"), ("kexec-fallback", "/dev/sda2")] {
        let agent = Agent::start(&machine, &paths::root().join(format!("examples/{name}.yaml")))?;
        let report = agent.final_report(LIMIT)?;
        ensure!(report.state == "FAILED", "{}: {}", report.state, agent.log());
        if !machine.is_docker() {
            ensure!(agent.log().contains(&format!("there is no {device}")), "{}", agent.log());
        }
    }
    Ok(())
});

// Nobody accepts the report, and the machine goes down all the same.
case!(example_report, ON_MAIN, |system: System| example(system, "report", 10.0));

// With an image that exists here, and any file as the password.
case!(example_private_registry, ON_MAIN, |system: System| {
    changed(system, "private-registry", 10.0, true, |text| {
        text.replace("registry.example.org/tools/reboot:1", "alpine")
            .replace("- /run/registry-password:", "- /etc/hostname:")
    })
});

case!(example_private_kexec, ON_MAIN, |machine| {
    load(&machine, "kexec")?;
    let action = fs::read_to_string(paths::root().join("examples/private-kexec.yaml"))?
        .replace("registry.example.org/tools/kexec:1", "quay.io/tinkerbell-actions/kexec:v1.0.0")
        .replace("- /run/registry-password:", "- /etc/hostname:");
    let place = machine.out().join("private-kexec.yaml");
    fs::write(&place, action)?;
    by_stand_in(&machine, &place, "kexec")
});

// With a password in place of the template's field.
case!(example_registry_password, ON_MAIN, |machine| {
    let path = paths::root().join("examples/registry-password.yaml");
    let action = fs::read_to_string(path)?.replace("{{ .registry_password }}", "not so $ecret");
    let place = machine.out().join("registry-password.yaml");
    fs::write(&place, action)?;
    succeed(&machine, &Agent::start(&machine, &place)?)?;
    let volume = "/run/registry-password:/password:ro";
    let read = ["sh", "-c", "stat -c %a /password; cat /password"];
    let run = ["run", "--rm", "--network=none", "-v", volume, "alpine"];
    let said = machine.engine(&[&run[..], &read[..]].concat())?;
    ensure!(said == "600\nnot so $ecret", "{said:?}");
    Ok(())
});

// Without a volume, the engine is reached through PID 1.
case!(example_no_volumes, ON_VERSIONS, |system: System| example(system, "no-volumes", 10.0));

case!(example_docker_only, ON_DOCKER_MAIN, |system: System| example(system, "docker-only", 10.0));

case!(example_nerdctl_only, ON_CAPTAIN, |system: System| example(system, "nerdctl-only", 10.0));

case!(example_nerdctl_own, ON_CAPTAINS, |system: System| example(system, "nerdctl-own", 10.0));

// The reference's example: with these volumes, but without NERDCTL_HOST, the host's nerdctl is used.
case!(example_nerdctl_volumes_alone, ON_CAPTAINS, |system: System| {
    changed(system, "nerdctl-own", 10.0, true, |text| {
        text.replace("    NERDCTL_HOST: \"false\"\n", "")
    })
});

case!(example_nerdctl_own_with_network_host, ON_CAPTAIN, |system: System| {
    changed(system, "nerdctl-own", 10.0, true, with_network_host)
});

case!(example_wait, ON_MAIN, |system: System| example(system, "wait", 30.0));

/// The last action of the Template in a CAPT object.
fn last_of_capt(text: &str) -> String {
    let action = text.rsplit_once("              - name: ").map_or("", |(_, action)| action);
    let lines = action.lines().skip(1).map(|line| line.get(14..).unwrap_or_default());
    let name = action.lines().next().unwrap_or_default();
    let lines: Vec<_> =
        std::iter::once(format!("- name: {name}")).chain(lines.map(str::to_owned)).collect();
    lines.join("\n")
}

// With a shorter wait.
case!(example_capt, ON_MAIN, |system: System| {
    changed(system, "capt", 2.0, true, |text| {
        last_of_capt(text).replace("WAIT_SECONDS: 30", "WAIT_SECONDS: 2")
    })
});

// With a reboot instead of the kexec, for which these machines have no disk, and without a Smee to
// wait for.
case!(example_capt_kexec, ON_MAIN, |system: System| {
    changed(system, "capt-kexec", 10.0, true, |text| {
        let action = last_of_capt(text).replace("\"kexec\"", "\"reboot\"");
        let lines = action
            .lines()
            .filter(|line| !line.contains("BLOCK_DEVICE") && !line.contains("WAIT_FOR"));
        lines.collect::<Vec<_>>().join("\n")
    })
});

// The action succeeds, and nothing happens afterwards.
case!(example_dry_run, ON_MAIN, |mut machine| {
    let agent = Agent::start(&machine, &paths::root().join("examples/dry-run.yaml"))?;
    succeed(&machine, &agent)?;
    until("no container", LIMIT, || Ok(machine.list()?.is_empty().then_some(())))?;
    ensure!(machine.ended()?.is_none(), "the machine ended");
    if machine.is_docker() {
        let created = machine.events()?.iter().filter(|event| event.action == "create").count();
        ensure!(created == 1, "{created} containers were created");
    }
    Ok(())
});

case!(example_kexec, ON_MAIN, |machine| {
    load(&machine, "kexec")?;
    by_stand_in(&machine, &paths::root().join("examples/kexec.yaml"), "kexec")
});

// With the volumes that CAPT gives to the whole task, and with a blank in the action's name.
case!(example_capt_default, ON_MAIN, |machine| {
    load(&machine, "kexec")?;
    let names =
        ["quay.io/tinkerbell-actions/kexec:v1.0.0", "quay.io/tinkerbell/actions/kexec:latest"];
    machine.engine(&["tag", names[0], names[1]])?;
    let action = fs::read_to_string(paths::root().join("examples/capt-default.yaml"))?;
    let of_task = ["/dev:/dev", "/dev/console:/dev/console", "/lib/firmware:/lib/firmware:ro"];
    let volumes = of_task.map(|volume| format!("    - {volume}\n")).concat();
    let place = machine.out().join("capt-default.yaml");
    fs::write(&place, action.trim_end().to_owned() + "\n" + &volumes)?;
    by_stand_in(&machine, &place, "kexec_image")
});

/// Checks that the stand-in for Tinkerbell's kexec action runs after SUCCESS.
fn by_stand_in(machine: &Machine, actions: &Path, name: &str) -> Result<()> {
    let agent = Agent::start(machine, actions)?;
    succeed(machine, &agent)?;
    let user = format!("{}-user", container(name));
    until("the kexec stand-in's words", LIMIT, || {
        Ok((machine.log_of(&user)?.0.trim() == "kexec stand-in: /dev/sda1 ext4").then_some(()))
    })?;
    let document = machine.inspect(&user)?;
    if machine.is_docker() {
        ensure!(
            document["HostConfig"]["PidMode"] == "host"
                && document["HostConfig"]["Privileged"] == true
        );
    }
    Ok(())
}

case!(reboot_at_once, ON_MAIN, |system: System| {
    changed(system, "reboot", 2.0, false, |text| {
        text.replace("[\"reboot\"]", "[\"reboot\", \"-f\"]")
            .replace("IMAGE: alpine", "IMAGE: alpine\n    WAIT_SECONDS: 2")
    })
});

case!(benign_command_runs_once, ON_ALL, |machine: Shared| benign_command(&machine, ""));

case!(benign_command_runs_once_with_network_host, ON_CAPTAINS, |machine: Shared| benign_command(
    &machine, "host"
));

fn benign_command(machine: &Machine, network: &str) -> Result<()> {
    let script = "echo run >> /out/runs; for a; do printf '<%s>\\n' \"$a\" >> /out/arguments; done; env -0 > /out/environment";
    let arguments = [
        "sh",
        "-c",
        script,
        "name",
        "",
        "--",
        "-x",
        "--privileged",
        "two words ",
        "a\nb",
        "ä\"'$HOME",
    ];
    let variables = [("A", ""), ("B", "x=y"), ("LINES", "a\nb "), ("UTF", "ä\"'")];
    let action = Action::alpine(machine).by_agent().network(network).wait("2").command(&arguments);
    let said = variables
        .iter()
        .fold(action, |action, (name, value)| action.env(name, value))
        .run_well()?;
    ran_once(machine)?;
    let waited = ran_at(machine)? - said.report.context("no report")?.time;
    // SUCCESS is reported a moment after the action's end.
    ensure!((1.5..7.0).contains(&waited), "ran {waited:.2} s after SUCCESS");
    let read = |name: &str| {
        fs::read_to_string(machine.out().join(name)).with_context(|| format!("no {name}"))
    };
    let expected = "<>\n<-->\n<-x>\n<--privileged>\n<two words >\n<a\nb>\n<ä\"'$HOME>\n";
    ensure!(read("arguments")? == expected, "arguments: {}", read("arguments")?);
    let environment = read("environment")?;
    for entry in ["IMAGE=alpine", "WAIT_SECONDS=2", "A=", "B=x=y", "LINES=a\nb ", "UTF=ä\"'"] {
        ensure!(
            environment.split('\0').any(|own| own == entry),
            "{entry:?} is missing: {environment:?}"
        );
    }
    ensure!(!environment.contains("WAITDAEMON"), "ours leaked: {environment}");
    if machine.is_docker() {
        ensure!(count(machine, "start", &format!("{}-user", container("last")))? == 1);
    }
    Ok(())
}

case!(no_command_is_the_images_cmd, ON_MAIN, |machine| {
    load(&machine, "cmd")?;
    Action::new(&machine).by_agent().env("IMAGE", "with-cmd:1").wait("0").run_well()?;
    nothing_left(&machine)?;
    ensure!(fs::read_to_string(machine.out().join("cmd"))? == "from the image\n");
    Ok(())
});

// The image that bundles nerdctl does not even need the host's PIDs, and the user container has its
// own.
case!(own_nerdctl_of_the_image_with_private_pid, ON_CAPTAINS, |machine| {
    machine.load(&own_image_with_nerdctl())?;
    let action = Action::alpine(&machine)
        .image("waitdaemon:dev-nerdctl")
        .wait("1")
        .env("NERDCTL_HOST", "false");
    let action = action.with_own_pids().volumes(own_volumes(&machine)).script("echo $$ > /out/pid");
    action.run_well()?;
    nothing_left(&machine)?;
    ensure!(
        fs::read_to_string(machine.out().join("pid"))? == "1\n",
        "the user container's PIDs must be its own"
    );
    Ok(())
});

case!(a_missing_volume_is_named, ON_CAPTAIN, |machine: Shared| {
    let volumes =
        own_volumes(&machine).into_iter().filter(|volume| !volume.contains("/opt/cni")).collect();
    let said = Action::alpine(&machine).env("NERDCTL_HOST", "false").volumes(volumes).run()?;
    ensure!(said.code != 0, "{said:?}");
    for words in ["lacks these volumes: /opt/cni/bin", "/opt/cni/bin:/opt/cni/bin"] {
        ensure!(said.all().contains(words), "{words:?} is missing: {said:?}");
    }
    Ok(())
});

/// The documented volumes of an action with NERDCTL_HOST false, plus the test's own.
pub fn own_volumes(machine: &Machine) -> Vec<String> {
    let places = [
        "/run/containerd/containerd.sock",
        "/var/lib/containerd",
        "/var/lib/nerdctl",
        "/opt/cni/bin",
        "/etc/cni/net.d",
    ];
    let own = places.iter().map(|place| format!("{place}:{place}"));
    own.chain([format!("{}:/out", machine.out().display())]).collect()
}

// The agent ends a timed-out action with SIGTERM. Nothing may be left, and nothing may run later.
case!(timeout_during_a_slow_pull, ON_MAIN, |machine| {
    let mut registry = Registry::start(&machine)?;
    registry.slow_link(&machine, 100_000)?;
    machine.engine(&["rmi", "-f", "alpine"])?;
    let action =
        Action::new(&machine).by_agent().env("IMAGE", "127.0.0.1:5001/ok:1").wait("0").script(RUN);
    let said = action.timeout(4).run()?;
    let state = said.report.as_ref().map(|report| report.state.as_str());
    ensure!(matches!(state, Some("TIMEOUT" | "FAILED")), "reported {state:?}");
    nothing_left(&machine)?;
    // The same pull without the timeout shows that it takes longer than the action had. Now the
    // image is there: anything left behind to run it could do so.
    machine.engine(&["pull", "-q", "127.0.0.1:5001/ok:1"])?;
    nothing_there(&machine)?;
    ensure!(runs(&machine) == 0, "it ran");
    if machine.is_docker() {
        let name = container("last");
        for role in ["waiter", "user"] {
            let created = count(&machine, "create", &format!("{name}-{role}"))?;
            ensure!(created == 0, "a {role} was made: {:?}", machine.events()?);
        }
        ensure!(count(&machine, "start", &name)? == 1, "the action ran once");
    }
    Ok(())
});
