//! Machines that really boot: QEMU without hardware virtualisation, with a kernel of their own and
//! a serial line.

use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use packaging::architecture::Architecture;

use crate::paths;
use crate::until::until;
use crate::watch::Watch;

/// Which OSIE a machine boots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Osie {
    /// BusyBox init as PID 1, dockerd with the syslog log driver, cgroup v2.
    Hook,
    /// systemd as PID 1, containerd and nerdctl, cgroup v2.
    Captain,
}

impl Osie {
    /// A short name, which is also that of its disk's file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hook => "hook",
            Self::Captain => "captain",
        }
    }
}

/// How a machine ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The kernel restarted it.
    Restarted,
    /// The kernel switched it off.
    PoweredOff,
    /// The kernel stopped, and the machine is still on.
    Halted,
    /// The kernel panicked; QEMU ends as with a restart if the kernel's `panic=` says so.
    Panicked,
}

/// What the kernel prints before it restarts the machine, switches it off, or stops (Linux,
/// kernel/reboot.c).
const RESTARTS: &str = "reboot: Restarting system";
const POWERS_OFF: &str = "reboot: Power down";
const HALTS: &str = "reboot: System halted";
const PANICS: &str = "Kernel panic - not syncing";

/// The architecture of the machines that boot: this machine's, unless `MACHINES` names another.
pub fn architecture() -> Architecture {
    let named = std::env::var("MACHINES").ok();
    named.and_then(|name| Architecture::from_name(&name)).unwrap_or(Architecture::NATIVE)
}

/// The folder with the kernel, the initrds and the disks (lab/qemu/disks).
pub fn folder() -> PathBuf {
    paths::cache_for(architecture()).join("qemu")
}

/// The part of a kernel's command line that names its serial line.
pub fn console() -> &'static str {
    match architecture() {
        Architecture::Amd64 => "console=ttyS0",
        Architecture::Arm64 => "console=ttyAMA0",
    }
}

/// A running machine; dropping it ends it. The serial line stays in a file.
pub struct Vm {
    serial: Watch,
    file: PathBuf,
}

impl Vm {
    /// Boots an OSIE with a second disk, /dev/vdb, and with `command_line` at the end of the
    /// kernel's command line. The disk of the installed system is /dev/sda. The serial line is left
    /// in `file`.
    ///
    /// # Errors
    /// If QEMU cannot be started.
    pub fn boot(
        osie: Osie,
        payload: &Path,
        installed: &Path,
        command_line: &str,
        file: &Path,
    ) -> Result<Self> {
        let architecture = architecture();
        let folder = folder();
        let line = format!(
            "{} quiet printk.devkmsg=on edd=off reboot=t net.ifnames=0 systemd.show_status=1 \
             systemd.log_target=kmsg systemd.journald.forward_to_console=0 {command_line}",
            console()
        );
        let disk = |path: &Path| {
            format!("format=raw,snapshot=on,cache=unsafe,if=none,file={}", path.display())
        };
        let program = format!("qemu-system-{}", architecture.machine());
        let (board, processor) = match architecture {
            Architecture::Amd64 => ("q35", "max"),
            // Emulating the pointer authentication of a newer one takes long.
            Architecture::Arm64 => ("virt", "cortex-a72"),
        };
        let mut qemu = Command::new("setpriv");
        qemu.args(["--pdeathsig", "KILL", &program]);
        qemu.args(["-display", "none", "-serial", "stdio", "-no-reboot"]);
        qemu.args(["-m", "1024", "-smp", "1", "-M", board, "-cpu", processor, "-accel", "tcg"]);
        qemu.args(["-nodefaults", "-no-user-config", "-append", &line]);
        qemu.arg("-kernel").arg(folder.join("vmlinuz")).arg("-initrd").arg(folder.join("initrd"));
        let system = disk(&folder.join(format!("{}.ext4", osie.name())));
        qemu.args(["-drive", &format!("{system},id=osie"), "-device", "virtio-blk-pci,drive=osie"]);
        qemu.args([
            "-drive",
            &format!("{},id=payload", disk(payload)),
            "-device",
            "virtio-blk-pci,drive=payload",
        ]);
        let installed = disk(installed);
        qemu.args(["-device", "virtio-scsi-pci", "-drive", &format!("{installed},id=installed")]);
        qemu.args(["-device", "scsi-hd,drive=installed"]);
        // Without the ROM for netboot, which is in a package of its own.
        qemu.args(["-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,romfile="]);
        qemu.stdin(std::process::Stdio::null());
        let serial = Watch::of(&mut qemu).with_context(|| format!("cannot run {program}"))?;
        Ok(Self { serial, file: file.to_owned() })
    }

    /// The lines of the serial line so far, each with its time of arrival, in seconds since 1970.
    pub fn lines(&self) -> Vec<(f64, String)> {
        let lines = self.serial.lines().into_iter();
        lines.map(|(time, line)| (time, plain(&line))).collect()
    }

    /// True if QEMU has ended.
    ///
    /// # Errors
    /// If it cannot be asked.
    pub fn has_ended(&mut self) -> Result<bool> {
        Ok(self.serial.ended()?.is_some())
    }

    /// Waits for a line that contains these words; returns its number.
    ///
    /// # Errors
    /// If the machine ends before, or the line does not come; the error shows the end of the serial
    /// line.
    pub fn said(&mut self, words: &str, limit: Duration) -> Result<usize> {
        let found = until(&format!("{words:?} on the serial line"), limit, || {
            let ended = self.serial.ended()?;
            let found = self.lines().iter().position(|(_, line)| line.contains(words));
            if found.is_none() && ended.is_some() {
                bail!("the machine ended before {words:?}");
            }
            Ok(found)
        });
        found.with_context(|| self.tail())
    }

    /// Waits for the machine's end, as the kernel's last message shows it.
    ///
    /// # Errors
    /// If QEMU ends without a message of the kernel, or the machine does not end; the error shows
    /// the end of the serial line.
    pub fn end(&mut self, limit: Duration) -> Result<End> {
        let end = until("the machine's end", limit, || {
            let ended = self.serial.ended()?;
            let lines = self.lines();
            if lines.iter().any(|(_, line)| line.contains(PANICS)) {
                return Ok(Some(End::Panicked));
            }
            let said = |words: &str| lines.iter().any(|(_, line)| line.contains(words));
            match ended {
                // A halted machine stays on with nothing to do.
                _ if said(HALTS) => Ok(Some(End::Halted)),
                Some(_) if said(RESTARTS) => Ok(Some(End::Restarted)),
                Some(_) if said(POWERS_OFF) => Ok(Some(End::PoweredOff)),
                Some(status) => bail!("QEMU ended with {status}, and the kernel did not say why"),
                None => Ok(None),
            }
        });
        end.with_context(|| self.tail())
    }

    /// The end of the serial line.
    pub fn tail(&self) -> String {
        let lines = self.lines();
        let shown = lines[lines.len().saturating_sub(40)..].iter();
        let shown: Vec<&str> =
            shown.map(|(_, line)| &line[..line.floor_char_boundary(400)]).collect();
        format!("the serial line's end:\n{}\n", shown.join("\n"))
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        let serial: String = self.lines().iter().map(|(_, line)| format!("{line}\n")).collect();
        let _ = fs::write(&self.file, serial);
    }
}

/// The line without carriage returns and colours (ECMA-48, CSI up to its letter).
fn plain(line: &str) -> String {
    let mut pieces = line.trim_end_matches('\r').split("\u{1b}[");
    let mut plain = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let end = piece
            .find(|letter: char| letter.is_ascii_alphabetic())
            .map_or(piece.len(), |end| end + 1);
        plain.push_str(&piece[end..]);
    }
    plain
}

/// A port that is free for TCP and UDP on loopback; QEMU's user network reaches it at 10.0.2.2.
///
/// # Errors
/// If there is none.
pub fn free_port() -> Result<u16> {
    until("a free port", Duration::from_secs(5), || {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        Ok(UdpSocket::bind(("127.0.0.1", port)).is_ok().then_some(port))
    })
}
