//! Which container are we? Traces give candidates; the proof is our own voice.
//!
//! We attach to a candidate's output through the engine and write a line with our random mark to
//! our own standard output. The candidate from which the mark comes back is us: nothing else
//! writes there. That holds with every log driver, network, hostname, cgroup and user namespace, where each
//! trace alone can be missing or name another container (observed: tests/integration/identity.rs).
//! As a second witness the candidate's command line must be ours, so that a container that merely
//! repeats our log is not taken for us.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::api::{Api, ApiError, part};
use crate::error::{Because, Failure};
use crate::host;
use crate::logging::{self, STARTED};
use crate::names::HandoffId;

/// How long a mark may take from our standard output through the engine and back; about a
/// millisecond is usual.
const ECHO_LIMIT: Duration = Duration::from_secs(5);
/// The mark is written again after this time: the engine answers an attach a moment before it
/// listens (moby `containerAttach`).
const SAY_AGAIN: Duration = Duration::from_millis(50);
/// The most containers that are asked when no trace leads to us.
const MOST_ASKED: usize = 256;

/// What proves which container we are, in words.
pub const PROOF: &str = "the engine gave back a line that this container alone wrote";

/// The inspect document of our own container.
///
/// # Errors
/// Where no container of this engine can be proved to be ours.
pub async fn prove(api: &Api, handoff: &HandoffId) -> Result<Value, Failure> {
    let traced = host::own_candidates();
    if let Some(own) = first_proved(api, &traced, handoff).await {
        return Ok(own);
    }
    tracing::debug!(candidates = traced.join(" "), "no trace leads to our container; asking all that run");
    // We may run before the engine has noted that we do: `created` counts too.
    let filters = json!({"status": ["created", "running"]}).to_string();
    let path = format!("/containers/json?all=1&filters={}", part(&filters));
    let running = api.get(&path).await.because("cannot list the running containers")?;
    let ids = running.as_array().into_iter().flatten().filter_map(|container| container["Id"].as_str());
    let others: Vec<String> = ids.filter(|id| !traced.iter().any(|known| known == id)).map(str::to_owned).collect();
    if let Some(own) = first_proved(api, &others[..others.len().min(MOST_ASKED)], handoff).await {
        return Ok(own);
    }
    Err(Failure::new(format!("none of the containers of the engine at {} is this one", api.host()))
        .field("volumes")
        .fix("mount the socket of the very engine that runs this action; if that is nerdctl, set CONTAINER_RUNTIME: nerdctl"))
}

/// Listens to all candidates at once while the mark is said; the first that echoes it is us.
async fn first_proved(api: &Api, candidates: &[String], handoff: &HandoffId) -> Option<Value> {
    let mut listeners = JoinSet::new();
    for candidate in candidates {
        let Some(document) = like_us(api, candidate).await else { continue };
        // Attached before the mark is said.
        let path =
            format!("/containers/{}/attach?stream=1&stdout=1", part(document["Id"].as_str().unwrap_or_default()));
        let mut output = match api.listen(&path).await {
            Ok(output) => output,
            Err(error) => {
                tracing::warn!(container = candidate, error = %error, "cannot listen to a container that may be this one");
                continue;
            }
        };
        let (mark, api) = (handoff.as_str().to_owned(), api.clone());
        listeners.spawn(async move {
            let mut heard: Vec<u8> = Vec::new();
            loop {
                while let Ok(Some(piece)) = output.next().await {
                    heard.extend_from_slice(&piece);
                    if heard.windows(mark.len()).any(|window| window == mark.as_bytes()) {
                        return Some(document);
                    }
                    // The mark may lie across two pieces; more of the past is not needed.
                    heard.drain(..heard.len().saturating_sub(mark.len()));
                }
                // The container has ended, or the connection broke; the mark is said again and again.
                sleep(SAY_AGAIN).await;
                output = api.listen(&path).await.ok()?;
            }
        });
    }
    let end = Instant::now() + ECHO_LIMIT;
    while !listeners.is_empty() && Instant::now() < end {
        logging::announce(STARTED, handoff);
        while let Ok(Some(heard)) = timeout(SAY_AGAIN, listeners.join_next()).await {
            if let Ok(Some(document)) = heard {
                return Some(document);
            }
        }
    }
    None
}

/// The candidate's inspect document if it runs our command line; `None` if it is gone, cannot be
/// inspected or runs another.
async fn like_us(api: &Api, candidate: &str) -> Option<Value> {
    let document = match api.get(&format!("/containers/{}/json", part(candidate))).await {
        Ok(document) => document,
        Err(ApiError::Refused { status: 404, .. }) => return None,
        Err(error) => {
            tracing::warn!(container = candidate, error = %error, "cannot inspect a container that may be this one");
            return None;
        }
    };
    let arguments = document["Args"].as_array().into_iter().flatten();
    let command: Vec<&str> =
        std::iter::once(&document["Path"]).chain(arguments).map(|word| word.as_str().unwrap_or_default()).collect();
    (command == host::own_command()).then_some(document)
}
