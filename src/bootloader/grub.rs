//! GRUB's configuration: which entry is the default, and what it boots. Pure.
//!
//! grub.cfg is a script. It is parsed and run as far as it decides the default: variables, `if`,
//! `[`, menus. Commands that only draw or load modules count as done (GRUB manual 2.06, "Writing
//! full configuration files directly"). Loops, functions and other files are not run, and neither are
//! commands that search the disks: what they set is not known (variables.rs).

use super::bls;
use super::entry::Entry;
use super::menu::{Line, choose, named};
use super::script::{self, Statement};
use super::variables::{Variables, unknown, unknown_in};

/// The most words of one `test`, which calls itself for each part.
const MAX_TEST: usize = 64;

/// Why a configuration leads to no kernel.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoEntry {
    /// It has no menu entry.
    #[error("it has no menu entry")]
    Empty,
    /// The default entry boots something else.
    #[error("its default entry {0:?} boots no Linux kernel")]
    NoLinux(String),
    /// Which entry is the default depends on entries that a loop or another file adds.
    #[error("a loop or another file adds entries before its default entry")]
    Unsure,
    /// Which entry is the default depends on this variable.
    #[error("its default entry depends on ${0}, whose value is not known")]
    Unknown(String),
}

/// Returns the default entry of a configuration, given GRUB's environment block, the sorted entries
/// that `blscfg` would add, and a way to read other files.
///
/// # Errors
/// If the configuration leads to no kernel.
pub fn default_entry(
    config: &str,
    environment: &str,
    entries: &[bls::Item],
    read: &dyn Fn(&str) -> Option<String>,
) -> Result<Entry, NoEntry> {
    let statements = script::parse(config);
    let (variables, boots) = (Variables::default(), Entry::default());
    let mut run = Run { variables, environment, entries, read, boots };
    // Variables that GRUB itself sets and that configurations test.
    run.variables.set(["prefix=/boot/grub", "grub_platform=efi", "feature_menuentry_id=y"]);
    let mut menu = Vec::new();
    run.all(&statements, &mut menu);
    let wanted = run.variables.get("default").unwrap_or_default().to_owned();
    if let Some(name) = unknown_in(&wanted) {
        return Err(NoEntry::Unknown(name.to_owned()));
    }
    run.boot(&menu, &wanted)
}

struct Run<'a> {
    variables: Variables,
    environment: &'a str,
    entries: &'a [bls::Item],
    read: &'a dyn Fn(&str) -> Option<String>,
    /// What the commands run so far have loaded.
    boots: Entry,
}

impl<'a> Run<'a> {
    /// Runs statements; returns whether the last one succeeded.
    fn all(&mut self, statements: &'a [Statement], menu: &mut Vec<Line<'a>>) -> bool {
        let mut succeeded = true;
        for statement in statements {
            succeeded = match statement {
                Statement::Command(words) => {
                    let words = self.variables.expand(words);
                    let words: Vec<&str> = words.iter().map(String::as_str).collect();
                    self.command(&words, menu)
                }
                Statement::If(branches) => {
                    let mut branches = branches.iter();
                    match branches.find(|(condition, _)| self.all(condition, menu)) {
                        Some((_, body)) => self.all(body, menu),
                        None => true,
                    }
                }
                Statement::Loop(body) => {
                    self.doubt(body, menu);
                    true
                }
                Statement::Menu { words, is_sub, body } => {
                    let words = self.variables.expand(words);
                    let (title, id) = named(&words);
                    menu.push(Line::Menu { title, id, is_sub: *is_sub, body });
                    true
                }
            };
            self.variables.assign("?", Some(u8::from(!succeeded).to_string()));
        }
        succeeded
    }

    /// Notes what statements may do that are not run: the variables that they set have no known
    /// values, and they may add entries.
    fn doubt(&mut self, statements: &[Statement], menu: &mut Vec<Line<'a>>) {
        for statement in statements {
            match statement {
                Statement::Command(words) => {
                    let words = self.variables.expand(words);
                    let is_set = words.first().is_some_and(|word| word == "set");
                    for word in words.iter().skip(usize::from(is_set)).take(1) {
                        if let Some((name, _)) = word.split_once('=') {
                            self.variables.assign(name, Some(unknown(name)));
                        }
                    }
                }
                Statement::If(branches) => {
                    for (condition, body) in branches {
                        self.doubt(condition, menu);
                        self.doubt(body, menu);
                    }
                }
                Statement::Loop(body) => self.doubt(body, menu),
                Statement::Menu { .. } => menu.push(Line::Unsure),
            }
        }
    }

    /// Runs a command; returns whether it succeeded.
    fn command(&mut self, words: &[&str], menu: &mut Vec<Line<'a>>) -> bool {
        let negations = words.iter().take_while(|word| **word == "!").count();
        if negations > 0 {
            return self.command(&words[negations..], menu) == (negations % 2 == 0);
        }
        let Some((name, arguments)) = words.split_first() else { return true };
        match *name {
            "[" => return self.test(arguments.strip_suffix(&["]"]).unwrap_or(arguments)),
            "test" => return self.test(arguments),
            "false" => return false,
            "set" => self.variables.set(arguments.iter().copied()),
            "unset" => arguments.iter().for_each(|name| self.variables.assign(name, None)),
            "load_env" => {
                self.variables.set(self.environment.lines().filter(|line| !line.starts_with('#')))
            }
            "blscfg" => menu.extend(self.entries.iter().map(Line::Bls)),
            "linux" | "linux16" | "linuxefi" => {
                let Some((kernel, line)) = arguments.split_first() else { return false };
                self.boots.kernel = without_device(kernel);
                self.boots.command_line =
                    line.iter().map(|word| as_argument(word)).collect::<Vec<_>>().join(" ");
            }
            "initrd" | "initrd16" | "initrdefi" => {
                let files = arguments.iter().filter(|word| !word.starts_with("--"));
                self.boots.initrds = files.map(|file| without_device(file)).collect();
            }
            "source" | "." | "configfile" => {
                let file = arguments.first().and_then(|path| (self.read)(&without_device(path)));
                self.doubt(&script::parse(&file.unwrap_or_default()), menu);
            }
            assignment => self.variables.set([assignment]),
        }
        true
    }

    /// Evaluates GRUB's `test`; one with more than [`MAX_TEST`] words is false.
    fn test(&self, words: &[&str]) -> bool {
        if words.len() > MAX_TEST {
            return false;
        }
        if let Some(at) = words.iter().position(|word| *word == "-o") {
            return self.test(&words[..at]) || self.test(&words[at + 1..]);
        }
        if let Some(at) = words.iter().position(|word| *word == "-a") {
            return self.test(&words[..at]) && self.test(&words[at + 1..]);
        }
        let number = |word: &str| word.parse::<i64>().unwrap_or(0);
        match words {
            ["!", others @ ..] => !self.test(others),
            [text] => !text.is_empty(),
            ["-n", text] => !text.is_empty(),
            ["-z", text] => text.is_empty(),
            ["-f" | "-e" | "-s", path] if path.ends_with("/grubenv") => {
                !self.environment.is_empty()
            }
            ["-f" | "-e" | "-s", path] => (self.read)(&without_device(path)).is_some(),
            [one, "=" | "==", other] => one == other,
            [one, "!=", other] => one != other,
            [one, "-eq", other] => number(one) == number(other),
            [one, "-ne", other] => number(one) != number(other),
            [one, "-lt", other] => number(one) < number(other),
            [one, "-gt", other] => number(one) > number(other),
            _ => false,
        }
    }

    /// Runs the wanted line of a menu; if none is wanted, or it does not exist, the first.
    fn boot(&mut self, menu: &[Line<'a>], wanted: &str) -> Result<Entry, NoEntry> {
        match choose(menu, wanted) {
            None => Err(NoEntry::Empty),
            Some(Line::Unsure) => Err(NoEntry::Unsure),
            Some(Line::Bls(item)) => {
                let source = if item.title.is_empty() { &item.id } else { &item.title };
                Ok(Entry {
                    source: source.clone(),
                    ..item.boots(&|name| self.variables.get(name).map(str::to_owned))
                })
            }
            Some(Line::Menu { title, is_sub, body, .. }) => {
                let mut submenu = Vec::new();
                self.all(body, &mut submenu);
                if *is_sub {
                    return self
                        .boot(&submenu, wanted.split_once('>').map_or("", |(_, rest)| rest));
                }
                let mut boots = std::mem::take(&mut self.boots);
                if boots.initrds.is_empty() {
                    // Ubuntu first tries without its initrd, and GRUB remembers that it may have
                    // failed; a kexec has one try.
                    self.variables.set(["initrdfail=1"]);
                    self.all(body, &mut submenu);
                    let with = std::mem::take(&mut self.boots);
                    boots = if with.initrds.is_empty() { boots } else { with };
                }
                let found = Entry { source: title.clone(), ..boots };
                if found.kernel.is_empty() {
                    Err(NoEntry::NoLinux(title.clone()))
                } else {
                    Ok(found)
                }
            }
        }
    }
}

/// Returns a path without GRUB's device name before it.
fn without_device(path: &str) -> String {
    let path =
        path.strip_prefix('(').and_then(|path| path.split_once(')')).map_or(path, |(_, path)| path);
    path.to_owned()
}

/// Returns a word as it appears on the kernel's command line: GRUB quotes a word with blanks.
fn as_argument(word: &str) -> String {
    if word.contains(' ') { format!("\"{word}\"") } else { word.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEBIAN: &str = include_str!("../../tests/fixtures/grub/debian.cfg");
    const UBUNTU: &str = include_str!("../../tests/fixtures/grub/ubuntu.cfg");
    const ROCKY: &str = include_str!("../../tests/fixtures/grub/rocky.cfg");

    fn no_file(_: &str) -> Option<String> {
        None
    }

    fn boots(config: &str, environment: &str) -> Entry {
        default_entry(config, environment, &[], &no_file).unwrap()
    }

    #[test]
    fn a_test_of_very_many_words_is_false() {
        let many = "! ".repeat(200_000);
        let config = format!("if [ {many} x ]; then linux /a; fi\nlinux /b\nboot");
        let menu = format!("menuentry x {{\n{config}\n}}\n");
        assert_eq!(boots(&menu, "").kernel, "/b");
    }

    #[test]
    fn a_loop_ends_where_it_ends() {
        for kind in ["for x in a b", "while false", "until true"] {
            let config = format!(
                "{kind}; do\ntrue\ndone\nset default=1\nmenuentry A {{ linux /a; }}\nmenuentry B {{\n{kind}; do true; done\nlinux /b\n}}\n"
            );
            assert_eq!(boots(&config, "").kernel, "/b", "{kind}");
        }
    }

    #[test]
    fn what_is_not_known_decides_nothing() {
        let menu = "menuentry A { linux /a; }\nmenuentry B { linux /b x=$slot; }\n";
        let config = |script: &str| format!("{script}\n{menu}");
        let unknown = |script: &str| match default_entry(&config(script), "O=A\n", &[], &no_file) {
            Err(NoEntry::Unknown(name)) => name,
            Ok(entry) => unknown_in(&entry.command_line).unwrap_or_default().to_owned(),
            other => panic!("{other:?}"),
        };
        let slots = "for s in $O; do if [ $s = A ]; then default=1; fi; done";
        assert_eq!(unknown(slots), "default");
        assert_eq!(unknown("set default=1\nset slot=A\nfor slot in B A; do break; done"), "slot");
        assert_eq!(unknown("set default=1\nfor s in 1 2; do slot=$s; done"), "slot");
        assert_eq!(unknown("for s in 0 1; do next=$s; done\nset default=$next"), "next");
        assert_eq!(unknown("set default=1\nprobe --set=slot --part-uuid $root"), "slot");
        assert_eq!(unknown("set default=1\nset slot=\"PARTUUID=$u\""), "u");
        assert_eq!(unknown("set default=1\nset slot=$u"), "slot");
        assert_eq!(unknown("set default=1\nset slot="), "");
        assert_eq!(unknown("set default=\"$next\""), "");
        let entry = boots("menuentry A { linux ($root)/a root=1 $vt_handoff \"$more\"; }\n", "");
        assert_eq!((entry.kernel.as_str(), entry.command_line.as_str()), ("/a", "root=1 "));
    }

    #[test]
    fn entries_of_a_loop_or_another_file_have_no_numbers() {
        let read = |path: &str| {
            let text = "set args=1\nmenuentry C { linux /c; }\n";
            (path == "/more.cfg").then(|| text.to_owned())
        };
        let chosen = |default: &str, config: &str| {
            let config = format!("set args=\nset default={default}\n{config}");
            default_entry(&config, "", &[], &read).map(|entry| entry.kernel)
        };
        let (a, b) = ("menuentry A { linux /a; }\n", "menuentry B { linux /b x=$args; }\n");
        for more in ["for i in 1 2; do\nmenuentry $i { linux /c; }\ndone\n", "source /more.cfg\n"] {
            let config = format!("{a}{more}{b}");
            for (default, kernel) in [("", "/a"), ("0", "/a"), ("A", "/a"), ("B", "/b")] {
                assert_eq!(chosen(default, &config).as_deref(), Ok(kernel), "{default} {more}");
            }
            for default in ["1", "2", "C"] {
                assert_eq!(chosen(default, &config), Err(NoEntry::Unsure), "{default} {more}");
            }
        }
        let entry = default_entry(&format!("source /more.cfg\n{b}set default=B"), "", &[], &read);
        assert_eq!(unknown_in(&entry.unwrap().command_line), Some("args"));
        assert_eq!(chosen("", &format!("source /gone.cfg\n{a}")).as_deref(), Ok("/a"));
    }

    #[test]
    fn the_default_of_debian() {
        let entry = boots(DEBIAN, "");
        assert_eq!(entry.kernel, "/boot/vmlinuz-6.1.0-18-amd64");
        assert_eq!(entry.initrds, ["/boot/initrd.img-6.1.0-18-amd64"]);
        assert_eq!(
            entry.command_line,
            "root=UUID=9f6d1d2c-0000-4000-8000-000000000001 ro console=ttyS0,115200n8"
        );
        assert_eq!(entry.source, "Debian GNU/Linux");
        // Chosen for one boot, by the number in a submenu, by IDs, by a title.
        for next in [
            "1>2",
            "gnulinux-advanced-9f6d1d2c-0000-4000-8000-000000000001>gnulinux-6.1.0-17-amd64-advanced-9f6d1d2c-0000-4000-8000-000000000001",
            "Advanced options for Debian GNU/Linux>Debian GNU/Linux, with Linux 6.1.0-17-amd64",
        ] {
            let entry =
                boots(DEBIAN, &format!("# GRUB Environment Block\nnext_entry={next}\n####"));
            assert_eq!(entry.kernel, "/boot/vmlinuz-6.1.0-17-amd64", "{next}");
        }
        assert_eq!(boots(DEBIAN, "next_entry=gone\n").kernel, "/boot/vmlinuz-6.1.0-18-amd64");
        assert_eq!(
            default_entry(DEBIAN, "next_entry=2\n", &[], &no_file),
            Err(NoEntry::NoLinux("UEFI Firmware Settings".into()))
        );
    }

    #[test]
    fn the_default_of_ubuntu() {
        let entry = boots(UBUNTU, "saved_entry=0\n");
        assert_eq!(entry.kernel, "/vmlinuz-5.15.0-94-generic");
        assert_eq!(entry.initrds, ["/microcode.cpio", "/initrd.img-5.15.0-94-generic"]);
        assert_eq!(
            entry.command_line,
            "root=UUID=2 ro quiet splash \"dyndbg=file x.c +p\" $literal"
        );
        let saved = boots(UBUNTU, "saved_entry=Ubuntu, with the old kernel\n");
        assert_eq!(saved.kernel, "/vmlinuz-5.15.0-91-generic");
    }

    #[test]
    fn the_default_of_rocky_is_an_entry_of_the_specification() {
        let item = |version: &str| {
            let text = format!(
                "title Rocky Linux ({version})\nlinux /vmlinuz-{version}\ninitrd /initramfs-{version}.img\noptions root=UUID=3 ro $kernelopts\n"
            );
            bls::Item::read(&format!("m-{version}"), &text).unwrap()
        };
        let items = [item("5.14.0-362"), item("5.14.0-70"), item("0-rescue")];
        let environment = "saved_entry=m-5.14.0-70\nkernelopts=crashkernel=1G\n";
        let entry = default_entry(ROCKY, environment, &items, &no_file).unwrap();
        assert_eq!(
            (entry.kernel.as_str(), entry.source.as_str()),
            ("/vmlinuz-5.14.0-70", "Rocky Linux (5.14.0-70)")
        );
        assert_eq!(entry.command_line, "root=UUID=3 ro crashkernel=1G");
        let newest = default_entry(ROCKY, "", &items, &no_file).unwrap();
        assert_eq!(newest.kernel, "/vmlinuz-5.14.0-362");
        let firmware = NoEntry::NoLinux("UEFI Firmware Settings".into());
        assert_eq!(default_entry(ROCKY, "", &[], &no_file), Err(firmware));
    }

    #[test]
    fn what_tinkerbells_action_reads_too() {
        for line in ["linux", "linux16", "linuxefi"] {
            let config = format!(
                "set default=\"1\"\nmenuentry \"a\" {{\n{line} /a\n}}\nmenuentry 'b' {{ {line} (hd0,gpt2)/b x=y; initrd16 /i; }}\n"
            );
            let entry = boots(&config, "");
            assert_eq!((entry.kernel.as_str(), entry.initrds.concat()), ("/b", "/i".to_owned()));
            assert_eq!(entry.command_line, "x=y");
        }
        assert_eq!(default_entry("", "", &[], &no_file), Err(NoEntry::Empty));
    }

    #[test]
    fn an_entry_that_would_try_without_its_initrd_gets_it() {
        let config = "load_env\nset default=\"${saved_entry}\"\nmenuentry 'Memory test' { linux16 /memtest; }\nmenuentry 'Ubuntu' --id u {\n\
                      if [ \"${initrdfail}\" = 1 ]; then\n linux /k root=UUID=1\n initrd /i\nelse\n linux /k root=PARTUUID=2 panic=-1\nfi\n\
                      initrdfail\n}\n";
        let entry = boots(config, "saved_entry=u\n");
        assert_eq!(
            (entry.initrds.concat(), entry.command_line.as_str()),
            ("/i".to_owned(), "root=UUID=1")
        );
        // An empty name matches no entry.
        assert_eq!(boots(config, "").source, "Memory test");
        assert_eq!(boots(&config.replace("'Memory test'", "'Ubuntu' --id x"), "").source, "Ubuntu");
    }

    #[test]
    fn conditions_are_grubs() {
        let yes = |condition: &str| {
            let config = format!(
                "set one=1\nif {condition}; then\nset default=1\nfi\nmenuentry a {{ linux /a; }}\nmenuentry b {{ linux /b; }}"
            );
            let read = |path: &str| (path == "/here.cfg").then(String::new);
            default_entry(&config, "x=y\n", &[], &read).unwrap().kernel == "/b"
        };
        for condition in [
            "[ \"${one}\" = 1 ]",
            "[ x$one = x1 ]",
            "[ -n \"$one\" ]",
            "[ -z \"$none\" ]",
            "! [ $none ]",
            "! ! [ $one ]",
            "[ -f ($root)/here.cfg ]",
            "true; [ $? = 0 ]",
            "false; [ $? = 1 ]",
            "[ ! $none ]",
            "[ $one -eq 1 ]",
            "[ $one -lt 2 -a 1 ]",
            "[ $one = 2 -o $one = 1 ]",
            "[ -s $prefix/grubenv ]",
            "true",
            "test $one == 1",
            "loadfont unicode",
        ] {
            assert!(yes(condition), "{condition}");
        }
        for condition in [
            "[ $none ]",
            "! [ $one ]",
            "! true",
            "[ \"$one\" != 1 ]",
            "[ -f /custom.cfg ]",
            "false",
            "[ $one -gt 1 ]",
        ] {
            assert!(!yes(condition), "{condition}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read(config: String, environment: String) {
            let _ = default_entry(&config, &environment, &[], &no_file);
        }

        #[test]
        fn any_words_are_read(words in proptest::collection::vec("(if|then|elif|else|fi|menuentry|submenu|for|do|done|set|linux|[{};\n'\"$]|a|default=[0-2]>?[0-2]?|\\[|\\])", 0..200)) {
            let _ = default_entry(&words.join(" "), "", &[], &no_file);
        }
    }

    #[test]
    fn blocks_in_blocks_end_somewhere() {
        for opening in ["submenu a {\n", "if true; then\n", "{ ", "if ", "menuentry { "] {
            let _ = default_entry(&opening.repeat(10_000), "", &[], &no_file);
        }
    }
}
