//! The disk of installed systems: three partitions, each with a kernel and the configuration of a
//! different boot loader.

use std::fs;
use std::io::{Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use lab::{paths, vm};

/// The partition of a Debian system. It also has a kernel and an initrd under plain names, and a
/// kernel with an invalid signature.
pub const DEBIAN: u32 = 1;
/// The partition of an Ubuntu system, mounted there as /boot, with two initrds.
pub const UBUNTU: u32 = 2;
/// The partition of a Rocky Linux system, with entries of the Boot Loader Specification.
pub const ROCKY: u32 = 3;

/// The start and the length of each partition, in MiB.
const PLACES: [(u64, u64); 3] = [(1, 63), (64, 40), (104, 40)];
/// The part of the kernel command line that precedes each entry's own part, after the console.
const LINE: &str = "quiet printk.devkmsg=on edd=off reboot=t installed root=UUID=";

/// The path of the disk's image.
pub fn image() -> PathBuf {
    paths::root().join("target/qemu/installed.img")
}

/// Makes the disk's image.
///
/// # Errors
/// If a tool fails.
pub fn make() -> Result<()> {
    let work = paths::root().join("target/qemu/installed");
    let _ = fs::remove_dir_all(&work);
    let line = format!("{} {LINE}", vm::console());
    let fixture = |name: &str| -> Result<String> {
        let text = fs::read_to_string(paths::root().join("tests/fixtures/grub").join(name))?;
        Ok(text.replace("root=UUID=", &line))
    };
    let cached = |name: &str| fs::read(vm::folder().join(name));
    let kernel = cached("vmlinuz")?;
    let (initrd, another) = (cached("second")?, cached("another")?);
    // This byte is in the message that the kernel's own boot sector would print: the signature
    // covers it, and nothing here needs it.
    let mut tampered = kernel.clone();
    tampered[0x50] ^= 0xff;
    let entry = format!(
        "title Rocky Linux\nversion 5.14.0-362.el9\nlinux /vmlinuz-5.14.0-362.el9\ninitrd /initramfs-5.14.0-362.el9.img\noptions {line}3 ro\n"
    );
    let (debian, ubuntu, rocky) =
        (fixture("debian.cfg")?, fixture("ubuntu.cfg")?, fixture("rocky.cfg")?);
    let partitions: [&[(&str, &[u8])]; 3] = [
        &[
            ("boot/grub/grub.cfg", debian.as_bytes()),
            ("boot/tampered", &tampered),
            ("boot/vmlinuz", &kernel),
            ("boot/initrd", &initrd),
            ("boot/vmlinuz-6.1.0-18-amd64", &kernel),
            ("boot/initrd.img-6.1.0-18-amd64", &initrd),
        ],
        &[
            ("grub/grub.cfg", ubuntu.as_bytes()),
            ("vmlinuz-5.15.0-94-generic", &kernel),
            ("microcode.cpio", &another),
            ("initrd.img-5.15.0-94-generic", &initrd),
        ],
        &[
            ("boot/grub2/grub.cfg", rocky.as_bytes()),
            ("boot/loader/entries/m-5.14.0-362.el9.conf", entry.as_bytes()),
            ("boot/vmlinuz-5.14.0-362.el9", &kernel),
            ("boot/initramfs-5.14.0-362.el9.img", &initrd),
        ],
    ];
    let mut disk = fs::File::create(image())?;
    disk.set_len((PLACES[2].0 + PLACES[2].1 + 1) << 20)?;
    let table: String = PLACES
        .iter()
        .map(|(start, size)| format!("start={}, size={}, type=83\n", start << 11, size << 11))
        .collect();
    let mut sfdisk = tool("sfdisk").arg("-q").arg(image()).stdin(Stdio::piped()).spawn()?;
    std::io::Write::write_all(&mut sfdisk.stdin.take().context("no input")?, table.as_bytes())?;
    ensure!(sfdisk.wait()?.success(), "sfdisk failed");
    for (number, (files, (start, size))) in partitions.iter().zip(PLACES).enumerate() {
        let part = partition(&work.join(number.to_string()), files, size)?;
        disk.seek(SeekFrom::Start(start << 20))?;
        std::io::copy(&mut fs::File::open(part)?, &mut disk)?;
    }
    Ok(fs::remove_dir_all(work)?)
}

fn partition(folder: &Path, files: &[(&str, &[u8])], size: u64) -> Result<PathBuf> {
    for (name, content) in files {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().context("no folder")?)?;
        fs::write(path, content)?;
    }
    let image = folder.with_extension("ext4");
    let mut make = tool("mke2fs");
    make.args(["-q", "-F", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-d"])
        .arg(folder)
        .arg(&image);
    ensure!(
        make.arg(format!("{size}M")).stdout(Stdio::null()).status()?.success(),
        "mke2fs failed"
    );
    Ok(image)
}

fn tool(name: &str) -> Command {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new(name);
    command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    command
}
