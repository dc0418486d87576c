//! The start waits for a signal: Smee's 404, or any status at a URL. By a stand-in for Smee.

use std::time::UNIX_EPOCH;

use anyhow::{Context, Result, ensure};
use lab::agent::{Agent, Runtime};
use lab::captain::Captain;
use lab::machine::{Engine, Machine};
use lab::nest::REBOOTED;
use lab::paths;
use lab::smee::Smee;
use lab::until::until;
use serde_json::{Value, json};

use crate::captain::{captain, reported};
use crate::world::{
    ACTION, Action, LIMIT, USER, WAITER, await_event, count, event, host, log, machine, nothing_left, nothing_there,
};

/// Where the stand-in listens in a machine: on all addresses, at Smee's port.
const SMEE: &str = "0.0.0.0:7080";
/// What it is asked for.
const SCRIPT: &str = "/ipxe/script/aa:bb:cc:00:11:22/auto.ipxe";
/// How long 404 must be the answer.
const HOLDS: f64 = 2.0;
/// From then on, what a busy machine takes to ask.
const SOON: f64 = 0.7;
/// From the first 404 to the start itself: what an engine takes on a busy machine, too.
const STARTED_SOON: f64 = 7.0;

pub fn cases() -> Vec<crate::Case> {
    crate::cases![
        starts_when_netboot_is_off,
        only_answers_in_a_row_count,
        a_hiccup_is_not_netboot_off,
        a_killed_waiter_goes_on_waiting,
        expired_it_runs_or_not,
        any_url_and_status,
        found_out_before_success,
    ]
}

pub fn captain_cases() -> Vec<(&'static str, crate::Plain)> {
    vec![
        ("captain::starts_when_netboot_is_off", || on_captain("127.0.0.1", &json!({}))),
        ("captain::starts_when_netboot_is_off_ipv6", || on_captain("[::1]", &json!({}))),
        ("captain::starts_when_netboot_is_off_own_nerdctl", own_nerdctl),
        ("captain::without_answers_in_a_row_it_never_runs", never_in_a_row),
        ("captain::a_hiccup_is_not_netboot_off", hiccup_on_captain),
        ("captain::example_netboot_off", example),
    ]
}

/// An action that waits for netboot to be switched off, and then runs until it is removed.
fn waits<'a>(machine: &'a Machine, host: &str) -> Action<'a> {
    Action::new(machine)
        .env("IMAGE", "alpine")
        .env("WAITDAEMON_WAIT_FOR", "netboot-off")
        .env("WAITDAEMON_SMEE_URL", &format!("http://{host}:7080{SCRIPT}"))
        .command(&["sleep", "1000"])
}

/// Waits for a line of the waiter.
fn line(machine: &Machine, words: &str) -> Result<Value> {
    until(&format!("the waiter to say {words:?}"), LIMIT, || {
        let (out, err) = log(machine, WAITER)?;
        Ok(out.into_iter().chain(err).find(|line| line["message"].as_str().is_some_and(|text| text.contains(words))))
    })
    .with_context(|| format!("{:?}", log(machine, WAITER)))
}

/// The seconds since 1970 of a line of the log.
fn seconds(line: &Value) -> Result<f64> {
    let time = humantime::parse_rfc3339(line["time"].as_str().context("no time")?)?;
    Ok(time.duration_since(UNIX_EPOCH)?.as_secs_f64())
}

/// When the stand-in first said so.
fn first(smee: &Smee, said: &str) -> Result<f64> {
    let answers = smee.answers()?;
    Ok(answers.iter().find(|answer| answer.said == said).with_context(|| format!("never {said}: {answers:?}"))?.time)
}

/// The user container's start, which must come soon after the first 404 and never before.
fn started_soon_after_404(machine: &Machine, smee: &Smee) -> Result<()> {
    let started = await_event(machine, "start", USER)?.time;
    let off = first(smee, "404")?;
    ensure!(started > off, "started {:.3} s before netboot was off", off - started);
    ensure!(started - off < STARTED_SOON, "started {:.3} s after netboot was off", started - off);
    let came = seconds(&line(machine, "signal received: netboot")?)? - off;
    ensure!((HOLDS..HOLDS + SOON).contains(&came), "seen {came:.3} s after netboot was off");
    ensure!(count(machine, "start", USER)? == 1, "it started more than once");
    Ok(())
}

fn starts_when_netboot_is_off(engine: Engine) -> Result<()> {
    let machine = machine(engine)?;
    let smee = Smee::start(&machine, SMEE, "200")?;
    waits(&machine, &host(&machine)?).run_well()?;
    let network = &machine.inspect(WAITER)?["HostConfig"]["NetworkMode"];
    ensure!(network == "default" || network == "bridge", "the waiter's network is {network}");
    smee.asked(4, LIMIT)?;
    ensure!(count(&machine, "start", USER)? == 0, "started although netboot is on");
    smee.say("404")?;
    started_soon_after_404(&machine, &smee)?;
    ensure!(smee.answers()?.iter().all(|answer| answer.path == SCRIPT), "{:?}", smee.answers()?);
    Ok(())
}

/// Flapping, errors, silence and a server that is gone are no answer.
fn only_answers_in_a_row_count(engine: Engine) -> Result<()> {
    let machine = machine(engine)?;
    let smee = Smee::start(&machine, SMEE, "200")?;
    waits(&machine, &host(&machine)?).run_well()?;
    smee.say("flap")?;
    smee.asked(6, LIMIT)?;
    for said in ["500", "close"] {
        smee.say(said)?;
        smee.asked(2, LIMIT)?;
    }
    smee.say("hang")?;
    smee.asked(2, LIMIT)?;
    line(&machine, "no response while waiting for netboot")?;
    drop(smee);
    until("the waiter to find nobody", LIMIT, || {
        let (_, err) = log(&machine, WAITER)?;
        Ok(err.iter().any(|line| line["error"].as_str().is_some_and(|error| error.contains("refused"))).then_some(()))
    })?;
    ensure!(count(&machine, "start", USER)? == 0, "started without answers in a row");
    // The first 404 that counts is this one's.
    std::fs::remove_dir_all(machine.folder().join("smee-0.0.0.0_7080"))?;
    let smee = Smee::start(&machine, SMEE, "404")?;
    started_soon_after_404(&machine, &smee)
}

/// A Smee that has 404 for a second, as one that loses its backend, and is well again.
fn hiccup(smee: &Smee) -> Result<()> {
    smee.say("404")?;
    until("two answers 404", LIMIT, || {
        Ok((smee.answers()?.iter().filter(|answer| answer.said == "404").count() >= 2).then_some(()))
    })?;
    smee.say("200")?;
    smee.asked(4, LIMIT)
}

fn a_hiccup_is_not_netboot_off(engine: Engine) -> Result<()> {
    let machine = machine(engine)?;
    let smee = Smee::start(&machine, SMEE, "200")?;
    waits(&machine, &host(&machine)?).run_well()?;
    smee.asked(2, LIMIT)?;
    hiccup(&smee)?;
    ensure!(count(&machine, "start", USER)? == 0, "started during a hiccup: {:?}", smee.answers()?);
    smee.say("404")?;
    await_event(&machine, "start", USER)?;
    Ok(())
}

fn hiccup_on_captain() -> Result<()> {
    let captain = captain()?;
    let smee = handed_over_on_captain(&captain, "127.0.0.1", &json!({}))?;
    hiccup(&smee)?;
    ensure!(!captain.out().join("ran").exists(), "started during a hiccup: {:?}", smee.answers()?);
    smee.say("404")?;
    until("the user container", LIMIT, || Ok(captain.out().join("ran").exists().then_some(())))
}

fn a_killed_waiter_goes_on_waiting(engine: Engine) -> Result<()> {
    let machine = machine(engine)?;
    let smee = Smee::start(&machine, SMEE, "200")?;
    waits(&machine, &host(&machine)?).run_well()?;
    smee.asked(2, LIMIT)?;
    let pid = machine.inspect(WAITER)?["State"]["Pid"].as_i64().context("no PID")?;
    machine.signal(pid, "KILL")?;
    await_event(&machine, "die", WAITER)?;
    smee.asked(3, LIMIT)?;
    ensure!(count(&machine, "start", USER)? == 0, "started although netboot is on");
    smee.say("404")?;
    await_event(&machine, "start", USER)?;
    Ok(())
}

/// Smee never says it: after WAITDAEMON_WAIT_MAX_SECONDS it runs all the same, or never.
fn expired_it_runs_or_not(engine: Engine) -> Result<()> {
    let machine = machine(engine)?;
    let _smee = Smee::start(&machine, SMEE, "200")?;
    let host = host(&machine)?;
    let waits = || waits(&machine, &host).env("WAITDAEMON_WAIT_MAX_SECONDS", "2");
    waits().env("WAITDAEMON_WAIT_EXPIRED", "abort").run_well()?;
    let said = line(&machine, "timed out after 2 s waiting for netboot")?;
    ensure!(said["level"] == "ERROR" && said["field"] == "environment.WAITDAEMON_WAIT_FOR", "{said}");
    ensure!(said["fix"].as_str().is_some_and(|fix| fix.contains("toggleAllowNetboot")), "{said}");
    ensure!(await_event(&machine, "die", WAITER)?.exit_code == Some(2), "the waiter did not end with 2");
    ensure!(machine.inspect(USER).is_err() && count(&machine, "start", USER)? == 0, "the user container is there");
    machine.docker(&["rm", "-f", WAITER])?;

    waits().run_well()?;
    let started = await_event(&machine, "start", USER)?.time;
    let ended = machine.events()?.into_iter().rfind(|event| event.action == "die" && event.name == ACTION);
    let waited = started - ended.context("no end of the action")?.time;
    ensure!((2.0..7.0).contains(&waited), "started {waited:.3} s after the action's end");
    ensure!(line(&machine, "timed out after 2 s waiting for netboot")?["level"] == "ERROR", "no error");
    Ok(())
}

/// Any URL, any status, by IPv6; WAIT_SECONDS is the least wait.
fn any_url_and_status(engine: Engine) -> Result<()> {
    let machine = machine(engine)?;
    let smee = Smee::start(&machine, "[::1]:8080", "503")?;
    let waits = |status: &str| {
        Action::new(&machine)
            .flags(&["--network", "host"])
            .env("IMAGE", "alpine")
            .env("WAITDAEMON_WAIT_FOR", "http://[::1]:8080/ready?token=secret")
            .env("WAITDAEMON_WAIT_FOR_STATUS", status)
            .command(&["true"])
    };
    // Who is not ready says so: that is an answer, and not the one that is awaited. A query needs no path before it.
    waits("200").env("WAITDAEMON_WAIT_FOR", "http://[::1]:8080?token=secret").run_well()?;
    smee.asked(2, LIMIT)?;
    ensure!(count(&machine, "start", USER)? == 0, "started without the signal");
    smee.say("200")?;
    nothing_left(&machine)?;
    ensure!(smee.answers()?.iter().all(|answer| answer.path == "/?token=secret"), "{:?}", smee.answers()?);
    ensure!(count(&machine, "start", USER)? == 1, "not started");
    smee.say("503")?;
    drop(smee);
    std::fs::remove_dir_all(machine.folder().join("smee-___1__8080"))?;
    let smee = Smee::start(&machine, "[::1]:8080", "503")?;
    // The signal is there from the start.
    let said = waits("503").env("WAIT_SECONDS", "3").run_well()?;
    ensure!(!format!("{said:?}").contains("secret"), "the query is in the log: {said:?}");
    until("the second start", LIMIT, || Ok((count(&machine, "start", USER)? == 2).then_some(())))?;
    let last = |action: &str, name: &str| -> Result<f64> {
        let found = machine.events()?.into_iter().rfind(|event| event.action == action && event.name == name);
        Ok(found.context("no such event")?.time)
    };
    let waited = last("start", USER)? - last("die", ACTION)?;
    ensure!((3.0..8.0).contains(&waited), "started {waited:.3} s after the action's end");
    nothing_left(&machine)?;
    smee.say("200")?;
    waits("418").run_well()?;
    smee.asked(3, LIMIT)?;
    ensure!(count(&machine, "start", USER)? == 2, "started without the signal");
    smee.say("418")?;
    nothing_left(&machine)?;
    ensure!(count(&machine, "start", USER)? == 3, "not started");
    ensure!(smee.answers()?.iter().all(|answer| answer.path == "/ready?token=secret"), "{:?}", smee.answers()?);
    Ok(())
}

/// What cannot work is an error before SUCCESS, or a warning where WAIT_SECONDS goes on to count.
fn found_out_before_success(engine: Engine) -> Result<()> {
    let machine = machine(engine)?;
    let field = "environment.WAITDAEMON_WAIT_FOR";
    let host = host(&machine)?;
    waits(&machine, &host).run()?.expect(1, field, "refused")?;
    nothing_there(&machine)?;
    let netboot = Action::new(&machine).env("IMAGE", "alpine").env("WAITDAEMON_WAIT_FOR", "netboot-off");
    // This machine's kernel was not started by Tinkerbell.
    netboot.run()?.expect(1, field, "grpc_authority")?;
    nothing_there(&machine)?;
    let https = Action::new(&machine).env("IMAGE", "alpine").env("WAITDAEMON_WAIT_FOR", "https://h/ready");
    https.run()?.expect(78, field, "https")?;

    // Smee does not serve this machine: then nothing tells, and time alone counts, unless it must not.
    let smee = Smee::start(&machine, SMEE, "404")?;
    let never = waits(&machine, &host).env("WAITDAEMON_WAIT_EXPIRED", "abort");
    never.run()?.expect(1, field, "HTTP status 404")?;
    nothing_there(&machine)?;
    smee.say("403")?;
    waits(&machine, &host).run()?.expect(1, field, "HTTP status 403")?;
    nothing_there(&machine)?;
    // One 404 among others is no word, here neither.
    let before = smee.answers()?.len();
    smee.say("flap")?;
    let said = waits(&machine, &host).run_well()?;
    ensure!(smee.answers()?[before].said == "404" && !said.err.contains("no boot script"), "{said:?}");
    ensure!(said.out.contains("the waiter will wait for netboot"), "{said:?}");
    machine.docker(&["rm", "-f", WAITER, USER])?;
    smee.say("404")?;
    // 0 is what WAIT_SECONDS is beside a signal; without the signal it would be too soon.
    let said = waits(&machine, &host).env("WAIT_SECONDS", "0").run_well()?;
    ensure!(said.err.contains("\"level\":\"WARN\"") && said.err.contains("no boot script"), "{said:?}");
    let waiting = line(&machine, "starting the wait")?;
    ensure!(waiting["wait_seconds"] == 10, "{waiting}");
    ensure!(event(&machine, "start", USER)?.is_none(), "started at once");
    ensure!(machine.inspect(WAITER)?["HostConfig"]["NetworkMode"] == "none", "the waiter has a network");
    Ok(())
}

/// An action that waits for netboot to be switched off, by the kernel's command line, as Tinkerbell gives it; Smee at
/// its usual port.
fn handed_over_on_captain(captain: &Captain, host: &str, more: &Value) -> Result<Smee> {
    let line = format!("quiet grpc_authority={host}:42113 worker_id=AA:BB:CC:00:11:22 syslog_host=192.0.2.1\n");
    captain.set_command_line(&line)?;
    let smee = Smee::start(captain, &format!("{host}:7080"), "200")?;
    let mut environment = json!({"IMAGE": "alpine", "WAITDAEMON_WAIT_FOR": "netboot-off"});
    if let (Some(all), Some(more)) = (environment.as_object_mut(), more.as_object()) {
        all.extend(more.clone());
    }
    let action = json!({
        "command": ["sh", "-c", "touch /out/ran && exec sleep 1000"],
        "environment": environment,
        "volumes": [
            format!("{}:/out", captain.out().display()),
            "/run/containerd/containerd.sock:/run/containerd/containerd.sock",
            "/var/lib/containerd:/var/lib/containerd",
            "/var/lib/nerdctl:/var/lib/nerdctl",
            "/opt/cni/bin:/opt/cni/bin",
            "/etc/cni/net.d:/etc/cni/net.d",
        ],
        "namespaces": {"network": "host"},
    });
    reported(captain, action, "SUCCESS")?;
    Ok(smee)
}

fn on_captain(host: &str, more: &Value) -> Result<()> {
    let captain = captain()?;
    let smee = handed_over_on_captain(&captain, host, more)?;
    smee.asked(4, LIMIT)?;
    let ran = captain.out().join("ran");
    ensure!(!ran.exists(), "it ran although netboot is on");
    smee.say("404")?;
    until("the user container", LIMIT, || Ok(ran.exists().then_some(())))?;
    let answers = smee.answers()?;
    ensure!(answers.iter().all(|answer| answer.path == SCRIPT), "{answers:?}");
    ensure!(answers.iter().filter(|answer| answer.said == "404").count() == 3, "{answers:?}");
    let lines = captain.logged();
    let came = lines
        .iter()
        .find(|line| line["message"].as_str().is_some_and(|text| text.starts_with("signal received: netboot")));
    let came = seconds(came.with_context(|| format!("{lines:?}"))?)? - first(&smee, "404")?;
    ensure!((HOLDS..HOLDS + SOON).contains(&came), "seen {came:.3} s after netboot was off");
    let started = ran.metadata()?.modified()?.duration_since(UNIX_EPOCH)?.as_secs_f64() - first(&smee, "404")?;
    ensure!((0.0..STARTED_SOON).contains(&started), "it ran {started:.3} s after netboot was off");
    Ok(())
}

/// 404 and 200 in turn, to the end of the wait: there it never runs.
fn never_in_a_row() -> Result<()> {
    let captain = captain()?;
    let more = json!({"WAITDAEMON_WAIT_MAX_SECONDS": "6", "WAITDAEMON_WAIT_EXPIRED": "abort"});
    let smee = handed_over_on_captain(&captain, "127.0.0.1", &more)?;
    smee.say("flap")?;
    smee.asked(4, LIMIT)?;
    let error = until("the waiter's error", LIMIT, || {
        Ok(captain.logged().into_iter().find(|line| line["level"] == "ERROR" && line["phase"] == "waiter"))
    })?;
    let said =
        error["message"].as_str().is_some_and(|text| text.starts_with("timed out after 6 s waiting for netboot"));
    ensure!(said && error["field"] == "environment.WAITDAEMON_WAIT_FOR", "{error}");
    until("the user container's removal", LIMIT, || Ok(captain.id_of(USER).is_none().then_some(())))?;
    ensure!(!captain.out().join("ran").exists(), "it ran without answers in a row");
    let answers = smee.answers()?;
    ensure!(answers.iter().any(|answer| answer.said == "404"), "never 404: {answers:?}");
    Ok(())
}

/// nerdctl in the action's own namespaces: the waiter there has the host's network.
fn own_nerdctl() -> Result<()> {
    on_captain(
        "127.0.0.1",
        &json!({"NERDCTL_HOST": "false", "WAITDAEMON_SMEE_URL": format!("http://127.0.0.1:7080{SCRIPT}")}),
    )
}

/// The documentation's example reboots the machine when netboot is off, and not before.
fn example() -> Result<()> {
    let mut captain = captain()?;
    captain.nerdctl(&["tag", "waitdaemon:dev", "ghcr.io/waitdaemon/waitdaemon:latest"])?;
    captain.set_command_line("grpc_authority=127.0.0.1:42113 worker_id=aa:bb:cc:00:11:22\n")?;
    let smee = Smee::start(&captain, SMEE, "200")?;
    let agent = Agent::start(&captain, Runtime::Containerd, &paths::root().join("examples/netboot-off.yaml"))?;
    let report = agent.final_report(LIMIT)?;
    ensure!(report.state == "SUCCESS", "reported {}: {}", report.state, agent.log());
    // Its volume for Docker is a folder here, which is found out at once.
    ensure!(!agent.log().contains("trying again"), "{}", agent.log());
    smee.asked(4, LIMIT)?;
    ensure!(captain.ended()?.is_none(), "it went down although netboot is on");
    smee.say("404")?;
    let code = captain.wait_for_end(LIMIT)?;
    ensure!(code == REBOOTED, "unshare(1) says {code}");
    Ok(())
}
