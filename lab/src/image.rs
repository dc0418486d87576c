//! Images for the machines of the tests.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
pub use packaging::architecture::Architecture;
pub use packaging::archive::Entry;
pub use packaging::image::{waitdaemon, waitdaemon_with, write, write_for};
use serde_json::Value;

/// Writes an image of BusyBox as Alpine has it, with every applet in /bin. It stands in for images
/// that cannot be pulled in a machine without network.
///
/// # Errors
/// As [`write`], or if there is no static BusyBox.
pub fn busybox(path: &Path, reference: &str, config: &Value, extra: &[Entry]) -> Result<()> {
    busybox_with(&own_busybox()?, path, reference, config, extra)
}

/// The static BusyBox of this machine.
///
/// # Errors
/// If there is none.
pub fn own_busybox() -> Result<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
        .map(|folder| folder.join("busybox"))
        .find(|file| file.exists())
        .context("no busybox; apt: busybox-static")
}

/// As [`busybox`], with this BusyBox and for its architecture.
///
/// # Errors
/// As [`busybox`].
pub fn busybox_with(
    program: &Path,
    path: &Path,
    reference: &str,
    config: &Value,
    extra: &[Entry],
) -> Result<()> {
    // Those of this machine's BusyBox: another architecture's cannot be run here.
    let listed = std::process::Command::new("busybox")
        .arg("--list")
        .output()
        .context("no busybox; apt: busybox-static")?;
    let applets = String::from_utf8(listed.stdout)?;
    let mut entries = vec![
        Entry::Folder("bin", 0o755),
        Entry::Folder("tmp", 0o1777),
        Entry::Folder("etc", 0o755),
        Entry::Text("etc/passwd", 0o644, "root:x:0:0:root:/root:/bin/sh\n".into()),
        Entry::File("bin/busybox", 0o755, program.into()),
    ];
    let names = applets.lines().filter(|name| *name != "busybox");
    entries.extend(names.map(|name| Entry::Link(format!("bin/{name}"), "busybox")));
    entries.extend_from_slice(extra);
    write_for(Architecture::of_program(program)?, path, reference, config, &entries)
}
