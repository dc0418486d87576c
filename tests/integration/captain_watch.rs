//! What becomes of the user container on CaptainOS is seen and said, and the same action again does the right thing.

use anyhow::{Context, Result, ensure};
use lab::captain::Captain;
use lab::until::until;
use serde_json::{Value, json};

use crate::captain::{captain, containers, log, nothing_left, reported};
use crate::world::{LIMIT, USER, WAITER};

pub fn cases() -> Vec<(&'static str, crate::Plain)> {
    vec![
        ("captain::watch::each_end_is_said", each_end_is_said),
        ("captain::watch::removed_by_somebody", removed_by_somebody),
        ("captain::again::while_the_user_container_runs", again_while_the_user_container_runs),
        ("captain::again::after_success_it_runs_again", again_after_success),
        ("captain::bad_input::name_is_taken_by_a_foreign_container", name_is_taken_by_a_foreign_container),
    ]
}

/// Serves an action that succeeds; what its user container runs, and more of its environment.
fn served(captain: &Captain, command: &[&str], watch: &str) -> Result<()> {
    let environment = json!({"IMAGE": "alpine", "WAIT_SECONDS": "0", "WAITDAEMON_WATCH_SECONDS": watch});
    reported(captain, json!({"command": command, "environment": environment}), "SUCCESS").map(drop)
}

/// The waiter's lines up to its error, which has these words.
fn lines_to(captain: &Captain, words: &str) -> Result<Vec<Value>> {
    let found = until(&format!("the waiter's error {words:?}"), LIMIT, || {
        let lines = log(captain);
        let said =
            |line: &Value| line["level"] == "ERROR" && format!("{} {}", line["message"], line["error"]).contains(words);
        Ok(lines.iter().any(said).then_some(lines))
    });
    found.with_context(|| captain.container_logs())
}

/// Each of these fails; the next attempt clears away what the one before it kept.
fn each_end_is_said() -> Result<()> {
    let captain = captain()?;
    served(&captain, &["sh", "-c", "exec >&2; seq 30; printf 'last\\033[31m'; exit 7"], "60")?;
    let lines = lines_to(&captain, "exit code 7")?;
    let last: Vec<&str> = lines.iter().filter_map(|line| line["output"].as_str()).collect();
    ensure!(last.len() == 20 && last[18] == "30" && last[19] == "last\\u{1b}[31m", "last lines: {last:?}");
    ensure!(lines.iter().all(|line| line["output"].is_null() || line["level"] == "ERROR"), "{lines:?}");
    ensure!(captain.inspect(USER)?["Process"]["Status"]["ExitStatus"] == 7, "the user container is kept");
    for (command, words) in [("no-such-command", "no-such-command"), ("/etc/passwd", "permission denied")] {
        served(&captain, &[command], "60")?;
        let lines = lines_to(&captain, words)?;
        ensure!(lines.iter().any(|line| line["field"] == "command" && !line["fix"].is_null()), "{lines:?}");
        ensure!(captain.inspect(USER).is_ok(), "the user container is kept");
    }
    Ok(())
}

fn removed_by_somebody() -> Result<()> {
    let captain = captain()?;
    served(&captain, &["sleep", "1000"], "60")?;
    until("the user container's process", LIMIT, || {
        Ok((captain.inspect(USER)?["Process"]["Status"]["Status"] == "running").then_some(()))
    })?;
    until("the waiter's watch", LIMIT, || {
        Ok(log(&captain).iter().any(|line| line["message"] == "user container started").then_some(()))
    })?;
    let _ = captain.nerdctl(&["rm", "-f", USER]);
    // The waiter may see its end, or only that it is gone.
    let said = until("the waiter's word", LIMIT, || {
        let text = captain.container_logs();
        Ok((text.contains("was removed by somebody") || text.contains("failed with exit code 137")).then_some(()))
    });
    said.with_context(|| captain.container_logs())
}

fn again_while_the_user_container_runs() -> Result<()> {
    let captain = captain()?;
    served(&captain, &["sleep", "1000"], "1")?;
    until("the waiter's end", LIMIT, || Ok(captain.id_of(WAITER).is_none().then_some(())))?;
    let first = captain.inspect(USER)?;
    ensure!(first["Process"]["Status"]["Status"] == "running", "{}", first["Process"]);
    served(&captain, &["sleep", "1000"], "1")?;
    let user = captain.inspect(USER)?;
    ensure!(user["ID"] == first["ID"] && user["Process"]["Pid"] == first["Process"]["Pid"], "it was not left alone");
    ensure!(!containers(&captain)?.contains(WAITER), "there is a second waiter");
    Ok(())
}

fn again_after_success() -> Result<()> {
    let captain = captain()?;
    let runs = captain.out().join("runs");
    for run in 1..=2 {
        served(&captain, &["sh", "-c", "echo run >> /out/runs"], "60")?;
        nothing_left(&captain)?;
        let ran = std::fs::read_to_string(&runs)?.lines().count();
        ensure!(ran == run, "served {run} times, it ran {ran} times");
    }
    Ok(())
}

fn name_is_taken_by_a_foreign_container() -> Result<()> {
    let captain = captain()?;
    let foreign = captain.nerdctl(&["create", "--name", USER, "alpine", "true"])?;
    let agent = reported(&captain, json!({"environment": {"IMAGE": "alpine"}}), "FAILED")?;
    let text = agent.log();
    ensure!(
        text.contains(&format!("cannot create the user container {USER}")) && text.contains("did not create"),
        "{text}"
    );
    ensure!(captain.inspect(USER)?["ID"] == foreign.trim(), "the foreign container must stay");
    ensure!(!containers(&captain)?.contains(WAITER), "a waiter is left");
    Ok(())
}
