//! One-layer images as a docker-archive, which `docker load` and `nerdctl load` read. The same input
//! gives the same bytes: all times are zero, entries come in the order given.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

/// One entry of the layer; paths are relative to the image's root.
#[derive(Debug, Clone)]
pub enum Entry {
    /// A folder with this mode.
    Folder(&'static str, u32),
    /// A file with this mode and the content of a file here.
    File(&'static str, u32, PathBuf),
    /// A file with this mode and content.
    Text(&'static str, u32, String),
    /// All files of a folder here, with this mode, in a folder of this name.
    Files(&'static str, u32, PathBuf),
    /// A symbolic link and its target.
    Link(String, &'static str),
}

/// Writes the image with tag `reference` and the OCI image configuration's `config` to `path`.
///
/// # Errors
/// Where a file cannot be read or written.
pub fn write(path: &Path, reference: &str, config: &Value, entries: &[Entry]) -> Result<()> {
    let layer = layer(entries)?;
    let layer_id = hex(&layer);
    let configuration = serde_json::to_vec(&json!({
        "architecture": "amd64",
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{layer_id}")]},
        "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "waitdaemon lab"}],
    }))?;
    let config_name = format!("{}.json", hex(&configuration));
    let layer_name = format!("{layer_id}/layer.tar");
    let manifest = serde_json::to_vec(&json!([{
        "Config": config_name, "RepoTags": [reference], "Layers": [layer_name],
    }]))?;

    let mut archive = Builder::new(Vec::new());
    add(&mut archive, &config_name, 0o644, &configuration)?;
    add(&mut archive, &layer_name, 0o644, &layer)?;
    add(&mut archive, "manifest.json", 0o644, &manifest)?;
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let bytes = archive.into_inner()?;
    fs::File::create(path)?.write_all(&bytes).with_context(|| format!("cannot write {}", path.display()))
}

/// waitdaemon's own image: `program` as `/waitdaemon`, `/waiter`, a link to it, `/journal`, where a waiter on Docker
/// keeps what it remembers, and `/tmp`, which nerdctl needs; in the variant that bundles it, `nerdctl` at /usr/local/bin.
///
/// # Errors
/// As [`write`].
pub fn waitdaemon(path: &Path, reference: &str, program: &Path, nerdctl: Option<&Path>) -> Result<()> {
    waitdaemon_with(path, reference, program, nerdctl, &json!({"Entrypoint": ["/waitdaemon"]}))
}

/// As [`waitdaemon`], repackaged with another image configuration.
///
/// # Errors
/// As [`write`].
pub fn waitdaemon_with(
    path: &Path,
    reference: &str,
    program: &Path,
    nerdctl: Option<&Path>,
    config: &Value,
) -> Result<()> {
    write(path, reference, config, &entries_of(program, nerdctl))
}

/// What is in waitdaemon's image.
pub(crate) fn entries_of(program: &Path, nerdctl: Option<&Path>) -> Vec<Entry> {
    let mut entries = vec![
        Entry::File("waitdaemon", 0o755, program.into()),
        Entry::Link("waiter".into(), "waitdaemon"),
        Entry::Folder("journal", 0o1777),
        Entry::Folder("tmp", 0o1777),
    ];
    entries.extend(nerdctl.map(|nerdctl| Entry::File("usr/local/bin/nerdctl", 0o755, nerdctl.into())));
    entries
}

/// BusyBox as Alpine has it: every applet in /bin. It stands in for images that cannot be pulled in
/// a machine without network.
///
/// # Errors
/// As [`write`], or where there is no static BusyBox.
pub fn busybox(path: &Path, reference: &str, config: &Value, extra: &[Entry]) -> Result<()> {
    let listed =
        std::process::Command::new("busybox").arg("--list").output().context("no busybox; apt: busybox-static")?;
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

pub(crate) fn layer(entries: &[Entry]) -> Result<Vec<u8>> {
    let mut archive = Builder::new(Vec::new());
    for entry in entries {
        match entry {
            Entry::Folder(name, mode) => {
                let mut header = header(EntryType::Directory, *mode, 0);
                archive.append_data(&mut header, format!("{name}/"), &[][..])?;
            }
            Entry::File(name, mode, from) => {
                let content = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
                add(&mut archive, name, *mode, &content)?;
            }
            Entry::Files(name, mode, from) => {
                let files = fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))?;
                let mut files = files.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
                files.sort();
                for file in files {
                    let own = file.file_name().unwrap_or_default().to_string_lossy();
                    add(&mut archive, &format!("{name}/{own}"), *mode, &fs::read(&file)?)?;
                }
            }
            Entry::Text(name, mode, content) => add(&mut archive, name, *mode, content.as_bytes())?,
            Entry::Link(name, target) => {
                let mut header = header(EntryType::Symlink, 0o777, 0);
                archive.append_link(&mut header, name, target)?;
            }
        }
    }
    Ok(archive.into_inner()?)
}

pub(crate) fn add(archive: &mut Builder<Vec<u8>>, name: &str, mode: u32, content: &[u8]) -> Result<()> {
    let mut header = header(EntryType::Regular, mode, content.len() as u64);
    Ok(archive.append_data(&mut header, name, content)?)
}

fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_input_gives_the_same_bytes() -> Result<()> {
        let folder = std::env::temp_dir().join(format!("waitdaemon-image-{}", std::process::id()));
        let made: Vec<Vec<u8>> = ["a", "b"]
            .map(|name| {
                let path = folder.join(name);
                write(&path, "x:1", &json!({}), &[Entry::Text("f", 0o644, "t".into()), Entry::Link("l".into(), "f")])?;
                Ok(fs::read(path)?)
            })
            .into_iter()
            .collect::<Result<_>>()?;
        fs::remove_dir_all(folder)?;
        assert!(made[0] == made[1] && !made[0].is_empty());
        Ok(())
    }
}
