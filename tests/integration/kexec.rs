//! kexec without a second image, as far as no kernel is loaded: what is found on a disk, and what
//! fails before SUCCESS. tests/machines covers the rest.

use std::fs;

use anyhow::{Context, Result, ensure};
use lab::disk::Disk;
use lab::machine::Machine;
use lab::paths;
use serde_json::{Value, json};

use crate::case;
use crate::cases::{ON_DOCKER_MAIN, ON_MAIN};
use crate::world::{Action, nothing_there};

/// Reads a configuration from tests/fixtures/grub.
fn fixture(name: &str) -> Result<String> {
    Ok(fs::read_to_string(paths::root().join("tests/fixtures/grub").join(name))?)
}

/// A file with a kernel's header that is not a kernel.
fn kernel() -> String {
    let mut text = "x".repeat(0x400);
    // The magic numbers of arm64 and of x86.
    text.replace_range(56..60, "ARMd");
    text.replace_range(0x202..0x206, "HdrS");
    text
}

/// An action with `command: ["kexec"]` and this device.
fn kexec<'a>(machine: &'a Machine, device: &str) -> Action<'a> {
    Action::new(machine).command(&["kexec"]).env("BLOCK_DEVICE", device).wait("0")
}

/// What a dry run says about the kernel.
fn found(action: &Action<'_>) -> Result<Value> {
    let said = action.clone().env("WAITDAEMON_DRY_RUN", "true").run()?;
    let lines = said.out.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let plan = lines
        .rev()
        .find(|line| line["plan"].is_object())
        .with_context(|| format!("{said:?}"))?["plan"]
        .clone();
    ensure!(plan["exit_code"] == 0 && plan["ends_machine_by"] == "kexec", "{plan}");
    Ok(plan["kernel"].clone())
}

case!(the_default_entry_of_debian, ON_MAIN, |machine| {
    let config = fixture("debian.cfg")?;
    let version = "6.1.0-18-amd64";
    let disk = Disk::make(
        &machine.out(),
        "debian",
        &[
            ("/boot/grub/grub.cfg", &config),
            (&format!("/boot/vmlinuz-{version}"), &kernel()),
            (&format!("/boot/initrd.img-{version}"), "initrd"),
        ],
    )?;
    let entry = found(&kexec(&machine, disk.device()).env("FS_TYPE", "ext4"))?;
    ensure!(entry["path"] == format!("/boot/vmlinuz-{version}"), "{entry}");
    ensure!(entry["initrds"] == json!([format!("/boot/initrd.img-{version}")]), "{entry}");
    let line = "root=UUID=9f6d1d2c-0000-4000-8000-000000000001 ro console=ttyS0,115200n8";
    ensure!(entry["command_line"] == line, "{entry}");
    Ok(())
});

// A partition that is mounted as /boot, a saved entry, two initrds, and no FS_TYPE.
case!(the_saved_entry_of_ubuntu, ON_MAIN, |machine| {
    let config = fixture("ubuntu.cfg")?;
    let disk = Disk::make(
        &machine.out(),
        "ubuntu",
        &[
            ("/grub/grub.cfg", &config),
            ("/grub/grubenv", "# GRUB Environment Block\nsaved_entry=gnulinux-simple-2\n"),
            ("/vmlinuz-5.15.0-94-generic", &kernel()),
            ("/microcode.cpio", "first"),
            ("/initrd.img-5.15.0-94-generic", "second"),
        ],
    )?;
    let entry = found(&kexec(&machine, disk.device()))?;
    ensure!(entry["path"] == "/vmlinuz-5.15.0-94-generic", "{entry}");
    ensure!(
        entry["initrds"] == json!(["/microcode.cpio", "/initrd.img-5.15.0-94-generic"]),
        "{entry}"
    );
    let entry = found(&kexec(&machine, disk.device()).env("CMD_LINE", "root=/dev/sda2 ro"))?;
    ensure!(entry["command_line"] == "root=/dev/sda2 ro", "{entry}");
    Ok(())
});

case!(the_newest_entry_of_rocky, ON_MAIN, |machine| {
    let config = fixture("rocky.cfg")?;
    let entry = |version: &str| {
        format!(
            "title Rocky Linux ({version})\nversion {version}\nlinux /vmlinuz-{version}\ninitrd /initramfs-{version}.img $tuned_initrd\noptions root=UUID=3 ro $kernelopts\n"
        )
    };
    let (old, new) = (entry("5.14.0-70.el9"), entry("5.14.0-362.el9"));
    let disk = Disk::make(
        &machine.out(),
        "rocky",
        &[
            ("/boot/grub2/grub.cfg", &config),
            ("/boot/grub2/grubenv", "# GRUB Environment Block\nkernelopts=crashkernel=1G\n"),
            ("/boot/loader/entries/m-5.14.0-70.el9.conf", &old),
            ("/boot/loader/entries/m-5.14.0-362.el9.conf", &new),
            ("/boot/vmlinuz-5.14.0-70.el9", &kernel()),
            ("/boot/vmlinuz-5.14.0-362.el9", &kernel()),
            ("/boot/initramfs-5.14.0-362.el9.img", "initrd"),
        ],
    )?;
    let entry = found(&kexec(&machine, disk.device()))?;
    ensure!(entry["path"] == "/boot/vmlinuz-5.14.0-362.el9", "{entry}");
    ensure!(entry["command_line"] == "root=UUID=3 ro crashkernel=1G", "{entry}");
    Ok(())
});

// Links, even absolute ones, are resolved in the disk's own root.
case!(a_kernel_that_is_linked_to, ON_MAIN, |machine| {
    let disk = Disk::make(
        &machine.out(),
        "links",
        &[
            ("/boot/vmlinuz", "-> /boot/real-kernel"),
            ("/boot/real-kernel", &kernel()),
            ("/boot/initrd.img", "-> ../elsewhere/initrd"),
            ("/elsewhere/initrd", "initrd"),
        ],
    )?;
    let entry = found(&kexec(&machine, disk.device()).env("CMD_LINE", "root=/dev/sda1"))?;
    ensure!(
        entry["path"] == "/boot/vmlinuz" && entry["initrds"] == json!(["/boot/initrd.img"]),
        "{entry}"
    );
    Ok(())
});

// Each case fails before SUCCESS, names the field, and leaves nothing.
case!(what_is_missing_fails_before_success, ON_MAIN, |machine| {
    let fake = kernel();
    let files = [
        ("/boot/vmlinuz", fake.as_str()),
        ("/boot/text", "no kernel at all"),
        ("/boot/initrd", "initrd"),
    ];
    let disk = Disk::make(&machine.out(), "broken", &files)?;
    let on_disk = || kexec(&machine, disk.device());
    for (action, field, words) in [
        (kexec(&machine, "/dev/none1"), "environment.BLOCK_DEVICE", "loop"),
        (kexec(&machine, "/dev/null"), "environment.BLOCK_DEVICE", "is not a block device"),
        (on_disk().env("FS_TYPE", "xfs"), "environment.FS_TYPE", "cannot mount"),
        (on_disk().env("FS_TYPE", "nosuchfs"), "environment.FS_TYPE", "does not know"),
        (on_disk(), "environment.CMD_LINE", "no boot loader entry"),
        (
            on_disk().env("KERNEL_PATH", "/boot/none"),
            "environment.KERNEL_PATH",
            "there is no kernel",
        ),
        (
            on_disk().env("KERNEL_PATH", "/boot/vmlinuz").env("INITRD_PATH", "/none"),
            "environment.INITRD_PATH",
            "there is no initrd",
        ),
        (on_disk().env("KERNEL_PATH", "/boot/text"), "environment.KERNEL_PATH", "is not a kernel"),
        (
            on_disk().env("GRUBCFG_PATH", "grub.cfg"),
            "environment.GRUBCFG_PATH",
            "there is no grub.cfg",
        ),
    ] {
        let said = action.run()?;
        ensure!(said.code == 1, "{words}: {said:?}");
        let line = said.about(field)?;
        ensure!(line.contains(words), "{words:?} is not in {line}");
        nothing_there(&machine)?;
    }
    // If the file is not a kernel, this machine's kernel says so, or says that it accepts none.
    let said = on_disk().env("KERNEL_PATH", "/boot/vmlinuz").run()?;
    ensure!(
        said.code == 1 && said.err.contains("cannot load the kernel /boot/vmlinuz"),
        "{said:?}"
    );
    nothing_there(&machine)?;
    // Others can use the partition: nothing holds it.
    let check = std::process::Command::new("losetup").args(["--list", disk.device()]).output()?;
    ensure!(check.status.success(), "{check:?}");
    Ok(())
});

// Run by hand, without what the agent gives; the error names this too.
case!(an_action_that_is_not_privileged, ON_DOCKER_MAIN, |machine| {
    let disk = Disk::make(&machine.out(), "unprivileged", &[("/boot/vmlinuz", &kernel())])?;
    let action =
        kexec(&machine, disk.device()).flags(&["--privileged=false", "--device", disk.device()]);
    let said = action.run()?;
    ensure!(
        said.code == 1 && said.about("environment.BLOCK_DEVICE")?.contains("privileged"),
        "{said:?}"
    );
    nothing_there(&machine)?;
    Ok(())
});
