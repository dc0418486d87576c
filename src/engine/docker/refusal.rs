//! What the Docker Engine's refusals mean, by HTTP status and message. Pure.

use super::api_error::ApiError;
use crate::engine::{Kind, Refusal};
use crate::error::chain;
use crate::retry::{Retry, Transient};

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        let said = chain(&error);
        let kind = match &error {
            ApiError::Refused { status, message, .. } => kind_of(*status, message),
            _ => None,
        };
        Self { kind: kind.unwrap_or_else(|| passing(&error)), said }
    }
}

fn passing(error: &ApiError) -> Kind {
    match error.retry() {
        // It was there before: it unlinks its socket when it goes down, and a name may not resolve
        // for a moment.
        Retry::Never if matches!(error, ApiError::Connect { .. }) => {
            Kind::MayPass(Retry::UntilDeadline)
        }
        Retry::Never => Kind::Final,
        retry => Kind::MayPass(retry),
    }
}

/// Interprets the engine's words; `None` if they say no more than the status does.
fn kind_of(status: u16, message: &str) -> Option<Kind> {
    let says = |words: &str| message.contains(words);
    Some(match status {
        404 if says("No such container") => Kind::Gone,
        404 if says("No such image") => Kind::ImageMissing,
        409 if says("already in use by container") => {
            Kind::NameTaken { by: quoted_after(message, "by container") }
        }
        409 if says("already in progress") => Kind::RemovalInProgress,
        // In answer to a signal: the engine is about to start the container again.
        409 if says("is not running") => Kind::MayPass(Retry::UntilDeadline),
        // The container whose network is to be shared is down for a moment (moby,
        // `getNetworkedContainer`).
        409 if says("non running container") || says("is restarting") => {
            Kind::MayPass(Retry::UntilDeadline)
        }
        // Another container has the action's static address (libnetwork, `ErrIPAlreadyAllocated`).
        403 if says("ddress already in use") => Kind::MayPass(Retry::UntilDeadline),
        400 if says("ommand specified") => Kind::NoCommand,
        400 if says("invalid reference format") => Kind::NotAnImageName,
        // runc, through containerd: `exec: "name": executable file not found in $PATH`,
        // `...: permission denied`
        _ if says("exec: \"") => Kind::NotExecutable,
        // runc itself was not executed, or was killed (containerd, `getLastRuntimeError`).
        _ if says("unable to retrieve OCI runtime error") => Kind::MayPass(Retry::AFewTimes),
        _ => return None,
    })
}

/// Returns the first text in double quotes after these words.
fn quoted_after(message: &str, words: &str) -> Option<String> {
    let (_, rest) = message.split_once(words)?;
    rest.split('"').nth(1).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Refusals of real engines: status, words, and their meaning. `make recordings` records them;
    /// see tests/fixtures/README.md.
    #[test]
    fn recorded_refusals_are_understood() {
        let recorded = include_str!("../../../tests/fixtures/docker-refusals.tsv");
        let rows: Vec<Vec<&str>> =
            recorded.lines().skip(1).map(|line| line.split('\t').collect()).collect();
        assert!(rows.len() >= 16, "two engines, eight refusals");
        for row in rows {
            let [engine, what, status, message] = row[..] else { panic!("{row:?}") };
            let refused =
                ApiError::Refused { status: status.parse().unwrap(), message: message.into() };
            let refusal = Refusal::from(refused);
            let expected = match what {
                "inspect a container that is not there"
                | "remove a container that is not there" => Kind::Gone,
                "create with an image that is not there" => Kind::ImageMissing,
                "create with a name that is taken" => match &refusal.kind {
                    Kind::NameTaken { by: Some(id) } if id.len() == 64 => continue,
                    other => panic!("{engine}, {what}: {other:?}"),
                },
                "create without a command" => Kind::NoCommand,
                "start what cannot be executed" => Kind::NotExecutable,
                "inspect an image by no name" => Kind::NotAnImageName,
                "remove a container that runs" => Kind::Final,
                other => panic!("unknown row {other}"),
            };
            assert_eq!(refusal.kind, expected, "{engine}, {what}: {status} {message}");
        }
    }

    #[test]
    fn what_may_pass_is_known_by_the_status() {
        for (status, kind) in [
            (500, Kind::MayPass(Retry::AFewTimes)),
            (503, Kind::MayPass(Retry::UntilDeadline)),
            (429, Kind::MayPass(Retry::UntilDeadline)),
            (403, Kind::Final),
        ] {
            let error = ApiError::Refused { status, message: "words".into() };
            assert_eq!(Refusal::from(error).kind, kind, "{status}");
        }
        let address = "failed to set up container networking: Address already in use";
        assert_eq!(kind_of(403, address), Some(Kind::MayPass(Retry::UntilDeadline)));
        let runtime = "failed to create task: OCI runtime create failed: unable to retrieve OCI runtime error \
                       (open log.json: no such file or directory): fork/exec /usr/bin/runc: cannot allocate memory";
        assert_eq!(kind_of(400, runtime), Some(Kind::MayPass(Retry::AFewTimes)));
        let removal = "removal of container x is already in progress";
        assert_eq!(kind_of(409, removal), Some(Kind::RemovalInProgress));
    }
}
