//! Mounts a partition's file system read-only, where no other process sees it.
//!
//! The mount is in no mount namespace: it is a descriptor, and disappears with it (fsmount(2),
//! Linux 5.2). Paths are resolved in its own root, so that links, even absolute ones, lead to its
//! own files (openat2(2), `RESOLVE_IN_ROOT`).

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Dir, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen,
};

use crate::bootloader::Files;

/// How much of a configuration to read, in bytes.
const MAX_TEXT: u64 = 1 << 20;

/// A mounted file system.
#[derive(Debug)]
pub struct Filesystem {
    root: OwnedFd,
}

impl Filesystem {
    /// Mounts the file system of a device, read-only.
    ///
    /// # Errors
    /// If the kernel refuses: `ENODEV` if it does not know this kind, `EINVAL` if the device has
    /// another.
    pub fn mount(device: &Path, kind: &str) -> Result<Self, Errno> {
        // A file system that is mounted for writing elsewhere cannot be read-only as a whole; then
        // only this mount is.
        match Self::mount_as(device, kind, true) {
            Err(Errno::BUSY) => Self::mount_as(device, kind, false),
            other => other,
        }
    }

    fn mount_as(device: &Path, kind: &str, all_read_only: bool) -> Result<Self, Errno> {
        let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_set_string(&context, "source", device)?;
        if all_read_only {
            fsconfig_set_flag(&context, "ro")?;
        }
        fsconfig_create(&context)?;
        let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        Ok(Self { root: fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)? })
    }

    /// Returns the kinds of file system that the kernel knows and that lie on a device.
    pub fn kinds() -> Vec<String> {
        let text = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
        text.lines().filter_map(|line| line.strip_prefix('\t')).map(str::to_owned).collect()
    }

    /// Opens a file for reading.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn open(&self, path: &str) -> io::Result<File> {
        Ok(self.open_as(path, OFlags::NOCTTY | OFlags::NONBLOCK)?.into())
    }

    fn open_as(&self, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        let flags = flags | OFlags::RDONLY | OFlags::CLOEXEC;
        let path = if path.is_empty() { "/" } else { path };
        openat2(&self.root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT)
    }

    /// Opens a regular file.
    fn open_file(&self, path: &str) -> Option<File> {
        self.open(path).ok().filter(|file| file.metadata().is_ok_and(|about| about.is_file()))
    }
}

impl Files for Filesystem {
    fn read(&self, path: &str) -> Option<String> {
        let mut bytes = Vec::new();
        self.open_file(path)?.take(MAX_TEXT).read_to_end(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn list(&self, folder: &str) -> Vec<String> {
        let Ok(folder) = self.open_as(folder, OFlags::DIRECTORY) else { return Vec::new() };
        let Ok(entries) = Dir::new(folder) else { return Vec::new() };
        let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.filter(|name| !name.starts_with('.')).collect()
    }

    fn has(&self, path: &str) -> bool {
        self.open_file(path).is_some()
    }
}
