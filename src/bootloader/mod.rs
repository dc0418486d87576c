//! Finds what the boot loader of an installed system would boot: kernel, initrds, command line.
//! Pure: the caller provides the files.
//!
//! The variables are those of Tinkerbell's kexec action. This module also reads what that action
//! cannot: submenus, entries of the Boot Loader Specification, and a kernel that is only linked to.

pub mod bls;
pub mod entry;
pub mod grub;
mod menu;
mod script;
mod variables;

use std::path::PathBuf;

use self::entry::Entry;
use self::variables::unknown_in;
use crate::error::Failure;

/// Usual places of GRUB's configuration: on the system's own partition, and on a partition mounted
/// as /boot.
const GRUB_CONFIGS: [&str; 4] =
    ["/boot/grub/grub.cfg", "/boot/grub2/grub.cfg", "/grub/grub.cfg", "/grub2/grub.cfg"];
/// Usual places of GRUB's environment block.
const GRUB_ENVIRONMENTS: [&str; 4] =
    ["/boot/grub/grubenv", "/boot/grub2/grubenv", "/grub/grubenv", "/grub2/grubenv"];
/// Folders with entries of the Boot Loader Specification and their loader's own configuration.
const BLS_FOLDERS: [&str; 2] = ["/boot/loader", "/loader"];
/// Links to the newest kernel and its initrd, as Debian, SUSE and others make them.
const LINKS: [(&str, &[&str]); 4] = [
    ("/boot/vmlinuz", &["/boot/initrd.img", "/boot/initrd"]),
    ("/vmlinuz", &["/initrd.img", "/initrd"]),
    ("/boot/Image", &["/boot/initrd.img", "/boot/initrd"]),
    ("/boot/vmlinux", &["/boot/initrd.img", "/boot/initrd"]),
];

/// What the action says about the system to boot. Paths are those of the installed system.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// `BLOCK_DEVICE`: the partition that holds the kernel and the initrd.
    pub device: PathBuf,
    /// `FS_TYPE`: its file system; if unset, each file system that the kernel knows is tried.
    pub file_system: Option<String>,
    /// `KERNEL_PATH`; if unset, the boot loader's default entry counts.
    pub kernel: Option<String>,
    /// `INITRD_PATH`.
    pub initrd: Option<String>,
    /// `CMD_LINE`: replaces the entry's command line.
    pub command_line: Option<String>,
    /// `GRUBCFG_PATH`: the path of GRUB's configuration, if it is not in a usual place.
    pub grub_config: Option<String>,
}

/// The files of an installed system.
pub trait Files {
    /// Returns a text file's content; `None` if there is no such file.
    fn read(&self, path: &str) -> Option<String>;
    /// Returns the names in a folder; none if there is no such folder.
    fn list(&self, folder: &str) -> Vec<String>;
    /// True if the file exists and can be read.
    fn has(&self, path: &str) -> bool;
}

/// Finds what to boot.
///
/// # Errors
/// If something is missing; the failure names the variable that fixes it.
pub fn find(files: &dyn Files, wanted: &Wanted) -> Result<Entry, Failure> {
    let mut entry = match &wanted.kernel {
        Some(kernel) => {
            Entry { kernel: kernel.clone(), source: "KERNEL_PATH".to_owned(), ..Entry::default() }
        }
        None => by_loader(files, wanted)?,
    };
    if let Some(initrd) = &wanted.initrd {
        entry.initrds = vec![initrd.clone()];
    }
    if let Some(line) = &wanted.command_line {
        entry.command_line.clone_from(line);
    }
    let initrds = entry.initrds.concat();
    let texts = [
        (&entry.command_line, "environment.CMD_LINE"),
        (&entry.kernel, "environment.KERNEL_PATH"),
        (&initrds, "environment.INITRD_PATH"),
    ];
    if let Some((name, field)) =
        texts.iter().find_map(|(text, field)| Some((unknown_in(text)?, *field)))
    {
        let message = format!("{} has ${name}, whose value is not known", entry.source);
        let fix = "set KERNEL_PATH, INITRD_PATH and CMD_LINE; or BLOCK_DEVICE and GRUBCFG_PATH, so that GRUB's own configuration is found";
        return Err(Failure::new(message).field(field).fix(fix));
    }
    let missing = |what: &str, path: &str, field: &'static str, entry: &Entry| {
        let place = wanted.device.display();
        Failure::new(format!("there is no {what} {path} on {place}, which {} names", entry.source))
            .field(field)
            .fix("check BLOCK_DEVICE: the path is relative to that partition; or set KERNEL_PATH and INITRD_PATH")
    };
    let Some(kernel) = place_of(files, &entry.kernel) else {
        return Err(missing("kernel", &entry.kernel, "environment.KERNEL_PATH", &entry));
    };
    let mut initrds = Vec::new();
    for initrd in &entry.initrds {
        let place = place_of(files, initrd);
        initrds.push(
            place.ok_or_else(|| missing("initrd", initrd, "environment.INITRD_PATH", &entry))?,
        );
    }
    Ok(Entry { kernel, initrds, ..entry })
}

/// Returns the boot loader's default entry or, without a boot loader, the kernel that is linked to.
fn by_loader(files: &dyn Files, wanted: &Wanted) -> Result<Entry, Failure> {
    let given = wanted.grub_config.as_deref();
    let usual = GRUB_CONFIGS.iter().copied().filter(|_| given.is_none());
    let config = given.into_iter().chain(usual).find_map(|path| Some((path, files.read(path)?)));
    if let (None, Some(path)) = (&config, given) {
        return Err(Failure::new(format!("there is no {path} on {}", wanted.device.display()))
            .field("environment.GRUBCFG_PATH")
            .fix("name the file as it is on that partition: a partition mounted as /boot has it at grub/grub.cfg"));
    }
    let environment =
        GRUB_ENVIRONMENTS.iter().find_map(|path| files.read(path)).unwrap_or_default();
    let folder =
        BLS_FOLDERS.iter().find(|folder| !files.list(&format!("{folder}/entries")).is_empty());
    let order = if config.is_some() { bls::as_grub } else { bls::as_systemd_boot };
    let mut entries = folder.map(|folder| bls_entries(files, folder)).unwrap_or_default();
    bls::sort(&mut entries, order);
    if let Some((path, config)) = config {
        let read = |path: &str| files.read(&place_of(files, path)?);
        return grub::default_entry(&config, &environment, &entries, &read)
            .map(|entry| Entry { source: format!("{path}, {}", entry.source), ..entry })
            .map_err(|why| {
                Failure::new(format!("{path} on {} leads to no kernel", wanted.device.display()))
                    .field("environment.GRUBCFG_PATH")
                    .fix("set KERNEL_PATH, INITRD_PATH and CMD_LINE")
                    .cause(why)
            });
    }
    if let Some(folder) = folder {
        let loader = files.read(&format!("{folder}/loader.conf")).unwrap_or_default();
        if let Some(entry) = bls::default_entry(&loader, &entries) {
            return Ok(Entry {
                source: format!("{folder}/entries/{}.conf", entry.id),
                ..entry.boots(&|_| None)
            });
        }
    }
    let linked = LINKS.iter().find(|(kernel, _)| files.has(kernel));
    match (linked, &wanted.command_line) {
        (Some((kernel, initrds)), Some(_)) => {
            let initrd = initrds.iter().find(|path| files.has(path));
            Ok(Entry {
                kernel: (*kernel).to_owned(),
                initrds: initrd.map(|path| (*path).to_owned()).into_iter().collect(),
                command_line: String::new(),
                source: "a usual link".to_owned(),
            })
        }
        (found, _) => {
            let found = found
                .map_or_else(String::new, |(kernel, _)| format!("; there is a kernel {kernel}"));
            let message =
                format!("no boot loader entry was found on {}{found}", wanted.device.display());
            let fix = "set CMD_LINE, and KERNEL_PATH and INITRD_PATH if the kernel is not linked as /boot/vmlinuz; or \
                       check BLOCK_DEVICE";
            Err(Failure::new(message).field("environment.CMD_LINE").fix(fix))
        }
    }
}

fn bls_entries(files: &dyn Files, folder: &str) -> Vec<bls::Item> {
    let names = files.list(&format!("{folder}/entries"));
    let ids = names.iter().filter_map(|name| name.strip_suffix(".conf"));
    let read = |id: &str| bls::Item::read(id, &files.read(&format!("{folder}/entries/{id}.conf"))?);
    ids.filter_map(read).collect()
}

/// Returns where a file is that a loader names. The loader's path may be relative to a partition
/// that is mounted as /boot, or to the system's own partition.
fn place_of(files: &dyn Files, path: &str) -> Option<String> {
    let path = format!("/{}", path.trim_start_matches('/'));
    let below = format!("/boot{path}");
    let without =
        path.strip_prefix("/boot").filter(|rest| rest.starts_with('/')).map(str::to_owned);
    [Some(path), Some(below), without].into_iter().flatten().find(|path| files.has(path))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Files in memory.
    struct Disk(BTreeMap<String, String>);

    impl Files for Disk {
        fn read(&self, path: &str) -> Option<String> {
            self.0.get(path).cloned()
        }
        fn list(&self, folder: &str) -> Vec<String> {
            let inside =
                |path: &String| path.strip_prefix(folder)?.strip_prefix('/').map(str::to_owned);
            self.0.keys().filter_map(inside).filter(|name| !name.contains('/')).collect()
        }
        fn has(&self, path: &str) -> bool {
            self.0.contains_key(path)
        }
    }

    fn disk(files: &[(&str, &str)]) -> Disk {
        Disk(files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect())
    }

    fn wanted() -> Wanted {
        Wanted { device: "/dev/sda1".into(), ..Wanted::default() }
    }

    #[test]
    fn paths_that_are_given_count() {
        let files = disk(&[
            ("/boot/vmlinuz", ""),
            ("/boot/initrd", ""),
            ("/boot/grub/grub.cfg", "nonsense"),
        ]);
        let given = Wanted {
            kernel: Some("boot/vmlinuz".into()),
            initrd: Some("/boot/initrd".into()),
            command_line: Some("root=/dev/sda1 ro".into()),
            ..wanted()
        };
        let entry = find(&files, &given).unwrap();
        assert_eq!(
            (entry.kernel.as_str(), entry.initrds.concat()),
            ("/boot/vmlinuz", "/boot/initrd".to_owned())
        );
        assert_eq!(entry.command_line, "root=/dev/sda1 ro");
        let failure =
            find(&files, &Wanted { kernel: Some("/boot/other".into()), ..wanted() }).unwrap_err();
        assert_eq!(failure.field, "environment.KERNEL_PATH");
        assert!(failure.message.contains("/boot/other on /dev/sda1"), "{}", failure.message);
        let failure = find(&files, &Wanted { initrd: Some("/gone".into()), ..given }).unwrap_err();
        assert_eq!(failure.field, "environment.INITRD_PATH");
    }

    #[test]
    fn a_boot_partition_is_read_as_the_system_would() {
        let config = "menuentry 'Linux' {\n linux /vmlinuz-6 root=UUID=1 ro\n initrd /microcode /initrd-6\n}\n";
        let files = disk(&[
            ("/grub/grub.cfg", config),
            ("/vmlinuz-6", ""),
            ("/microcode", ""),
            ("/initrd-6", ""),
        ]);
        let entry = find(&files, &wanted()).unwrap();
        assert_eq!((entry.kernel.as_str(), entry.initrds.len()), ("/vmlinuz-6", 2));
        assert!(
            entry.source.contains("/grub/grub.cfg") && entry.source.contains("Linux"),
            "{}",
            entry.source
        );
        // The same entries on the system's own partition.
        let files = disk(&[
            ("/boot/grub/grub.cfg", config),
            ("/boot/vmlinuz-6", ""),
            ("/boot/microcode", ""),
            ("/boot/initrd-6", ""),
        ]);
        assert_eq!(find(&files, &wanted()).unwrap().kernel, "/boot/vmlinuz-6");
        let failure =
            find(&files, &Wanted { grub_config: Some("grub/grub.cfg".into()), ..wanted() })
                .unwrap_err();
        assert_eq!(failure.field, "environment.GRUBCFG_PATH");
    }

    #[test]
    fn entries_of_the_specification_are_read_without_grub() {
        let entry = |version| {
            format!(
                "title X {version}\nversion {version}\nlinux /{version}/linux\noptions root=1 {version}\n"
            )
        };
        let files = disk(&[
            ("/loader/entries/x-6.9.conf", &entry("6.9")),
            ("/loader/entries/x-6.10.conf", &entry("6.10")),
            ("/6.9/linux", ""),
            ("/6.10/linux", ""),
        ]);
        let found = find(&files, &wanted()).unwrap();
        assert_eq!(
            (found.kernel.as_str(), found.command_line.as_str()),
            ("/6.10/linux", "root=1 6.10")
        );
        assert_eq!(found.source, "/loader/entries/x-6.10.conf");
    }

    #[test]
    fn a_command_line_that_lacks_something_is_none() {
        let entry = "title X\nlinux /vmlinuz\noptions $kernelopts $tuned_params\n";
        let files = disk(&[("/loader/entries/x.conf", entry), ("/vmlinuz", "")]);
        let failure = find(&files, &wanted()).unwrap_err();
        assert_eq!(failure.field, "environment.CMD_LINE");
        assert!(failure.message.contains("$kernelopts"), "{}", failure.message);
        assert!(find(&files, &Wanted { command_line: Some("root=1".into()), ..wanted() }).is_ok());
        let config = "menuentry A {\nlinux /boot/$kernel root=1\n}\n";
        let files = disk(&[("/boot/grub/grub.cfg", config), ("/boot/vmlinuz", "")]);
        let failure = find(&files, &wanted()).unwrap_err();
        assert_eq!(failure.field, "environment.KERNEL_PATH");
        assert!(failure.message.contains("$kernel,"), "{}", failure.message);
    }

    #[test]
    fn a_kernel_that_is_only_linked_to_needs_a_command_line() {
        let files = disk(&[("/boot/vmlinuz", ""), ("/boot/initrd.img", "")]);
        let failure = find(&files, &wanted()).unwrap_err();
        assert_eq!(failure.field, "environment.CMD_LINE");
        assert!(failure.message.contains("there is a kernel /boot/vmlinuz"), "{}", failure.message);
        let entry =
            find(&files, &Wanted { command_line: Some("root=1".into()), ..wanted() }).unwrap();
        assert_eq!(
            (entry.kernel.as_str(), entry.initrds.concat()),
            ("/boot/vmlinuz", "/boot/initrd.img".to_owned())
        );
    }
}
