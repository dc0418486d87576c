//! What the handoff tells the waiter: names and settings, so that the waiter rediscovers nothing.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::machine::power::Request;
use crate::names::HandoffId;
use crate::safe_moment::Signal;
use crate::settings::{DockerHost, LogLevel};

/// The waiter's only argument, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket {
    /// How to reach the engine.
    pub engine: EngineTicket,
    /// What to do there.
    pub duty: Duty,
}

/// What a waiter has to do, whatever the engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Duty {
    /// The handoff that made the waiter and the user container.
    pub handoff: HandoffId,
    /// The action container's ID: 64 hexadecimal digits.
    pub action_id: String,
    /// The action container's name; those of the other two containers follow from it.
    pub action_name: String,
    /// The action's process, as the host counts, if the engine says so.
    pub action_pid: Option<u32>,
    /// Whoever runs the action deletes its container only if it succeeded; see [`crate::engine::Whole`].
    pub deleted_on_success: bool,
    /// The user container has a terminal, so its output comes without frames.
    pub tty: bool,
    /// Seconds from the action container's end to the user container's start, at least.
    pub wait_seconds: u64,
    /// What else is waited for.
    pub signal: Option<Signal>,
    /// Seconds that the user container is watched.
    pub watch_seconds: u64,
    /// What systemd is to be asked for if the user's command could not get it.
    pub finish_reboot: Option<Request>,
    /// `WAITDAEMON_LOG`.
    pub log: LogLevel,
    /// The syslog server to which WARN and ERROR lines go, `host:port`.
    pub syslog: Option<String>,
}

impl Duty {
    /// True if the waiter has to reach somebody through a network.
    pub fn needs_network(&self) -> bool {
        self.signal.is_some() || self.syslog.is_some()
    }
}

/// How the waiter reaches the engine that the handoff used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum EngineTicket {
    /// The Docker Engine API.
    Docker {
        /// Where it listens, as seen in the waiter.
        host: DockerHost,
        /// Where it listens after a restart, if that is elsewhere.
        socket_after_restart: Option<PathBuf>,
        /// The API version that the handoff agreed on, such as `1.41`.
        version: String,
    },
    /// containerd through nerdctl.
    Nerdctl {
        /// `NERDCTL_HOST`: true in the host's namespaces, false in the waiter's own.
        host: bool,
        /// containerd's namespace.
        namespace: String,
    },
}

impl Ticket {
    /// The ticket as the waiter's argument.
    ///
    /// # Errors
    /// None in practice: every field is plain text or a number.
    pub fn to_argument(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string(self)
    }

    /// Reads the waiter's argument.
    ///
    /// # Errors
    /// If the text is not what [`Ticket::to_argument`] writes.
    pub fn from_argument(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Expired;

    #[test]
    fn what_is_written_is_read() {
        let ticket = Ticket {
            engine: EngineTicket::Docker {
                host: DockerHost::Tcp("h:1".into()),
                socket_after_restart: Some("/run/engine/docker.sock".into()),
                version: "1.41".into(),
            },
            duty: Duty {
                handoff: HandoffId::random().unwrap(),
                action_id: "ab".repeat(32),
                action_name: "tinkerbell_reboot_a0".into(),
                action_pid: Some(42),
                deleted_on_success: true,
                tty: false,
                wait_seconds: 10,
                signal: Some(Signal {
                    name: "netboot to be switched off".into(),
                    url: "http://h:7080/x".into(),
                    status: 404,
                    times: 3,
                    max_seconds: 300,
                    expired: Expired::Abort,
                }),
                watch_seconds: 60,
                finish_reboot: Some(Request::Reboot),
                log: LogLevel::Debug,
                syslog: Some("192.0.2.1:514".into()),
            },
        };
        assert_eq!(Ticket::from_argument(&ticket.to_argument().unwrap()).unwrap(), ticket);
        assert!(Ticket::from_argument("reboot").is_err());
    }
}
