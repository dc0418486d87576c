//! Takes the machine down, by asking PID 1 or the kernel.
//!
//! BusyBox's `reboot`, `poweroff` and `halt` signal PID 1, and systemd gives those signals another
//! meaning: the command exits 0 and the machine stays up (observed with BusyBox 1.35 and systemd
//! 257).

use std::io;
use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};
use rustix::system::{RebootCommand, reboot};
use rustix_libc_wrappers::process::SignalExt;

use crate::end::{End, Init};

/// Returns what kind of PID 1 this process sees; the host's, if it sees the host's PIDs.
pub fn init() -> Init {
    // sd_booted(3), through PID 1's root, because our own has no such folder.
    let name = std::fs::read_to_string("/proc/1/comm").unwrap_or_default();
    if name.trim() == "systemd" || Path::new("/proc/1/root/run/systemd/system").is_dir() {
        return Init::Systemd;
    }
    let program = std::fs::read_link("/proc/1/exe").ok();
    let is_busybox =
        program.is_some_and(|path| path.file_name().is_some_and(|name| name == "busybox"));
    if is_busybox { Init::BusyBox } else { Init::Other }
}

/// Asks PID 1 to take the machine down.
///
/// # Errors
/// If kill(2) fails.
pub fn ask_init(init: Init, end: End) -> io::Result<()> {
    let signal = init.signal(end).and_then(Signal::from_raw);
    let signal = signal.ok_or_else(|| io::Error::other("it cannot be asked for that"))?;
    Ok(kill_process(Pid::INIT, signal)?)
}

/// Asks the kernel to take the machine down, at once and without notice. In a PID namespace this
/// ends only the namespace (reboot(2)).
///
/// # Errors
/// If reboot(2) fails. It does not return if it succeeds.
pub fn ask_kernel(end: End) -> io::Result<()> {
    Ok(reboot(match end {
        End::Reboot => RebootCommand::Restart,
        End::PowerOff => RebootCommand::PowerOff,
        End::Halt => RebootCommand::Halt,
        End::Kexec => RebootCommand::Kexec,
    })?)
}
