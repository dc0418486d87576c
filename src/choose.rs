//! Selects an engine: the first that answers and knows us.

use crate::engine::docker::Docker;
use crate::engine::nerdctl::Nerdctl;
use crate::engine::{Engine, Seen, Which};
use crate::error::Failure;
use crate::identity;
use crate::lifecycle::{Lifecycle, REACH_LIMIT};
use crate::process::Process;
use crate::settings::{Runtime, Settings};
use crate::syslog;

/// An engine that answered, with its answers to the first queries.
pub struct Reached {
    /// The engine.
    pub engine: Box<dyn Engine>,
    /// The IDs of all waitdaemon containers on this engine.
    pub ours: Vec<String>,
    /// The containers that this process's traces point to and that run its command line.
    pub candidates: Vec<Seen>,
    /// The syslog server to which the handoff and its waiter send failures, `host:port`.
    pub syslog: Option<String>,
}

/// Reaches the engine that the settings select; `auto` takes Docker if it answers, else nerdctl.
///
/// # Errors
/// If no engine can be used: one failure for each engine that was tried.
pub async fn choose(settings: &Settings, process: &Process) -> Result<Reached, Vec<Failure>> {
    let mut failures = Vec::new();
    if settings.runtime != Runtime::Nerdctl {
        match Docker::reach(&settings.docker_host).await {
            Ok(docker) => match introduce(Box::new(docker), settings, process).await {
                Ok(reached) => return Ok(reached),
                Err(failure) => failures.push(failure),
            },
            Err(failure) => failures.push(failure),
        }
    }
    if settings.runtime != Runtime::Docker {
        match Nerdctl::reach(settings, &process.machine.command_line) {
            Ok(nerdctl) => match introduce(Box::new(nerdctl), settings, process).await {
                Ok(reached) => return Ok(reached),
                Err(failure) => failures.push(failure),
            },
            Err(failure) => failures.push(failure),
        }
    }
    Err(failures)
}

/// Queries the engine, in parallel, for what every handoff needs first.
///
/// # Errors
/// If the engine does not answer.
pub async fn introduce(
    engine: Box<dyn Engine>,
    settings: &Settings,
    process: &Process,
) -> Result<Reached, Failure> {
    let keeps_logs = engine.about().keeps_logs;
    let syslog = syslog::server(&settings.syslog, keeps_logs, &process.machine.command_line);
    let lifecycle = Lifecycle::new(engine.as_ref(), REACH_LIMIT);
    let (ours, candidates) =
        tokio::join!(lifecycle.list(Which::Ours), identity::gather(&lifecycle, process));
    match ours {
        Ok(ours) => Ok(Reached { engine, ours, candidates, syslog }),
        Err(refusal) => {
            let about = engine.about();
            Err(Failure::new(format!("no answer from {}", about.described))
                .fix(about.check)
                .cause(refusal))
        }
    }
}
