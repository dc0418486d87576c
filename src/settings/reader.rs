//! Reading variables one by one. What is wrong is noted, and the rest is read all the same. Pure.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use hyper::Uri;

use super::values::{SYSLOG_PORT, host_and_port, is_plain_http, without_secret};
use super::{Awaited, DockerHost, Expired, LogLevel, Problem, Runtime, Settings, Syslog, WaitFor};
use crate::reference::Reference;

/// The longest waits that are accepted, in seconds: a day.
const LONGEST_SECONDS: u64 = 86_400;
/// Docker's port without TLS.
const DOCKER_PORT: u16 = 2375;
/// How much of a wrong value is shown, in characters.
pub(super) const SHOWN_VALUE: usize = 80;
/// What has no use but with `netboot-off`, and what has none but with a URL; each with its field.
const OF_NETBOOT_OFF: (&str, &str) = ("WAITDAEMON_SMEE_URL", "environment.WAITDAEMON_SMEE_URL");
const OF_A_URL: (&str, &str) = ("WAITDAEMON_WAIT_FOR_STATUS", "environment.WAITDAEMON_WAIT_FOR_STATUS");
/// What has no use without WAITDAEMON_WAIT_FOR, each with its field.
const OF_A_SIGNAL: [(&str, &str); 4] = [
    OF_NETBOOT_OFF,
    ("WAITDAEMON_WAIT_EXPIRED", "environment.WAITDAEMON_WAIT_EXPIRED"),
    OF_A_URL,
    ("WAITDAEMON_WAIT_MAX_SECONDS", "environment.WAITDAEMON_WAIT_MAX_SECONDS"),
];
/// Every variable of ours that has our prefix; others with the prefix are likely misspelled.
pub(super) const PREFIXED: [&str; 13] = [
    "WAITDAEMON_DRY_RUN",
    "WAITDAEMON_FINISH_REBOOT",
    "WAITDAEMON_LOG",
    "WAITDAEMON_PULL_TIMEOUT_SECONDS",
    "WAITDAEMON_REGISTRY_PASSWORD_FILE",
    "WAITDAEMON_REGISTRY_USERNAME",
    "WAITDAEMON_SMEE_URL",
    "WAITDAEMON_SYSLOG",
    "WAITDAEMON_WAIT_EXPIRED",
    "WAITDAEMON_WAIT_FOR",
    "WAITDAEMON_WAIT_FOR_STATUS",
    "WAITDAEMON_WAIT_MAX_SECONDS",
    "WAITDAEMON_WATCH_SECONDS",
];

impl Settings {
    /// Reads the environment `variables`, each a name and a value.
    ///
    /// # Errors
    /// Every [`Problem`], in the order of the documentation.
    pub fn read(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Result<Self, Vec<Problem>> {
        let mut reader = Reader::new(variables);
        let image = reader.image();
        let wait = reader.seconds_if_set("WAIT_SECONDS", "environment.WAIT_SECONDS", 0);
        let wait_for = reader.wait_for(wait.unwrap_or_default());
        let runtime = reader.runtime();
        let docker_host = reader.docker_host();
        let nerdctl_namespace = reader.nerdctl_namespace();
        let nerdctl_host = reader.boolean("NERDCTL_HOST", "environment.NERDCTL_HOST", true);
        let watch = reader.seconds("WAITDAEMON_WATCH_SECONDS", "environment.WAITDAEMON_WATCH_SECONDS", 0, 60);
        let pull_timeout =
            reader.seconds("WAITDAEMON_PULL_TIMEOUT_SECONDS", "environment.WAITDAEMON_PULL_TIMEOUT_SECONDS", 1, 600);
        let finish_reboot = reader.boolean("WAITDAEMON_FINISH_REBOOT", "environment.WAITDAEMON_FINISH_REBOOT", true);
        let log = reader.log();
        let dry_run = reader.boolean("WAITDAEMON_DRY_RUN", "environment.WAITDAEMON_DRY_RUN", false);
        let registry_login = reader.registry_login();
        let syslog = reader.syslog();
        match image {
            Some(image) if reader.problems.is_empty() => Ok(Self {
                image,
                wait,
                wait_for,
                watch,
                pull_timeout,
                finish_reboot,
                runtime,
                docker_host,
                nerdctl_namespace,
                nerdctl_host,
                log,
                dry_run,
                registry_login,
                syslog,
            }),
            _ => Err(reader.problems),
        }
    }
}

/// True if a dry run is asked for, whatever else is wrong.
pub fn asks_for_dry_run(variables: impl IntoIterator<Item = (OsString, OsString)>) -> bool {
    let mut reader = Reader::new(variables);
    reader.boolean("WAITDAEMON_DRY_RUN", "environment.WAITDAEMON_DRY_RUN", false)
}

/// Where WARN and ERROR lines go, whatever else is wrong.
pub fn syslog(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Syslog {
    Reader::new(variables).syslog()
}

/// The names among `variables` that begin with our prefix and are none of ours.
pub fn unrecognized<'a>(variables: impl IntoIterator<Item = &'a OsString>) -> Vec<String> {
    let names = variables.into_iter().filter_map(|name| name.to_str());
    names.filter(|name| name.starts_with("WAITDAEMON_") && !PREFIXED.contains(name)).map(str::to_owned).collect()
}

/// The variables that were given, and what was found wrong with them.
struct Reader {
    variables: HashMap<OsString, OsString>,
    problems: Vec<Problem>,
}

impl Reader {
    /// Reads these variables, each a name and a value.
    fn new(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        Self { variables: variables.into_iter().collect(), problems: Vec::new() }
    }

    fn image(&mut self) -> Option<Reference> {
        let field = "environment.IMAGE";
        let fix = "set IMAGE to the image that is to run, for example alpine or quay.io/org/image:v1";
        let Some(text) = self.text("IMAGE", field, fix) else {
            // A value that is not UTF-8 was reported already.
            if !self.problems.iter().any(|problem| problem.field == field) {
                self.problems.push(Problem { field, value: None, problem: "IMAGE is not set".into(), fix });
            }
            return None;
        };
        match Reference::parse(&text) {
            Ok(image) => Some(image),
            Err(why) => {
                self.reject(field, &text, why.to_string(), fix);
                None
            }
        }
    }

    fn seconds(&mut self, name: &'static str, field: &'static str, min: u64, default: u64) -> Duration {
        self.seconds_if_set(name, field, min).unwrap_or(Duration::from_secs(default))
    }

    fn seconds_if_set(&mut self, name: &'static str, field: &'static str, min: u64) -> Option<Duration> {
        let fix = "use a whole number of seconds, at most 86400, without sign, unit or blanks, or leave it out";
        let text = self.text(name, field, fix)?;
        let digits = text.bytes().all(|b| b.is_ascii_digit());
        match text.parse::<u64>() {
            Ok(seconds) if digits && (min..=LONGEST_SECONDS).contains(&seconds) => Some(Duration::from_secs(seconds)),
            _ => {
                let problem = format!("{name} is not a whole number from {min} to {LONGEST_SECONDS}");
                self.reject(field, &text, problem, fix);
                None
            }
        }
    }

    /// The signal, and what belongs to it.
    fn wait_for(&mut self, min_wait: Duration) -> Option<WaitFor> {
        let field = "environment.WAITDAEMON_WAIT_FOR";
        let fix = "use netboot-off or http://host:port/path, or leave it out";
        let wanted = self.text("WAITDAEMON_WAIT_FOR", field, fix);
        let smee = self.url("WAITDAEMON_SMEE_URL", "environment.WAITDAEMON_SMEE_URL");
        let status = self.status();
        let max_wait = self.seconds("WAITDAEMON_WAIT_MAX_SECONDS", "environment.WAITDAEMON_WAIT_MAX_SECONDS", 1, 300);
        let expired = self.expired();
        let what = match wanted.as_deref() {
            None => {
                OF_A_SIGNAL.into_iter().for_each(|variable| self.reject_unused(variable, "not"));
                return None;
            }
            Some("netboot-off") => {
                self.reject_unused(OF_A_URL, "netboot-off");
                Awaited::NetbootOff { smee }
            }
            Some(text) => match self.as_url("WAITDAEMON_WAIT_FOR", field, text, fix) {
                Some(url) => {
                    self.reject_unused(OF_NETBOOT_OFF, "a URL");
                    Awaited::Status { url, status }
                }
                None => return None,
            },
        };
        if max_wait < min_wait {
            let field = "environment.WAITDAEMON_WAIT_MAX_SECONDS";
            let problem = "WAITDAEMON_WAIT_MAX_SECONDS is less than WAIT_SECONDS, which is the least wait";
            self.reject(field, &max_wait.as_secs().to_string(), problem.into(), "raise it, or lower WAIT_SECONDS");
        }
        Some(WaitFor { what, max_wait, expired })
    }

    /// Reports a variable that is set although WAITDAEMON_WAIT_FOR is something that it does not belong to.
    fn reject_unused(&mut self, (name, field): (&'static str, &'static str), what: &str) {
        let fix = "leave it out, or set WAITDAEMON_WAIT_FOR to what it belongs to";
        let reported = self.problems.iter().any(|problem| problem.field == field);
        if let Some(text) = self.text(name, field, fix).filter(|_| !reported) {
            self.reject(field, without_secret(&text), format!("{name} is set, and WAITDAEMON_WAIT_FOR is {what}"), fix);
        }
    }

    fn registry_login(&mut self) -> Option<(String, PathBuf)> {
        let fix = "set both WAITDAEMON_REGISTRY_USERNAME and WAITDAEMON_REGISTRY_PASSWORD_FILE, or none";
        let field = "environment.WAITDAEMON_REGISTRY_USERNAME";
        let username = self.text("WAITDAEMON_REGISTRY_USERNAME", field, fix);
        let file_field = "environment.WAITDAEMON_REGISTRY_PASSWORD_FILE";
        let file = self.text("WAITDAEMON_REGISTRY_PASSWORD_FILE", file_field, fix);
        match (username, file) {
            (Some(username), Some(file)) => Some((username, file.into())),
            (Some(_), None) => {
                let problem = "WAITDAEMON_REGISTRY_PASSWORD_FILE is not set".into();
                self.problems.push(Problem { field: file_field, value: None, problem, fix });
                None
            }
            (None, Some(_)) => {
                let problem = "WAITDAEMON_REGISTRY_USERNAME is not set".into();
                self.problems.push(Problem { field, value: None, problem, fix });
                None
            }
            (None, None) => None,
        }
    }

    fn syslog(&mut self) -> Syslog {
        let (field, fix) = ("environment.WAITDAEMON_SYSLOG", "use off, host or host:port, or leave it out");
        match self.text("WAITDAEMON_SYSLOG", field, fix).as_deref() {
            None => Syslog::Usual,
            Some("off") => Syslog::Off,
            Some(text) => match host_and_port(text, SYSLOG_PORT) {
                Some(address) => Syslog::To(address),
                None => {
                    self.reject(field, text, "WAITDAEMON_SYSLOG is not a valid host".into(), fix);
                    Syslog::Usual
                }
            },
        }
    }

    fn status(&mut self) -> u16 {
        let (field, fix) =
            ("environment.WAITDAEMON_WAIT_FOR_STATUS", "use an HTTP status from 200 to 599, or leave it out (200)");
        let Some(text) = self.text("WAITDAEMON_WAIT_FOR_STATUS", field, fix) else { return 200 };
        let digits = text.bytes().all(|b| b.is_ascii_digit());
        text.parse::<u16>().ok().filter(|status| digits && (200..600).contains(status)).unwrap_or_else(|| {
            self.reject(field, &text, "WAITDAEMON_WAIT_FOR_STATUS is not an HTTP status code".into(), fix);
            200
        })
    }

    fn expired(&mut self) -> Expired {
        let (field, fix) = ("environment.WAITDAEMON_WAIT_EXPIRED", "use run or abort, or leave it out (run)");
        match self.text("WAITDAEMON_WAIT_EXPIRED", field, fix).as_deref() {
            None | Some("run") => Expired::Run,
            Some("abort") => Expired::Abort,
            Some(text) => {
                self.reject(field, text, "WAITDAEMON_WAIT_EXPIRED is neither run nor abort".into(), fix);
                Expired::Run
            }
        }
    }

    fn url(&mut self, name: &'static str, field: &'static str) -> Option<Uri> {
        let fix = "use http://host:port, or leave it out";
        let text = self.text(name, field, fix)?;
        self.as_url(name, field, &text, fix)
    }

    /// Plain HTTP alone: TLS would double the image.
    fn as_url(&mut self, name: &str, field: &'static str, text: &str, fix: &'static str) -> Option<Uri> {
        let url = text.parse::<Uri>().ok();
        let https = url.as_ref().is_some_and(|url| url.scheme_str() == Some("https"));
        let found = url.filter(|url| is_plain_http(url) && !text.contains('#'));
        if found.is_none() {
            let what = if https { "is https, which is not supported" } else { "is not an http:// URL" };
            self.reject(field, without_secret(text), format!("{name} {what}"), fix);
        }
        found
    }

    /// A switch.
    fn boolean(&mut self, name: &'static str, field: &'static str, default: bool) -> bool {
        let fix = "use true, false, 1 or 0, or leave it out";
        let Some(text) = self.text(name, field, fix) else { return default };
        match text.to_ascii_lowercase().as_str() {
            "true" | "1" => true,
            "false" | "0" => false,
            _ => {
                self.reject(field, &text, format!("{name} is neither true nor false"), fix);
                default
            }
        }
    }

    fn runtime(&mut self) -> Runtime {
        let (field, fix) = ("environment.CONTAINER_RUNTIME", "use auto, docker or nerdctl, or leave it out (auto)");
        match self.text("CONTAINER_RUNTIME", field, fix).as_deref() {
            None | Some("auto") => Runtime::Auto,
            Some("docker") => Runtime::Docker,
            Some("nerdctl") => Runtime::Nerdctl,
            Some(text) => {
                self.reject(field, text, "CONTAINER_RUNTIME is not one of auto, docker, nerdctl".into(), fix);
                Runtime::Auto
            }
        }
    }

    fn docker_host(&mut self) -> DockerHost {
        let field = "environment.DOCKER_HOST";
        let fix = "use unix:///path/to/docker.sock or tcp://host:port (without TLS), or leave it out";
        let Some(text) = self.text("DOCKER_HOST", field, fix) else { return DockerHost::default() };
        let problem = if let Some(path) = text.strip_prefix("unix://") {
            if path.starts_with('/') && path.len() > 1 {
                return DockerHost::Unix(path.into());
            }
            "DOCKER_HOST's path is not absolute"
        } else if let Some(address) = text.strip_prefix("tcp://") {
            if let Some(address) = host_and_port(address.trim_end_matches('/'), DOCKER_PORT) {
                return DockerHost::Tcp(address);
            }
            "DOCKER_HOST is not tcp://host:port"
        } else {
            "DOCKER_HOST's scheme is not supported"
        };
        self.reject(field, &text, problem.into(), fix);
        DockerHost::default()
    }

    /// containerd's rule for namespaces (`pkg/identifiers`): words of letters and digits, joined by
    /// single `.`, `_` or `-`, at most 76 characters.
    fn nerdctl_namespace(&mut self) -> String {
        let field = "environment.NERDCTL_NAMESPACE";
        let fix = "use letters and digits, joined by single '.', '_' or '-', or leave it out (tinkerbell)";
        let Some(text) = self.text("NERDCTL_NAMESPACE", field, fix) else { return "tinkerbell".into() };
        let word = |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric());
        if text.len() > 76 || !text.split(['.', '_', '-']).all(word) {
            self.reject(field, &text, "NERDCTL_NAMESPACE is not a valid containerd namespace".into(), fix);
        }
        text
    }

    fn log(&mut self) -> LogLevel {
        let (field, fix) = ("environment.WAITDAEMON_LOG", "use error, warn, info or debug, or leave it out (info)");
        match self.text("WAITDAEMON_LOG", field, fix).as_deref() {
            None | Some("info") => LogLevel::Info,
            Some("error") => LogLevel::Error,
            Some("warn") => LogLevel::Warn,
            Some("debug") => LogLevel::Debug,
            Some(text) => {
                self.reject(field, text, "WAITDAEMON_LOG is not one of error, warn, info, debug".into(), fix);
                LogLevel::Info
            }
        }
    }

    /// The value of a variable; `None` if it is missing, empty (the default holds) or not UTF-8
    /// (reported).
    fn text(&mut self, name: &'static str, field: &'static str, fix: &'static str) -> Option<String> {
        let value = self.variables.get(&OsString::from(name)).filter(|value| !value.is_empty())?;
        if let Some(text) = value.to_str() {
            return Some(text.to_owned());
        }
        let shown = value.to_string_lossy().into_owned();
        self.reject(field, &shown, format!("{name} is not UTF-8"), fix);
        None
    }

    fn reject(&mut self, field: &'static str, value: &str, problem: String, fix: &'static str) {
        let mut shown: String = value.chars().take(SHOWN_VALUE).collect();
        if shown.len() < value.len() {
            shown.push('…');
        }
        self.problems.push(Problem { field, value: Some(shown), problem, fix });
    }
}
