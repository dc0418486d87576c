//! Finds out which container this process runs in. Traces give candidates; the proof is the
//! kernel's statement or our own output.
//!
//! The kernel's statement: the candidate's ID is the last part of our cgroup, which the runtime
//! made for that container. Our own output: we write a line with our random mark to our standard
//! output. The candidate whose output contains the mark is us, because nothing else writes there.
//! That holds with every log driver, network, hostname, cgroup and user namespace, while each trace
//! alone can be missing or name another container (observed: tests/integration/identity.rs).
//! In addition, the candidate's command line must be ours, so that a
//! container that merely repeats our log is not taken for us.

use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::engine::{Image, Kind, Listen, Output, Refusal, Seen, Which};
use crate::error::{Context, Failure};
use crate::lifecycle::Lifecycle;
use crate::logging::STARTED;
use crate::machine::procfs;
use crate::names::HandoffId;
use crate::process::Process;
use crate::retry::Retry;

/// How long a mark may take from our standard output through the engine and back; about a
/// millisecond is usual.
const ECHO_LIMIT: Duration = Duration::from_secs(5);
/// The pause before the mark is written again: an engine answers an attach a moment before it
/// listens (moby `containerAttach`).
const SAY_AGAIN: Duration = Duration::from_millis(50);
/// The most containers to check if no trace leads to us.
const MAX_ASKED: usize = 256;

/// Proof by the kernel's statement.
const BY_CGROUP: &str = "its process is in the cgroup that was made for this container";
/// Proof by our own output.
const BY_ECHO: &str = "the engine returned a line that only this container wrote";

/// The action container, which is our own, with the proof.
#[derive(Debug, Clone)]
pub struct Action {
    /// The container, with its document.
    pub container: Seen,
    /// What proved that it is ours, in words.
    pub proof: &'static str,
}

/// Returns the containers that our traces point to and that run our command line.
pub async fn gather(lifecycle: &Lifecycle<'_>, process: &Process) -> Vec<Seen> {
    find_like_us(lifecycle, process, &(process.read_traces)().ids).await
}

/// Finds our own container, first among the `candidates`, then among all running containers.
///
/// # Errors
/// If no container of this engine can be proved to be ours.
pub async fn identify(
    lifecycle: &Lifecycle<'_>,
    process: &Process,
    candidates: &[Seen],
    handoff: &HandoffId,
) -> Result<Action, Failure> {
    let (container, proof) = prove(lifecycle, process, candidates, handoff).await?;
    Ok(Action { container, proof })
}

/// Inspects the action's image, which is our own.
///
/// # Errors
/// If the engine does not know it.
pub async fn own_image(lifecycle: &Lifecycle<'_>, action: &Seen) -> Result<Image, Failure> {
    let engine = lifecycle.engine;
    // The image exists, because we run from it. An engine that does not know it is asked again.
    let missing = || {
        Refusal::new(
            Kind::MayPass(Retry::AFewTimes),
            "it is not there: was it removed after the action started?",
        )
    };
    let ask = || async { engine.image(&action.whole.image).await?.ok_or_else(missing) };
    let image = lifecycle.ask("inspecting waitdaemon's own image", ask).await;
    let image = image.context("cannot inspect waitdaemon's own image");
    image.map_err(|failure| failure.fix(engine.about().check))
}

async fn prove(
    lifecycle: &Lifecycle<'_>,
    process: &Process,
    candidates: &[Seen],
    handoff: &HandoffId,
) -> Result<(Seen, &'static str), Failure> {
    let about = lifecycle.engine.about();
    let cgroup = (process.read_traces)().cgroup;
    let named = candidates
        .iter()
        .find(|seen| about.names_cgroups && procfs::is_in_cgroup_of(&cgroup, &seen.id));
    if let Some(own) = named {
        return Ok((own.clone(), BY_CGROUP));
    }
    if let Some(own) = prove_by_echo(lifecycle, process, candidates, handoff).await {
        return Ok((own, BY_ECHO));
    }
    log::debug!("no trace leads to our container; asking all that run");
    let mut running =
        lifecycle.list(Which::Running).await.context("cannot list the running containers")?;
    running.retain(|id| !candidates.iter().any(|known| known.id == *id));
    running.truncate(MAX_ASKED);
    let others = find_like_us(lifecycle, process, &running).await;
    if let Some(own) = prove_by_echo(lifecycle, process, &others, handoff).await {
        return Ok((own, BY_ECHO));
    }
    let (field, fix) = about.place;
    Err(Failure::new(format!("this container is not among those of {}", about.described))
        .field(field)
        .fix(fix))
}

/// Returns those of these containers that run our command line, possibly behind an init. A
/// container that cannot be inspected, perhaps because it is being deleted, proves nothing.
async fn find_like_us(
    lifecycle: &Lifecycle<'_>,
    process: &Process,
    containers: &[String],
) -> Vec<Seen> {
    let mut found: Vec<Seen> = Vec::new();
    for container in containers {
        match lifecycle.inspect_whole(container).await {
            Ok(Some(seen)) if seen.whole.command.ends_with(&process.command) => found.push(seen),
            Ok(_) => {}
            Err(refusal) => {
                log::warn!(container = container.as_str(), error = refusal.to_string().as_str(); "cannot inspect a container that may be this one");
            }
        }
    }
    found
}

/// Writes the mark while listening to all candidates; returns the first whose output contains it.
async fn prove_by_echo(
    lifecycle: &Lifecycle<'_>,
    process: &Process,
    candidates: &[Seen],
    handoff: &HandoffId,
) -> Option<Seen> {
    if candidates.is_empty() {
        return None;
    }
    // Attach before the mark is written.
    let mut listeners: Vec<Listener<'_>> = Vec::new();
    for candidate in candidates {
        let listen = Listen {
            container: &candidate.id,
            tty: candidate.whole.tty,
            replay: false,
            ours: false,
        };
        match lifecycle.ask("listening", || lifecycle.engine.output(listen)).await {
            Ok(output) => {
                listeners.push(Box::pin(echo(lifecycle, candidate, listen, output, handoff)))
            }
            Err(refusal) => {
                let container = candidate.id.as_str();
                log::warn!(container, error = refusal.to_string().as_str(); "cannot listen to a container that may be this one");
            }
        }
    }
    if listeners.is_empty() {
        return None;
    }
    let end = Instant::now() + ECHO_LIMIT;
    let speak = async {
        while Instant::now() < end {
            (process.announce)(STARTED, handoff);
            sleep(SAY_AGAIN).await;
        }
    };
    tokio::select! {
        biased;
        () = speak => None,
        own = first(&mut listeners) => Some(own.clone()),
    }
}

type Listener<'a> = Pin<Box<dyn Future<Output = &'a Seen> + 'a>>;

/// Returns the candidate once its output contains the mark.
async fn echo<'a>(
    lifecycle: &'a Lifecycle<'_>,
    candidate: &'a Seen,
    listen: Listen<'a>,
    mut output: Box<dyn Output>,
    handoff: &'a HandoffId,
) -> &'a Seen {
    let mark = handoff.as_str().as_bytes();
    let mut heard: Vec<u8> = Vec::new();
    loop {
        while let Ok(Some(piece)) = output.next().await {
            heard.extend_from_slice(&piece);
            if heard.windows(mark.len()).any(|window| window == mark) {
                return candidate;
            }
            // The mark may be split across two pieces; older output is not needed.
            heard.drain(..heard.len().saturating_sub(mark.len()));
        }
        // The container has ended, or the connection broke. The mark is written again and again.
        sleep(SAY_AGAIN).await;
        if let Ok(again) = lifecycle.engine.output(listen).await {
            output = again;
        }
    }
}

/// Waits for the first listener that finds the mark.
async fn first<'a>(listeners: &mut [Listener<'a>]) -> &'a Seen {
    std::future::poll_fn(|context| {
        let ready =
            listeners.iter_mut().find_map(|listener| match listener.as_mut().poll(context) {
                Poll::Ready(own) => Some(own),
                Poll::Pending => None,
            });
        ready.map_or(Poll::Pending, Poll::Ready)
    })
    .await
}
