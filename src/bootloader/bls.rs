//! Parses entries of the Boot Loader Specification (type 1: one text file per entry), as Fedora,
//! RHEL and systemd-boot have them. Pure.

use std::cmp::Ordering;

use super::entry::Entry;

/// Variables that distributions leave empty.
const MAY_BE_EMPTY: [&str; 3] = ["tuned_params", "tuned_initrd", "early_initrd"];

/// A boot entry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Item {
    /// The entry's file name without `.conf`.
    pub id: String,
    /// The title that a menu shows.
    pub title: String,
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
    pub fn boots(&self, variable: &dyn Fn(&str) -> String) -> Entry {
        let words = |text: &str| {
            let words: Vec<String> =
                text.split_whitespace().map(|word| with_variables(word, variable)).collect();
            words.join(" ").split_whitespace().map(str::to_owned).collect::<Vec<_>>()
        };
        let unset = variables(&self.options)
            .find(|name| !MAY_BE_EMPTY.contains(name) && variable(name).is_empty());
        Entry {
            unset: unset.map(str::to_owned),
            kernel: words(&self.linux).concat(),
            initrds: self.initrds.iter().flat_map(|initrd| words(initrd)).collect(),
            command_line: words(&self.options).join(" "),
            source: self.id.clone(),
        }
    }
}

/// Returns the names of the variables in a text.
fn variables(text: &str) -> impl Iterator<Item = &str> {
    text.split('$').skip(1).map(|part| {
        let part = part.trim_start_matches('{');
        let end = part
            .find(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_')
            .unwrap_or(part.len());
        &part[..end]
    })
}

fn with_variables(text: &str, variable: &dyn Fn(&str) -> String) -> String {
    let mut parts = text.split('$');
    let mut whole = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let braced = part.strip_prefix('{').and_then(|part| part.split_once('}'));
        let end = part
            .find(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_')
            .unwrap_or(part.len());
        let (name, rest) = braced.unwrap_or_else(|| part.split_at(end));
        whole.push_str(&variable(name));
        whole.push_str(rest);
    }
    whole
}

/// Sorts entries as GRUB's blscfg does: by file name, compared as versions, newest first.
pub fn newest_first(entries: &mut [Item]) {
    // Selection sort: the standard library's stable sort takes some kilobytes of code for each
    // type.
    for at in 0..entries.len() {
        let newest = (at..entries.len()).reduce(|one, other| {
            if by_version(&entries[one].id, &entries[other].id) == Ordering::Less {
                other
            } else {
                one
            }
        });
        entries.swap(at, newest.unwrap_or(at));
    }
}

/// Returns the default of the sorted entries: the entry that loader.conf names (a `*` at its end
/// matches anything), else the first.
pub fn default_entry<'a>(loader: &str, entries: &'a [Item]) -> Option<&'a Item> {
    let default = loader
        .lines()
        .find_map(|line| line.trim().strip_prefix("default")?.split_whitespace().next());
    let named = default.and_then(|wanted| {
        let wanted = wanted.trim_end_matches(".conf");
        let fits = |item: &&Item| match wanted.strip_suffix('*') {
            Some(start) => item.id.starts_with(start),
            None => item.id == wanted,
        };
        entries.iter().find(fits)
    });
    named.or_else(|| entries.first())
}

/// Compares names that contain versions as RPM does: piece by piece, numbers as numbers, and `~`
/// before everything.
fn by_version(one: &str, other: &str) -> Ordering {
    let (mut one, mut other) = (one, other);
    loop {
        let skip = |text: &'_ str| {
            text.find(|c: char| c.is_ascii_alphanumeric() || c == '~').unwrap_or(text.len())
        };
        (one, other) = (&one[skip(one)..], &other[skip(other)..]);
        match (one.strip_prefix('~'), other.strip_prefix('~')) {
            (Some(a), Some(b)) => {
                (one, other) = (a, b);
                continue;
            }
            (Some(_), None) => return Ordering::Less,
            (None, Some(_)) => return Ordering::Greater,
            (None, None) => {}
        }
        if one.is_empty() || other.is_empty() {
            return one.len().cmp(&other.len());
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
        let variable = |name: &str| {
            if name == "kernelopts" { "crashkernel=1G".to_owned() } else { String::new() }
        };
        let entry = item.boots(&variable);
        assert_eq!(entry.kernel, "/boot/vmlinuz-5.14.0-362.8.1.el9_3.x86_64");
        assert_eq!(entry.initrds, ["/boot/initramfs-5.14.0-362.8.1.el9_3.x86_64.img"]);
        assert_eq!(entry.command_line, "root=UUID=1 ro crashkernel=1G console=ttyS0");
        assert_eq!(
            (entry.unset, item.boots(&|_| String::new()).unset.as_deref()),
            (None, Some("kernelopts"))
        );
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
        newest_first(&mut items);
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
        assert_eq!(named("default @saved\n"), "m-5.14.0-362.8.1.el9_3");
    }

    proptest::proptest! {
        #[test]
        fn versions_have_an_order(a: String, b: String) {
            proptest::prop_assert_eq!(by_version(&a, &b), by_version(&b, &a).reverse());
        }
    }
}
