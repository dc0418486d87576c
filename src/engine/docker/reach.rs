//! Reaches a Docker Engine by the action's volume, or else by the host's socket through PID 1.

use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use super::api::Api;
use super::api_error::ApiError;
use super::socket::{self, SOCKET_LINES};
use super::{CHECK, Docker};
use crate::error::Failure;
use crate::settings::DockerHost;

impl Docker {
    /// Reaches the engine at `host`.
    ///
    /// # Errors
    /// If the engine cannot be reached; the failure names the template lines that fix it.
    pub async fn reach(host: &DockerHost) -> Result<Self, Failure> {
        let error = match Api::reach(host).await {
            Ok(api) => return Ok(Self { api, through_init: false }),
            Err(error) => error,
        };
        let default = DockerHost::default();
        if *host == default && !matches!(host, DockerHost::Unix(path) if socket::is_socket(path)) {
            let mut refused = None;
            for path in socket::of_host() {
                match Api::reach(&DockerHost::Unix(path.clone())).await {
                    Ok(api) => return Ok(Self { api, through_init: true }),
                    Err(error) => refused = refused.or(Some((path, error))),
                }
            }
            // The host has a Docker Engine that does not answer: no volume would help.
            if let Some((path, error)) = refused {
                let (what, fix) = unreachable_socket(&path, &error, true);
                return Err(Failure::new(what).field("volumes").fix(fix).cause(error));
            }
        }
        Err(unreachable(host, error))
    }
}

/// Explains why the engine at `host` cannot be used, by looking at the socket.
fn unreachable(host: &DockerHost, error: ApiError) -> Failure {
    let default = DockerHost::default();
    let field = if *host == default { "volumes" } else { "environment.DOCKER_HOST" };
    let (what, fix) = match (host, &error) {
        (_, ApiError::TooOld(_)) => {
            ("the Docker Engine is too old".into(), "use an OSIE with Docker 20.10 or later")
        }
        (DockerHost::Tcp(_), _) => (
            format!("no Docker Engine answers at {host}"),
            "check the address, or leave DOCKER_HOST out and mount /var/run/docker.sock",
        ),
        (DockerHost::Unix(path), _) => unreachable_socket(path, &error, *host == default),
    };
    Failure::new(what).field(field).fix(fix).cause(error)
}

fn unreachable_socket(path: &Path, error: &ApiError, default: bool) -> (String, &'static str) {
    let shown = path.display();
    let mount = if default {
        SOCKET_LINES
    } else {
        "mount a Docker socket at this path, or correct DOCKER_HOST"
    };
    let kind = match error {
        ApiError::Connect { source, .. } => Some(source.kind()),
        _ => None,
    };
    match std::fs::metadata(path) {
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => {
            (format!("the Docker socket {shown} is not mounted"), mount)
        }
        Ok(found) if found.is_dir() => (
            format!(
                "{shown} is a directory: the machine has no Docker socket at the path that was mounted"
            ),
            "on an OSIE without Docker use CONTAINER_RUNTIME auto or nerdctl; else correct the volume's left side",
        ),
        Ok(found) if !found.file_type().is_socket() => (format!("{shown} is not a socket"), mount),
        _ if kind == Some(io::ErrorKind::PermissionDenied) => (
            format!("permission denied on the Docker socket {shown}"),
            "run the action as root, and without user namespaces",
        ),
        _ if kind == Some(io::ErrorKind::ConnectionRefused) => {
            (format!("nothing is listening on the Docker socket {shown}"), CHECK)
        }
        _ => (format!("no Docker Engine answers at {shown}"), CHECK),
    }
}
