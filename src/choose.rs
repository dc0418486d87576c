//! Choosing an engine: the first that answers and knows us.

use crate::engine::docker::Docker;
use crate::engine::nerdctl::Nerdctl;
use crate::engine::{Engine, Seen, Which};
use crate::error::Failure;
use crate::identity;
use crate::lifecycle::{Lifecycle, REACH_LIMIT};
use crate::process::Process;
use crate::settings::{Runtime, Settings};

/// An engine that answered, and what was asked of it to see that.
pub struct Reached {
    /// The engine.
    pub engine: Box<dyn Engine>,
    /// All containers of ours that it has.
    pub ours: Vec<String>,
    /// The containers to which the traces of this process lead and that run its command line.
    pub candidates: Vec<Seen>,
}

/// Reaches the engine that the settings ask for; `auto` takes Docker if it answers, else nerdctl.
///
/// # Errors
/// For each engine that was tried, why it cannot be used.
pub async fn choose(settings: &Settings, process: &Process) -> Result<Reached, Vec<Failure>> {
    let mut failures = Vec::new();
    if settings.runtime != Runtime::Nerdctl {
        match Docker::reach(&settings.docker_host).await {
            Ok(docker) => match introduce(Box::new(docker), process).await {
                Ok(reached) => return Ok(reached),
                Err(failure) => failures.push(failure),
            },
            Err(failure) => failures.push(failure),
        }
    }
    if settings.runtime != Runtime::Docker {
        match Nerdctl::reach(settings.nerdctl_host, &settings.nerdctl_namespace).await {
            Ok(nerdctl) => match introduce(Box::new(nerdctl), process).await {
                Ok(reached) => return Ok(reached),
                Err(failure) => failures.push(failure),
            },
            Err(failure) => failures.push(failure),
        }
    }
    Err(failures)
}

/// Asks for what every handoff needs first, side by side.
///
/// # Errors
/// If the engine does not answer.
pub async fn introduce(engine: Box<dyn Engine>, process: &Process) -> Result<Reached, Failure> {
    let lifecycle = Lifecycle::new(engine.as_ref(), REACH_LIMIT);
    let (ours, candidates) = tokio::join!(lifecycle.list(Which::Ours), identity::gather(&lifecycle, process));
    match ours {
        Ok(ours) => Ok(Reached { engine, ours, candidates }),
        Err(refusal) => {
            let about = engine.about();
            Err(Failure::new(format!("no answer from {}", about.described)).fix(about.check).cause(refusal))
        }
    }
}
