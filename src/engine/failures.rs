//! Failures that mean the same on every engine, in the same words.

use std::time::Duration;

use super::ARMING_LIMIT;
use crate::error::Failure;
use crate::reference::Reference;

/// The engine could not pull the image; its own word is the cause to add.
pub fn pull_failed(image: &Reference) -> Failure {
    Failure::new(format!("cannot pull the image {image}"))
        .field("environment.IMAGE")
        .fix("check the name and the tag, that the machine reaches the registry, and that it may pull without login")
}

/// The pull took longer than the settings allow.
pub fn pull_too_long(image: &Reference, limit: Duration) -> Failure {
    Failure::new(format!("the image {image} was not pulled within {} s", limit.as_secs()))
        .field("environment.WAITDAEMON_PULL_TIMEOUT_SECONDS")
        .fix("raise it together with the action's timeout, or put the image nearer to the machine")
}

/// The waiter did not say in time that it is armed.
pub fn not_armed() -> Failure {
    Failure::new(format!("the waiter was not armed within {} s", ARMING_LIMIT.as_secs()))
}

/// There is nothing to run in the user container.
pub fn no_command() -> Failure {
    Failure::new("neither the action nor IMAGE says what to run")
        .field("command")
        .fix("add to the action:  command: [\"...\"], or use an image with an ENTRYPOINT or a CMD")
}
