//! Every variable that waitdaemon reads: one row each. Parsing, the warning about unknown names,
//! the fuzzer and the table in docs/reference.md (`make docs`) come from here. Pure.

use std::path::PathBuf;
use std::time::Duration;

use hyper::Uri;
use log::LevelFilter;

use super::values::{self, PROXIES, SignalName};
use super::{DockerHost, Expired, Runtime, Syslog};
use crate::end::End;
use crate::reference::Reference;

/// A variable of the action's environment, and how its value is read.
pub struct Variable<T: 'static> {
    /// What is known about it, whatever its type.
    pub row: Row,
    /// Reads a value that is set. The error completes a sentence that begins with the variable's
    /// name.
    pub parse: fn(&str) -> Result<T, &'static str>,
}

/// What is known about a variable, whatever its type.
pub struct Row {
    /// The field of the Action in the Template, such as `environment.IMAGE`.
    pub field: &'static str,
    /// The value if none is set; empty if that is not a single value.
    pub default: &'static str,
    /// What to write instead of a value that is wrong.
    pub fix: &'static str,
    /// What it has no use without.
    pub only_with: OnlyWith,
    /// True if an invalid value may hold a secret and must not be logged.
    pub secret: bool,
    /// The text of the reference.
    #[cfg(test)]
    pub text: &'static str,
}

impl Row {
    /// The variable's name: `IMAGE` for `environment.IMAGE`.
    pub fn name(&self) -> &'static str {
        self.field.trim_start_matches("environment.")
    }
}

/// What a variable has no use without. A variable that is set without it is a problem, except for
/// [`OnlyWith::Kexec`]: those names are the user container's if there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnlyWith {
    /// It is always of use.
    Anything,
    /// The other half of the registry login.
    OtherHalf,
    /// `WAITDAEMON_WAIT_FOR`.
    Signal,
    /// `WAITDAEMON_WAIT_FOR` with `netboot-off`.
    NetbootOff,
    /// `WAITDAEMON_WAIT_FOR` with a URL.
    UrlSignal,
    /// `WAITDAEMON_FALLBACK` with an end.
    Fallback,
    /// An end that waitdaemon itself may bring: `IMAGE` is left out, or there is a fallback.
    OwnEnd,
    /// `kexec` without `IMAGE`.
    Kexec,
}

const ROW: Row = Row {
    field: "",
    default: "",
    fix: "",
    only_with: OnlyWith::Anything,
    secret: false,
    #[cfg(test)]
    text: "",
};
const SECONDS: &str =
    "use a whole number of seconds, at most 86400, without sign, unit or blanks, or leave it out";
const SWITCH: &str = "use true, false, 1 or 0, or leave it out";
const URL: &str = "use http://host:port, or leave it out";
const PATH: &str =
    "use a path on that partition, or leave it out to boot the boot loader's default entry";
const LOGIN: &str =
    "set both WAITDAEMON_REGISTRY_USERNAME and WAITDAEMON_REGISTRY_PASSWORD_FILE, or neither";
const PROXY: &str = "use the proxy's URL, or leave it out";

/// Makes a static of each variable, and [`ALL`]. A row's doc comment is its text in the reference.
macro_rules! variables {
    ($($(#[doc = $text:literal])+ $name:ident: $type:ty = $parse:expr, { $($key:ident: $value:expr),* };)+) => {
        $(
            $(#[doc = $text])+
            pub static $name: Variable<$type> = Variable {
                row: Row {
                    field: concat!("environment.", stringify!($name)),
                    $($key: $value,)*
                    #[cfg(test)]
                    text: concat!($($text),+),
                    ..ROW
                },
                parse: $parse,
            };
        )+
        /// Every row, in the order of the reference.
        pub static ALL: &[&Row] = &[$(&$name.row),+];
    };
}

variables! {
    /// The image to run. It is pulled if the machine does not have it. Required, unless `command`
    /// is exactly `["reboot"]`, `["poweroff"]`, `["halt"]` or `["kexec"]`.
    IMAGE: Reference = values::image, {
        fix: "set IMAGE to the image that is to run, for example alpine or quay.io/org/image:v1; only the commands reboot, \
              poweroff, halt or kexec, alone, need none"
    };
    /// Seconds from the action's end to your container's start, or to the machine's end. Left out,
    /// 10. With `WAITDAEMON_WAIT_FOR` it is the least wait, and 0 if left out.
    WAIT_SECONDS: Duration = values::seconds, { fix: SECONDS };
    /// The signal that ends the wait: `netboot-off`, or an `http://` URL. See
    /// [the safe moment](quick-start.md#wait-for-the-safe-moment).
    WAITDAEMON_WAIT_FOR: SignalName = values::signal, {
        fix: "use netboot-off or http://host:port/path, or leave it out", secret: true
    };
    /// The HTTP status that the URL must answer with, 200 to 599.
    WAITDAEMON_WAIT_FOR_STATUS: u16 = values::status, {
        default: "200", fix: "use an HTTP status from 200 to 599, or leave it out (200)", only_with: OnlyWith::UrlSignal
    };
    /// The longest wait for the signal, in seconds from the action's end. At least `WAIT_SECONDS`.
    WAITDAEMON_WAIT_MAX_SECONDS: Duration = values::seconds_from_one, {
        default: "300", fix: SECONDS, only_with: OnlyWith::Signal
    };
    /// What happens, besides an ERROR, when that wait is over. `run`: your container starts, or the
    /// machine ends. `abort`: your container is removed, and the machine stays up.
    WAITDAEMON_WAIT_EXPIRED: Expired = values::expired, {
        default: "run", fix: "use run or abort, or leave it out (run)", only_with: OnlyWith::Signal
    };
    /// Where Smee serves boot scripts: `http://host:port`, or the whole URL of this machine's
    /// script. Left out, it is port 7080 of the host in `grpc_authority` on the kernel's command
    /// line.
    WAITDAEMON_SMEE_URL: Uri = values::url, { fix: URL, only_with: OnlyWith::NetbootOff, secret: true };
    /// The engine: `auto`, `docker` or `nerdctl`. `auto` uses Docker if it answers, else
    /// nerdctl.
    CONTAINER_RUNTIME: Runtime = values::runtime, {
        default: "auto", fix: "use auto, docker or nerdctl, or leave it out (auto)"
    };
    /// Where Docker listens, as the action's container sees it: `unix:///path`, or
    /// `tcp://host:port` without TLS. With `pid: host` and no volume for the socket, the machine's
    /// own socket is used.
    DOCKER_HOST: DockerHost = values::docker_host, {
        default: "unix:///var/run/docker.sock",
        fix: "use unix:///path/to/docker.sock or tcp://host:port (without TLS), or leave it out", secret: true
    };
    /// The containerd namespace in which the agent runs its actions.
    NERDCTL_NAMESPACE: String = values::namespace, {
        default: "tinkerbell", fix: "use letters and digits, joined by single '.', '_' or '-', or leave it out (tinkerbell)"
    };
    /// `true`: the host's nerdctl, which takes `pid: host`. `false`: nerdctl in the action's own
    /// namespaces, see [CaptainOS only](quick-start.md#captainos-only).
    NERDCTL_HOST: bool = values::switch, { default: "true", fix: SWITCH };
    /// How long your container is watched for a failure, in seconds. A command that is to take the
    /// machine down is watched to its end. With 0 your container is not watched, unless there is
    /// a fallback or systemd may have to be asked.
    WAITDAEMON_WATCH_SECONDS: Duration = values::seconds, { default: "60", fix: SECONDS };
    /// The time limit for pulling `IMAGE`, in seconds, including retries; 1 to 86400. A shorter
    /// `timeout` of the action ends the pull first.
    WAITDAEMON_PULL_TIMEOUT_SECONDS: Duration = values::seconds_from_one, { default: "600", fix: SECONDS };
    /// Whether systemd is asked for the reboot that your container's command could not get from it.
    /// Left out: if the command is `reboot`, `poweroff` or `halt`. See
    /// [unfinished reboots](#unfinished-reboots).
    WAITDAEMON_FINISH_REBOOT: bool = values::switch, { fix: SWITCH };
    /// How long PID 1 gets to end the machine, in seconds; then the kernel is asked. With 0 it
    /// never is. See [how](#how-the-machine-is-taken-down).
    WAITDAEMON_FORCE_AFTER_SECONDS: Duration = values::seconds, {
        default: "60", fix: SECONDS, only_with: OnlyWith::OwnEnd
    };
    /// What the waiter does to the machine if your container failed, or ended and the machine still
    /// runs: `none`, `reboot` or `poweroff`. Needs `pid: host`. See [how](#how-the-machine-is-taken-down).
    WAITDAEMON_FALLBACK: Option<End> = values::fallback, {
        default: "none", fix: "use none, reboot or poweroff, or leave it out (none)"
    };
    /// The delay before the fallback, in seconds.
    WAITDAEMON_FALLBACK_AFTER_SECONDS: Duration = values::seconds, {
        default: "60", fix: SECONDS, only_with: OnlyWith::Fallback
    };
    /// An `http://` URL to which the waiter reports what becomes of the action. See
    /// [reports](#reports).
    WAITDAEMON_REPORT_URL: Uri = values::url, { fix: URL, secret: true };
    /// The partition with the kernel, such as `/dev/sda2`. Required.
    BLOCK_DEVICE: PathBuf = values::device, {
        fix: "set it to the partition with the kernel, for example /dev/sda1", only_with: OnlyWith::Kexec
    };
    /// Its file system. Left out, each one that the kernel knows is tried.
    FS_TYPE: String = values::file_system, {
        fix: "name the partition's file system, for example ext4, or leave it out", only_with: OnlyWith::Kexec
    };
    /// The kernel's path on the partition. Left out, that of the
    /// [boot loader's default entry](#kexec).
    KERNEL_PATH: String = values::text, { fix: PATH, only_with: OnlyWith::Kexec };
    /// The initrd's path on the partition. Left out, that of the entry; none with `KERNEL_PATH`.
    INITRD_PATH: String = values::text, { fix: PATH, only_with: OnlyWith::Kexec };
    /// The kernel's command line, at most 2046 bytes. Left out, that of the entry; empty with
    /// `KERNEL_PATH`.
    CMD_LINE: String = values::command_line, {
        fix: "use one line of at most 2046 bytes, or leave it out for the entry's own",
        only_with: OnlyWith::Kexec, secret: true
    };
    /// The path of GRUB's configuration on the partition. Left out, [the usual places](#kexec).
    GRUBCFG_PATH: String = values::text, { fix: PATH, only_with: OnlyWith::Kexec };
    /// The lowest level that is logged: `error`, `warn`, `info` or `debug`, which shows every
    /// request to the engine.
    WAITDAEMON_LOG: LevelFilter = values::log_level, {
        default: "info", fix: "use error, warn, info or debug, or leave it out (info)"
    };
    /// The user name for `IMAGE`'s registry. Left out, the agent's own login is used, see
    /// [registries](#registries).
    WAITDAEMON_REGISTRY_USERNAME: String = values::text, {
        fix: LOGIN, only_with: OnlyWith::OtherHalf
    };
    /// A file on a volume of the action that holds the password and nothing else.
    WAITDAEMON_REGISTRY_PASSWORD_FILE: PathBuf = values::path, {
        fix: LOGIN, only_with: OnlyWith::OtherHalf
    };
    /// Where WARN and ERROR lines go too: `host`, `host:port` or `off`. Left out, the OSIE's own
    /// server, see [logs](#logs).
    WAITDAEMON_SYSLOG: Syslog = values::syslog, { fix: "use off, host or host:port, or leave it out", secret: true };
    /// `true` shows what would be done and changes nothing. See
    /// [the dry run](quick-start.md#dry-run).
    WAITDAEMON_DRY_RUN: bool = values::switch, { default: "false", fix: SWITCH };
    /// The proxy for registries without TLS; `http_proxy` too. See [registries](#registries).
    HTTP_PROXY: String = values::text, { fix: PROXY };
    /// The proxy for registries with TLS; `https_proxy` too.
    HTTPS_PROXY: String = values::text, { fix: PROXY };
    /// The hosts that are reached without a proxy; `no_proxy` too.
    NO_PROXY: String = values::text, { fix: PROXY };
}

/// How far from a name of ours one without our prefix may be to be taken for a typing error, and
/// how long that name is at least: short ones are likely the user container's.
const NEAR: usize = 1;
const LONG: usize = 11;

/// What a warning says about a variable that is not read, if it is likely misspelled: every other
/// name with our prefix is, and one that is nearly a name of ours. `None` for the user container's
/// own. Pure.
pub fn misspelled(name: &str) -> Option<String> {
    let is_proxy = PROXIES.iter().any(|(large, _)| name.eq_ignore_ascii_case(large));
    if is_proxy || ALL.iter().any(|row| row.name() == name) {
        return None;
    }
    let given = name.to_ascii_uppercase();
    let bare = given.strip_prefix("WAITDAEMON_");
    let distance = |ours: &str| {
        let without_prefix = bare.map(|bare| strsim::levenshtein(bare, ours));
        strsim::levenshtein(&given, ours).min(without_prefix.unwrap_or(usize::MAX))
    };
    let ours = ALL.iter().filter(|row| row.only_with != OnlyWith::Kexec).map(|row| row.name());
    let (distance, nearest) = ours.map(|ours| (distance(ours), ours)).min()?;
    match bare {
        Some(_) if distance <= nearest.len() / 3 => {
            Some(format!("unknown variable {name}; did you mean {nearest}?"))
        }
        Some(_) => Some(format!("unknown variable {name}; docs/reference.md has every name")),
        None if distance <= NEAR && nearest.len() >= LONG => {
            Some(format!("{name} is not a variable of waitdaemon; did you mean {nearest}?"))
        }
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use std::{env, fs};

    use super::*;

    #[test]
    fn likely_typing_errors_are_found() {
        for (name, meant) in [
            ("WAITDAEMON_WATCH_SECOND", "WAITDAEMON_WATCH_SECONDS"),
            ("WAITDAEMON_WAITFOR", "WAITDAEMON_WAIT_FOR"),
            ("waitdaemon_log", "WAITDAEMON_LOG"),
            ("WAITDAEMON_IMAGE", "IMAGE"),
            ("WAITDAEMON_WAIT_SECONDS", "WAIT_SECONDS"),
            ("WAIT_SECOND", "WAIT_SECONDS"),
            ("Container_Runtime", "CONTAINER_RUNTIME"),
        ] {
            let said = misspelled(name).unwrap_or_default();
            assert!(said.ends_with(&format!("did you mean {meant}?")), "{name}: {said}");
        }
        assert!(
            misspelled("WAITDAEMON_COLOUR_OF_THE_SKY")
                .is_some_and(|said| said.contains("docs/reference.md"))
        );
        for fine in [
            "WAITDAEMON_LOG",
            "PATH",
            "IMAGES",
            "https_proxy",
            "WAIT",
            "HOSTNAME",
            "BLOCK_DEVICES",
            "FTP_PROXY",
        ] {
            assert_eq!(misspelled(fine), None);
        }
    }

    /// The table in the reference is the one above. `make docs` writes it.
    #[test]
    fn reference_page_is_the_table() {
        let mut table =
            String::from("| variable | default | only with | what |\n| --- | --- | --- | --- |\n");
        for row in ALL {
            let only = match row.only_with {
                OnlyWith::Anything => String::new(),
                OnlyWith::OtherHalf => {
                    let half = |other: &&&Row| other.only_with == row.only_with;
                    let mut halves = ALL.iter().filter(half).map(|other| other.name());
                    format!("`{}`", halves.find(|name| *name != row.name()).unwrap())
                }
                OnlyWith::Signal => "`WAITDAEMON_WAIT_FOR`".into(),
                OnlyWith::NetbootOff => "`WAITDAEMON_WAIT_FOR=netboot-off`".into(),
                OnlyWith::UrlSignal => "`WAITDAEMON_WAIT_FOR=http://...`".into(),
                OnlyWith::Fallback => "`WAITDAEMON_FALLBACK`".into(),
                OnlyWith::OwnEnd => "no `IMAGE`, or `WAITDAEMON_FALLBACK`".into(),
                OnlyWith::Kexec => "`kexec` without `IMAGE`".into(),
            };
            let default =
                if row.default.is_empty() { String::new() } else { format!("`{}`", row.default) };
            table += &format!("| `{}` | {default} | {only} | {} |\n", row.name(), row.text.trim());
        }
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/reference.md");
        let page = fs::read_to_string(path).unwrap();
        let (before, rest) = page.split_once("| variable |").unwrap();
        let (_, after) = rest.split_once("\n\n").unwrap();
        let wanted = format!("{before}{table}\n{after}");
        if env::var_os("WRITE_DOCS").is_some() {
            fs::write(path, wanted).unwrap();
        } else {
            assert!(
                page == wanted,
                "docs/reference.md lags behind src/settings/variables.rs: run `make docs`"
            );
        }
    }
}
