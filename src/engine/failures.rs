//! Failures that mean the same on every engine, in the same words.

use std::time::Duration;

use super::ARMING_LIMIT;
use crate::error::Failure;
use crate::reference::Reference;
use crate::retry::Worth;

/// What to do where a container has the name that one of ours shall have.
pub const NAME_IS_TAKEN: &str = "a container with this name exists that waitdaemon did not make, or that another run of \
                                 this action made at this very moment; remove it and serve the action again";

/// The engine could not pull the image; its own word is the cause to add.
pub fn pull_failed(image: &Reference) -> Failure {
    Failure::new(format!("cannot pull the image {image}"))
        .field("environment.IMAGE")
        .fix("check the name and the tag, that the machine reaches the registry, and that it may pull: a login is WAITDAEMON_REGISTRY_USERNAME and _PASSWORD_FILE")
}

/// The pull took longer than the settings allow; where a try before the last one failed, that is what to mend.
pub fn pull_too_long(image: &Reference, limit: Duration, stumble: Option<String>) -> Failure {
    let seconds = limit.as_secs();
    match stumble {
        Some(said) => pull_failed(image).cause(format!("{said}; it was tried again until {seconds} s were over")).fix(
            "see that the machine reaches the registry; if it does, raise WAITDAEMON_PULL_TIMEOUT_SECONDS together with \
             the action's timeout",
        ),
        None => Failure::new(format!("the image {image} was not pulled within {seconds} s"))
            .field("environment.WAITDAEMON_PULL_TIMEOUT_SECONDS")
            .fix("raise it together with the action's timeout, or put the image nearer to the machine"),
    }
}

/// Whether a pull that failed with these words may succeed a little later: where the network or the
/// registry stumbled, not where it said no (words of Go's net, distribution and containerd).
pub fn worth_of_pull(said: &str) -> Worth {
    const STUMBLES: [&str; 23] = [
        "connection refused",
        "connection reset",
        "connection timed out",
        "connection broke",
        "broken pipe",
        "network is unreachable",
        "no route to host",
        "no such host",
        "server misbehaving",
        "name resolution",
        "i/o timeout",
        "handshake timeout",
        "Client.Timeout",
        "request canceled",
        "deadline exceeded",
        "EOF",
        "closed network connection",
        "short read",
        "toomanyrequests",
        "too many requests",
        "Too Many Requests",
        "Unavailable",
        "Bad Gateway",
    ];
    if STUMBLES.iter().any(|word| said.contains(word)) || tells_of_a_busy_server(said) {
        Worth::Long
    } else {
        Worth::Nothing
    }
}

/// True where the words tell of HTTP status 429 or 5xx: a word of its own, so that no port, tag or digest counts.
fn tells_of_a_busy_server(said: &str) -> bool {
    let about_http = said.contains("HTTP") || said.contains("status");
    let mut words = said.split_whitespace().map(|word| word.trim_matches(|c: char| !c.is_ascii_alphanumeric()));
    about_http && words.any(|word| word.len() == 3 && word.parse().is_ok_and(|code| matches!(code, 429 | 500..=599)))
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
    fn only_a_stumble_is_pulled_again() {
        for said in [
            "Get \"http://127.0.0.1:5000/v2/\": dial tcp 127.0.0.1:5000: connect: connection refused",
            "dial tcp: lookup registry.example.org on 10.0.0.1:53: no such host",
            "received unexpected HTTP status: 503 Service Unavailable",
            "unexpected status from GET request to http://r/v2/a/blobs/sha256:0: 502 Bad Gateway",
            "toomanyrequests: rate exceeded",
            "error parsing HTTP 429 response body: no error details found in HTTP response body: \"{}\"",
            "unexpected status from HEAD request to http://127.0.0.1:5002/v2/ok/manifests/1: 503 Service Unavailable",
            "failed to copy: httpReadSeeker: failed open: unexpected EOF",
            "net/http: TLS handshake timeout",
        ] {
            assert_eq!(worth_of_pull(said), Worth::Long, "{said}");
        }
        for said in [
            "manifest unknown",
            "unauthorized: authentication required",
            "pull access denied for x, repository does not exist",
            "received unexpected HTTP status: 403 Forbidden",
            "unexpected status from HEAD request to http://r/v2/a/manifests/1: 401 Unauthorized",
            "no matching manifest for linux/amd64 in the manifest list entries",
            "unexpected status from GET request to http://r:500/v2/a/manifests/503: 403 Forbidden",
            "no space left on device",
            "http: server gave HTTP response to HTTPS client",
        ] {
            assert_eq!(worth_of_pull(said), Worth::Nothing, "{said}");
        }
    }

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
