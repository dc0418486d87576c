//! The ways a machine can end, and the kinds of PID 1 that can be asked for one. Pure.

/// What takes a machine down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The machine restarts.
    Reboot,
    /// The machine switches itself off.
    PowerOff,
    /// The machine stops and stays powered on.
    Halt,
    /// A loaded kernel takes over.
    Kexec,
}

impl End {
    const ALL: [Self; 4] = [Self::Reboot, Self::PowerOff, Self::Halt, Self::Kexec];

    /// Returns the end with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|end| end.name() == name)
    }

    /// Returns its name, which is also the command's.
    pub fn name(self) -> &'static str {
        match self {
            Self::Reboot => "reboot",
            Self::PowerOff => "poweroff",
            Self::Halt => "halt",
            Self::Kexec => "kexec",
        }
    }
}

/// The kind of PID 1, which decides how it is asked for an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Init {
    /// systemd, in charge of its machine.
    Systemd,
    /// BusyBox's init.
    BusyBox,
    /// Another init, which waitdaemon does not know how to ask.
    Other,
}

impl Init {
    const ALL: [Self; 3] = [Self::Systemd, Self::BusyBox, Self::Other];

    /// Returns the init with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|init| init.name() == name)
    }

    /// Returns the signal that asks this init for an end; `None` if there is no such signal.
    ///
    /// See systemd(1), "Signals", with glibc's SIGRTMIN, 34. BusyBox (1.35, `init/init.c`) has no
    /// kexec.
    pub fn signal(self, end: End) -> Option<i32> {
        const SIGUSR1: i32 = 10;
        const SIGUSR2: i32 = 12;
        const SIGTERM: i32 = 15;
        const SIGRTMIN: i32 = 34;
        match (self, end) {
            (Self::Systemd, End::Halt) => Some(SIGRTMIN + 3),
            (Self::Systemd, End::PowerOff) => Some(SIGRTMIN + 4),
            (Self::Systemd, End::Reboot) => Some(SIGRTMIN + 5),
            (Self::Systemd, End::Kexec) => Some(SIGRTMIN + 6),
            (Self::BusyBox, End::Reboot) => Some(SIGTERM),
            (Self::BusyBox, End::Halt) => Some(SIGUSR1),
            (Self::BusyBox, End::PowerOff) => Some(SIGUSR2),
            (Self::BusyBox, End::Kexec) | (Self::Other, _) => None,
        }
    }

    /// Returns its name in words.
    pub fn name(self) -> &'static str {
        match self {
            Self::Systemd => "systemd",
            Self::BusyBox => "BusyBox init",
            Self::Other => "an unknown PID 1",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_known_by_its_name_alone() {
        for end in End::ALL {
            assert_eq!(End::from_name(end.name()), Some(end));
        }
        for name in ["", "Reboot", "reboot ", "/sbin/reboot", "shutdown", "reboot -f"] {
            assert_eq!(End::from_name(name), None, "{name:?}");
        }
    }
}
