//! What the handoff tells the waiter: names and settings, so that the waiter rediscovers nothing.

use std::path::PathBuf;

use log::LevelFilter;
use serde_json::{Value, json};

use crate::end::{End, Init};
use crate::names::HandoffId;
use crate::safe_moment::AwaitedSignal;
use crate::settings::{DockerHost, Expired, Fallback};

/// The waiter's only argument, as JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    /// How to reach the engine.
    pub engine: EngineTicket,
    /// What the waiter has to do.
    pub duty: Duty,
}

/// What a waiter has to do, whatever the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Duty {
    /// The handoff that made the waiter and the user container.
    pub handoff: HandoffId,
    /// The action container's ID: 64 hexadecimal digits.
    pub action_id: String,
    /// The action container's name; the names of the other two containers follow from it.
    pub action_name: String,
    /// The action's process ID on the host, if the engine tells it.
    pub action_pid: Option<u32>,
    /// The action's container is deleted by its runner only if the action succeeded; see
    /// [`crate::engine::Whole`].
    pub deleted_on_success: bool,
    /// The user container has a terminal, so its output comes without frames.
    pub tty: bool,
    /// The least seconds from the action container's end to the user container's start.
    pub wait_seconds: u64,
    /// The signal to wait for, if any.
    pub signal: Option<AwaitedSignal>,
    /// How many seconds the user container is watched.
    pub watch_seconds: u64,
    /// The end of the machine that the waiter brings about itself; then there is no user container.
    pub own_end: Option<End>,
    /// What to ask systemd for if the user's command could not get it.
    pub finish_reboot: Option<End>,
    /// The word in the user's command that says that it takes the machine down.
    pub word_of_end: Option<String>,
    /// The action sees the host's PIDs.
    pub has_host_pids: bool,
    /// The end of the machine if the user container does not bring it about.
    pub fallback: Option<Fallback>,
    /// Seconds after which the kernel is asked for an end that PID 1 was asked for; 0 means never.
    pub force_after_seconds: u64,
    /// What PID 1 is.
    pub init: Init,
    /// Where to report what becomes of the action, if anywhere.
    pub report: Option<Report>,
    /// `WAITDAEMON_LOG`.
    pub log: LevelFilter,
    /// The syslog server to which WARN and ERROR lines go, `host:port`.
    pub syslog: Option<String>,
}

/// `WAITDAEMON_REPORT_URL`, and what a report says of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The URL to send reports to.
    pub url: String,
    /// The machine's name in Tinkerbell; may be empty.
    pub worker: String,
}

impl Duty {
    /// True if the waiter has to reach a server through a network.
    pub fn needs_network(&self) -> bool {
        self.signal.is_some() || self.syslog.is_some() || self.report.is_some()
    }

    /// True if the waiter may have to ask the kernel for the machine's end.
    pub fn ends_machine(&self) -> bool {
        self.own_end.is_some() || self.fallback.is_some()
    }

    /// True if the waiter or the user container may end the machine, as far as words tell.
    pub fn may_end_machine(&self) -> bool {
        self.ends_machine() || self.user_ends_machine()
    }

    /// True if the user container is to end the machine, as far as words tell.
    pub fn user_ends_machine(&self) -> bool {
        self.finish_reboot.is_some() || self.word_of_end.is_some()
    }

    /// True if the waiter may have to unload a kernel.
    pub fn unloads_kernel(&self) -> bool {
        self.own_end == Some(End::Kexec)
    }

    /// True if the waiter may have to signal the host's PID 1.
    pub fn signals_init(&self) -> bool {
        self.ends_machine() || self.finish_reboot.is_some()
    }
}

/// How the waiter reaches the engine that the handoff used.
#[derive(Debug, Clone, PartialEq, Eq)]
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
        /// `NERDCTL_HOST`: true for the host's namespaces, false for the waiter's own.
        host: bool,
        /// containerd's namespace.
        namespace: String,
    },
}

/// Why a text is not a ticket.
#[derive(Debug, thiserror::Error)]
pub enum NotATicket {
    /// It is not JSON.
    #[error("the argument is not JSON")]
    NotJson(#[from] serde_json::Error),
    /// A field is missing or invalid.
    #[error("the argument is JSON, but not a ticket of this version")]
    Other,
}

/// Written by hand: the code that serde derives for reading takes 17 KB more.
impl Ticket {
    /// Returns the ticket as the waiter's argument.
    pub fn to_argument(&self) -> String {
        let engine = match &self.engine {
            EngineTicket::Docker { host, socket_after_restart, version } => {
                let (socket, address) = match host {
                    DockerHost::Unix(path) => (Some(path), None),
                    DockerHost::Tcp(address) => (None, Some(address)),
                };
                json!({"socket": socket, "address": address, "socket_after_restart": socket_after_restart, "version": version})
            }
            EngineTicket::Nerdctl { host, namespace } => {
                json!({"host": host, "namespace": namespace})
            }
        };
        let Duty { signal, fallback, report, .. } = &self.duty;
        let duty = &self.duty;
        json!({
            "engine": engine,
            "handoff": duty.handoff.as_str(),
            "action_id": duty.action_id,
            "action_name": duty.action_name,
            "action_pid": duty.action_pid,
            "deleted_on_success": duty.deleted_on_success,
            "tty": duty.tty,
            "wait_seconds": duty.wait_seconds,
            "signal": signal.as_ref().map(|signal| json!({
                "name": signal.name, "url": signal.url, "status": signal.status, "times": signal.times,
                "max_seconds": signal.max_seconds, "expired": signal.expired.name(),
            })),
            "watch_seconds": duty.watch_seconds,
            "own_end": duty.own_end.map(End::name),
            "finish_reboot": duty.finish_reboot.map(End::name),
            "word_of_end": duty.word_of_end,
            "has_host_pids": duty.has_host_pids,
            "fallback": fallback.map(|fallback| fallback.end.name()),
            "fallback_after_seconds": fallback.map(|fallback| fallback.after_seconds),
            "force_after_seconds": duty.force_after_seconds,
            "init": duty.init.name(),
            "report_url": report.as_ref().map(|report| report.url.as_str()),
            "worker": report.as_ref().map(|report| report.worker.as_str()),
            "log": duty.log.as_str(),
            "syslog": duty.syslog,
        })
        .to_string()
    }

    /// Reads the waiter's argument.
    ///
    /// # Errors
    /// If the text is not what [`Ticket::to_argument`] writes.
    pub fn from_argument(text: &str) -> Result<Self, NotATicket> {
        let value: Value = serde_json::from_str(text)?;
        read(&value).ok_or(NotATicket::Other)
    }
}

fn read(value: &Value) -> Option<Ticket> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let engine = &value["engine"];
    let engine = match engine["version"].as_str() {
        Some(version) => EngineTicket::Docker {
            host: match engine["socket"].as_str() {
                Some(path) => DockerHost::Unix(path.into()),
                None => DockerHost::Tcp(text(&engine["address"])?),
            },
            socket_after_restart: engine["socket_after_restart"].as_str().map(PathBuf::from),
            version: version.to_owned(),
        },
        None => EngineTicket::Nerdctl {
            host: engine["host"].as_bool()?,
            namespace: text(&engine["namespace"])?,
        },
    };
    let end = |value: &Value| value.as_str().and_then(End::from_name);
    let number = |value: &Value| value.as_u64().and_then(|number| u32::try_from(number).ok());
    let signal = |value: &Value| {
        Some(AwaitedSignal {
            name: text(&value["name"])?,
            url: text(&value["url"])?,
            status: number(&value["status"])?.try_into().ok()?,
            times: number(&value["times"])?,
            max_seconds: value["max_seconds"].as_u64()?,
            expired: Expired::from_name(value["expired"].as_str()?)?,
        })
    };
    let fallback = end(&value["fallback"]).zip(value["fallback_after_seconds"].as_u64());
    let report = text(&value["report_url"]).zip(text(&value["worker"]));
    let duty = Duty {
        handoff: HandoffId::from_text(value["handoff"].as_str()?),
        action_id: text(&value["action_id"])?,
        action_name: text(&value["action_name"])?,
        action_pid: number(&value["action_pid"]),
        deleted_on_success: value["deleted_on_success"].as_bool()?,
        tty: value["tty"].as_bool()?,
        wait_seconds: value["wait_seconds"].as_u64()?,
        signal: if value["signal"].is_null() { None } else { Some(signal(&value["signal"])?) },
        watch_seconds: value["watch_seconds"].as_u64()?,
        own_end: end(&value["own_end"]),
        finish_reboot: end(&value["finish_reboot"]),
        word_of_end: text(&value["word_of_end"]),
        has_host_pids: value["has_host_pids"].as_bool()?,
        fallback: fallback.map(|(end, after_seconds)| Fallback { end, after_seconds }),
        force_after_seconds: value["force_after_seconds"].as_u64()?,
        init: Init::from_name(value["init"].as_str()?)?,
        report: report.map(|(url, worker)| Report { url, worker }),
        log: value["log"].as_str()?.parse().ok()?,
        syslog: text(&value["syslog"]),
    };
    Some(Ticket { engine, duty })
}

#[cfg(test)]
mod tests {
    use super::*;

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
                signal: Some(AwaitedSignal {
                    name: "netboot to be switched off".into(),
                    url: "http://h:7080/x".into(),
                    status: 404,
                    times: 3,
                    max_seconds: 300,
                    expired: Expired::Abort,
                }),
                watch_seconds: 60,
                own_end: Some(End::Kexec),
                finish_reboot: Some(End::Reboot),
                word_of_end: Some("reboot".into()),
                has_host_pids: true,
                fallback: Some(Fallback { end: End::PowerOff, after_seconds: 60 }),
                force_after_seconds: 60,
                init: Init::Systemd,
                report: Some(Report { url: "http://h/report".into(), worker: "aa:bb".into() }),
                log: LevelFilter::Debug,
                syslog: Some("192.0.2.1:514".into()),
            },
        };
        assert_eq!(Ticket::from_argument(&ticket.to_argument()).unwrap(), ticket);
        let none = Duty {
            action_pid: None,
            signal: None,
            own_end: None,
            finish_reboot: None,
            word_of_end: None,
            fallback: None,
            report: None,
            syslog: None,
            ..ticket.duty
        };
        let engine = EngineTicket::Nerdctl { host: false, namespace: "tinkerbell".into() };
        let ticket = Ticket { engine, duty: none };
        assert_eq!(Ticket::from_argument(&ticket.to_argument()).unwrap(), ticket);
        for text in ["reboot", "{}", "[]", "null"] {
            assert!(Ticket::from_argument(text).is_err(), "{text}");
        }
    }
}
