//! `make bench`: what waitdaemon costs, against the least that can be done with the same engine, in one run on one
//! machine. Prints a table, writes bench/results.json and docs/timeline.svg.
//!
//! PEER_IMAGE, a docker-archive or a reference, is measured in the same way beside it.

mod engines;
mod measure;
mod rows;
mod timeline;

use std::fs;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use lab::machine::Engine;
use lab::paths;
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

/// True where every bar is met.
fn run() -> Result<bool> {
    let peer = std::env::var("PEER_IMAGE").ok().filter(|peer| !peer.is_empty());
    let mut rows = Vec::new();
    for engine in Engine::ALL {
        let bench = Bench::docker(engine, peer.as_deref())?;
        if engine == Engine::Debian {
            rows.extend(measure::image_size(&bench)?);
        }
        rows.extend(measure::handoff(&bench, 0.95)?);
        rows.extend(measure::memory(&bench)?);
        rows.extend(measure::processor(&bench)?);
        rows.push(measure::start(&bench)?);
        if engine == Engine::Moby {
            let steps = timeline::record(&bench)?;
            fs::write(paths::root().join("docs/timeline.svg"), timeline::draw(&steps)?)?;
        }
    }
    let bench = Bench::captain(peer.as_deref())?;
    rows.extend(measure::handoff(&bench, 1.0)?);
    rows.extend(measure::memory(&bench)?);

    println!("{}", rows::table(&rows));
    let results = json!({"machine": machine()?, "runs": measure::RUNS, "rows": rows});
    let folder = paths::root().join("bench");
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("results.json"), serde_json::to_string_pretty(&results)? + "\n")?;
    Ok(rows.iter().all(Row::is_met))
}

/// What the figures were measured on.
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
