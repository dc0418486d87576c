//! Parses entries of the Boot Loader Specification (type 1: one text file per entry), as Fedora,
//! RHEL and systemd-boot have them. Pure.

use std::cmp::Ordering;

use super::entry::Entry;
use super::variables::unknown;

/// Variables that distributions leave empty.
const MAY_BE_EMPTY: [&str; 3] = ["tuned_params", "tuned_initrd", "early_initrd"];

/// A boot entry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Item {
    /// The entry's file name without `.conf`.
    pub id: String,
    /// The title that a menu shows.
    pub title: String,
    sort_key: String,
    machine: String,
    version: String,
    linux: String,
    initrds: Vec<String>,
    options: String,
}

impl Item {
    /// Parses an entry's file; returns `None` if it names no kernel.
    pub fn read(id: &str, text: &str) -> Option<Self> {
        let mut item = Self { id: id.to_owned(), ..Self::default() };
        for line in text.lines() {
            let line = line.trim();
            let (key, value) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
            let value = value.trim();
            match key {
                "title" => item.title = value.to_owned(),
                "sort-key" => item.sort_key = value.to_owned(),
                "machine-id" => item.machine = value.to_owned(),
                "version" => item.version = value.to_owned(),
                "linux" => item.linux = value.to_owned(),
                // GRUB accepts several on one line.
                "initrd" => item.initrds.extend(value.split_whitespace().map(str::to_owned)),
                "options" if item.options.is_empty() => item.options = value.to_owned(),
                "options" => item.options = format!("{} {value}", item.options),
                _ => {}
            }
        }
        (!item.linux.is_empty()).then_some(item)
    }

    /// Returns what the entry boots, with GRUB's values in place of `$variables`.
    pub fn boots(&self, variable: &dyn Fn(&str) -> Option<String>) -> Entry {
        let words = |text: &str| {
            let words: Vec<String> =
                text.split_whitespace().map(|word| with_variables(word, variable)).collect();
            words.join(" ").split_whitespace().map(str::to_owned).collect::<Vec<_>>()
        };
        Entry {
            kernel: words(&self.linux).concat(),
            initrds: self.initrds.iter().flat_map(|initrd| words(initrd)).collect(),
            command_line: words(&self.options).join(" "),
            source: self.id.clone(),
        }
    }
}

fn with_variables(text: &str, variable: &dyn Fn(&str) -> Option<String>) -> String {
    let mut parts = text.split('$');
    let mut whole = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let braced = part.strip_prefix('{').and_then(|part| part.split_once('}'));
        let end = part
            .find(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_')
            .unwrap_or(part.len());
        let (name, rest) = braced.unwrap_or_else(|| part.split_at(end));
        let value = variable(name).unwrap_or_else(|| {
            if MAY_BE_EMPTY.contains(&name) { String::new() } else { unknown(name) }
        });
        whole.push_str(&value);
        whole.push_str(rest);
    }
    whole
}

/// Which of two entries comes sooner in the menu: that one is greater.
type Order = fn(&Item, &Item) -> Ordering;

/// The order of GRUB's blscfg: by file name, compared as RPM compares versions, newest first.
pub fn as_grub(one: &Item, other: &Item) -> Ordering {
    by_version(&one.id, &other.id, &['~'])
}

/// The order of systemd-boot (systemd, `boot_entry_compare`): entries that have no tries left come
/// last, and those with a sort key first; the newest of each kind first.
pub fn as_systemd_boot(one: &Item, other: &Item) -> Ordering {
    // The Version Format Specification's separators, lowest first.
    let newer = |one: &str, other: &str| by_version(one, other, &['~', '-', '^', '.']);
    let (tries, tries_of_other) = (tries_left(&one.id), tries_left(&other.id));
    let by_key = match (one.sort_key.is_empty(), other.sort_key.is_empty()) {
        (false, false) => (&other.sort_key, &other.machine)
            .cmp(&(&one.sort_key, &one.machine))
            .then_with(|| newer(&one.version, &other.version)),
        (has_none, other_has_none) => other_has_none.cmp(&has_none),
    };
    (tries != Some(0))
        .cmp(&(tries_of_other != Some(0)))
        .then(by_key)
        .then_with(|| newer(&format!("{}.conf", one.id), &format!("{}.conf", other.id)))
}

/// Returns the tries that an entry has left, if they are counted (`NAME+LEFT` or `NAME+LEFT-DONE`;
/// systemd, "Automatic Boot Assessment").
fn tries_left(id: &str) -> Option<u32> {
    let (_, count) = id.rsplit_once('+')?;
    count.split_once('-').map_or(count, |(left, _)| left).parse().ok()
}

/// Sorts entries in a boot loader's order.
pub fn sort(entries: &mut [Item], order: Order) {
    // Selection sort: the standard library's stable sort takes some kilobytes of code for each
    // type.
    for at in 0..entries.len() {
        let newest = (at..entries.len()).reduce(|one, other| {
            if order(&entries[one], &entries[other]) == Ordering::Less { other } else { one }
        });
        entries.swap(at, newest.unwrap_or(at));
    }
}

/// Returns the default of the sorted entries: the first that fits the pattern of loader.conf, else
/// the first.
pub fn default_entry<'a>(loader: &str, entries: &'a [Item]) -> Option<&'a Item> {
    let default = loader
        .lines()
        .rev()
        .find_map(|line| line.trim().strip_prefix("default")?.split_whitespace().next());
    let named = default.and_then(|wanted| {
        let wanted = wanted.trim_end_matches(".conf");
        entries.iter().find(|item| matches_pattern(wanted, &item.id))
    });
    named.or_else(|| entries.first())
}

/// True if a name fits a pattern: `*` stands for any text, `?` for any letter, and upper and lower
/// case are the same (systemd, `efi_fnmatch`).
fn matches_pattern(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    let (mut at, mut in_name) = (0, 0);
    // Where the last `*` is, and up to where it reaches in the name.
    let mut star = None;
    while in_name < name.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, in_name));
                at += 1;
            }
            Some(letter) if *letter == b'?' || letter.eq_ignore_ascii_case(&name[in_name]) => {
                (at, in_name) = (at + 1, in_name + 1);
            }
            _ => {
                let Some((place, reach)) = star else { return false };
                star = Some((place, reach + 1));
                (at, in_name) = (place + 1, reach + 1);
            }
        }
    }
    pattern[at..].iter().all(|letter| *letter == b'*')
}

/// Compares names that contain versions piece by piece, numbers as numbers. `marks` are the signs
/// that count, lowest first; the first is lower than a name's end.
fn by_version(one: &str, other: &str, marks: &[char]) -> Ordering {
    let (mut one, mut other) = (one, other);
    'pieces: loop {
        let skip = |text: &'_ str| {
            let counts = |c: char| c.is_ascii_alphanumeric() || marks.contains(&c);
            text.find(counts).unwrap_or(text.len())
        };
        (one, other) = (&one[skip(one)..], &other[skip(other)..]);
        for mark in marks {
            match (one.strip_prefix(*mark), other.strip_prefix(*mark)) {
                (Some(a), Some(b)) => {
                    (one, other) = (a, b);
                    continue 'pieces;
                }
                (Some(_), None) => return Ordering::Less,
                (None, Some(_)) => return Ordering::Greater,
                (None, None) => {}
            }
            if one.is_empty() || other.is_empty() {
                return one.len().cmp(&other.len());
            }
        }
        let ((a, rest_of_one), (b, rest_of_other)) = (piece(one), piece(other));
        let numbers = (a.as_bytes()[0].is_ascii_digit(), b.as_bytes()[0].is_ascii_digit());
        let order = match numbers {
            (true, true) => {
                let (a, b) = (a.trim_start_matches('0'), b.trim_start_matches('0'));
                a.len().cmp(&b.len()).then(a.cmp(b))
            }
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            (false, false) => a.cmp(b),
        };
        if order != Ordering::Equal {
            return order;
        }
        (one, other) = (rest_of_one, rest_of_other);
    }
}

/// Splits off the letters or the digits with which a text begins; returns them and the rest.
fn piece(text: &str) -> (&str, &str) {
    let digits = text.as_bytes()[0].is_ascii_digit();
    let same = |c: char| c.is_ascii_alphanumeric() && c.is_ascii_digit() == digits;
    text.split_at(text.find(|c| !same(c)).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use super::super::variables::unknown_in;
    use super::*;

    #[test]
    fn an_entry_of_rocky_linux() {
        let text = "title Rocky Linux (5.14.0-362.8.1.el9_3.x86_64) 9.3 (Blue Onyx)\n\
                    version 5.14.0-362.8.1.el9_3.x86_64\n\
                    linux /boot/vmlinuz-5.14.0-362.8.1.el9_3.x86_64\n\
                    initrd /boot/initramfs-5.14.0-362.8.1.el9_3.x86_64.img $tuned_initrd\n\
                    options root=UUID=1 ro $kernelopts ${tuned_params} console=ttyS0\n\
                    grub_users $grub_users\n";
        let item = Item::read("x", text).unwrap();
        let variable = |name: &str| (name == "kernelopts").then(|| "crashkernel=1G".to_owned());
        let entry = item.boots(&variable);
        assert_eq!(entry.kernel, "/boot/vmlinuz-5.14.0-362.8.1.el9_3.x86_64");
        assert_eq!(entry.initrds, ["/boot/initramfs-5.14.0-362.8.1.el9_3.x86_64.img"]);
        assert_eq!(entry.command_line, "root=UUID=1 ro crashkernel=1G console=ttyS0");
        assert_eq!(unknown_in(&entry.command_line), None);
        assert_eq!(unknown_in(&item.boots(&|_| None).command_line), Some("kernelopts"));
        assert_eq!(Item::read("x", "title no kernel\nefi /EFI/Linux/x.efi\n"), None);
    }

    #[test]
    fn the_newest_comes_first() {
        let ids = [
            "m-0-rescue",
            "m-5.14.0-9.el9",
            "m-5.14.0-362.8.1.el9_3",
            "m-5.14.0-362.8.1.el9_3~rc1",
        ];
        let mut items: Vec<Item> =
            ids.iter().map(|id| Item { id: (*id).to_owned(), ..Item::default() }).collect();
        sort(&mut items, as_grub);
        let sorted: Vec<&str> = items.iter().map(|item| item.id.as_str()).collect();
        assert_eq!(
            sorted,
            [
                "m-5.14.0-362.8.1.el9_3",
                "m-5.14.0-362.8.1.el9_3~rc1",
                "m-5.14.0-9.el9",
                "m-0-rescue"
            ]
        );
        let named =
            |loader: &str| default_entry(loader, &items).map(|item| item.id.clone()).unwrap();
        assert_eq!(named("timeout 3\ndefault m-5.14.0-9.el9.conf\n"), "m-5.14.0-9.el9");
        assert_eq!(named("default m-0*\n"), "m-0-rescue");
        assert_eq!(named("default M-?.14.0-9*\n"), "m-5.14.0-9.el9");
        assert_eq!(named("default @saved\n"), "m-5.14.0-362.8.1.el9_3");
    }

    #[test]
    fn the_order_of_systemd_boot() {
        let sorted = |entries: &[(&str, &str)]| {
            let read = |(id, more): &(&str, &str)| Item::read(id, &format!("linux /k\n{more}"));
            let mut items: Vec<Item> = entries.iter().filter_map(read).collect();
            sort(&mut items, as_systemd_boot);
            items.into_iter().map(|item| item.id).collect::<Vec<_>>()
        };
        assert_eq!(
            sorted(&[("arch-lts", ""), ("arch-fallback", ""), ("arch", "")]),
            ["arch", "arch-lts", "arch-fallback"]
        );
        assert_eq!(
            sorted(&[("m-6.10+0-3", ""), ("m-6.9", ""), ("m-6.8+3", "")]),
            ["m-6.9", "m-6.8+3", "m-6.10+0-3"]
        );
        assert_eq!(
            sorted(&[
                ("z-9", ""),
                ("a", "sort-key debian\nversion 6.1.0-9"),
                ("b", "sort-key debian\nversion 6.1.0-18"),
                ("c", "sort-key arch\nversion 5"),
            ]),
            ["c", "b", "a", "z-9"]
        );
        let items = ["x", "m-6.9+3"].map(|id| Item { id: id.into(), ..Item::default() });
        for pattern in ["m-6.9+3.conf", "m-6.9+3", "M-6.?+*.conf", "m*9*"] {
            let found = default_entry(&format!("default x\ndefault {pattern}"), &items);
            assert_eq!(found.map(|item| item.id.as_str()), Some("m-6.9+3"), "{pattern}");
        }
    }

    proptest::proptest! {
        #[test]
        fn versions_have_an_order(a: String, b: String) {
            for marks in [&['~'][..], &['~', '-', '^', '.']] {
                let order = by_version(&a, &b, marks);
                proptest::prop_assert_eq!(order, by_version(&b, &a, marks).reverse());
            }
        }

        #[test]
        fn every_pattern_has_an_answer(pattern in "[ab*?]{0,12}", name in "[ab]{0,12}") {
            let stars = pattern.replace('?', "*");
            proptest::prop_assert!(matches_pattern(&pattern, &pattern.replace('*', "b")));
            let (fits, fits_more) = (matches_pattern(&pattern, &name), matches_pattern(&stars, &name));
            proptest::prop_assert!(!fits || fits_more);
        }
    }
}
