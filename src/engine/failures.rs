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

/// The field of the Action that an engine's refusal is about, by the engine's own words; `None` where
/// they fit none that a Template has.
pub fn field_of(refusal: &str) -> Option<&'static str> {
    // Most telling first: a mount's message can name anything in its path.
    let told_by: [(&[&str], &str); 5] = [
        (&["volume", "mount", "bind source"], "volumes"),
        (&["network", "endpoint", "port is already allocated"], "namespaces.network"),
        (&["pid namespace", "pid mode", "container PID"], "pid"),
        (&["environment variable", "invalid env"], "environment"),
        (&["exec: \"", "entrypoint"], "command"),
    ];
    told_by.into_iter().find(|(words, _)| words.iter().any(|word| refusal.contains(word))).map(|(_, field)| field)
}

/// A refusal of the engine, with the field that it is about; its own word is the cause to add.
pub fn of_setting(failure: Failure, refusal: &str) -> Failure {
    let failure = failure.fix("the engine's message names the setting of the action that it does not take");
    field_of(refusal).into_iter().fold(failure, Failure::field)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engines_words_lead_to_the_field() {
        for (refusal, field) in [
            ("invalid volume specification: ':/t'", Some("volumes")),
            ("Duplicate mount point: /t", Some("volumes")),
            ("label key and value length (5012) greater than maximum size (4096): nerdctl/mounts", Some("volumes")),
            ("network front not found", Some("namespaces.network")),
            ("exec: \"nope\": executable file not found in $PATH", Some("command")),
            ("Minimum memory limit allowed is 6MB", None),
        ] {
            assert_eq!(field_of(refusal), field, "{refusal}");
        }
    }
}
