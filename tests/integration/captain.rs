//! waitdaemon on CaptainOS: systemd, containerd and the host's nerdctl, with the real Tink Agent.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use lab::agent::{Agent, Runtime};
use lab::captain::Captain;
use lab::nest::{POWERED_OFF, REBOOTED};
use lab::paths;
use lab::until::until;
use serde_json::{Value, json};

use crate::world::{LIMIT, images, own_image};

/// The names of the containers of the action `last`.
const ACTION: &str = "tinkerbell_last_a0";
const WAITER: &str = "tinkerbell_last_a0-waiter";
const USER: &str = "tinkerbell_last_a0-user";

pub fn cases() -> Vec<(&'static str, crate::Plain)> {
    vec![
        ("captain::benign_command_runs_once", || benign_command_runs_once("")),
        ("captain::benign_command_runs_once_with_network_host", || benign_command_runs_once("host")),
        ("captain::example_reboot", || example_reboots("reboot", "")),
        ("captain::example_reboot_with_network_host", || example_reboots("reboot", "host")),
        ("captain::example_nerdctl_only", || example_reboots("nerdctl-only", "")),
        ("captain::example_nerdctl_own", || example_reboots("nerdctl-own", "")),
        ("captain::example_nerdctl_own_with_network_host", || example_reboots("nerdctl-own", "host")),
        ("captain::own_nerdctl_of_the_image_with_private_pid", own_nerdctl_of_the_image_with_private_pid),
        ("captain::a_missing_volume_is_named", a_missing_volume_is_named),
        ("captain::example_kexec", example_kexec),
        ("captain::volumes_on_usual_places", volumes_on_usual_places),
        ("captain::what_the_agent_gives_arrives", what_the_agent_gives_arrives),
        ("captain::a_tag_that_moves_changes_nothing", a_tag_that_moves_changes_nothing),
        ("captain::reboot_at_once", reboot_at_once),
        ("captain::poweroff_is_finished_too", || ends_with("poweroff", POWERED_OFF)),
        ("captain::reboot_that_is_not_finished_does_nothing", reboot_that_is_not_finished_does_nothing),
        ("captain::stop_of_the_waiter_cancels", stop_of_the_waiter_cancels),
        ("captain::the_waiter_has_the_least_it_needs", the_waiter_has_the_least_it_needs),
        ("captain::waiter_is_killed_while_it_waits", waiter_is_killed_while_it_waits),
        ("captain::the_wait_is_counted_since_boot", the_wait_is_counted_since_boot),
        ("captain::bad_input_leaves_nothing", bad_input_leaves_nothing),
        ("captain::hostile_values_are_only_data", hostile_values_are_only_data),
        ("captain::the_same_action_again", the_same_action_again),
        ("captain::the_same_action_twice_at_once", the_same_action_twice_at_once),
        ("captain::a_name_that_a_killed_nerdctl_kept", a_name_that_a_killed_nerdctl_kept),
        ("captain::all_capabilities_are_not_privileged", all_capabilities_are_not_privileged),
        ("captain::containerd_restarts_during_the_wait", containerd_restarts_during_the_wait),
        ("captain::containerd_is_stopped", containerd_is_stopped),
        ("captain::nerdctl_is_missing", nerdctl_is_missing),
        ("captain::registry_in_a_black_hole", registry_in_a_black_hole),
        ("captain::too_many_volumes_for_nerdctl", too_many_volumes_for_nerdctl),
    ]
}

pub fn captain() -> Result<Captain> {
    let captain = Captain::boot()?;
    captain.load(&own_image())?;
    captain.load(&images().join("alpine.tar"))?;
    Ok(captain)
}

/// One action as a file for the agent. JSON is YAML.
pub fn actions(captain: &Captain, action: Value) -> Result<PathBuf> {
    let path = captain.out().join("actions.yaml");
    let mut whole = json!({
        "name": "last", "image": "waitdaemon:dev", "timeout": 90, "pid": "host",
        "volumes": [format!("{}:/out", captain.out().display())],
    });
    if let (Some(whole), Some(action)) = (whole.as_object_mut(), action.as_object()) {
        whole.extend(action.clone());
    }
    fs::write(&path, serde_json::to_string(&json!([whole]))?)?;
    Ok(path)
}

/// Runs the action to the agent's final report, which must be this one.
pub fn reported(captain: &Captain, action: Value, state: &str) -> Result<Agent> {
    let agent = Agent::start(captain, Runtime::Containerd, &actions(captain, action)?)?;
    let report = agent.final_report(LIMIT)?;
    ensure!(report.state == state, "reported {}: {}", report.state, agent.log());
    Ok(agent)
}

/// Name and state of all containers. nerdctl's list fails where one is deleted meanwhile.
pub fn containers(captain: &Captain) -> Result<String> {
    until("a list of containers", LIMIT, || {
        Ok(captain.nerdctl(&["ps", "-a", "--format", "{{.Names}} {{.Status}}"]).ok())
    })
}

pub fn nothing_left(captain: &Captain) -> Result<()> {
    let gone = until("no container", LIMIT, || {
        let ours = [WAITER, USER].iter().any(|name| captain.id_of(name).is_some());
        Ok((!ours && containers(captain)?.is_empty()).then_some(()))
    });
    gone.with_context(|| containers(captain).unwrap_or_default())
}

/// The JSON lines that the waiter logged.
pub fn log(captain: &Captain) -> Vec<Value> {
    captain.logged().into_iter().filter(|line| line["phase"] == "waiter").collect()
}

fn benign_command_runs_once(network: &str) -> Result<()> {
    let captain = captain()?;
    let script =
        "echo run >> /out/runs; for a; do printf '<%s>\\n' \"$a\" >> /out/arguments; done; env -0 > /out/environment";
    let arguments = ["sh", "-c", script, "name", "", "--", "-x", "--privileged", "two words ", "a\nb", "ä\"'$HOME"];
    let environment =
        json!({"IMAGE": "alpine", "WAIT_SECONDS": "2", "A": "", "B": "x=y", "LINES": "a\nb ", "UTF": "ä\"'"});
    let action = json!({"command": arguments, "environment": environment, "namespaces": {"network": network}});
    let agent = reported(&captain, action, "SUCCESS")?;
    let success = agent.final_report(LIMIT)?.time;
    nothing_left(&captain)?;
    let read = |name: &str| {
        let text = fs::read_to_string(captain.out().join(name));
        text.with_context(|| format!("no {name}: {}", captain.container_logs()))
    };
    ensure!(read("runs")? == "run\n", "it ran more than once");
    let ran = fs::metadata(captain.out().join("runs"))?.modified()?.duration_since(UNIX_EPOCH)?;
    let waited = ran.as_secs_f64() - success;
    // SUCCESS is reported a moment after the action's end.
    ensure!((1.5..6.0).contains(&waited), "ran {waited:.2} s after SUCCESS");
    let expected = "<>\n<-->\n<-x>\n<--privileged>\n<two words >\n<a\nb>\n<ä\"'$HOME>\n";
    ensure!(read("arguments")? == expected, "arguments: {}", read("arguments")?);
    let environment = read("environment")?;
    for entry in ["IMAGE=alpine", "WAIT_SECONDS=2", "A=", "B=x=y", "LINES=a\nb ", "UTF=ä\"'"] {
        ensure!(environment.split('\0').any(|own| own == entry), "{entry:?} is missing: {environment:?}");
    }
    Ok(())
}

/// A nerdctl that is killed while it creates a container keeps the name for it; but another one that runs has it for a
/// reason.
fn a_name_that_a_killed_nerdctl_kept() -> Result<()> {
    let captain = captain()?;
    let keep = |name: &str| -> Result<()> {
        // Any container makes the store.
        captain.nerdctl(&["create", "--name", "other", "alpine"])?;
        let stores = fs::read_dir(captain.folder().join("data/nerdctl"))?.flatten();
        let names = stores.map(|store| store.path().join("names/tinkerbell")).find(|names| names.is_dir());
        fs::write(names.context("no store of names")?.join(name), "ab".repeat(32))?;
        captain.nerdctl(&["rm", "other"]).map(drop)
    };
    let action = || json!({"command": ["touch", "/out/ran"], "environment": {"IMAGE": "alpine", "WAIT_SECONDS": "0"}});
    keep(WAITER)?;
    keep(USER)?;
    drop(reported(&captain, action(), "SUCCESS")?);
    nothing_left(&captain)?;
    ensure!(captain.out().join("ran").exists(), "it did not run");

    keep(WAITER)?;
    let named = format!("--name={WAITER}");
    let _nerdctl = captain.start("sh", &["-c", "sleep 1000; :", "nerdctl", &named], &captain.out().join("log"))?;
    let agent = reported(&captain, action(), "FAILED")?;
    ensure!(agent.log().contains("is already used by ID"), "{}", agent.log());
    Ok(())
}

/// The documentation's template on this system too, unchanged or with a network: the machine reboots
/// in order.
fn example_reboots(name: &str, network: &str) -> Result<()> {
    let mut captain = captain()?;
    captain.nerdctl(&["tag", "waitdaemon:dev", "ghcr.io/waitdaemon/waitdaemon:latest"])?;
    let mut file = paths::root().join(format!("examples/{name}.yaml"));
    if !network.is_empty() {
        let text = fs::read_to_string(&file)? + &format!("  namespaces:\n    network: {network}\n");
        file = captain.out().join("example.yaml");
        fs::write(&file, text)?;
    }
    let agent = Agent::start(&captain, Runtime::Containerd, &file)?;
    let report = agent.final_report(LIMIT)?;
    ensure!(report.state == "SUCCESS", "reported {}: {}", report.state, agent.log());
    let end = captain.wait_for_end(Duration::from_secs(60) + LIMIT);
    let code = end.with_context(|| format!("{}{}", captain.container_logs(), captain.logs()))?;
    let ended = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
    ensure!(code == REBOOTED, "the machine ended with {code}");
    ensure!(ended - report.time >= 10.0, "rebooted {:.1} s after SUCCESS", ended - report.time);
    ensure!(captain.out().join("stopped-in-order").exists(), "systemd did not stop its units");
    Ok(())
}

/// Volumes where every container has a mount of its own, or the agent adds one.
fn volumes_on_usual_places() -> Result<()> {
    let captain = captain()?;
    let out = captain.out().display().to_string();
    fs::create_dir_all(captain.out().join("run/inside"))?;
    let volumes = [
        "/dev:/dev".into(),
        format!("{out}/run:/run"),
        format!("{out}:/out"),
        format!("{out}/run:/ro:ro"),
        "/sys:/sys".into(),
        format!("{out}/./run/:/slash//"),
        format!("{out}:/z:z"),
    ];
    let environment = json!({"IMAGE": "alpine", "WAIT_SECONDS": "0"});
    let script = "cat /proc/self/mountinfo > /out/mounts; ls -d /run/inside /ro/inside; touch /ro/x || touch /out/ran";
    let action = json!({"command": ["sh", "-c", script], "environment": environment, "volumes": volumes});
    let agent = reported(&captain, action, "SUCCESS")?;
    nothing_left(&captain)?;
    drop(agent);
    ensure!(captain.out().join("ran").exists(), "the read-only volume could be written, or nothing ran");
    let mounts = fs::read_to_string(captain.out().join("mounts"))?;
    for target in ["/dev", "/run"] {
        let line = mounts.lines().rfind(|line| line.split(' ').nth(4) == Some(target)).unwrap_or_default();
        ensure!(!line.contains("size=65536k"), "{target} is a new one, not the volume: {line}");
    }
    Ok(())
}

/// What the agent's containers have and nerdctl would give otherwise: the user container is held against
/// an action that runs the same image itself.
fn what_the_agent_gives_arrives() -> Result<()> {
    let captain = captain()?;
    let out = captain.out().display().to_string();
    // On a real CaptainOS systemd has made every mount shared.
    let shared = format!("mkdir -p {out}/s && mount -t tmpfs none {out}/s && mount --make-shared {out}/s");
    ensure!(captain.command("sh").args(["-c", &shared]).status()?.success());
    let mounts_seen = |image: &str, folder: &str| -> Result<(Vec<String>, String)> {
        let script = format!("cat /proc/self/mountinfo > /out/{folder}.mounts; echo $HOSTNAME > /out/{folder}.name");
        let environment = json!({"IMAGE": "alpine", "WAIT_SECONDS": "0", "HOSTNAME": "web-1.example.org"});
        let volumes =
            [format!("{out}:/out"), format!("{out}/s:/ro:ro"), format!("{out}/s:/rw:rw"), "/tmp:/tmp:ro".into()];
        let action =
            json!({"image": image, "command": ["sh", "-c", script], "environment": environment, "volumes": volumes});
        let agent = reported(&captain, action, "SUCCESS")?;
        nothing_left(&captain)?;
        drop(agent);
        let text = fs::read_to_string(captain.out().join(format!("{folder}.mounts")))?;
        let of_interest =
            |line: &&str| ["/run", "/ro", "/rw", "/tmp", "/out"].contains(&line.split(' ').nth(4).unwrap_or_default());
        // Place, options and, without the group's number, what it is to its source.
        let shown = |line: &str| {
            let tagged = if line.contains(" master:") {
                "slave"
            } else if line.contains(" shared:") {
                "shared"
            } else {
                "private"
            };
            let mut fields = line.split(' ').skip(4).take(2).collect::<Vec<_>>();
            fields.push(tagged);
            fields.join(" ")
        };
        let mut mounts: Vec<String> = text.lines().filter(of_interest).map(shown).collect();
        mounts.sort();
        Ok((mounts, fs::read_to_string(captain.out().join(format!("{folder}.name")))?))
    };
    let action = mounts_seen("alpine", "action")?;
    let user = mounts_seen("waitdaemon:dev", "user")?;
    ensure!(action == user, "the action has {action:?}, the user container {user:?}");
    ensure!(action.1 == "web-1.example.org\n" && action.0.iter().any(|mount| mount.ends_with("slave")), "{action:?}");
    Ok(())
}

/// While the waiter waits, IMAGE's tag is given to another image.
fn a_tag_that_moves_changes_nothing() -> Result<()> {
    let captain = captain()?;
    captain.load(&images().join("cmd.tar"))?;
    let environment = json!({"IMAGE": "alpine", "WAIT_SECONDS": "8"});
    let action = json!({"command": ["sh", "-c", "ls /bin/busybox /etc/passwd > /out/ran"], "environment": environment});
    let agent = reported(&captain, action, "SUCCESS")?;
    let verified = captain.inspect(USER)?;
    captain.nerdctl(&["tag", "with-cmd:1", "alpine:latest"])?;
    let user = captain.inspect(USER)?;
    ensure!(user["SnapshotKey"] == verified["SnapshotKey"] && user["Process"].is_null(), "{user}");
    nothing_left(&captain)?;
    drop(agent);
    ensure!(captain.out().join("ran").exists(), "it did not run");
    Ok(())
}

fn example_kexec() -> Result<()> {
    let captain = captain()?;
    captain.nerdctl(&["tag", "waitdaemon:dev", "ghcr.io/waitdaemon/waitdaemon:latest"])?;
    captain.load(&images().join("kexec.tar"))?;
    let agent = Agent::start(&captain, Runtime::Containerd, &paths::root().join("examples/kexec.yaml"))?;
    let report = agent.final_report(LIMIT)?;
    ensure!(report.state == "SUCCESS", "reported {}: {}", report.state, agent.log());
    until("the kexec stand-in's words", LIMIT, || {
        let said = captain.nerdctl(&["logs", "tinkerbell_kexec_a0-user"]);
        Ok(said.is_ok_and(|said| said == "kexec stand-in: /dev/sda1 ext4").then_some(()))
    })
}

/// A command of BusyBox's that systemd does not act on ends the machine all the same.
fn ends_with(command: &str, code: i32) -> Result<()> {
    let mut captain = captain()?;
    let environment = json!({"IMAGE": "alpine", "WAIT_SECONDS": "0"});
    let agent = reported(&captain, json!({"command": [command], "environment": environment}), "SUCCESS")?;
    let ended = captain.wait_for_end(LIMIT)?;
    ensure!(ended == code, "the machine ended with {ended}: {}", captain.logs());
    drop(agent);
    Ok(())
}

/// The negative control of the two above, and what the Go waitdaemon does.
fn reboot_that_is_not_finished_does_nothing() -> Result<()> {
    let mut captain = captain()?;
    let environment = json!({"IMAGE": "alpine", "WAIT_SECONDS": "0", "WAITDAEMON_FINISH_REBOOT": "false"});
    let agent = reported(&captain, json!({"command": ["reboot"], "environment": environment}), "SUCCESS")?;
    nothing_left(&captain)?;
    // Nothing of ours is left that could still ask; systemd has re-executed itself and lives.
    let state = lab::nest::output(captain.command("systemctl").args(["is-system-running", "--wait"]))?;
    ensure!(!String::from_utf8_lossy(&state.stdout).contains("stopping"), "systemd is going down");
    ensure!(captain.ended()?.is_none(), "the machine ended");
    drop(agent);
    Ok(())
}

fn reboot_at_once() -> Result<()> {
    let mut captain = captain()?;
    let environment = json!({"IMAGE": "alpine", "WAIT_SECONDS": "1"});
    let agent = reported(&captain, json!({"command": ["reboot", "-f"], "environment": environment}), "SUCCESS")?;
    let code = captain.wait_for_end(LIMIT)?;
    ensure!(code == REBOOTED, "the machine ended with {code}");
    // Which also shows that the file means something.
    ensure!(!captain.out().join("stopped-in-order").exists(), "`reboot -f` does not go down in order");
    drop(agent);
    Ok(())
}

/// A handoff with a long wait; the waiter waits and the user container is there.
fn waiting(captain: &Captain, wait: &str) -> Result<Agent> {
    let environment = json!({"IMAGE": "alpine", "WAIT_SECONDS": wait});
    let agent = reported(captain, json!({"command": ["touch", "/out/ran"], "environment": environment}), "SUCCESS")?;
    until("the waiter to wait", LIMIT, || {
        Ok(log(captain).iter().any(|line| line["wait_seconds"].is_number()).then_some(()))
    })?;
    ensure!(captain.inspect(USER)?["Process"].is_null(), "the user container must not run yet");
    Ok(agent)
}

fn never_ran(captain: &Captain) -> Result<()> {
    ensure!(!captain.out().join("ran").exists(), "the user container ran");
    Ok(())
}

fn stop_of_the_waiter_cancels() -> Result<()> {
    let captain = captain()?;
    let agent = waiting(&captain, "60")?;
    // The waiter may be gone before nerdctl looks at it again, so nerdctl's own word does not count.
    lab::nest::output(captain.nerdctl_command().args(["stop", WAITER]))?;
    nothing_left(&captain)?;
    drop(agent);
    never_ran(&captain)
}

/// The table of docs/security.md.
fn the_waiter_has_the_least_it_needs() -> Result<()> {
    let captain = captain()?;
    let agent = waiting(&captain, "60")?;
    let waiter = captain.inspect(WAITER)?;
    let spec = &waiter["Spec"];
    let capabilities = &spec["process"]["capabilities"];
    let mut bounding: Vec<&str> =
        capabilities["bounding"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    bounding.sort_unstable();
    ensure!(bounding == ["CAP_SYS_ADMIN", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE"], "{capabilities}");
    ensure!(capabilities["effective"].as_array().is_none_or(|all| all.len() == 3), "{capabilities}");
    ensure!(spec["process"]["noNewPrivileges"] == true && spec["root"]["readonly"] == true, "{spec}");
    ensure!(spec["linux"]["seccomp"].is_object() && spec["linux"]["maskedPaths"].is_array(), "{spec}");
    let networks = waiter["Labels"]["nerdctl/networks"].as_str();
    ensure!(networks == Some("[\"none\"]"), "{networks:?}");
    let of_host = |mount: &Value| {
        mount["type"] == "bind"
            && !["/etc/hostname", "/etc/hosts", "/etc/resolv.conf"].iter().any(|file| mount["destination"] == *file)
    };
    let mounts: Vec<&Value> = spec["mounts"].as_array().into_iter().flatten().filter(|mount| of_host(mount)).collect();
    ensure!(mounts.is_empty(), "{mounts:?}");
    let variables = spec["process"]["env"].to_string();
    ensure!(!variables.contains("IMAGE") && !variables.contains("WAIT_SECONDS"), "{variables}");
    drop(agent);
    Ok(())
}

/// The wait's timer goes by a clock that setting the time does not move, and that goes on in a suspend.
fn the_wait_is_counted_since_boot() -> Result<()> {
    let captain = captain()?;
    let agent = waiting(&captain, "60")?;
    let pid = captain.inspect(WAITER)?["Process"]["Pid"].as_i64().context("no PID")?;
    let clocks = captain.command("sh").args(["-c", &format!("cat /proc/{pid}/fdinfo/*")]).output()?;
    let text = String::from_utf8_lossy(&clocks.stdout).into_owned();
    // timerfd's own lines (proc_pid_fdinfo(5)); 7 is CLOCK_BOOTTIME.
    let clock = text.lines().find(|line| line.starts_with("clockid:")).with_context(|| format!("no timer: {text}"))?;
    ensure!(clock.trim_start_matches("clockid:").trim() == "7", "{clock}");
    drop(agent);
    Ok(())
}

/// containerd starts it again (its restart monitor looks every 10 s), and it takes up where it was.
fn waiter_is_killed_while_it_waits() -> Result<()> {
    let captain = captain()?;
    let environment = json!({"IMAGE": "alpine", "WAIT_SECONDS": "6"});
    let action = json!({"command": ["sh", "-c", "echo run >> /out/ran"], "environment": environment});
    let agent = reported(&captain, action, "SUCCESS")?;
    let pid = captain.inspect(WAITER)?["Process"]["Pid"].as_i64().context("no PID")?;
    captain.signal(pid, "KILL")?;
    until("the end of the waiter", LIMIT, || Ok((!captain.runs("/waiter")?).then_some(())))?;
    ensure!(!captain.out().join("ran").exists(), "the wait was over before the waiter was killed");
    nothing_left(&captain)?;
    drop(agent);
    ensure!(fs::read_to_string(captain.out().join("ran"))? == "run\n", "it must run exactly once");
    Ok(())
}

/// Each fails before SUCCESS, and of ours nothing is left.
fn bad_input_leaves_nothing() -> Result<()> {
    let captain = captain()?;
    for (action, words) in [
        (
            json!({"environment": {"IMAGE": "127.0.0.1:5999/none:1", "WAITDAEMON_PULL_TIMEOUT_SECONDS": "2"}}),
            "cannot pull the image",
        ),
        (json!({"environment": {"IMAGE": "alpine"}, "pid": ""}), "add to the action:  pid: host"),
        (json!({"environment": {"IMAGE": "alpine", "WAIT_SECONDS": "x"}}), "WAIT_SECONDS is not a whole number"),
        (json!({"environment": {"IMAGE": "alpine", "CONTAINER_RUNTIME": "docker"}}), "is not mounted"),
        (json!({"environment": {"IMAGE": "--privileged"}}), "\"field\":\"environment.IMAGE\""),
        (json!({"environment": {"IMAGE": "../x"}}), "\"field\":\"environment.IMAGE\""),
        (json!({"environment": {"IMAGE": "alpine\n--privileged"}}), "\"field\":\"environment.IMAGE\""),
        (
            json!({"environment": {"IMAGE": "alpine", "NERDCTL_NAMESPACE": "--help"}}),
            "\"field\":\"environment.NERDCTL_NAMESPACE\"",
        ),
    ] {
        let agent = reported(&captain, action.clone(), "FAILED")?;
        let text = agent.log();
        ensure!(text.contains(words), "{action}: {words:?} is missing: {text}");
        let left = containers(&captain)?;
        ensure!(!left.contains(&format!("{ACTION}-")), "{action}: containers are left: {left}");
    }
    Ok(())
}

/// As long as the kernel takes a variable and an argument (128 KiB with its end, execve(2)), and what looks like a flag.
fn hostile_values_are_only_data() -> Result<()> {
    let captain = captain()?;
    let long = "x".repeat(131_060);
    let script = "printf '%s\\n' ${#BIG} ${#1} \"$2\" \"$FLAG\" > /out/seen";
    let environment = json!({"IMAGE": "alpine", "WAIT_SECONDS": "0", "BIG": long, "FLAG": "--privileged\n--name=x"});
    let command = ["sh", "-c", script, "name", &long, "--volume=/:/host"];
    let agent = reported(&captain, json!({"command": command, "environment": environment}), "SUCCESS")?;
    nothing_left(&captain)?;
    let seen = fs::read_to_string(captain.out().join("seen")).with_context(|| agent.log())?;
    ensure!(seen == "131060\n131060\n--volume=/:/host\n--privileged\n--name=x\n", "{seen:?}");
    Ok(())
}

/// The agent comes back and is served the same action while the first one waits.
fn the_same_action_again() -> Result<()> {
    let captain = captain()?;
    let first = waiting(&captain, "6")?;
    let before = captain.inspect(USER)?["ID"].clone();
    drop(first);
    let second = waiting(&captain, "6")?;
    ensure!(captain.inspect(USER)?["ID"] != before, "the first attempt's user container must be gone");
    nothing_left(&captain)?;
    drop(second);
    ensure!(captain.out().join("ran").exists(), "it must run in the end");
    Ok(())
}

/// Two agents run the same action in the same moment: containerd, unlike Docker, takes a name twice. One may
/// have the user container's name and the other the waiter's: then both fail, and nothing runs.
fn the_same_action_twice_at_once() -> Result<()> {
    let captain = captain()?;
    let environment = json!({"IMAGE": "alpine", "WAIT_SECONDS": "4"});
    let file = actions(&captain, json!({"command": ["sh", "-c", "echo run >> /out/ran"], "environment": environment}))?;
    let agents = [0, 1].map(|number| Agent::start_another(&captain, Runtime::Containerd, &file, number));
    let (mut succeeded, mut said) = (0, String::new());
    for agent in agents {
        let agent = agent?;
        succeeded += usize::from(agent.final_report(LIMIT)?.state == "SUCCESS");
        said += &agent.log();
    }
    until("the end of waiters and user containers", LIMIT, || {
        Ok((!containers(&captain)?.contains(&format!("{ACTION}-"))).then_some(()))
    })?;
    let ran = fs::read_to_string(captain.out().join("ran")).unwrap_or_default();
    let expected = if succeeded > 0 { "run\n" } else { "" };
    ensure!(ran == expected && succeeded == 2, "{succeeded} succeeded, it ran: {ran:?}: {said}");
    Ok(())
}

/// The documented volumes of an action with NERDCTL_HOST false, and the test's own.
pub fn own_volumes(captain: &Captain) -> Vec<String> {
    let places = [
        "/run/containerd/containerd.sock",
        "/var/lib/containerd",
        "/var/lib/nerdctl",
        "/opt/cni/bin",
        "/etc/cni/net.d",
    ];
    let out = captain.out().display().to_string();
    let mut volumes: Vec<String> = places.iter().map(|place| format!("{place}:{place}")).collect();
    volumes.push(format!("{out}:/out"));
    volumes
}

/// The image that bundles nerdctl needs not even the host's PIDs, and the user container has its own.
fn own_nerdctl_of_the_image_with_private_pid() -> Result<()> {
    let captain = captain()?;
    captain.load(&paths::root().join("dist/waitdaemon-nerdctl.tar"))?;
    let environment = json!({"IMAGE": "alpine", "WAIT_SECONDS": "1", "NERDCTL_HOST": "false"});
    let command = ["sh", "-c", "echo $$ > /out/pid"];
    let action = json!({"image": "waitdaemon:dev-nerdctl", "pid": "", "command": command,
                        "environment": environment, "volumes": own_volumes(&captain)});
    let agent = reported(&captain, action, "SUCCESS")?;
    nothing_left(&captain)?;
    drop(agent);
    ensure!(fs::read_to_string(captain.out().join("pid"))? == "1\n", "the user container's PIDs must be its own");
    Ok(())
}

fn a_missing_volume_is_named() -> Result<()> {
    let captain = captain()?;
    let environment = json!({"IMAGE": "alpine", "NERDCTL_HOST": "false"});
    let volumes: Vec<String> =
        own_volumes(&captain).into_iter().filter(|volume| !volume.contains("/opt/cni")).collect();
    let agent = reported(&captain, json!({"environment": environment, "volumes": volumes}), "FAILED")?;
    let text = agent.log();
    ensure!(text.contains("lacks these volumes: /opt/cni/bin") && text.contains("/opt/cni/bin:/opt/cni/bin"), "{text}");
    Ok(())
}

/// A container that nerdctl made by hand, with every capability but not privileged.
fn all_capabilities_are_not_privileged() -> Result<()> {
    let captain = captain()?;
    let run =
        ["run", "--name", ACTION, "--pid", "host", "--cap-add", "ALL", "-e", "IMAGE=alpine", "-e", "WAIT_SECONDS=30"];
    captain.nerdctl(&[&run[..], &["waitdaemon:dev", "true"]].concat())?;
    let user = captain.inspect(USER)?;
    let spec = &user["Spec"];
    ensure!(spec["process"]["capabilities"]["bounding"].as_array().is_some_and(|all| all.len() > 30), "{spec}");
    ensure!(
        spec["linux"]["maskedPaths"].as_array().is_some_and(|paths| !paths.is_empty()),
        "it became privileged: {spec}"
    );
    captain.nerdctl(&["stop", WAITER]).ok();
    captain.nerdctl(&["rm", "-f", ACTION])?;
    nothing_left(&captain)
}

fn containerd_restarts_during_the_wait() -> Result<()> {
    let captain = captain()?;
    let environment = json!({"IMAGE": "alpine", "WAIT_SECONDS": "8"});
    let action = json!({"command": ["sh", "-c", "echo run >> /out/ran"], "environment": environment});
    let agent = reported(&captain, action, "SUCCESS")?;
    let restarted = captain.command("systemctl").args(["restart", "containerd"]).status()?;
    ensure!(restarted.success(), "systemctl: {restarted}");
    nothing_left(&captain)?;
    drop(agent);
    ensure!(fs::read_to_string(captain.out().join("ran"))? == "run\n", "it must run exactly once");
    Ok(())
}

/// Without containerd no container starts; the program itself in a mount namespace of its own sees
/// what a container would.
fn containerd_is_stopped() -> Result<()> {
    let captain = captain()?;
    ensure!(captain.command("systemctl").args(["stop", "containerd"]).status()?.success());
    let program = paths::root().join("target/x86_64-unknown-linux-musl/release/waitdaemon");
    let mut run = captain.command("unshare");
    let said = lab::nest::output(run.args(["-m", "env", "-i", "IMAGE=alpine"]).arg(program))?;
    let text = String::from_utf8_lossy(&said.stderr);
    ensure!(said.status.code() == Some(12), "{}: {text}", said.status);
    ensure!(
        text.contains("no answer from containerd by the host's nerdctl") && text.contains("is not mounted"),
        "{text}"
    );
    Ok(())
}

fn nerdctl_is_missing() -> Result<()> {
    let captain = captain()?;
    ensure!(captain.command("rm").arg("/usr/local/bin/nerdctl").status()?.success());
    let agent = reported(&captain, json!({"environment": {"IMAGE": "alpine"}}), "FAILED")?;
    ensure!(agent.log().contains("the host has no nerdctl"), "{}", agent.log());
    Ok(())
}

/// Whoever asks gets no answer at all, not even a refusal.
fn registry_in_a_black_hole() -> Result<()> {
    let captain = captain()?;
    let mut drop_all = captain.command("iptables");
    ensure!(
        drop_all.args(["-A", "INPUT", "-i", "lo", "-p", "tcp", "--dport", "5998", "-j", "DROP"]).status()?.success()
    );
    let environment = json!({"IMAGE": "127.0.0.1:5998/any:1", "WAITDAEMON_PULL_TIMEOUT_SECONDS": "6"});
    let agent = reported(&captain, json!({"environment": environment}), "FAILED")?;
    let text = agent.log();
    ensure!(text.contains("was not pulled within 6 s") && text.contains("still pulling"), "{text}");
    ensure!(!containers(&captain)?.contains(&format!("{ACTION}-")), "containers are left");
    Ok(())
}

/// nerdctl keeps all volumes in one label of at most 4096 bytes: its own word is the error.
fn too_many_volumes_for_nerdctl() -> Result<()> {
    let captain = captain()?;
    let volumes: Vec<String> = (0..60).map(|n| format!("/tmp:/volume-{n}")).collect();
    let agent = reported(&captain, json!({"environment": {"IMAGE": "alpine"}, "volumes": volumes}), "FAILED")?;
    let text = agent.log();
    ensure!(text.contains("cannot create the user container") && text.contains("label"), "{text}");
    ensure!(text.contains("\"field\":\"volumes\""), "the field is not named: {text}");
    ensure!(!containers(&captain)?.contains(&format!("{ACTION}-")), "containers are left");
    Ok(())
}
