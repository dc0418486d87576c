//! What /proc tells about a process. All but [`Traces::read`] is pure.

use std::path::Path;

/// The length of a container ID.
const ID_LENGTH: usize = 64;

/// Traces that show which container a process is in. Each can be missing or name another container.
#[derive(Debug, Clone, Default)]
pub struct Traces {
    /// See [`candidates`].
    pub ids: Vec<String>,
    /// The text of /proc/self/cgroup.
    pub cgroup: String,
}

impl Traces {
    /// Reads the traces of this process; a trace that cannot be read names nothing.
    pub fn read() -> Self {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let (mounts, cgroup) = (read("/proc/self/mountinfo"), read("/proc/self/cgroup"));
        let hostname = rustix::system::uname();
        let ids = candidates(&mounts, &cgroup, &hostname.nodename().to_string_lossy());
        Self { ids, cgroup }
    }
}

/// Returns the container IDs that the traces of our own process name, most telling first, each
/// once. They are only candidates: with `network: container:X` mountinfo names X, and anybody may
/// choose a hostname (seen on Docker 20.10 and 28).
pub fn candidates(mountinfo: &str, cgroup: &str, hostname: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mounts = mountinfo.lines().flat_map(container_paths);
    let groups = cgroup.lines().flat_map(ids);
    let name =
        Some(hostname.trim()).filter(|name| (12..=ID_LENGTH).contains(&name.len()) && is_hex(name));
    for id in mounts.chain(groups).chain(name) {
        if !found.iter().any(|known| known.starts_with(id)) {
            found.push(id.to_owned());
        }
    }
    found
}

/// True if /proc/PID/net/dev lists an interface besides the loopback (proc_pid_net(5)).
pub fn has_network(devices: &str) -> bool {
    let names =
        devices.lines().filter_map(|line| line.split_once(':')).map(|(name, _)| name.trim());
    names.into_iter().any(|name| name != "lo")
}

/// True if the last part of a cgroup's path names this container: the runtime made the cgroup for
/// exactly this container (`/tinkerbell/<id>`, `/system.slice/nerdctl-<id>.scope`).
pub fn is_in_cgroup_of(cgroup: &str, id: &str) -> bool {
    let lasts = cgroup.lines().filter_map(|line| line.rsplit(['/', ':']).next());
    id.len() == ID_LENGTH && lasts.into_iter().any(|last| ids(last).any(|found| found == id))
}

/// Returns the IDs in paths like `/var/lib/docker/containers/<id>/hostname`, which Docker binds to
/// /etc/hostname, /etc/hosts and /etc/resolv.conf, and nerdctl's
/// `.../containers/<namespace>/<id>/hostname`. Other IDs in mountinfo are layers, not containers.
fn container_paths(line: &str) -> impl Iterator<Item = &str> {
    line.split("/containers/").skip(1).filter_map(|rest| {
        rest.split('/').take(2).find(|part| part.len() == ID_LENGTH && is_hex(part))
    })
}

/// Returns every run of exactly 64 hexadecimal digits.
fn ids(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !is_hex_digit(c)).filter(|run| run.len() == ID_LENGTH)
}

/// Parses the lines of /proc/PID/cgroup: the hierarchy's folder below /sys/fs/cgroup, which is
/// empty for version 2, and the path in it (cgroups(7); `name=systemd` is mounted as `systemd`).
pub fn cgroups(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.lines().filter_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        Some((controllers.trim_start_matches("name="), path.trim_end_matches('/')))
    })
}

/// True if the mount that holds a path is shared or a slave, so that mounts below it show in its
/// copies (proc_pid_mountinfo(5), optional fields). Of two mounts on one place, the later one hides
/// the other.
pub fn propagates(mountinfo: &str, path: &Path) -> bool {
    mount_of(mountinfo, path).is_some_and(|(_, tagged)| tagged)
}

/// Returns the mount point of a path.
pub fn mount_point(mountinfo: &str, path: &Path) -> Option<String> {
    mount_of(mountinfo, path).map(|(place, _)| place)
}

/// Returns the mount point of a path, and whether the mount is shared or a slave.
fn mount_of(mountinfo: &str, path: &Path) -> Option<(String, bool)> {
    let mounts = mountinfo.lines().filter_map(|line| {
        let (fields, _) = line.split_once(" - ")?;
        let mut fields = fields.split(' ').skip(4);
        let place = unescaped(fields.next()?);
        let tagged = fields
            .skip(1)
            .any(|field| field.starts_with("shared:") || field.starts_with("master:"));
        path.starts_with(&place).then_some((place, tagged))
    });
    mounts.max_by_key(|(place, _)| place.len())
}

/// Decodes a path of mountinfo, in which the kernel writes space, tab, newline and backslash in
/// octal.
fn unescaped(path: &str) -> String {
    [(r"\040", " "), (r"\011", "\t"), (r"\012", "\n"), (r"\134", r"\")]
        .iter()
        .fold(path.to_owned(), |path, (octal, character)| path.replace(octal, character))
}

fn is_hex(text: &str) -> bool {
    text.chars().all(is_hex_digit)
}

fn is_hex_digit(c: char) -> bool {
    c.is_ascii_digit() || ('a'..='f').contains(&c)
}

/// Returns the names in /proc/partitions: disks and partitions. Pure.
pub fn partitions(text: &str) -> impl Iterator<Item = &str> {
    text.lines().skip(2).filter_map(|line| line.split_whitespace().nth(3))
}

/// True if /proc/self/status says that this process has a capability. Pure.
pub fn has_capability(status: &str, number: u32) -> bool {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let set = effective.and_then(|text| u64::from_str_radix(text.trim(), 16).ok());
    set.is_some_and(|set| set >> number & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "3f4e0b6c1f6a7d2a9b1c0d5e8f7a6b5c4d3e2f1a0b9c8d7e6f5a4b3c2d1e0f9a";

    #[test]
    fn mountinfo_of_docker() {
        let overlay = "0".repeat(64);
        let text = format!(
            "700 600 0:50 / / rw - overlay overlay rw,upperdir=/d/overlay2/{overlay}/diff\n\
             715 700 254:0 /d/containers/{ID}/hostname /etc/hostname rw,relatime - ext4 /dev/vda rw\n\
             716 700 254:0 /d/containers/{ID}/hosts /etc/hosts rw,relatime - ext4 /dev/vda rw\n"
        );
        assert_eq!(candidates(&text, "", "myhost"), [ID]);
        let text = format!(
            "720 700 254:0 /n/1935db59/containers/tinkerbell/{ID}/hostname /etc/hostname rw - ext4 /dev/vda rw\n"
        );
        assert_eq!(candidates(&text, "", "web"), [ID]);
    }

    #[test]
    fn cgroups_of_both_versions_and_drivers() {
        for line in [
            format!("0::/docker/{ID}"),
            format!("12:pids:/system.slice/docker-{ID}.scope"),
            format!("0::/tinkerbell/{ID}\n"),
        ] {
            assert_eq!(candidates("", &line, ""), [ID], "{line}");
        }
        assert!(candidates("", "0::/", "").is_empty());
    }

    #[test]
    fn only_the_last_part_of_a_cgroup_counts() {
        let other = "a".repeat(64);
        for line in
            [format!("0::/tinkerbell/{ID}"), format!("4:memory:/{other}/nerdctl-{ID}.scope")]
        {
            assert!(is_in_cgroup_of(&line, ID) && !is_in_cgroup_of(&line, &other), "{line}");
        }
        assert!(!is_in_cgroup_of("0::/", "") && !is_in_cgroup_of(&format!("0::/{ID}/sub"), ID));
    }

    #[test]
    fn the_loopback_alone_is_no_network() {
        let heads = "Inter-|   Receive\n face |bytes    packets\n";
        assert!(!has_network(&format!("{heads}    lo:       0       0\n")));
        assert!(has_network(&format!("{heads}    lo:       0       0\n  eth0: 1 2\n")));
        assert!(!has_network(heads) && !has_network(""));
    }

    #[test]
    fn hierarchies_of_both_versions() {
        let text = "9:name=systemd:/a\n4:cpu,cpuacct:/b\n0::/\nnonsense\n";
        assert_eq!(
            cgroups(text).collect::<Vec<_>>(),
            [("systemd", "/a"), ("cpu,cpuacct", "/b"), ("", "")]
        );
    }

    #[test]
    fn propagation_is_that_of_the_mount_on_which_a_path_lies() {
        let text = "1 0 8:1 / / rw shared:1 - ext4 /dev/sda rw\n\
                    2 1 0:5 / /data rw,relatime - tmpfs tmpfs rw\n\
                    3 2 0:6 / /data/two\\040words rw master:7 - tmpfs tmpfs rw\n\
                    4 1 0:7 / /twice rw shared:8 - tmpfs tmpfs rw\n\
                    5 4 0:8 / /twice rw - tmpfs tmpfs rw\n\
                    nonsense\n";
        for (path, expected) in [
            ("/", true),
            ("/database", true),
            ("/data", false),
            ("/data/x", false),
            ("/data/two words/x", true),
            ("/twice", false),
        ] {
            assert_eq!(propagates(text, Path::new(path)), expected, "{path}");
        }
        assert_eq!(
            mount_point(text, Path::new("/data/two words/x")).as_deref(),
            Some("/data/two words")
        );
        assert_eq!(mount_point(text, Path::new("/database")).as_deref(), Some("/"));
        assert!(!propagates("", Path::new("/")));
    }

    #[test]
    fn hostnames_only_where_they_look_like_an_id_and_add_something() {
        assert_eq!(candidates("", "", "3f4e0b6c1f6a"), ["3f4e0b6c1f6a"]);
        assert_eq!(candidates("", &format!("0::/{ID}"), &ID[..12]), [ID]);
        for name in ["web", "cafe", "3f4e0b6c1f6a.local", "", "3F4E0B6C1F6A"] {
            assert!(candidates("", "", name).is_empty(), "{name}");
        }
    }

    #[test]
    fn any_text_gives_well_formed_candidates() {
        proptest::proptest!(|(mounts in "(/containers/[0-9a-f]{60,68}/|\\PC){0,8}", cgroup in "\\PC{0,200}", host in "\\PC{0,70}")| {
            for id in candidates(&mounts, &cgroup, &host) {
                proptest::prop_assert!(id.len() >= 12 && id.len() <= 64 && is_hex(&id));
            }
        });
    }

    #[test]
    fn partitions_and_capabilities_are_read() {
        let text = "major minor  #blocks  name\n\n   8        0     500107 sda\n   8        1     499712 sda1\n";
        assert_eq!(partitions(text).collect::<Vec<_>>(), ["sda", "sda1"]);
        let status = "Name:\tx\nCapEff:\t0000000000400000\n";
        assert!(
            has_capability(status, 22) && !has_capability(status, 21) && !has_capability("", 22)
        );
    }
}
