//! `make bench`: what waitdaemon costs, compared with the least that can be done with the same
//! engine, in one run on one machine. Prints a table, writes bench/results.json and
//! docs/timeline.svg.
//!
//! PEER_IMAGE, a docker-archive or a reference, is measured in the same way for comparison. ONE, such
//! as `captain`, measures on that system alone and writes no file.

mod engines;
mod measure;
mod rows;
mod timeline;

use std::fs;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use lab::paths;
use lab::system::System;
use serde_json::json;

use crate::engines::Bench;
use crate::rows::Row;

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(2),
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the bench; true if every bar is met.
fn run() -> Result<bool> {
    let peer = std::env::var("PEER_IMAGE").ok().filter(|peer| !peer.is_empty());
    let one = std::env::var("ONE").ok().filter(|one| !one.is_empty());
    let is_meant = |system: &System| one.as_deref().is_none_or(|one| one == system.name());
    let mut rows = Vec::new();
    for system in [System::HookOS, System::DockerNew].into_iter().filter(is_meant) {
        let bench = Bench::new(system, peer.as_deref())?;
        if system == System::HookOS {
            rows.extend(measure::image_size(&bench)?);
        }
        rows.push(measure::handoff(&bench, 0.95)?);
        rows.extend(measure::own_end(&bench, 0.75)?);
        rows.extend(measure::memory(&bench)?);
        rows.extend(measure::processor(&bench)?);
        rows.push(measure::start(&bench)?);
        if system == System::DockerNew && one.is_none() {
            let steps = timeline::record(&bench)?;
            fs::write(paths::root().join("docs/timeline.svg"), timeline::draw(&steps)?)?;
        }
    }
    if is_meant(&System::CaptainOS) {
        let bench = Bench::new(System::CaptainOS, peer.as_deref())?;
        rows.push(measure::handoff(&bench, 1.0)?);
        rows.extend(measure::own_end(&bench, 0.95)?);
        rows.extend(measure::memory(&bench)?);
    }

    println!("{}", rows::table(&rows));
    if one.is_some() {
        return Ok(rows.iter().all(Row::is_met));
    }
    let results = json!({"machine": machine()?, "runs": measure::RUNS, "rows": rows});
    let folder = paths::root().join("bench");
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("results.json"), serde_json::to_string_pretty(&results)? + "\n")?;
    Ok(rows.iter().all(Row::is_met))
}

/// The machine on which the figures were measured.
fn machine() -> Result<serde_json::Value> {
    let cpus = fs::read_to_string("/proc/cpuinfo")?;
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let kernel = Command::new("uname").arg("-r").output().context("cannot run uname")?;
    Ok(json!({
        "processor": model.trim_start_matches([' ', '\t', ':']),
        "processors": std::thread::available_parallelism()?.get(),
        "kernel": String::from_utf8_lossy(&kernel.stdout).trim(),
    }))
}
