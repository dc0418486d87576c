//! The action's environment, read into validated settings. Pure.
//!
//! Only the variables documented in docs/reference.md are read. All problems are reported at once,
//! and nothing falls back silently: a value that is set but invalid is a problem.

pub mod reader;
pub mod values;
pub mod variables;

use std::path::PathBuf;
use std::time::Duration;

use hyper::Uri;
use log::LevelFilter;

use crate::bootloader::Wanted;
use crate::end::End;
use crate::reference::Reference;

/// What the action's `environment` asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// What is done after the wait.
    pub work: Work,
    /// `WAIT_SECONDS`: the time from the action container's end to the user container's start;
    /// `None` if it is not set.
    pub wait: Option<Duration>,
    /// `WAITDAEMON_WAIT_FOR`: a signal to wait for, too.
    pub wait_for: Option<WaitFor>,
    /// `WAITDAEMON_WATCH_SECONDS`: how long the user container is watched; zero means not at all.
    pub watch: Duration,
    /// `WAITDAEMON_PULL_TIMEOUT_SECONDS`: the longest that pulling the image may take.
    pub pull_timeout: Duration,
    /// `WAITDAEMON_FINISH_REBOOT`: when to ask systemd for the reboot that BusyBox could not get
    /// from it.
    pub finish_reboot: FinishReboot,
    /// `WAITDAEMON_FORCE_AFTER_SECONDS`: when the kernel is asked for an end that init was asked
    /// for; `None` means never.
    pub force_after: Option<Duration>,
    /// `WAITDAEMON_FALLBACK`: the end of the machine if the user's own work does not bring it
    /// about.
    pub fallback: Option<Fallback>,
    /// `WAITDAEMON_REPORT_URL`: where to report what becomes of the action.
    pub report: Option<Uri>,
    /// `CONTAINER_RUNTIME`.
    pub runtime: Runtime,
    /// `DOCKER_HOST`.
    pub docker_host: DockerHost,
    /// `NERDCTL_NAMESPACE`.
    pub nerdctl_namespace: String,
    /// `NERDCTL_HOST`: use the host's nerdctl, in the host's namespaces.
    pub nerdctl_host: bool,
    /// `WAITDAEMON_LOG`: the lowest level that is logged.
    pub log: LevelFilter,
    /// `WAITDAEMON_DRY_RUN`: show what a handoff would do, and change nothing.
    pub dry_run: bool,
    /// `WAITDAEMON_REGISTRY_USERNAME` and the file that holds its password.
    pub registry_login: Option<(String, PathBuf)>,
    /// `WAITDAEMON_SYSLOG`.
    pub syslog: Syslog,
    /// The values of [`values::PROXIES`] that are set. They may hold a password and must not be
    /// logged.
    pub proxies: [Option<String>; 3],
}

impl Settings {
    /// Returns `IMAGE`, if a container is to run.
    pub fn image(&self) -> Option<&Reference> {
        match &self.work {
            Work::Container(image) => Some(image),
            Work::End(_) | Work::Kexec(_) => None,
        }
    }

    /// Returns the end of the machine that waitdaemon is to bring about itself.
    pub fn own_end(&self) -> Option<End> {
        match &self.work {
            Work::Container(_) => None,
            Work::End(end) => Some(*end),
            Work::Kexec(_) => Some(End::Kexec),
        }
    }
}

/// What is done after the wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Work {
    /// A container that is made from `IMAGE` runs.
    Container(Reference),
    /// `IMAGE` is left out and the command is one word: the machine ends.
    End(End),
    /// The same for `kexec`, with the system to boot.
    Kexec(Box<Wanted>),
}

/// `WAITDAEMON_FINISH_REBOOT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReboot {
    /// The default: if the command asks init for it.
    IfAsked,
    /// `true`, set by hand: whatever the command is.
    Always,
    /// `false`.
    Never,
}

/// `WAITDAEMON_FALLBACK` and `WAITDAEMON_FALLBACK_AFTER_SECONDS`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fallback {
    /// Which end.
    pub end: End,
    /// When: seconds from the failure, or from the user container's end.
    pub after_seconds: u64,
}

/// `WAITDAEMON_WAIT_FOR` and the variables that belong to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitFor {
    /// The signal to wait for.
    pub what: Awaited,
    /// `WAITDAEMON_WAIT_MAX_SECONDS`: the longest wait, from the action container's end.
    pub max_wait: Duration,
    /// `WAITDAEMON_WAIT_EXPIRED`: what happens then.
    pub expired: Expired,
}

/// `WAITDAEMON_WAIT_FOR`: the signal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Awaited {
    /// Smee no longer serves this machine's boot script.
    NetbootOff {
        /// `WAITDAEMON_SMEE_URL`.
        smee: Option<Uri>,
    },
    /// A URL answers with a status.
    Status {
        /// The URL.
        url: Uri,
        /// `WAITDAEMON_WAIT_FOR_STATUS`.
        status: u16,
    },
}

/// `WAITDAEMON_WAIT_EXPIRED`: what happens if the signal does not come in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Expired {
    /// The user container runs anyway.
    #[default]
    Run,
    /// The user container is removed.
    Abort,
}

/// `WAITDAEMON_SYSLOG`: where else WARN and ERROR lines go.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Syslog {
    /// To the OSIE's own server, unless the engine sends them.
    #[default]
    Usual,
    /// Nowhere.
    Off,
    /// To this server, `host:port`.
    To(String),
}

/// `CONTAINER_RUNTIME`: which engine to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Runtime {
    /// Docker if it answers, else nerdctl.
    #[default]
    Auto,
    /// Docker Engine only.
    Docker,
    /// nerdctl only.
    Nerdctl,
}

/// `DOCKER_HOST`: where the Docker Engine API listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DockerHost {
    /// A Unix socket, by its path in our container.
    Unix(PathBuf),
    /// `host:port`, without TLS.
    Tcp(String),
}

impl Default for DockerHost {
    fn default() -> Self {
        Self::Unix("/var/run/docker.sock".into())
    }
}

impl Expired {
    /// Returns its name in `WAITDAEMON_WAIT_EXPIRED`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::Abort => "abort",
        }
    }

    /// Returns the value with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Run, Self::Abort].into_iter().find(|expired| expired.name() == name)
    }
}

/// One invalid setting, as it is reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The field of the Action in the Template, such as `environment.WAIT_SECONDS`.
    pub field: &'static str,
    /// The value as given, shortened; `None` if it is missing.
    pub value: Option<String>,
    /// What is wrong with it.
    pub problem: String,
    /// What to write instead.
    pub fix: &'static str,
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;

    use super::variables::ALL;
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Settings, Vec<Problem>> {
        Settings::read(pairs.iter().map(|(name, value)| (name.into(), value.into())), &[])
    }

    fn one_problem(name: &str, value: &str) -> Problem {
        let mut problems = read(&[("IMAGE", "alpine"), (name, value)]).expect_err(value);
        assert_eq!(problems.len(), 1, "{name}={value:?}: {problems:?}");
        problems.remove(0)
    }

    #[test]
    fn the_documented_defaults() {
        let settings = read(&[("IMAGE", "alpine")]).unwrap();
        let proxy = |row: &&&variables::Row| row.name().ends_with("_PROXY");
        let mut pairs: Vec<_> =
            ALL.iter().filter(|row| !proxy(row)).map(|row| (row.name(), "")).collect();
        pairs.push(("IMAGE", "alpine"));
        assert_eq!(read(&pairs).unwrap(), settings, "empty means default");
        assert_eq!((settings.wait, &settings.wait_for), (None, &None));
        assert_eq!(settings.watch, Duration::from_secs(60));
        assert_eq!(settings.pull_timeout, Duration::from_secs(600));
        assert_eq!(settings.runtime, Runtime::Auto);
        assert_eq!(settings.docker_host, DockerHost::Unix("/var/run/docker.sock".into()));
        assert_eq!(settings.nerdctl_namespace, "tinkerbell");
        assert!(settings.nerdctl_host && !settings.dry_run);
        assert_eq!((settings.finish_reboot, settings.fallback), (FinishReboot::IfAsked, None));
        assert_eq!(
            (settings.force_after, &settings.report),
            (Some(Duration::from_secs(60)), &None)
        );
        assert_eq!(settings.log, LevelFilter::Info);
    }

    #[test]
    fn wait_seconds_is_a_whole_number_and_nothing_else() {
        for (text, seconds) in [("0", 0), ("1", 1), ("007", 7), ("86400", 86_400)] {
            let settings = read(&[("IMAGE", "a"), ("WAIT_SECONDS", text)]).unwrap();
            assert_eq!(settings.wait, Some(Duration::from_secs(seconds)));
        }
        let huge = "9".repeat(30);
        for text in [
            "abc",
            "-1",
            "+1",
            "1.5",
            " 5",
            "5 ",
            "10s",
            "86401",
            "9223372037",
            "0x10",
            "１",
            &huge,
        ] {
            let problem = one_problem("WAIT_SECONDS", text);
            assert_eq!(problem.field, "environment.WAIT_SECONDS");
            assert_eq!(problem.value.as_deref(), Some(text));
            assert!(problem.fix.contains("whole number"), "{problem:?}");
        }
    }

    #[test]
    fn other_wrong_values_name_their_field() {
        for (name, value) in [
            ("CONTAINER_RUNTIME", "podman"),
            ("CONTAINER_RUNTIME", "Docker "),
            ("NERDCTL_NAMESPACE", "a/b"),
            ("NERDCTL_NAMESPACE", "--x"),
            ("NERDCTL_HOST", "yes"),
            ("DOCKER_HOST", "/var/run/docker.sock"),
            ("DOCKER_HOST", "unix://var/run/docker.sock"),
            ("DOCKER_HOST", "tcp://"),
            ("DOCKER_HOST", "tcp://h:0"),
            ("DOCKER_HOST", "tcp://user@h:1/x"),
            ("DOCKER_HOST", "ssh://host"),
            ("DOCKER_HOST", "https://host:2376"),
            ("WAITDAEMON_FINISH_REBOOT", "no"),
            ("WAITDAEMON_DRY_RUN", "yes"),
            ("WAITDAEMON_LOG", "trace"),
            ("WAITDAEMON_WATCH_SECONDS", "1m"),
            ("WAITDAEMON_WAIT_FOR", "netboot"),
            ("WAITDAEMON_WAIT_FOR", "https://h/x"),
            ("WAITDAEMON_WAIT_FOR", "http://"),
            ("WAITDAEMON_WAIT_FOR", "http://u:p@h/"),
            ("WAITDAEMON_WAIT_FOR", "http://h:0/"),
            ("WAITDAEMON_WAIT_FOR", "http://h:x/"),
            ("WAITDAEMON_WAIT_FOR", "http://h/a b"),
            ("WAITDAEMON_WAIT_FOR", "/path"),
            ("WAITDAEMON_WAIT_FOR_STATUS", "99"),
            ("WAITDAEMON_WAIT_FOR_STATUS", "+200"),
            ("WAITDAEMON_WAIT_MAX_SECONDS", "0"),
            ("WAITDAEMON_WAIT_EXPIRED", "stop"),
            ("WAITDAEMON_SMEE_URL", "smee:7080"),
            ("WAITDAEMON_SYSLOG", "udp://h"),
            // It has no effect alone.
            ("WAITDAEMON_REGISTRY_USERNAME", "fleet"),
            ("WAITDAEMON_PULL_TIMEOUT_SECONDS", "0"),
            ("WAITDAEMON_FALLBACK", "kexec"),
            ("WAITDAEMON_REPORT_URL", "https://h/"),
            // They have no effect with a container and without a fallback.
            ("WAITDAEMON_FALLBACK_AFTER_SECONDS", "5"),
            ("WAITDAEMON_FORCE_AFTER_SECONDS", "5"),
        ] {
            let field = one_problem(name, value).field.replace("PASSWORD_FILE", "USERNAME");
            assert_eq!(field, format!("environment.{name}"));
        }
    }

    #[test]
    fn all_problems_at_once() {
        let problems = read(&[
            ("WAIT_SECONDS", "x"),
            ("NERDCTL_HOST", "maybe"),
            ("DOCKER_HOST", "npipe:////x"),
        ]);
        let fields: Vec<_> = problems.unwrap_err().iter().map(|problem| problem.field).collect();
        let expected = [
            "environment.IMAGE",
            "environment.WAIT_SECONDS",
            "environment.DOCKER_HOST",
            "environment.NERDCTL_HOST",
        ];
        assert_eq!(fields, expected);
    }

    #[test]
    fn values_that_are_not_utf8_or_very_long_are_reported_and_cut() {
        let raw = OsString::from_vec(vec![b'a', 0xff]);
        let problems = Settings::read([("IMAGE".into(), raw)], &[]).unwrap_err();
        assert_eq!(problems.len(), 1);
        assert!(problems[0].problem.contains("UTF-8"));
        let problem = one_problem("WAIT_SECONDS", &"9".repeat(1 << 20));
        assert!(problem.value.unwrap().len() < 100);
    }

    #[test]
    fn tls_is_refused_by_name_where_it_would_be_used() {
        let tcp = [("IMAGE", "a"), ("DOCKER_HOST", "tcp://engine:2376")];
        for name in ["DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH", "DOCKER_TLS"] {
            let problems = read(&[&tcp[..], &[(name, "1")]].concat()).unwrap_err();
            assert_eq!(
                (problems.len(), problems[0].field),
                (1, format!("environment.{name}").as_str())
            );
            assert!(problems[0].problem.contains("TLS"), "{problems:?}");
            // Neither a socket nor nerdctl uses them.
            assert!(read(&[("IMAGE", "a"), (name, "1")]).is_ok());
            assert!(
                read(&[&tcp[..], &[(name, "1"), ("CONTAINER_RUNTIME", "nerdctl")]].concat())
                    .is_ok()
            );
            assert!(read(&[&tcp[..], &[(name, "")]].concat()).is_ok());
        }
    }

    #[test]
    fn signals() {
        let read = |pairs: &[(&str, &str)]| {
            let all = [&[("IMAGE", "a"), ("WAIT_SECONDS", "7")], pairs].concat();
            read(&all).map(|settings| settings.wait_for.unwrap())
        };
        let netboot_off = read(&[("WAITDAEMON_WAIT_FOR", "netboot-off")]).unwrap();
        assert_eq!(netboot_off.what, Awaited::NetbootOff { smee: None });
        assert_eq!(
            (netboot_off.max_wait, netboot_off.expired),
            (Duration::from_secs(300), Expired::Run)
        );
        let url = "http://[fd00::1]:99/ready?token=x";
        let other =
            read(&[("WAITDAEMON_WAIT_FOR", url), ("WAITDAEMON_WAIT_EXPIRED", "abort")]).unwrap();
        assert_eq!(
            (other.what, other.expired),
            (Awaited::Status { url: url.parse().unwrap(), status: 200 }, Expired::Abort)
        );
        for (name, value) in
            [("WAITDAEMON_WAIT_EXPIRED", "abort"), ("WAITDAEMON_SMEE_URL", "http://h")]
        {
            let problem = one_problem(name, value);
            assert!(problem.problem.contains("WAITDAEMON_WAIT_FOR is not"), "{problem:?}");
        }
        for (name, secret) in [
            ("WAITDAEMON_WAIT_FOR", "https://h/ready?token=s3cret"),
            ("WAITDAEMON_WAIT_FOR", "http://u:s3cret@h/"),
            ("WAITDAEMON_SMEE_URL", "http://h/auto.ipxe?token=s3cret"),
            ("IMAGE", "https://robot:s3cret@registry.example.org/app"),
        ] {
            let problem = one_problem(name, secret);
            assert!(!format!("{problem:?}").contains("s3cret"), "{problem:?}");
        }
        for (wait_for, name, value) in [
            ("netboot-off", "WAITDAEMON_WAIT_FOR_STATUS", "503"),
            ("http://h/ready", "WAITDAEMON_SMEE_URL", "http://h"),
        ] {
            let problems = read(&[("WAITDAEMON_WAIT_FOR", wait_for), (name, value)]).unwrap_err();
            assert_eq!(
                (problems.len(), problems[0].field),
                (1, format!("environment.{name}").as_str())
            );
        }
        let short =
            read(&[("WAITDAEMON_WAIT_FOR", "netboot-off"), ("WAITDAEMON_WAIT_MAX_SECONDS", "5")])
                .unwrap_err();
        assert_eq!(short[0].field, "environment.WAITDAEMON_WAIT_MAX_SECONDS");
    }

    #[test]
    fn with_nerdctl_the_engines_address_is_the_users() {
        let host = ("DOCKER_HOST", "ssh://build@host");
        assert!(read(&[("IMAGE", "a"), host]).is_err());
        read(&[("IMAGE", "a"), ("CONTAINER_RUNTIME", "nerdctl"), host]).unwrap();
    }

    #[test]
    fn truths_in_any_case() {
        for (text, value) in
            [("true", true), ("TRUE", true), ("1", true), ("False", false), ("0", false)]
        {
            assert_eq!(
                read(&[("IMAGE", "a"), ("NERDCTL_HOST", text)]).unwrap().nerdctl_host,
                value
            );
        }
    }
}
