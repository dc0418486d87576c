//! Failures in words: what an engine's refusal means to whoever reads the log. The same words for all engines. Pure.

use std::time::Duration;

use crate::engine::{About, Kind, Refusal};
use crate::error::Failure;
use crate::reference::Reference;
use crate::retry::{Retry, Transient};

/// What to do if a container has the name that one of ours is to have.
pub const NAME_IS_TAKEN: &str = "the name is taken by a container that waitdaemon did not create, or by another run of \
                                 this action; remove it and run the Workflow again";

/// The engine does not show `IMAGE`.
pub fn image_unknown(image: &Reference, about: &About, refusal: Refusal) -> Failure {
    let failure = Failure::new(format!("cannot inspect the image {image}")).field("environment.IMAGE");
    let fix = match refusal.kind {
        Kind::NotAnImageName => {
            "the engine does not take this name; use lower-case letters, for example quay.io/org/image:v1"
        }
        _ if refusal.retry() == Retry::Never => "check the image's name, or pull it by hand to see what is wrong",
        _ => about.check,
    };
    failure.fix(fix).cause(refusal)
}

/// The engine could not pull the image.
pub fn pull_failed(image: &Reference) -> Failure {
    Failure::new(format!("cannot pull the image {image}"))
        .field("environment.IMAGE")
        .fix("check the name and the tag, that the machine reaches the registry, and that it may pull: a login is WAITDAEMON_REGISTRY_USERNAME and _PASSWORD_FILE")
}

/// The pull took longer than the settings allow; if an attempt before the last one failed, that is what to mend.
pub fn pull_too_long(image: &Reference, limit: Duration, earlier: Option<String>) -> Failure {
    let seconds = limit.as_secs();
    match earlier {
        Some(said) => pull_failed(image).cause(format!("{said}; it was tried again until {seconds} s were over")).fix(
            "see that the machine reaches the registry; if it does, raise WAITDAEMON_PULL_TIMEOUT_SECONDS together with \
             the action's timeout",
        ),
        None => Failure::new(format!("the image {image} was not pulled within {seconds} s"))
            .field("environment.WAITDAEMON_PULL_TIMEOUT_SECONDS")
            .fix("raise it together with the action's timeout, or put the image nearer to the machine"),
    }
}

/// `IMAGE` is waitdaemon, which would start itself for ever.
pub fn image_is_our_own() -> Failure {
    Failure::new("IMAGE is waitdaemon itself: it would start itself again and again")
        .field("environment.IMAGE")
        .fix("set IMAGE to the image that is to run after the wait, for example alpine for a reboot")
}

/// There is nothing to run in the user container.
pub fn no_command() -> Failure {
    Failure::new("neither the action nor IMAGE says what to run")
        .field("command")
        .fix("add to the action:  command: [\"...\"], or use an image with an ENTRYPOINT or a CMD")
}

/// A container could not be created.
pub fn creation_failed(what: &str, name: &str, about: &About, refusal: Refusal) -> Failure {
    let failure = Failure::new(format!("cannot create {what} {name}"));
    let failure = match &refusal.kind {
        Kind::NoCommand => no_command(),
        Kind::NameTaken { .. } => failure.fix(NAME_IS_TAKEN),
        Kind::ImageMissing => {
            failure.field("environment.IMAGE").fix("the image vanished after it was found; run the Workflow again")
        }
        Kind::NotCarried => Failure::new("cannot carry every setting of the action over to the user container")
            .fix("leave it out of the action, or use an OSIE with Docker"),
        _ if refusal.retry() != Retry::Never => failure.fix(about.check),
        _ => {
            let failure = failure.fix("the engine's message names the setting of the action that it does not take");
            field_of(&refusal.said).into_iter().fold(failure, Failure::field)
        }
    };
    failure.cause(refusal)
}

/// The user container could not be started.
pub fn start_failed(about: &About, refusal: Refusal) -> Failure {
    let failure = Failure::new("cannot start the user container");
    let failure = match refusal.kind {
        Kind::NotExecutable => {
            failure.field("command").fix("check that it exists in IMAGE and may be executed; the container is kept")
        }
        Kind::Gone => failure.fix("look for who removes containers on this machine, and run the Workflow again"),
        _ if refusal.retry() == Retry::UntilDeadline => failure.fix(about.check),
        _ => failure.fix("the engine's message names what could not be set up; the container is kept"),
    };
    failure.cause(refusal)
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
