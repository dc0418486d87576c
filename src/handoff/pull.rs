//! Pulls `IMAGE` within one time limit, and retries if the registry or the network fails.

use std::cell::RefCell;
use std::time::Duration;

use tokio::time::{Instant, interval, timeout};

use crate::engine::{Engine, Progress, Pulling};
use crate::error::Failure;
use crate::failures;
use crate::login::Login;
use crate::reference::Reference;
use crate::retry::retry_within;

/// How often a pull's progress is logged.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);

/// Pulls the image within `limit`, with the registry's login if there is one.
///
/// # Errors
/// If it could not be pulled; the failure says why.
pub async fn pull(
    engine: &dyn Engine,
    image: &Reference,
    login: Option<&Login>,
    limit: Duration,
) -> Result<(), Failure> {
    log::info!(image = image.as_written(); "the image is not on this machine, pulling it");
    let (earlier, progress) = (RefCell::new(None), RefCell::new(Progress::default()));
    let pull = retry_within(limit, "pulling the image", || async {
        let pulled = engine.pull(image, login, Pulling::Whole(&progress)).await;
        pulled.inspect_err(|refusal| drop(earlier.replace(Some(refusal.said.clone()))))
    });
    let pull = timeout(limit, pull);
    tokio::pin!(pull);
    let begin = Instant::now();
    let mut every = interval(PROGRESS_EVERY);
    every.tick().await;
    let pulled = loop {
        tokio::select! {
            biased;
            pulled = &mut pull => break pulled,
            _ = every.tick() => {
                let Progress { bytes, bytes_known, status } = &*progress.borrow();
                let (image, seconds) = (image.as_written(), begin.elapsed().as_secs());
                log::info!(image, seconds, bytes, bytes_known, status = status.as_str(); "still pulling");
            }
        }
    };
    match pulled {
        Ok(Ok(_)) => {
            log::info!(image = image.as_written(); "pulled");
            Ok(())
        }
        Ok(Err(refusal)) => Err(failures::pull_failed(image, &engine.about(), refusal)),
        Err(_) => Err(failures::pull_too_long(image, limit, earlier.take())),
    }
}
