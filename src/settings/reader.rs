//! Reads the action's environment by the table of variables. Invalid values are noted, and the rest
//! is read anyway. Pure.

use std::ffi::OsString;

use log::LevelFilter;

use super::values::{PROXIES, SignalName, without_secret};
use super::variables::{self as var, OnlyWith, Row, Variable};
use super::{
    Awaited, DockerHost, Fallback, FinishReboot, Problem, Runtime, Settings, Syslog, WaitFor, Work,
};
use crate::bootloader::Wanted;
use crate::end::End;

/// The variables that ask the docker command and its libraries for TLS (docker/cli, `cli/flags`;
/// docker/client, `FromEnv`).
const OF_TLS: [&str; 3] =
    ["environment.DOCKER_TLS_VERIFY", "environment.DOCKER_CERT_PATH", "environment.DOCKER_TLS"];
/// How much of an invalid value is shown, in characters.
const SHOWN_VALUE: usize = 80;
const FIX_SIGNAL: &str = "leave it out, or set WAITDAEMON_WAIT_FOR to what it belongs to";
const FIX_FALLBACK: &str = "leave it out, or set WAITDAEMON_FALLBACK to reboot or poweroff";
const FIX_END: &str = "leave it out, or set WAITDAEMON_FALLBACK, or leave IMAGE out";

impl Settings {
    /// Reads the environment `variables`, each a name and a value, and the action's `arguments`,
    /// which count only without `IMAGE`.
    ///
    /// # Errors
    /// If a setting is invalid: every [`Problem`], in the order of the reference.
    pub fn read(
        variables: impl IntoIterator<Item = (OsString, OsString)>,
        arguments: &[String],
    ) -> Result<Self, Vec<Problem>> {
        let mut reader = Reader::new(variables);
        let work = reader.work(arguments);
        let wait = reader.read(&var::WAIT_SECONDS);
        let signal = reader.read(&var::WAITDAEMON_WAIT_FOR);
        let end = reader.value(&var::WAITDAEMON_FALLBACK);
        reader.reject_unused(work.as_ref(), signal.as_ref(), end);
        let wait_for = reader.wait_for(signal);
        if let (Some(wait), Some(signal)) = (wait, &wait_for)
            && signal.max_wait < wait
        {
            let problem =
                "WAITDAEMON_WAIT_MAX_SECONDS is less than WAIT_SECONDS, which is the least wait";
            let value = signal.max_wait.as_secs().to_string();
            let row = &var::WAITDAEMON_WAIT_MAX_SECONDS.row;
            reader.reject(row, &value, problem.into(), "raise it, or lower WAIT_SECONDS");
        }
        let runtime = reader.value(&var::CONTAINER_RUNTIME);
        // With nerdctl the variable is the user container's.
        let docker_host = match runtime {
            Runtime::Nerdctl => None,
            _ => reader.read(&var::DOCKER_HOST),
        };
        if matches!(docker_host, Some(DockerHost::Tcp(_))) {
            reader.reject_tls();
        }
        let docker_host = docker_host.unwrap_or_default();
        let after = reader.value(&var::WAITDAEMON_FALLBACK_AFTER_SECONDS);
        let force_after = reader.value(&var::WAITDAEMON_FORCE_AFTER_SECONDS);
        let watch = reader.value(&var::WAITDAEMON_WATCH_SECONDS);
        let pull_timeout = reader.value(&var::WAITDAEMON_PULL_TIMEOUT_SECONDS);
        let finish_reboot = match reader.read(&var::WAITDAEMON_FINISH_REBOOT) {
            None => FinishReboot::IfAsked,
            Some(true) => FinishReboot::Always,
            Some(false) => FinishReboot::Never,
        };
        let report = reader.read(&var::WAITDAEMON_REPORT_URL);
        let nerdctl_namespace = reader.value(&var::NERDCTL_NAMESPACE);
        let nerdctl_host = reader.value(&var::NERDCTL_HOST);
        let log = reader.read(&var::WAITDAEMON_LOG).unwrap_or(LevelFilter::Info);
        let dry_run = reader.value(&var::WAITDAEMON_DRY_RUN);
        let username = reader.read(&var::WAITDAEMON_REGISTRY_USERNAME);
        let password_file = reader.read(&var::WAITDAEMON_REGISTRY_PASSWORD_FILE);
        let syslog = reader.value(&var::WAITDAEMON_SYSLOG);
        let proxies = PROXIES.map(|(large, small)| reader.raw(large).or_else(|| reader.raw(small)));
        let problems = reader.problems;
        match work {
            Some(work) if problems.is_empty() => Ok(Self {
                work,
                wait,
                wait_for,
                watch,
                pull_timeout,
                finish_reboot,
                force_after: Some(force_after).filter(|after| !after.is_zero()),
                fallback: end.map(|end| Fallback { end, after_seconds: after.as_secs() }),
                report,
                runtime,
                docker_host,
                nerdctl_namespace,
                nerdctl_host,
                log,
                dry_run,
                registry_login: username.zip(password_file),
                syslog,
                proxies,
            }),
            _ => Err(in_order(problems)),
        }
    }
}

/// Sorts problems in the order of the reference; those of variables that are not in it come last.
fn in_order(mut problems: Vec<Problem>) -> Vec<Problem> {
    let mut ordered = Vec::new();
    for row in var::ALL {
        while let Some(at) = problems.iter().position(|problem| problem.field == row.field) {
            ordered.push(problems.remove(at));
        }
    }
    ordered.append(&mut problems);
    ordered
}

/// True if the variables ask for a dry run, whatever else is wrong.
pub fn asks_for_dry_run(variables: impl IntoIterator<Item = (OsString, OsString)>) -> bool {
    Reader::new(variables).value(&var::WAITDAEMON_DRY_RUN)
}

/// Returns where WARN and ERROR lines go, whatever else is wrong.
pub fn syslog(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Syslog {
    Reader::new(variables).value(&var::WAITDAEMON_SYSLOG)
}

/// The environment's variables, and the problems found in them.
struct Reader {
    variables: Vec<(OsString, OsString)>,
    problems: Vec<Problem>,
}

impl Reader {
    /// Creates a reader of these variables, each a name and a value.
    fn new(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        Self { variables: variables.into_iter().collect(), problems: Vec::new() }
    }

    /// Returns what is to be done. If `IMAGE` is unset, waitdaemon ends the machine itself, and the
    /// only argument must name the end.
    fn work(&mut self, arguments: &[String]) -> Option<Work> {
        if self.is_set(&var::IMAGE.row) {
            return self.read(&var::IMAGE).map(Work::Container);
        }
        let word = match arguments {
            [word] => End::from_name(word),
            _ => None,
        };
        match word {
            Some(End::Kexec) => self.kexec(),
            Some(end) => Some(Work::End(end)),
            None => {
                self.note(
                    var::IMAGE.row.field,
                    None,
                    "IMAGE is not set".into(),
                    var::IMAGE.row.fix,
                );
                None
            }
        }
    }

    /// Returns the system to boot, by the variables of Tinkerbell's kexec action.
    fn kexec(&mut self) -> Option<Work> {
        let device = &var::BLOCK_DEVICE.row;
        if !self.is_set(device) {
            let problem = "BLOCK_DEVICE is not set, and kexec without IMAGE needs it".into();
            self.note(device.field, None, problem, device.fix);
        }
        let device = self.read(&var::BLOCK_DEVICE);
        let wanted = Wanted {
            file_system: self.read(&var::FS_TYPE),
            kernel: self.read(&var::KERNEL_PATH),
            initrd: self.read(&var::INITRD_PATH),
            command_line: self.read(&var::CMD_LINE),
            grub_config: self.read(&var::GRUBCFG_PATH),
            device: device?,
        };
        Some(Work::Kexec(Box::new(wanted)))
    }

    /// Returns the signal and the settings that belong to it.
    fn wait_for(&mut self, signal: Option<SignalName>) -> Option<WaitFor> {
        let smee = self.read(&var::WAITDAEMON_SMEE_URL);
        let status = self.value(&var::WAITDAEMON_WAIT_FOR_STATUS);
        let max_wait = self.value(&var::WAITDAEMON_WAIT_MAX_SECONDS);
        let expired = self.value(&var::WAITDAEMON_WAIT_EXPIRED);
        let what = match signal? {
            SignalName::NetbootOff => Awaited::NetbootOff { smee },
            SignalName::Url(url) => Awaited::Status { url, status },
        };
        Some(WaitFor { what, max_wait, expired })
    }

    /// Reports each variable that is set without the variable that it depends on. A variable that
    /// depends on an invalid value is not reported.
    fn reject_unused(
        &mut self,
        work: Option<&Work>,
        signal: Option<&SignalName>,
        fallback: Option<End>,
    ) {
        let no_signal = !self.is_set(&var::WAITDAEMON_WAIT_FOR.row);
        let no_fallback = fallback.is_none() && !self.is_rejected(&var::WAITDAEMON_FALLBACK.row);
        for row in var::ALL {
            let (is_unused, without, fix): (bool, String, &str) = match row.only_with {
                OnlyWith::Anything | OnlyWith::Kexec => continue,
                OnlyWith::OtherHalf => {
                    let other =
                        |other: &&&Row| other.only_with == row.only_with && !self.is_set(other);
                    let missing = var::ALL.iter().find(other).filter(|_| self.is_set(row));
                    if let Some(missing) = missing {
                        let problem =
                            format!("{} is not set, and {} is", missing.name(), row.name());
                        self.note(missing.field, None, problem, missing.fix);
                    }
                    continue;
                }
                OnlyWith::NetbootOff if matches!(signal, Some(SignalName::Url(_))) => {
                    (true, "WAITDAEMON_WAIT_FOR is a URL".into(), FIX_SIGNAL)
                }
                OnlyWith::UrlSignal if matches!(signal, Some(SignalName::NetbootOff)) => {
                    (true, "WAITDAEMON_WAIT_FOR is netboot-off".into(), FIX_SIGNAL)
                }
                OnlyWith::Signal | OnlyWith::NetbootOff | OnlyWith::UrlSignal => {
                    (no_signal, "WAITDAEMON_WAIT_FOR is not".into(), FIX_SIGNAL)
                }
                OnlyWith::Fallback => {
                    (no_fallback, "WAITDAEMON_FALLBACK is not".into(), FIX_FALLBACK)
                }
                OnlyWith::OwnEnd => {
                    let never = no_fallback && matches!(work, Some(Work::Container(_)));
                    let why = "waitdaemon will not end the machine itself: IMAGE is set and WAITDAEMON_FALLBACK is not";
                    (never, why.into(), FIX_END)
                }
            };
            if is_unused && self.is_set(row) {
                let value = self.text(row);
                let problem = format!("{} is set, and {without}", row.name());
                self.reject(row, value.as_deref().unwrap_or_default(), problem, fix);
            }
        }
    }

    /// Reports variables that ask for TLS. Otherwise the engine would only close the connection.
    fn reject_tls(&mut self) {
        let fix = "leave it out and use an engine that listens without TLS, or the socket /var/run/docker.sock";
        for field in OF_TLS {
            let name = field.trim_start_matches("environment.");
            if let Some(value) = self.raw(name).filter(|value| !value.is_empty()) {
                self.note(
                    field,
                    Some(&value),
                    format!("{name} asks for TLS, which is not supported"),
                    fix,
                );
            }
        }
    }

    /// Returns the value of a variable, or its default if it is unset or invalid. An invalid value
    /// is reported.
    fn value<T: Default>(&mut self, variable: &Variable<T>) -> T {
        self.read(variable).unwrap_or_default()
    }

    /// Returns the same as [`Reader::value`]; `None` if there is no default either.
    fn read<T>(&mut self, variable: &Variable<T>) -> Option<T> {
        let row = &variable.row;
        let text = self.text(row);
        match text.as_deref().map(variable.parse) {
            Some(Ok(value)) => return Some(value),
            Some(Err(why)) => {
                let problem = format!("{} {why}", row.name());
                self.reject(row, &text.unwrap_or_default(), problem, row.fix);
            }
            None => {}
        }
        (variable.parse)(row.default).ok().filter(|_| !row.default.is_empty())
    }

    /// Returns the value of a variable as it is; if a name is given twice, the last value counts.
    fn given(&self, name: &str) -> Option<&OsString> {
        let named = |(given, _): &&(OsString, OsString)| given.as_os_str() == name;
        self.variables.iter().rev().find(named).map(|(_, value)| value)
    }

    fn is_set(&self, row: &Row) -> bool {
        self.given(row.name()).is_some_and(|value| !value.is_empty())
    }

    /// Returns the value of a variable that is the user's own, if it is UTF-8. An empty value
    /// counts.
    fn raw(&self, name: &str) -> Option<String> {
        self.given(name)?.to_str().map(str::to_owned)
    }

    /// Returns the value of a variable; `None` if it is missing, empty (the default holds) or not
    /// UTF-8 (reported).
    fn text(&mut self, row: &Row) -> Option<String> {
        let value = self.given(row.name()).filter(|value| !value.is_empty())?;
        if let Some(text) = value.to_str() {
            return Some(text.to_owned());
        }
        let shown = value.to_string_lossy().into_owned();
        self.reject(row, &shown, format!("{} is not UTF-8", row.name()), row.fix);
        None
    }

    fn is_rejected(&self, row: &Row) -> bool {
        self.problems.iter().any(|problem| problem.field == row.field)
    }

    /// Reports an invalid value. A variable has one problem at a time.
    fn reject(&mut self, row: &Row, value: &str, problem: String, fix: &'static str) {
        if !self.is_rejected(row) {
            let shown =
                if row.secret || value.contains("://") { without_secret(value) } else { value };
            self.note(row.field, Some(shown), problem, fix);
        }
    }

    fn note(
        &mut self,
        field: &'static str,
        value: Option<&str>,
        problem: String,
        fix: &'static str,
    ) {
        let value = value.map(|value| {
            let mut shown: String = value.chars().take(SHOWN_VALUE).collect();
            if shown.len() < value.len() {
                shown.push('…');
            }
            shown
        });
        self.problems.push(Problem { field, value, problem, fix });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn read_with(arguments: &[&str], pairs: &[(&str, &str)]) -> Result<Settings, Vec<Problem>> {
        let arguments: Vec<String> = arguments.iter().map(|word| (*word).to_owned()).collect();
        Settings::read(pairs.iter().map(|(name, value)| (name.into(), value.into())), &arguments)
    }

    #[test]
    fn without_an_image_one_word_says_what_to_do() {
        for (word, end) in
            [("reboot", End::Reboot), ("poweroff", End::PowerOff), ("halt", End::Halt)]
        {
            let settings = read_with(&[word], &[("WAITDAEMON_FORCE_AFTER_SECONDS", "0")]).unwrap();
            assert_eq!((settings.work, settings.force_after), (Work::End(end), None));
            // With an image the word is the container's.
            let settings = read_with(&[word], &[("IMAGE", "alpine")]).unwrap();
            assert_eq!(
                (settings.own_end(), settings.image().map(crate::reference::Reference::as_written)),
                (None, Some("alpine"))
            );
        }
        for arguments in
            [&[][..], &["reboot", "-f"], &["/sbin/reboot"], &["sh", "-c", "reboot"], &["shutdown"]]
        {
            let problems = read_with(arguments, &[]).unwrap_err();
            assert_eq!((problems.len(), problems[0].field), (1, "environment.IMAGE"));
            assert!(problems[0].fix.contains("reboot, poweroff, halt or kexec"), "{problems:?}");
        }
    }

    #[test]
    fn kexec_takes_the_variables_of_tinkerbells_action() {
        let Work::Kexec(wanted) =
            read_with(&["kexec"], &[("BLOCK_DEVICE", "/dev/sda1"), ("FS_TYPE", "ext4")])
                .unwrap()
                .work
        else {
            panic!("no kexec")
        };
        assert_eq!(
            (wanted.device.to_str(), wanted.file_system.as_deref()),
            (Some("/dev/sda1"), Some("ext4"))
        );
        assert_eq!((&wanted.kernel, &wanted.command_line), (&None, &None));
        for (pairs, field) in [
            (&[][..], "environment.BLOCK_DEVICE"),
            (&[("BLOCK_DEVICE", "sda1")], "environment.BLOCK_DEVICE"),
            (&[("BLOCK_DEVICE", "/dev/sda1"), ("FS_TYPE", "ext4,rw")], "environment.FS_TYPE"),
            (
                &[("BLOCK_DEVICE", "/dev/sda1"), ("INITRD_PATH", "/i"), ("CMD_LINE", "a\nb")],
                "environment.CMD_LINE",
            ),
        ] {
            let problems = read_with(&["kexec"], pairs).unwrap_err();
            assert_eq!((problems.len(), problems[0].field), (1, field), "{problems:?}");
        }
        let secret = "registry_password=s3cret\nro";
        let problems =
            read_with(&["kexec"], &[("BLOCK_DEVICE", "/dev/sda1"), ("CMD_LINE", secret)]);
        assert!(!format!("{problems:?}").contains("s3cret"), "{problems:?}");
        let block = read_with(&["kexec"], &[("BLOCK_DEVICE", "/dev/sda1"), ("CMD_LINE", "ro x\n")]);
        let Work::Kexec(wanted) = block.unwrap().work else { panic!("no kexec") };
        assert_eq!(wanted.command_line.as_deref(), Some("ro x"));
        let long = "x".repeat(2047);
        assert!(
            read_with(&["kexec"], &[("BLOCK_DEVICE", "/dev/sda1"), ("CMD_LINE", &long)]).is_err()
        );
        // They belong to the user container if there is one.
        assert!(read_with(&[], &[("IMAGE", "a"), ("BLOCK_DEVICE", "sda1")]).is_ok());
    }

    #[test]
    fn a_fallback_is_an_end() {
        let settings = read_with(
            &[],
            &[
                ("IMAGE", "a"),
                ("WAITDAEMON_FALLBACK", "poweroff"),
                ("WAITDAEMON_FORCE_AFTER_SECONDS", "5"),
            ],
        );
        let settings = settings.unwrap();
        assert_eq!(settings.fallback, Some(Fallback { end: End::PowerOff, after_seconds: 60 }));
        assert_eq!(settings.force_after, Some(Duration::from_secs(5)));
        let none = read_with(&[], &[("IMAGE", "a"), ("WAITDAEMON_FALLBACK", "none")]).unwrap();
        assert_eq!(none.fallback, None);
        let soon = read_with(
            &[],
            &[
                ("IMAGE", "a"),
                ("WAITDAEMON_FALLBACK", "reboot"),
                ("WAITDAEMON_FALLBACK_AFTER_SECONDS", "0"),
            ],
        );
        assert_eq!(soon.unwrap().fallback, Some(Fallback { end: End::Reboot, after_seconds: 0 }));
    }
}
