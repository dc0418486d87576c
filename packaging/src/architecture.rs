//! The architectures that images are made for.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail};

/// An architecture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    /// x86-64.
    Amd64,
    /// 64-bit Arm.
    Arm64,
}

use Architecture::{Amd64, Arm64};

impl Architecture {
    /// Both.
    pub const ALL: [Self; 2] = [Amd64, Arm64];
    /// That of the machine on which this runs.
    pub const NATIVE: Self = if cfg!(target_arch = "aarch64") { Arm64 } else { Amd64 };

    /// The name in Go, Debian and OCI.
    pub fn name(self) -> &'static str {
        match self {
            Amd64 => "amd64",
            Arm64 => "arm64",
        }
    }

    /// The name in Linux, Rust and QEMU.
    pub fn machine(self) -> &'static str {
        match self {
            Amd64 => "x86_64",
            Arm64 => "aarch64",
        }
    }

    /// The one that this is not.
    pub const fn other(self) -> Self {
        match self {
            Amd64 => Arm64,
            Arm64 => Amd64,
        }
    }

    /// Returns the architecture with this name in Go, Debian and OCI.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.name() == name)
    }

    /// Returns the architecture that a program is built for (elf(5), `e_machine`).
    ///
    /// # Errors
    /// If the file cannot be read or is no program for one of [`Architecture::ALL`].
    pub fn of_program(path: &Path) -> Result<Self> {
        let mut header = [0; 20];
        File::open(path)
            .and_then(|mut file| file.read_exact(&mut header))
            .with_context(|| format!("cannot read {}", path.display()))?;
        match (&header[..4], u16::from_le_bytes([header[18], header[19]])) {
            (b"\x7fELF", 62) => Ok(Amd64),
            (b"\x7fELF", 183) => Ok(Arm64),
            _ => bail!("{} is no program for amd64 or arm64", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_says_what_it_is_built_for() -> Result<()> {
        assert_eq!(Architecture::of_program(&std::env::current_exe()?)?, Architecture::NATIVE);
        assert!(Architecture::of_program(Path::new("/proc/version")).is_err());
        Ok(())
    }
}
