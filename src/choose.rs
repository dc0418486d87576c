//! Selects an engine, and where failures are sent.

use crate::engine::docker::{Docker, socket};
use crate::engine::nerdctl::Nerdctl;
use crate::engine::{Engine, Seen, Which};
use crate::error::Failure;
use crate::identity;
use crate::lifecycle::{FIRST_QUERIES_PATIENCE, Lifecycle};
use crate::logging;
use crate::machine::Machine;
use crate::process::Process;
use crate::settings::{DockerHost, Runtime, Settings, Syslog};
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
/// From then on failures are also sent to the OSIE's syslog, if nothing else sends them.
///
/// # Errors
/// If no engine can be used: one failure for each engine that was tried.
pub async fn choose(settings: &Settings, process: &Process) -> Result<Reached, Vec<Failure>> {
    let mut failures = Vec::new();
    for runtime in [Runtime::Docker, Runtime::Nerdctl] {
        if ![Runtime::Auto, runtime].contains(&settings.runtime) {
            continue;
        }
        let engine: Result<Box<dyn Engine>, Failure> = match runtime {
            Runtime::Docker => {
                Docker::reach(&settings.docker_host).await.map(|docker| Box::new(docker) as _)
            }
            _ => Nerdctl::reach(settings, &process.machine.command_line)
                .map(|nerdctl| Box::new(nerdctl) as _),
        };
        let reached = match engine {
            Ok(engine) => query_first(engine, settings, process).await,
            Err(failure) => Err(failure),
        };
        match reached {
            Ok(reached) => {
                reached.syslog.iter().for_each(|address| syslog::start(address));
                // On HookOS nerdctl answers too, so what is wrong may be Docker.
                if let Some(refused) = failures.pop().filter(|_| reached.candidates.is_empty()) {
                    logging::warning(&docker_is_not_used(refused));
                }
                return Ok(reached);
            }
            Err(failure) => failures.push(failure),
        }
    }
    start_syslog(&settings.syslog, &process.machine);
    Err(failures)
}

fn docker_is_not_used(refused: Failure) -> Failure {
    let failure = Failure::new("Docker is not used").field(refused.field);
    failure.fix(refused.fix.clone()).cause(refused)
}

/// Starts sending failures to the OSIE's syslog if no engine was reached, unless Docker is there:
/// it sends what containers print.
pub fn start_syslog(wanted: &Syslog, machine: &Machine) {
    let docker = matches!(DockerHost::default(), DockerHost::Unix(path) if socket::is_socket(&path))
        || socket::of_host().next().is_some();
    if let Some(address) = syslog::server(wanted, !docker, &machine.command_line) {
        syslog::start(&address);
    }
}

/// Queries the engine, in parallel, for what every handoff needs first.
///
/// # Errors
/// If the engine does not answer.
pub async fn query_first(
    engine: Box<dyn Engine>,
    settings: &Settings,
    process: &Process,
) -> Result<Reached, Failure> {
    let keeps_logs = engine.about().keeps_logs;
    let syslog = syslog::server(&settings.syslog, keeps_logs, &process.machine.command_line);
    let lifecycle = Lifecycle::new(engine.as_ref(), FIRST_QUERIES_PATIENCE);
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
