//! The start waits for a signal: Smee's 404, or any status at a URL. The cases use a stand-in for
//! Smee.

use std::fs;
use std::time::UNIX_EPOCH;

use anyhow::{Context, Result, ensure};
use lab::agent::Agent;
use lab::machine::{Machine, REBOOTED};
use lab::paths;
use lab::smee::Smee;
use lab::until::until;
use serde_json::Value;

use crate::by_agent::own_volumes;
use crate::case;
use crate::cases::{ON_CAPTAIN, ON_MAIN};
use crate::world::{
    Action, LIMIT, RUN, USER, WAITER, host, kill_waiter, nothing_left, nothing_there, ran_at,
    ran_once, running, runs, seconds, waiter_line, waiter_log, waiter_says,
};

/// The stand-in's address in a machine: all addresses, at Smee's port.
const SMEE: &str = "0.0.0.0:7080";
/// The path that the stand-in is asked for.
const SCRIPT: &str = "/ipxe/script/aa:bb:cc:00:11:22/auto.ipxe";
/// How long the answer must stay 404.
const HOLDS: f64 = 2.0;
/// How long a busy machine may take to ask after that.
const SOON: f64 = 0.7;
/// From the first 404 to the start itself, including what an engine takes on a busy machine.
const STARTED_SOON: f64 = 7.0;

/// An action that waits for netboot to be switched off and then runs until it is removed. On Docker
/// it is given the URL; on containerd it finds it on the machine's command line.
fn waits(machine: &Machine) -> Result<Action<'_>> {
    let action = Action::alpine(machine).env("WAITDAEMON_WAIT_FOR", "netboot-off");
    let action = action.script(&format!("{RUN}; exec sleep 1000"));
    if machine.is_docker() {
        let url = format!("http://{}:7080{SCRIPT}", host(machine)?);
        return Ok(action.env("WAITDAEMON_SMEE_URL", &url));
    }
    by_command_line(machine, "127.0.0.1")?;
    Ok(action.network("host"))
}

fn by_command_line(machine: &Machine, host: &str) -> Result<()> {
    let line = format!(
        "quiet grpc_authority={host}:42113 worker_id=AA:BB:CC:00:11:22 syslog_host=192.0.2.1\n"
    );
    machine.set_command_line(&line)
}

/// When the stand-in first gave this answer.
fn first(smee: &Smee, said: &str) -> Result<f64> {
    let answers = smee.answers()?;
    Ok(answers
        .iter()
        .find(|answer| answer.said == said)
        .with_context(|| format!("never {said}: {answers:?}"))?
        .time)
}

/// Waits until the user container runs; returns its start time.
fn started(machine: &Machine) -> Result<f64> {
    until("the user container", LIMIT, || Ok((runs(machine) > 0).then_some(())))
        .with_context(|| format!("{:?}", waiter_log(machine)))?;
    ran_at(machine)
}

/// Checks that the user container started soon after the first 404 and not before it.
fn started_soon_after_404(machine: &Machine, smee: &Smee) -> Result<()> {
    let (started, off) = (started(machine)?, first(smee, "404")?);
    ensure!(started > off, "started {:.3} s before netboot was off", off - started);
    ensure!(started - off < STARTED_SOON, "started {:.3} s after netboot was off", started - off);
    let came = seconds(&waiter_says(machine, "signal received: netboot")?)? - off;
    ensure!((HOLDS..HOLDS + SOON).contains(&came), "seen {came:.3} s after netboot was off");
    ensure!(runs(machine) == 1, "it started more than once");
    Ok(())
}

case!(starts_when_netboot_is_off, ON_MAIN, |machine| {
    let smee = Smee::start(&machine, SMEE, "200")?;
    waits(&machine)?.run_well()?;
    if machine.is_docker() {
        let network = &machine.inspect(WAITER)?["HostConfig"]["NetworkMode"];
        ensure!(network == "default" || network == "bridge", "the waiter's network is {network}");
    }
    starts_after_404(&machine, &smee)
});

fn starts_after_404(machine: &Machine, smee: &Smee) -> Result<()> {
    smee.asked(4, LIMIT)?;
    ensure!(runs(machine) == 0, "started although netboot is on");
    smee.say("404")?;
    started_soon_after_404(machine, smee)?;
    let answers = smee.answers()?;
    ensure!(answers.iter().all(|answer| answer.path == SCRIPT), "{answers:?}");
    ensure!(answers.iter().filter(|answer| answer.said == "404").count() == 3, "{answers:?}");
    Ok(())
}

case!(by_ipv6, ON_CAPTAIN, |machine| {
    let smee = Smee::start(&machine, "[::1]:7080", "200")?;
    let action = waits(&machine)?;
    by_command_line(&machine, "[::1]")?;
    action.run_well()?;
    starts_after_404(&machine, &smee)
});

// nerdctl runs in the action's own namespaces; the waiter there has the host's network.
case!(with_own_nerdctl, ON_CAPTAIN, |machine| {
    let smee = Smee::start(&machine, SMEE, "200")?;
    let url = format!("http://127.0.0.1:7080{SCRIPT}");
    let action = waits(&machine)?.env("NERDCTL_HOST", "false").env("WAITDAEMON_SMEE_URL", &url);
    action.volumes(own_volumes(&machine)).run_well()?;
    starts_after_404(&machine, &smee)
});

// Flapping, errors, silence and an absent server do not count as the answer.
case!(only_answers_in_a_row_count, ON_MAIN, |machine| {
    let smee = Smee::start(&machine, SMEE, "200")?;
    waits(&machine)?.run_well()?;
    smee.say("flap")?;
    smee.asked(6, LIMIT)?;
    for said in ["500", "close"] {
        smee.say(said)?;
        smee.asked(2, LIMIT)?;
    }
    smee.say("hang")?;
    smee.asked(2, LIMIT)?;
    waiter_says(&machine, "no response while waiting for netboot")?;
    drop(smee);
    waiter_line(&machine, "that nobody is there", |line| {
        line["error"].as_str().is_some_and(|error| error.contains("refused"))
    })?;
    ensure!(runs(&machine) == 0, "started without answers in a row");
    // The first 404 that counts comes from this one.
    fs::remove_dir_all(machine.folder().join("smee-0.0.0.0_7080"))?;
    let smee = Smee::start(&machine, SMEE, "404")?;
    started_soon_after_404(&machine, &smee)
});

// 404 and 200 alternate to the end of the wait, and then the user container never runs.
case!(without_answers_in_a_row_it_never_runs, ON_MAIN, |machine| {
    let smee = Smee::start(&machine, SMEE, "200")?;
    let action = waits(&machine)?
        .env("WAITDAEMON_WAIT_MAX_SECONDS", "6")
        .env("WAITDAEMON_WAIT_EXPIRED", "abort");
    action.run_well()?;
    smee.say("flap")?;
    smee.asked(4, LIMIT)?;
    let error = waiter_line(&machine, "that it timed out", |line| line["level"] == "ERROR")?;
    let said = error["message"]
        .as_str()
        .is_some_and(|text| text.starts_with("timed out after 6 s waiting for netboot"));
    ensure!(said && error["field"] == "environment.WAITDAEMON_WAIT_FOR", "{error}");
    until("the user container's removal", LIMIT, || Ok((!machine.has(USER)).then_some(())))?;
    ensure!(runs(&machine) == 0, "it ran without answers in a row");
    let answers = smee.answers()?;
    ensure!(answers.iter().any(|answer| answer.said == "404"), "never 404: {answers:?}");
    Ok(())
});

// A Smee that answers 404 for a second, as when it loses its backend, and then recovers.
case!(a_brief_404_does_not_count, ON_MAIN, |machine| {
    let smee = Smee::start(&machine, SMEE, "200")?;
    waits(&machine)?.run_well()?;
    smee.asked(2, LIMIT)?;
    smee.say("404")?;
    until("two answers 404", LIMIT, || {
        Ok((smee.answers()?.iter().filter(|answer| answer.said == "404").count() >= 2)
            .then_some(()))
    })?;
    smee.say("200")?;
    smee.asked(4, LIMIT)?;
    ensure!(runs(&machine) == 0, "started during a hiccup: {:?}", smee.answers()?);
    smee.say("404")?;
    started(&machine).map(drop)
});

case!(a_killed_waiter_resumes_waiting, ON_MAIN, |machine| {
    let smee = Smee::start(&machine, SMEE, "200")?;
    waits(&machine)?.run_well()?;
    smee.asked(2, LIMIT)?;
    kill_waiter(&machine)?;
    smee.asked(3, LIMIT)?;
    ensure!(runs(&machine) == 0, "started although netboot is on");
    smee.say("404")?;
    started(&machine).map(drop)
});

// Smee never answers 404: after WAITDAEMON_WAIT_MAX_SECONDS the user container runs all the same,
// or never.
case!(on_expiry_runs_or_gives_up, ON_MAIN, |machine| {
    let _smee = Smee::start(&machine, SMEE, "200")?;
    let action =
        || Ok::<_, anyhow::Error>(waits(&machine)?.env("WAITDAEMON_WAIT_MAX_SECONDS", "2"));
    action()?.env("WAITDAEMON_WAIT_EXPIRED", "abort").run_well()?;
    let said = waiter_says(&machine, "timed out after 2 s waiting for netboot")?;
    ensure!(
        said["level"] == "ERROR" && said["field"] == "environment.WAITDAEMON_WAIT_FOR",
        "{said}"
    );
    ensure!(said["fix"].as_str().is_some_and(|fix| fix.contains("toggleAllowNetboot")), "{said}");
    let code = until("the waiter's end", LIMIT, || {
        Ok(machine.seen(WAITER).and_then(|seen| seen.exit_code))
    })?;
    ensure!(code == 2, "the waiter ended with {code}");
    ensure!(!machine.has(USER) && runs(&machine) == 0, "the user container is there");
    machine.engine(&["rm", "-f", WAITER])?;

    let ended = UNIX_EPOCH.elapsed()?.as_secs_f64();
    action()?.run_well()?;
    let waited = started(&machine)? - ended;
    ensure!((2.0..12.0).contains(&waited), "started {waited:.3} s after it was served");
    ensure!(
        waiter_says(&machine, "timed out after 2 s waiting for netboot")?["level"] == "ERROR",
        "no error"
    );
    Ok(())
});

// Any URL and any status, over IPv6; WAIT_SECONDS is the minimum wait.
case!(any_url_and_status, ON_MAIN, |machine| {
    let smee = Smee::start(&machine, "[::1]:8080", "503")?;
    let waits = |status: &str, url: &str| {
        let action = Action::alpine(&machine).network("host").env("WAITDAEMON_WAIT_FOR", url);
        action.env("WAITDAEMON_WAIT_FOR_STATUS", status).script(RUN)
    };
    let ready = "http://[::1]:8080/ready?token=secret";
    // A server that is not ready says so: that is an answer, but not the awaited one. A query needs
    // no path before it.
    waits("200", "http://[::1]:8080?token=secret").run_well()?;
    smee.asked(2, LIMIT)?;
    ensure!(runs(&machine) == 0, "started without the signal");
    smee.say("200")?;
    ran_once(&machine)?;
    ensure!(
        smee.answers()?.iter().all(|answer| answer.path == "/?token=secret"),
        "{:?}",
        smee.answers()?
    );
    smee.say("503")?;
    drop(smee);
    fs::remove_dir_all(machine.folder().join("smee-___1__8080"))?;
    let smee = Smee::start(&machine, "[::1]:8080", "503")?;
    // The signal is present from the start.
    let said = waits("503", ready).wait("3").run_well()?;
    ensure!(!format!("{said:?}").contains("secret"), "the query is in the log: {said:?}");
    let begins = waiter_line(&machine, "that it waits 3 s", |line| line["wait_seconds"] == 3)?;
    nothing_left(&machine)?;
    ensure!(runs(&machine) == 2, "it ran {} times", runs(&machine));
    let waited = ran_at(&machine)? - seconds(&begins)?;
    ensure!((3.0..8.0).contains(&waited), "ran {waited:.3} s after the wait began");
    smee.say("200")?;
    waits("418", ready).run_well()?;
    smee.asked(3, LIMIT)?;
    ensure!(runs(&machine) == 2, "started without the signal");
    smee.say("418")?;
    nothing_left(&machine)?;
    ensure!(runs(&machine) == 3, "it ran {} times", runs(&machine));
    ensure!(
        smee.answers()?.iter().all(|answer| answer.path == "/ready?token=secret"),
        "{:?}",
        smee.answers()?
    );
    Ok(())
});

// A setting that cannot work is an error before SUCCESS, or a warning if WAIT_SECONDS still counts.
case!(bad_signals_fail_before_success, ON_MAIN, |machine| {
    let field = "environment.WAITDAEMON_WAIT_FOR";
    let netboot = Action::alpine(&machine).env("WAITDAEMON_WAIT_FOR", "netboot-off");
    // This machine's kernel was not started by Tinkerbell.
    netboot.run()?.expect(1, field, "grpc_authority")?;
    nothing_there(&machine)?;
    waits(&machine)?.run()?.expect(1, field, "refused")?;
    nothing_there(&machine)?;
    let https = Action::alpine(&machine).env("WAITDAEMON_WAIT_FOR", "https://h/ready");
    https.run()?.expect(78, field, "https")?;

    // Smee does not serve this machine, so nothing signals and only time counts, unless that is
    // ruled out.
    let smee = Smee::start(&machine, SMEE, "404")?;
    let never = waits(&machine)?.env("WAITDAEMON_WAIT_EXPIRED", "abort");
    never.run()?.expect(1, field, "HTTP status 404")?;
    nothing_there(&machine)?;
    smee.say("403")?;
    waits(&machine)?.run()?.expect(1, field, "HTTP status 403")?;
    nothing_there(&machine)?;
    // A single 404 among other answers does not count here either.
    let before = smee.answers()?.len();
    smee.say("flap")?;
    let said = waits(&machine)?.run_well()?;
    ensure!(
        smee.answers()?[before].said == "404" && !said.err.contains("no boot script"),
        "{said:?}"
    );
    ensure!(said.out.contains("the waiter will wait for netboot"), "{said:?}");
    machine.engine(&["rm", "-f", WAITER, USER])?;
    smee.say("404")?;
    // Beside a signal, WAIT_SECONDS may be 0; without the signal that would be too soon.
    let said = waits(&machine)?.wait("0").run_well()?;
    ensure!(
        said.err.contains("\"level\":\"WARN\"") && said.err.contains("no boot script"),
        "{said:?}"
    );
    // HookOS's syslog also has the earlier waiters' lines.
    let starts = |line: &Value| {
        line["message"].as_str().is_some_and(|text| text.contains("starting the wait"))
    };
    waiter_line(&machine, "that it waits 10 s", |line| starts(line) && line["wait_seconds"] == 10)?;
    ensure!(runs(&machine) == 0, "started at once");
    if machine.is_docker() {
        ensure!(
            machine.inspect(WAITER)?["HostConfig"]["NetworkMode"] == "none",
            "the waiter has a network"
        );
    }
    running(&machine, WAITER).map(drop)
});

// The documentation's example reboots the machine once netboot is off, and not before.
case!(example_netboot_off, ON_MAIN, |machine| example_waits(machine, "netboot-off"));

case!(example_end_netboot_off, ON_MAIN, |machine| example_waits(machine, "end-netboot-off"));

fn example_waits(mut machine: Machine, example: &str) -> Result<()> {
    // On Docker the action has a network of its own.
    let server = if machine.is_docker() { host(&machine)? } else { "127.0.0.1".into() };
    let line = format!("grpc_authority={server}:42113 worker_id=aa:bb:cc:00:11:22\n");
    machine.set_command_line(&line)?;
    let smee = Smee::start(&machine, SMEE, "200")?;
    let file = paths::root().join(format!("examples/{example}.yaml"));
    let agent = Agent::start(&machine, &file)?;
    let report = agent.final_report(LIMIT)?;
    ensure!(report.state == "SUCCESS", "reported {}: {}", report.state, agent.log());
    // Its volume for Docker is a folder here, which is detected at once.
    ensure!(!agent.log().contains("trying again"), "{}", agent.log());
    smee.asked(4, LIMIT)?;
    ensure!(machine.ended()?.is_none(), "it went down although netboot is on");
    smee.say("404")?;
    let code = machine.wait_for_end(LIMIT)?;
    ensure!(code == REBOOTED, "unshare(1) says {code}");
    Ok(())
}
