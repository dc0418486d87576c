//! The kernel of the installed system: found by the plan, loaded before SUCCESS.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::bootloader::entry::Entry;
use crate::bootloader::{self, Wanted};
use crate::error::{Context, Failure};
use crate::logging;
use crate::machine::filesystem::Filesystem;
use crate::machine::{kexec, namespaces, procfs};

/// The usual file systems of installed systems, which are tried first; the kernel loads what it
/// needs for them.
const USUAL_KINDS: [&str; 4] = ["ext4", "xfs", "btrfs", "vfat"];
/// The number of CAP_SYS_BOOT (linux/capability.h).
const CAP_SYS_BOOT: u32 = 22;

const DEVICE: &str = "environment.BLOCK_DEVICE";
const REBOOT_INSTEAD: &str = "use command: [\"reboot\"] instead";

/// A kernel to load, with its files open.
pub struct Kernel {
    /// Where the kernel was found, and what it is given.
    pub entry: Entry,
    kernel: File,
    initrds: Vec<File>,
}

impl Kernel {
    /// Finds the kernel on its partition; changes nothing.
    ///
    /// # Errors
    /// If something is missing or cannot be read; the failure names the variable to change.
    pub async fn find(wanted: Wanted) -> Result<Self, Failure> {
        in_background(Box::new(move || find(&wanted))).await
    }

    /// Loads the kernel in place of any other, so that the waiter only has to jump to it. Returns
    /// what was loaded.
    ///
    /// # Errors
    /// If this machine's kernel does not accept it.
    pub async fn load(self) -> Result<Self, Failure> {
        in_background(Box::new(move || {
            match kexec::load(&self.kernel, &self.initrds, &self.entry.command_line) {
                Ok(()) => Ok(self),
                Err(error) => Err(refused(&self.entry, error)),
            }
        }))
        .await
    }
}

/// Checks that the kernel that was loaded still is.
///
/// # Errors
/// If it is not.
pub fn is_still_loaded() -> Result<(), Failure> {
    if kexec::is_loaded() {
        return Ok(());
    }
    let fix = "another kexec on this machine unloaded it; run the Workflow again";
    Err(Failure::new("the kernel that was loaded is not loaded any more").field("command").fix(fix))
}

/// Work that another thread does.
type Work = Box<dyn FnOnce() -> Result<Kernel, Failure> + Send>;

/// Does the work on another thread: disks are slow, and signals are handled meanwhile.
async fn in_background(work: Work) -> Result<Kernel, Failure> {
    tokio::task::spawn_blocking(work).await.context("the thread that reads the disk ended")?
}

fn find(wanted: &Wanted) -> Result<Kernel, Failure> {
    let device = device(&wanted.device)?;
    let files = mount(wanted, &device)?;
    let entry = bootloader::find(&files, wanted)?;
    let open = |path: &String| {
        files.open(path).context(format!("cannot open {path} on {}", wanted.device.display()))
    };
    let kernel = open(&entry.kernel).map_err(|failure| failure.field("environment.KERNEL_PATH"))?;
    if !is_kernel(&kernel) {
        let fix = "name a kernel for this machine's architecture that is not compressed by itself: bzImage, or on arm64 Image";
        let message = format!("{} is not a kernel that this machine can load", entry.kernel);
        return Err(Failure::new(message)
            .field("environment.KERNEL_PATH")
            .fix(format!("{fix}; or {REBOOT_INSTEAD}")));
    }
    if entry.command_line.is_empty() {
        let doubt = Failure::new("the kernel gets an empty command line, and so no root=");
        let fix = "set CMD_LINE, for example root=/dev/sda1 ro";
        logging::warning(&doubt.field("environment.CMD_LINE").fix(fix));
    }
    let initrds: Result<Vec<File>, Failure> = entry.initrds.iter().map(open).collect();
    let initrds = initrds.map_err(|failure| failure.field("environment.INITRD_PATH"))?;
    Ok(Kernel { entry, kernel, initrds })
}

/// True if the header is that of a kernel that kexec_file_load(2) accepts: a bzImage
/// (Documentation/arch/x86/boot.rst, `HdrS`), or an Image (Documentation/arch/arm64/booting.rst). A
/// kernel that is itself compressed, as in some distributions for arm64, is not accepted.
fn is_kernel(file: &File) -> bool {
    let (place, magic) =
        if cfg!(target_arch = "aarch64") { (56, *b"ARM\x64") } else { (0x202, *b"HdrS") };
    let mut found = [0; 4];
    file.read_exact_at(&mut found, place).is_ok() && found == magic
}

/// Returns the path by which this process reaches the device.
fn device(wanted: &Path) -> Result<PathBuf, Failure> {
    let own = Some(wanted.to_owned()).filter(|path| path.exists());
    let Some(path) = own.or_else(|| namespaces::path_through_init(wanted)) else {
        let partitions = std::fs::read_to_string("/proc/partitions").unwrap_or_default();
        let names: Vec<String> =
            procfs::partitions(&partitions).map(|name| format!("/dev/{name}")).collect();
        return Err(Failure::new(format!("there is no {}", wanted.display()))
            .field(DEVICE)
            .fix(format!("use a partition of this machine: {}", names.join(", "))));
    };
    let is_device = std::fs::metadata(&path).is_ok_and(|about| about.file_type().is_block_device());
    if !is_device {
        let failure = Failure::new(format!("{} is not a block device", wanted.display()));
        return Err(failure
            .field(DEVICE)
            .fix("set it to the partition with the kernel, for example /dev/sda1"));
    }
    Ok(path)
}

fn mount(wanted: &Wanted, device: &Path) -> Result<Filesystem, Failure> {
    let kinds: Vec<String> = match &wanted.file_system {
        Some(kind) => vec![kind.clone()],
        None => {
            let known = Filesystem::kinds()
                .into_iter()
                .filter(|kind| !USUAL_KINDS.contains(&kind.as_str()));
            USUAL_KINDS.map(str::to_owned).into_iter().chain(known).collect()
        }
    };
    let mut last = Errno::NODEV;
    for kind in &kinds {
        match Filesystem::mount(device, kind) {
            Ok(files) => return Ok(files),
            Err(error) => last = error,
        }
        if matches!(last, Errno::PERM | Errno::ACCESS) {
            break;
        }
    }
    let shown = wanted.device.display();
    let failure = match (last, &wanted.file_system) {
        (Errno::PERM | Errno::ACCESS, _) => Failure::new(format!("may not mount {shown}"))
            .field(DEVICE)
            .fix("run the action privileged, as the Tink Agent does"),
        (Errno::NODEV, Some(kind)) => {
            Failure::new(format!("this machine's kernel does not know the file system {kind}"))
                .field("environment.FS_TYPE")
                .fix("name the partition's file system, or leave FS_TYPE out")
        }
        (_, Some(kind)) => Failure::new(format!("cannot mount {shown} as {kind}"))
            .field("environment.FS_TYPE")
            .fix("name the partition's file system, or leave FS_TYPE out; check BLOCK_DEVICE"),
        (_, None) => Failure::new(format!(
            "cannot mount {shown}: none of {} fits",
            kinds.join(", ")
        ))
        .field(DEVICE)
        .fix("check that it is the partition with the installed system, and not the whole disk"),
    };
    Err(failure.cause(io::Error::from(last)))
}

/// Explains why this machine's kernel did not accept another one.
fn refused(entry: &Entry, error: io::Error) -> Failure {
    let failure = Failure::new(format!("cannot load the kernel {}", entry.kernel));
    let flag = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let errno = Errno::from_io_error(&error);
    let failure = match errno {
        Some(Errno::PERM) if flag("/proc/sys/kernel/kexec_load_disabled").trim() == "1" => {
            failure.field("command").fix(format!("this machine has kernel.kexec_load_disabled set: {REBOOT_INSTEAD}"))
        }
        Some(Errno::PERM) if !procfs::has_capability(&flag("/proc/self/status"), CAP_SYS_BOOT) => {
            failure.field("command").fix("run the action privileged, as the Tink Agent does")
        }
        Some(Errno::PERM | Errno::NOKEY | Errno::KEYREJECTED | Errno::BADMSG | Errno::NODATA) => failure
            .field("environment.KERNEL_PATH")
            .fix(format!(
                "this machine's kernel is locked down (lockdown= on its command line, or Secure Boot) and takes only kernels \
                 that are signed by a key it trusts: use one, or {REBOOT_INSTEAD}"
            )),
        Some(Errno::NOSYS | Errno::OPNOTSUPP) => {
            failure.field("command").fix(format!("this machine's kernel cannot load another one: {REBOOT_INSTEAD}"))
        }
        Some(Errno::NOEXEC) => failure
            .field("environment.KERNEL_PATH")
            .fix("name another kernel: this one has a kernel's header but is not a kernel"),
        _ => failure.field("environment.CMD_LINE").fix(format!("check kernel, initrds and command line, or {REBOOT_INSTEAD}")),
    };
    failure.cause(error)
}
