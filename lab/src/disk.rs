//! A small disk with a file system, as a loop device of this machine that nested machines see.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// A loop device; dropping it detaches it.
pub struct Disk {
    device: String,
    image: PathBuf,
}

impl Disk {
    /// Makes an ext4 file system with these files: each is a path and its text, or `-> target` for
    /// a link.
    ///
    /// # Errors
    /// If a tool fails, or there is no free loop device.
    pub fn make(folder: &Path, name: &str, files: &[(&str, &str)]) -> Result<Self> {
        let content = folder.join(format!("{name}.content"));
        fs::create_dir_all(&content)?;
        for (path, text) in files {
            let path = content.join(path.trim_start_matches('/'));
            fs::create_dir_all(path.parent().context("no folder")?)?;
            match text.strip_prefix("-> ") {
                Some(target) => std::os::unix::fs::symlink(target, &path)?,
                None => fs::write(&path, text)?,
            }
        }
        let image = folder.join(format!("{name}.img"));
        let mut make = Command::new("mke2fs");
        let path = std::env::var("PATH").unwrap_or_default();
        make.env("PATH", format!("{path}:/usr/sbin:/sbin")).args(["-q", "-F", "-t", "ext4", "-d"]);
        make.arg(&content).arg(&image).arg("8M").stdout(std::process::Stdio::null());
        ensure!(make.status()?.success(), "mke2fs failed");
        let attached = Command::new("losetup").args(["--find", "--show"]).arg(&image).output()?;
        ensure!(attached.status.success(), "{}", String::from_utf8_lossy(&attached.stderr));
        Ok(Self { device: String::from_utf8(attached.stdout)?.trim().to_owned(), image })
    }

    /// The device's path, such as `/dev/loop0`.
    pub fn device(&self) -> &str {
        &self.device
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let detached = Command::new("losetup").args(["--detach", &self.device]).status();
        if !detached.is_ok_and(|status| status.success()) {
            eprintln!("{} is left", self.device);
        }
        let _ = fs::remove_file(&self.image);
    }
}
