//! Images for the machines of the tests.

use std::path::Path;

use anyhow::{Context, Result};
pub use packaging::archive::Entry;
pub use packaging::image::{waitdaemon, waitdaemon_with, write, write_for};
use serde_json::Value;

/// Writes an image of BusyBox as Alpine has it, with every applet in /bin. It stands in for images
/// that cannot be pulled in a machine without network.
///
/// # Errors
/// As [`write`], or if there is no static BusyBox.
pub fn busybox(path: &Path, reference: &str, config: &Value, extra: &[Entry]) -> Result<()> {
    let listed = std::process::Command::new("busybox")
        .arg("--list")
        .output()
        .context("no busybox; apt: busybox-static")?;
    let applets = String::from_utf8(listed.stdout)?;
    let program = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
        .map(|folder| folder.join("busybox"))
        .find(|file| file.exists())
        .context("busybox is not in PATH")?;
    let mut entries = vec![
        Entry::Folder("bin", 0o755),
        Entry::Folder("tmp", 0o1777),
        Entry::Folder("etc", 0o755),
        Entry::Text("etc/passwd", 0o644, "root:x:0:0:root:/root:/bin/sh\n".into()),
        Entry::File("bin/busybox", 0o755, program),
    ];
    let names = applets.lines().filter(|name| *name != "busybox");
    entries.extend(names.map(|name| Entry::Link(format!("bin/{name}"), "busybox")));
    entries.extend_from_slice(extra);
    write(path, reference, config, &entries)
}
