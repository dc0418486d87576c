//! Failures in words: what an engine's refusal means to the reader of the log. The words are the
//! same for all engines. Pure.

use std::io;
use std::time::Duration;

use crate::engine::platform::Platform;
use crate::engine::{About, Kind, Refusal};
use crate::error::Failure;
use crate::reference::Reference;
use crate::retry::{Retry, Transient};

/// What to do if another container has the name that one of ours needs.
pub const NAME_IS_TAKEN: &str = "the name is taken by a container that waitdaemon did not create, or by another run of \
                                 this action; remove it and run the Workflow again";

/// The engine cannot inspect `IMAGE`.
pub fn image_unknown(image: &Reference, about: &About, refusal: Refusal) -> Failure {
    let failure =
        Failure::new(format!("cannot inspect the image {image}")).field("environment.IMAGE");
    let fix = match refusal.kind {
        Kind::NotAnImageName => {
            "the engine does not take this name; use lower-case letters, for example quay.io/org/image:v1"
        }
        _ if refusal.retry() == Retry::Never => {
            "check the image's name, or pull it by hand to see what is wrong"
        }
        _ => about.check,
    };
    failure.fix(fix).cause(refusal)
}

/// The engine could not pull the image.
pub fn pull_failed(image: &Reference, about: &About, refusal: Refusal) -> Failure {
    let fix = match refusal.kind {
        Kind::WrongPlatform => {
            "IMAGE is not built for this machine's architecture: use one that is, or one for several architectures"
        }
        Kind::Untrusted => about.trust,
        _ => {
            "check the name and the tag, that the machine reaches the registry, and that it may pull: a login is \
             WAITDAEMON_REGISTRY_USERNAME and _PASSWORD_FILE"
        }
    };
    Failure::new(format!("cannot pull the image {image}"))
        .field("environment.IMAGE")
        .fix(fix)
        .cause(refusal)
}

/// The image is built for these platforms and not for this machine.
pub fn image_is_for(image: &Reference, platforms: &[Platform], machine: &str) -> Failure {
    let others: Vec<String> = platforms.iter().map(Platform::to_string).collect();
    Failure::new(format!("IMAGE is for {}, this machine is {machine}: {image}", others.join(", ")))
        .field("environment.IMAGE")
        .fix(format!(
            "use an image that is built for linux/{machine}, or for several architectures"
        ))
}

/// The user container's network cannot be created.
pub fn no_network(why: &str) -> Failure {
    Failure::new("cannot create the user container's network")
        .field("namespaces.network")
        .fix(
            "fix the CNI plugins of the OSIE (the agent's log says what failed), or with Tinkerbell v0.25 and later give \
             the action the host's:  namespaces: {network: host}",
        )
        .cause(why)
}

/// The kernel for kexec could not be unloaded.
pub fn kernel_stays_loaded(error: io::Error) -> Failure {
    Failure::new("cannot unload the kernel that was loaded")
        .field("command")
        .fix("run kexec -u on the machine, or power-cycle it: a reboot by systemd would boot that kernel")
        .cause(error)
}

/// The pull took longer than the settings allow. If an earlier attempt failed, its cause is what to
/// fix.
pub fn pull_too_long(image: &Reference, limit: Duration, earlier: Option<String>) -> Failure {
    let seconds = limit.as_secs();
    match earlier {
        Some(said) => Failure::new(format!("cannot pull the image {image}"))
            .field("environment.IMAGE")
            .fix(
                "see that the machine reaches the registry; if it does, raise WAITDAEMON_PULL_TIMEOUT_SECONDS together \
                 with the action's timeout",
            )
            .cause(format!("{said}; it was tried again until {seconds} s were over")),
        None => Failure::new(format!("the image {image} was not pulled within {seconds} s"))
            .field("environment.WAITDAEMON_PULL_TIMEOUT_SECONDS")
            .fix("raise it together with the action's timeout, or put the image nearer to the machine"),
    }
}

/// `IMAGE` is waitdaemon, which would start itself in an endless loop.
pub fn image_is_our_own() -> Failure {
    Failure::new("IMAGE is waitdaemon itself: it would start itself again and again")
        .field("environment.IMAGE")
        .fix(
            "set IMAGE to the image that is to run after the wait, for example alpine for a reboot",
        )
}

/// There is nothing to run in the user container.
pub fn no_command() -> Failure {
    Failure::new("neither the action nor IMAGE says what to run")
        .field("command")
        .fix("add to the action:  command: [\"...\"], or use an image with an ENTRYPOINT or a CMD")
}

/// Another action has the same name, and its user container runs or is about to.
pub fn name_is_in_use(user: &str) -> Failure {
    Failure::new(format!(
        "{user} belongs to another action of the same name, which asked for something else"
    ))
    .field("name")
    .fix("give each action a name of its own, or run this Workflow when that container has ended")
}

/// A container could not be created.
pub fn creation_failed(what: &str, name: &str, about: &About, refusal: Refusal) -> Failure {
    let failure = Failure::new(format!("cannot create {what} {name}"));
    let failure = match &refusal.kind {
        Kind::NoCommand => no_command(),
        Kind::NameTaken { .. } => failure.fix(NAME_IS_TAKEN),
        Kind::ImageMissing => failure
            .field("environment.IMAGE")
            .fix("the image vanished after it was found; run the Workflow again"),
        Kind::NotCarried => {
            Failure::new("cannot carry every setting of the action over to the user container")
                .fix("leave it out of the action, or use an OSIE with Docker")
        }
        _ if refusal.retry() != Retry::Never => failure.fix(about.check),
        _ => {
            let failure = failure.fix("the engine's message names the setting that it rejects");
            field_of(&refusal.said).into_iter().fold(failure, Failure::field)
        }
    };
    failure.cause(refusal)
}

/// The user container could not be started.
pub fn start_failed(about: &About, refusal: Refusal) -> Failure {
    let failure = Failure::new("cannot start the user container");
    let failure = match refusal.kind {
        Kind::NotExecutable => failure
            .field("command")
            .fix("check that it exists in IMAGE and may be executed; the container is kept"),
        Kind::Gone => failure
            .fix("find out what removes containers on this machine, and run the Workflow again"),
        _ if refusal.retry() == Retry::UntilDeadline => failure.fix(about.check),
        _ => failure
            .fix("the engine's message names what could not be set up; the container is kept"),
    };
    failure.cause(refusal)
}

/// Returns the field of the Action that an engine's refusal is about, judging by the engine's
/// words; `None` if they match no field of a Template.
pub fn field_of(refusal: &str) -> Option<&'static str> {
    // Most specific first: a mount's message can contain any word in its path.
    let told_by: [(&[&str], &str); 5] = [
        (&["volume", "mount", "bind source"], "volumes"),
        (&["network", "endpoint", "port is already allocated"], "namespaces.network"),
        (&["pid namespace", "pid mode", "container PID"], "pid"),
        (&["environment variable", "invalid env"], "environment"),
        (&["exec: \"", "entrypoint"], "command"),
    ];
    told_by
        .into_iter()
        .find(|(words, _)| words.iter().any(|word| refusal.contains(word)))
        .map(|(_, field)| field)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engines_words_lead_to_the_field() {
        for (refusal, field) in [
            ("invalid volume specification: ':/t'", Some("volumes")),
            ("Duplicate mount point: /t", Some("volumes")),
            (
                "label key and value length (5012) greater than maximum size (4096): nerdctl/mounts",
                Some("volumes"),
            ),
            ("network front not found", Some("namespaces.network")),
            ("exec: \"nope\": executable file not found in $PATH", Some("command")),
            ("Minimum memory limit allowed is 6MB", None),
        ] {
            assert_eq!(field_of(refusal), field, "{refusal}");
        }
    }
}
