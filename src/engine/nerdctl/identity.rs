//! Which container are we? Traces give candidates; the proof is the kernel's word, or our own voice.
//!
//! The kernel has us in a cgroup whose last part is the ID for which the runtime made it. Where a cgroup
//! namespace hides that, we write a random mark to our own standard output: the candidate in whose log it
//! stands is us. In both cases the candidate's command line must be ours too (observed:
//! tests/integration/captain_identity.rs).

use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::cli::Cli;
use crate::engine::json::{list, text};
use crate::error::{Because, Failure};
use crate::logging::{self, STARTED};
use crate::names::HandoffId;
use crate::{host, procfs};

/// How long the mark may take to our log; some milliseconds are usual.
const ECHO_LIMIT: Duration = Duration::from_secs(5);
/// Between two looks at the logs.
const PAUSE: Duration = Duration::from_millis(50);
/// The most containers that are asked when no trace leads to us.
const MOST_ASKED: usize = 64;

/// The kernel's word, as proof.
const BY_CGROUP: &str = "its process is in the cgroup that was made for this container";
/// Our own voice, as proof.
const BY_VOICE: &str = "a line that this container alone wrote stands in its log";

/// The native documents of the containers to which our traces lead and which run our command line.
pub async fn traced(cli: &Cli) -> Vec<Value> {
    like_us(cli, &host::own_candidates()).await
}

/// The native document of our own container, and what proves it, in words. Asked are the `traced` ones first, then
/// all that run.
///
/// # Errors
/// Where no container of this namespace can be proved to be ours.
pub async fn prove(
    cli: &Cli,
    traced: &[Value],
    handoff: &HandoffId,
    namespace: &str,
) -> Result<(Value, &'static str), Failure> {
    let cgroup = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let in_its_cgroup = |container: &&Value| procfs::is_in_cgroup_of(&cgroup, text(&container["ID"]));
    if let Some(own) = traced.iter().find(in_its_cgroup) {
        return Ok((own.clone(), BY_CGROUP));
    }
    if let Some(own) = heard(cli, traced, handoff).await {
        return Ok((own, BY_VOICE));
    }
    tracing::debug!("no trace leads to our container; asking all that run");
    let running = cli.list(&[]).await.because("cannot list the running containers")?;
    if let Some(own) = heard(cli, &like_us(cli, running.get(..MOST_ASKED).unwrap_or(&running)).await, handoff).await {
        return Ok((own, BY_VOICE));
    }
    Err(Failure::new(format!("none of the containers in containerd's namespace {namespace} is this one"))
        .field("environment.NERDCTL_NAMESPACE")
        .fix("name the namespace in which this action runs (the agent's is tinkerbell)"))
}

/// The documents of those candidates that run our command line. One that cannot be inspected, perhaps
/// because it is deleted at this moment, proves nothing.
async fn like_us(cli: &Cli, candidates: &[String]) -> Vec<Value> {
    let mut found = Vec::new();
    for candidate in candidates {
        match cli.inspect(candidate).await {
            Ok(container) if runs_our_command(&container) => found.push(container),
            Ok(_) => {}
            Err(error) if error.is_missing() => {}
            Err(error) => tracing::warn!(container = candidate, error = %error, "cannot inspect a container"),
        }
    }
    found
}

/// What the container runs is our own command line; an init may stand before it.
fn runs_our_command(container: &Value) -> bool {
    let command: Vec<&str> = list(&container["Spec"]["process"]["args"]).iter().map(text).collect();
    let own = host::own_command();
    let own: Vec<&str> = own.iter().map(String::as_str).collect();
    command.ends_with(&own)
}

/// Says the mark and looks for it in the candidates' logs.
async fn heard(cli: &Cli, candidates: &[Value], handoff: &HandoffId) -> Option<Value> {
    if candidates.is_empty() {
        return None;
    }
    logging::announce(STARTED, handoff);
    let end = Instant::now() + ECHO_LIMIT;
    while Instant::now() < end {
        for candidate in candidates {
            let log = cli.run(&["logs", "--tail=20", text(&candidate["ID"])]).await;
            if log.is_ok_and(|log| log.contains(handoff.as_str())) {
                return Some(candidate.clone());
            }
        }
        sleep(PAUSE).await;
    }
    None
}
