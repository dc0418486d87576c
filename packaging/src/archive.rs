//! Tar archives whose bytes depend only on what is put in: all times are zero, and the entries are
//! in the order given.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

use crate::elf::without_sections;

/// One entry of the layer; paths are relative to the image's root.
#[derive(Debug, Clone)]
pub enum Entry {
    /// A folder with this mode.
    Folder(&'static str, u32),
    /// A file with this mode and the content of a file of this machine.
    File(&'static str, u32, PathBuf),
    /// A program of this machine, without what only developers' tools read.
    Program(&'static str, PathBuf),
    /// A file with this mode and content.
    Text(&'static str, u32, String),
    /// All files of a folder of this machine, with this mode, in a folder of this name.
    Files(&'static str, u32, PathBuf),
    /// A symbolic link and its target.
    Link(String, &'static str),
}

/// Makes the layer with these entries, as a tar archive.
pub(crate) fn layer(entries: &[Entry]) -> Result<Vec<u8>> {
    let mut archive = Builder::new(Vec::new());
    for entry in entries {
        match entry {
            Entry::Folder(name, mode) => {
                let mut header = header(EntryType::Directory, *mode, 0);
                archive.append_data(&mut header, format!("{name}/"), &[][..])?;
            }
            Entry::File(name, mode, from) => add(&mut archive, name, *mode, &read(from)?)?,
            Entry::Program(name, from) => {
                let program = without_sections(read(from)?)
                    .with_context(|| format!("cannot read {}", from.display()))?;
                add(&mut archive, name, 0o755, &program)?;
            }
            Entry::Files(name, mode, from) => {
                let files = fs::read_dir(from)
                    .with_context(|| format!("cannot read {}", from.display()))?;
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

fn read(file: &Path) -> Result<Vec<u8>> {
    fs::read(file).with_context(|| format!("cannot read {}", file.display()))
}

pub(crate) fn add(
    archive: &mut Builder<Vec<u8>>,
    name: &str,
    mode: u32,
    content: &[u8],
) -> Result<()> {
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
