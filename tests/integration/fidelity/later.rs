//! What changes during the wait: the user container is created before it and started after it.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, ensure};
use lab::machine::{Machine, output};

use crate::case;
use crate::cases::ON_MAIN;
use crate::world::{Action, nothing_left, waits};

/// A device node of the machine, which shares its devices with the host; dropping it removes it.
struct Device(PathBuf);

impl Device {
    fn make(machine: &Machine) -> Result<Self> {
        let path =
            PathBuf::from(format!("/dev/waitdaemon-lab-{}-{}", std::process::id(), machine.init()));
        // The same numbers as /dev/null.
        let made = output(Command::new("mknod").arg(&path).args(["c", "1", "3"]))?;
        ensure!(made.status.success(), "mknod: {}", String::from_utf8_lossy(&made.stderr));
        Ok(Self(path))
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0) {
            eprintln!("{} is left: {error}", self.0.display());
        }
    }
}

case!(a_device_of_a_privileged_action, ON_MAIN, |machine| {
    for (volume, there) in [(false, machine.is_docker()), (true, true)] {
        let action = Action::alpine(&machine).wait("5").script("ls /dev > /out/devices");
        let action = if volume { action.volume("/dev:/dev") } else { action };
        action.run_well()?;
        waits(&machine)?;
        let device = Device::make(&machine)?;
        nothing_left(&machine)?;
        let seen = fs::read_to_string(machine.out().join("devices"))?;
        let name = device
            .0
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        ensure!(seen.lines().any(|line| line == name) == there, "with the volume {volume}: {seen}");
        fs::remove_file(machine.out().join("devices"))?;
    }
    Ok(())
});
