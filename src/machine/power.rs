//! A reboot that reboots. BusyBox's `reboot`, `poweroff` and `halt` signal PID 1, and systemd takes
//! those signals for something else: the command ends with 0 and the machine stays up (observed with
//! BusyBox 1.35 and systemd 257). What is asked of systemd here is its documented interface:
//! SIGRTMIN+5, +4 and +3 to PID 1 (systemd(1), "Signals").

use std::io;
use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};
use rustix_libc_wrappers::process::SignalExt;
use serde::{Deserialize, Serialize};

/// What the user's command asks of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// `reboot`
    Reboot,
    /// `poweroff`
    PowerOff,
    /// `halt`
    Halt,
}

impl Request {
    /// The request of a command, plain or by path, also as `busybox reboot`. One with `-f` needs no
    /// help: it asks the kernel. Pure.
    pub fn of(command: &[String]) -> Option<Self> {
        let mut words = command.iter().map(String::as_str);
        let mut program = base(words.next()?);
        if program == "busybox" {
            program = words.next()?;
        }
        let request = match program {
            "reboot" => Self::Reboot,
            "poweroff" => Self::PowerOff,
            "halt" => Self::Halt,
            _ => return None,
        };
        let forced =
            |word: &str| word == "--force" || (word.starts_with('-') && !word.starts_with("--") && word.contains('f'));
        (!words.any(forced)).then_some(request)
    }

    /// The command's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Reboot => "reboot",
            Self::PowerOff => "poweroff",
            Self::Halt => "halt",
        }
    }

    /// Asks the systemd that is PID 1.
    ///
    /// # Errors
    /// What kill(2) says.
    pub fn ask_systemd(self) -> io::Result<()> {
        // SIGRTMIN is 34 for systemd, which is built with glibc.
        let signal = 34
            + match self {
                Self::Reboot => 5,
                Self::PowerOff => 4,
                Self::Halt => 3,
            };
        let signal = Signal::from_raw(signal).ok_or_else(|| io::Error::other("no such signal"))?;
        Ok(kill_process(Pid::INIT, signal)?)
    }
}

/// True if the PID 1 that we see is systemd in charge of its machine (sd_booted(3), seen through
/// PID 1's root, for our own has no such folder).
pub fn systemd_is_init() -> bool {
    Path::new("/proc/1/root/run/systemd/system").is_dir()
}

fn base(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(words: &[&str]) -> Option<Request> {
        Request::of(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn only_what_busybox_would_ask_init_for() {
        assert_eq!(of(&["reboot"]), Some(Request::Reboot));
        assert_eq!(of(&["/sbin/poweroff", "-d", "3"]), Some(Request::PowerOff));
        assert_eq!(of(&["busybox", "halt"]), Some(Request::Halt));
        for words in [
            &["reboot", "-f"][..],
            &["reboot", "-nf"],
            &["reboot", "--force"],
            &["sh", "-c", "reboot"],
            &["rebooter"],
            &[],
        ] {
            assert_eq!(of(words), None, "{words:?}");
        }
    }
}
