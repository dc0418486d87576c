//! What nerdctl's refusals mean, by its own words. Pure.

use std::io::ErrorKind;

use super::cli::CliError;
use super::flags::NotCarried;
use crate::engine::registry::refusal_of_pull;
use crate::engine::{Kind, Refusal};
use crate::error::chain;
use crate::retry::Retry;

/// Failures that pass: containerd is away, or something that a container needs is not free yet.
const PASSING: [&str; 7] = [
    // A static address is free once the action's container is removed (CNI's host-local).
    "is not available in range set",
    "connection refused",
    "cannot access containerd socket",
    "Unavailable",
    // A call that was cut off: `error reading from server: EOF: unavailable`.
    ": unavailable",
    "connection error",
    "deadline exceeded",
];

/// Interprets the failure of a call that changes something.
pub fn change_refusal(error: CliError) -> Refusal {
    let said = chain(&error);
    let kind = match &error {
        CliError::Refused { message } => kind_of(message).unwrap_or(Kind::Unrecognized),
        CliError::Late { .. } | CliError::Partial { .. } => Kind::MayPass(Retry::UntilDeadline),
        CliError::Mute { .. } | CliError::NotJson { .. } | CliError::Empty { .. } => {
            Kind::MayPass(Retry::AFewTimes)
        }
        // There is no memory or process for it, which may pass; or there is no such program.
        CliError::Run(error) => match error.kind() {
            ErrorKind::NotFound | ErrorKind::PermissionDenied | ErrorKind::ArgumentListTooLong => {
                Kind::Final
            }
            _ => Kind::MayPass(Retry::UntilDeadline),
        },
    };
    Refusal { kind, said }
}

/// Interprets the failure of a question, which can be asked again if its words are unknown.
pub fn query_refusal(error: CliError) -> Refusal {
    let refusal = change_refusal(error);
    if refusal.kind == Kind::Unrecognized {
        // A list fails if any container is deleted while the list is made (nerdctl 2.2.1: "... not
        // found").
        let retry = if refusal.said.contains("not found") {
            Retry::UntilDeadline
        } else {
            Retry::AFewTimes
        };
        return Refusal { kind: Kind::MayPass(retry), ..refusal };
    }
    refusal
}

/// Interprets the failure of a pull: nerdctl's own words, or the registry's, which it passes on.
pub fn pull_refusal(error: CliError) -> Refusal {
    match error {
        CliError::Refused { message } => match kind_of(&message) {
            Some(kind @ Kind::MayPass(_)) => Refusal::new(kind, message),
            _ => refusal_of_pull(message),
        },
        other => change_refusal(other),
    }
}

/// Interprets nerdctl's words (2.2.1); returns `None` if they are unknown.
fn kind_of(message: &str) -> Option<Kind> {
    let says = |words: &str| message.contains(words);
    Some(if is_missing(message) {
        Kind::Gone
    } else if says("is already used by ID") {
        Kind::NameTaken {
            by: message.split_once("is already used by ID \"").and_then(|(_, rest)| quoted(rest)),
        }
    } else if says("exec: \"") {
        Kind::NotExecutable
    } else if says("image not available") {
        Kind::ImageMissing
    } else if says("invalid reference format") || says("could not parse reference") {
        Kind::NotAnImageName
    } else if says("is in running status") {
        // A running container is not removed.
        Kind::Final
    } else if PASSING.iter().any(|words| says(words)) {
        Kind::MayPass(Retry::UntilDeadline)
    } else {
        return None;
    })
}

fn quoted(rest: &str) -> Option<String> {
    rest.split_once('"').map(|(text, _)| text.to_owned())
}

/// True if the object in question does not exist (nerdctl 2.2.1: `no such container`; containerd,
/// if it is deleted at that moment: `container "ID" in namespace "NAME": not found`).
fn is_missing(message: &str) -> bool {
    let gone = |line: &str| line.starts_with("container \"") && line.ends_with(": not found");
    message.contains("no such container") || message.lines().any(gone)
}

impl From<NotCarried> for Refusal {
    fn from(error: NotCarried) -> Self {
        Self::new(Kind::NotCarried, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::retry::Transient;

    fn refused(message: &str) -> CliError {
        CliError::Refused { message: message.into() }
    }

    /// Refusals of real engines; `make recordings` records them.
    #[test]
    fn recorded_refusals_are_understood() {
        let recorded = include_str!("../../../tests/fixtures/nerdctl-refusals.tsv");
        let rows: Vec<Vec<&str>> =
            recorded.lines().skip(1).map(|line| line.split('\t').collect()).collect();
        assert!(rows.len() >= 7, "{rows:?}");
        for row in rows {
            let [engine, what, message] = row[..] else { panic!("{row:?}") };
            let kind = change_refusal(refused(message)).kind;
            let expected = match what {
                "inspect a container that is not there" | "start a container that is not there" => {
                    Kind::Gone
                }
                "create with a name that is taken" => match kind {
                    Kind::NameTaken { by: Some(id) } if id.len() == 64 => continue,
                    other => panic!("{engine}, {what}: {other:?}"),
                },
                "start what cannot be executed" => Kind::NotExecutable,
                "inspect an image by no name" => Kind::NotAnImageName,
                "create with an image that is not there" => Kind::ImageMissing,
                "remove a container that runs" => Kind::Final,
                "containerd is away" => Kind::MayPass(Retry::UntilDeadline),
                other => panic!("unknown row {other}"),
            };
            assert_eq!(kind, expected, "{engine}, {what}: {message}");
            let pulled = pull_refusal(refused(message)).retry();
            assert_eq!(pulled == Retry::UntilDeadline, what == "containerd is away", "{message}");
        }
    }

    #[test]
    fn only_a_missing_container_is_gone() {
        assert_eq!(
            kind_of("1 errors:\ncontainer \"ab\" in namespace \"tinkerbell\": not found"),
            Some(Kind::Gone)
        );
        assert_eq!(kind_of("1 errors:\nimage \"ab\": not found"), None);
        assert_eq!(
            query_refusal(refused("image \"ab\": not found")).kind,
            Kind::MayPass(Retry::UntilDeadline)
        );
        assert_eq!(
            query_refusal(refused("words that nobody knows")).kind,
            Kind::MayPass(Retry::AFewTimes)
        );
        assert_eq!(change_refusal(refused("words that nobody knows")).kind, Kind::Unrecognized);
        let cut_off = "error reading from server: EOF: unavailable";
        assert_eq!(kind_of(cut_off), Some(Kind::MayPass(Retry::UntilDeadline)));
    }
}
