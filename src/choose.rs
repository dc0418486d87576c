//! Selects an engine, and where failures are sent.

use crate::engine::docker::{Docker, socket};
use crate::engine::nerdctl::Nerdctl;
use crate::engine::{Engine, Seen, Which};
use crate::error::Failure;
use crate::identity;
use crate::lifecycle::{Lifecycle, REACH_LIMIT};
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
    /// Why Docker was not chosen, if it was tried.
    pub refused: Option<Failure>,
}

/// Reaches the engine that the settings select; `auto` takes Docker if it answers, else nerdctl.
/// From then on failures are also sent to the OSIE's syslog, if nothing else sends them.
///
/// # Errors
/// If no engine can be used: one failure for each engine that was tried.
pub async fn choose(settings: &Settings, process: &Process) -> Result<Reached, Vec<Failure>> {
    let chosen = try_each(settings, process).await;
    match &chosen {
        Ok(reached) => reached.syslog.iter().for_each(|address| syslog::start(address)),
        Err(_) => start_syslog(&settings.syslog, &process.machine),
    }
    if let Ok(Reached { candidates, refused: Some(refused), .. }) = &chosen
        && candidates.is_empty()
    {
        // On HookOS nerdctl answers too, so what is wrong may be Docker.
        let (error, fix) = (refused.causes(), refused.fix.as_str());
        log::warn!(field = refused.field, error = error.as_str(), fix; "Docker is not used: {refused}");
    }
    chosen
}

async fn try_each(settings: &Settings, process: &Process) -> Result<Reached, Vec<Failure>> {
    let mut refused = None;
    if settings.runtime != Runtime::Nerdctl {
        match by_docker(settings, process).await {
            Ok(reached) => return Ok(reached),
            Err(failure) => refused = Some(failure),
        }
    }
    if settings.runtime == Runtime::Docker {
        return Err(refused.into_iter().collect());
    }
    match by_nerdctl(settings, process).await {
        Ok(reached) => Ok(Reached { refused, ..reached }),
        Err(failure) => Err(refused.into_iter().chain([failure]).collect()),
    }
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

async fn by_docker(settings: &Settings, process: &Process) -> Result<Reached, Failure> {
    let docker = Docker::reach(&settings.docker_host).await?;
    query_first(Box::new(docker), settings, process).await
}

async fn by_nerdctl(settings: &Settings, process: &Process) -> Result<Reached, Failure> {
    let nerdctl = Nerdctl::reach(settings, &process.machine.command_line)?;
    query_first(Box::new(nerdctl), settings, process).await
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
    let lifecycle = Lifecycle::new(engine.as_ref(), REACH_LIMIT);
    let (ours, candidates) =
        tokio::join!(lifecycle.list(Which::Ours), identity::gather(&lifecycle, process));
    match ours {
        Ok(ours) => Ok(Reached { engine, ours, candidates, syslog, refused: None }),
        Err(refusal) => {
            let about = engine.about();
            Err(Failure::new(format!("no answer from {}", about.described))
                .fix(about.check)
                .cause(refusal))
        }
    }
}
