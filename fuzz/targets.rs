//! The fuzz targets: every parser and every pure transform, each with what must hold for any input.
//! `make fuzz` runs them, and tests/fuzzed.rs runs them on all inputs found so far.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use serde_json::Value;
use waitdaemon::bootloader::{self, Files, Wanted, bls, grub};
use waitdaemon::command;
use waitdaemon::end::End;
use waitdaemon::engine::docker::waiter_request::{self, WaiterParts, Way};
use waitdaemon::engine::docker::{attach, pull, request as docker};
use waitdaemon::engine::nerdctl::{check, flags as nerdctl};
use waitdaemon::engine::tail::Tail;
use waitdaemon::logging;
use waitdaemon::login::Login;
use waitdaemon::machine::{command_line, procfs};
use waitdaemon::names::HandoffId;
use waitdaemon::reference::Reference;
use waitdaemon::report::{self, Ended, Event};
use waitdaemon::settings::Settings;
use waitdaemon::settings::variables::{ALL as VARIABLES, misspelled};
use waitdaemon::ticket::Ticket;

/// Takes any input; panics if something does not hold.
type Target = fn(&[u8]);

/// Every target by its name.
pub const ALL: [(&str, Target); 15] = [
    ("settings", settings),
    ("reference", reference),
    ("ticket", ticket),
    ("docker_request", docker_request),
    ("nerdctl_flags", nerdctl_flags),
    ("nerdctl_check", nerdctl_check),
    ("pull_stream", pull_stream),
    ("attach_stream", attach_stream),
    ("traces", traces),
    ("announcement", announcement),
    ("command_line", command_line),
    ("grub_config", grub_config),
    ("bls_entry", bls_entry),
    ("command", command),
    ("report", report),
];

/// An environment, its variables separated by NUL as in /proc/PID/environ. A name of one byte
/// stands for a row of the table.
pub fn settings(data: &[u8]) {
    let variables: Vec<(OsString, OsString)> = data
        .split(|byte| *byte == 0)
        .map(|entry| {
            let middle = entry.iter().position(|byte| *byte == b'=').unwrap_or(entry.len());
            let (name, value) = (&entry[..middle], entry.get(middle + 1..).unwrap_or_default());
            let name = match name {
                [row] => VARIABLES[usize::from(*row) % VARIABLES.len()].name().as_bytes(),
                _ => name,
            };
            (OsString::from_vec(name.to_vec()), OsString::from_vec(value.to_vec()))
        })
        .collect();
    for (name, _) in &variables {
        misspelled(&name.to_string_lossy());
    }
    let word = ["reboot", "poweroff", "halt", "kexec", "true"][data.len() % 5];
    match Settings::read(variables, &[word.to_owned()]) {
        Ok(settings) => {
            match settings.image() {
                Some(image) => plain_word(image.as_written()),
                None => assert_eq!(settings.own_end().map(End::name), Some(word)),
            }
            plain_word(&settings.nerdctl_namespace);
            assert!(
                settings.wait.unwrap_or_default().as_secs() <= 86_400
                    && settings.pull_timeout.as_secs() >= 1
            );
        }
        Err(problems) => {
            assert!(!problems.is_empty() && problems.iter().all(|problem| !problem.fix.is_empty()))
        }
    }
}

/// The kernel's command line.
pub fn command_line(data: &[u8]) {
    let line = String::from_utf8_lossy(data);
    if let Some(host) = command_line::server(&line) {
        // The host goes into a URL.
        let inner = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(&host);
        assert!(
            !inner.is_empty() && !inner.contains(['/', '@', '?', '#', ' ', '[', ']']),
            "{host:?}"
        );
        assert!(!inner.contains(':') || inner.len() < host.len(), "{host:?}");
    }
    if let Some(address) = command_line::hardware_address(&line) {
        assert!(
            address.len() == 17
                && address.bytes().all(|byte| byte == b':' || byte.is_ascii_hexdigit())
        );
    }
    for name in ["syslog_host", "docker_registry"] {
        assert!(
            command_line::value(&line, name)
                .is_none_or(|value| !value.is_empty() && line.contains(value))
        );
    }
    for image in ["alpine", "r.example.org:5000/image"] {
        let image = Reference::parse(image).unwrap();
        if Login::of_machine(&line, &image).is_some() {
            let registry = command_line::value(&line, "docker_registry").unwrap().to_lowercase();
            assert!(
                registry.contains("docker.io") || registry.contains("r.example.org:5000"),
                "{registry}"
            );
        }
    }
}

/// An image reference.
pub fn reference(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(reference) = Reference::parse(text) {
        assert_eq!(reference.as_written(), text);
        plain_word(text);
        plain_word(reference.name());
        plain_word(reference.digest_or_tag());
        assert!(text.starts_with(reference.name()) && !reference.registry().is_empty());
        assert!(!text.contains("..") || !text.split('/').any(|part| part == ".."), "{text}");
    }
}

/// Checks a text that goes to an engine or a command line as a word of its own.
fn plain_word(text: &str) {
    assert!(!text.is_empty() && !text.starts_with('-'), "{text:?}");
    assert!(text.chars().all(|c| c.is_ascii_graphic()), "{text:?}");
}

/// The waiter's argument.
pub fn ticket(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(ticket) = Ticket::from_argument(text) {
        assert_eq!(Ticket::from_argument(&ticket.to_argument()).unwrap(), ticket);
    }
}

/// Reads two JSON documents: a container's and its image's.
fn documents(data: &[u8]) -> Option<(Value, Value)> {
    let mut documents = serde_json::Deserializer::from_slice(data).into_iter::<Value>();
    let container = documents.next()?.ok()?;
    Some((container, documents.next().and_then(Result::ok).unwrap_or_default()))
}

/// Docker's inspect documents of an action and its image.
pub fn docker_request(data: &[u8]) {
    let Some((container, image)) = documents(data) else { return };
    let made = docker::user_container(
        &container,
        &image,
        "alpine",
        &[],
        &[("waitdaemon.role", "user".into())],
    );
    assert_eq!(made.create["Image"], "alpine");
    assert_eq!(made.create["Labels"]["waitdaemon.role"], "user");
    assert_eq!(made.create["HostConfig"]["AutoRemove"], false);
    assert_eq!(made.create["HostConfig"]["RestartPolicy"]["Name"], "no");
    let parts = WaiterParts {
        program: "/waiter",
        argument: String::new(),
        labels: &[],
        way: Way::Mounted {
            socket: Path::new("/var/run/docker.sock"),
            on: Some("/var/run"),
            whole: false,
        },
        foreign_socket: false,
        signals_init: false,
        ends_machine: false,
        unloads_kernel: false,
        needs_network: data.len().is_multiple_of(2),
        has_console: true,
    };
    if let Some(waiter) = waiter_request::waiter(&container, &parts) {
        assert_eq!(waiter["Entrypoint"][0], "/waiter");
        assert_eq!(waiter["HostConfig"]["ReadonlyRootfs"], true);
        assert!(waiter["HostConfig"]["Privileged"].is_null());
    }
}

/// GRUB's configuration, its environment block and an entry of the Boot Loader Specification,
/// separated by NUL.
pub fn grub_config(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut parts = text.split('\0').chain(std::iter::repeat(""));
    let mut next = || parts.next().unwrap_or_default();
    let (config, environment, entry) = (next(), next(), next());
    let entries: Vec<bls::Item> = bls::Item::read("x", entry).into_iter().collect();
    let read = |path: &str| path.len().is_multiple_of(2).then(|| path.to_owned());
    if let Ok(entry) = grub::default_entry(config, environment, &entries, &read) {
        assert!(entries.len() == 1 || !entry.kernel.is_empty(), "{entry:?}");
    }
    let disk = Disk([
        ("/boot/grub/grub.cfg", config),
        ("/boot/grub/grubenv", environment),
        ("/loader/entries/x.conf", entry),
    ]);
    if let Ok(entry) = bootloader::find(&disk, &Wanted::default()) {
        // What is not known is refused, not booted.
        assert!(!entry.command_line.contains('\0'), "{entry:?}");
    }
}

/// Files of an installed system: those that are read, and any that is only looked for.
struct Disk<'a>([(&'static str, &'a str); 3]);

impl Files for Disk<'_> {
    fn read(&self, path: &str) -> Option<String> {
        let found = self.0.iter().find(|(known, _)| *known == path);
        found.map(|(_, text)| (*text).to_owned())
    }
    fn list(&self, folder: &str) -> Vec<String> {
        let entries = (folder == "/loader/entries").then(|| "x.conf".to_owned());
        entries.into_iter().collect()
    }
    fn has(&self, _: &str) -> bool {
        true
    }
}

/// Files of entries of the Boot Loader Specification, separated by NUL.
pub fn bls_entry(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let read = |(number, text): (usize, &str)| {
        bls::Item::read(&format!("m-{number}-{}", text.len()), text)
    };
    let mut items: Vec<bls::Item> =
        text.split('\0').take(20).enumerate().filter_map(read).collect();
    let count = items.len();
    bls::sort(
        &mut items,
        if data.len().is_multiple_of(2) { bls::as_grub } else { bls::as_systemd_boot },
    );
    assert_eq!(items.len(), count);
    for item in &items {
        let entry = item.boots(&|name| Some(name.to_uppercase()));
        assert!(
            !entry.command_line.contains('\n')
                && entry.initrds.iter().all(|path| !path.contains(' ')),
            "{entry:?}"
        );
    }
    assert_eq!(bls::default_entry(&text, &items).is_some(), count > 0);
}

/// A command, its words separated by NUL.
pub fn command(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let words: Vec<String> = text.split('\0').map(str::to_owned).collect();
    if command::asks_init_for(&words).is_some() {
        assert!(command::is_end(&words) && command::word_of_end(&words).is_some(), "{words:?}");
    }
    assert!(!(command::is_waitdaemon(&words) && command::is_end(&words)), "{words:?}");
}

/// The last lines of a user container's output, as they appear in a report.
pub fn report(data: &[u8]) {
    let mut tail = Tail::default();
    data.chunks(7).for_each(|piece| tail.feed(piece));
    let ended = Ended { exit_code: Some(1), last_lines: tail.into_lines() };
    let about = [("action", String::from_utf8_lossy(data).into_owned())];
    let text = report::document(Event::Failed, "", &about, "it failed", &ended).to_string();
    let read: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (&read["version"], &read["event"], &read["action"]),
        (&1.into(), &"failed".into(), &about[0].1.as_str().into())
    );
    assert_eq!(read["last_lines"].as_array().unwrap().len(), ended.last_lines.len());
}

struct NoHost;

impl nerdctl::Host for NoHost {
    fn block_device(&self, major: u64, minor: u64) -> Option<String> {
        Some(format!("/dev/{major}-{minor}"))
    }
    fn propagates(&self, _: &str) -> bool {
        true
    }
    fn makes_networks(&self) -> bool {
        true
    }
}

/// nerdctl's native documents of an action and its image.
pub fn nerdctl_flags(data: &[u8]) {
    let Some((container, image)) = documents(data) else { return };
    let wanted = nerdctl::Wanted { image: "alpine", name: "a-user", labels: &[], arguments: &[] };
    let Ok(made) = nerdctl::user_container(&container, &image, &wanted, &NoHost) else { return };
    let at = made.arguments.iter().position(|word| !word.starts_with("--")).unwrap();
    assert_eq!(made.arguments[at..at + 2], ["alpine", "--"]);
    assert!(made.arguments[..at].iter().all(|word| word.contains('=')), "{:?}", made.arguments);
}

/// Two native documents, compared for anything lost between them.
pub fn nerdctl_check(data: &[u8]) {
    let Some((container, user)) = documents(data) else { return };
    let _ = check::nothing_was_lost(&container, &Value::Null, &user);
    if check::nothing_was_lost(&container, &Value::Null, &container).is_ok() {
        let mut lost = container.clone();
        if let Some(process) =
            lost.pointer_mut("/Spec/process").filter(|process| process.is_object())
        {
            process["oomScoreAdj"] = Value::from(4711);
            assert!(check::nothing_was_lost(&lost, &Value::Null, &container).is_err());
        }
    }
}

/// Splits off the first byte: the size of the pieces in which the rest arrives.
fn pieces(data: &[u8]) -> Option<(usize, &[u8])> {
    let (size, rest) = data.split_first()?;
    Some((usize::from(*size).max(1), rest))
}

/// A pull's stream, which reads the same in pieces as in one.
pub fn pull_stream(data: &[u8]) {
    let Some((size, data)) = pieces(data) else { return };
    let read = |size: usize| {
        let mut progress = pull::PullStream::default();
        data.chunks(size)
            .try_for_each(|piece| progress.feed(piece))
            .and_then(|()| progress.end())?;
        let (done, all) = progress.bytes();
        assert!(done <= all);
        Ok::<_, pull::PullError>((done, all, progress.status().to_owned()))
    };
    assert_eq!(read(size), read(data.len().max(1)));
}

/// An attach stream, which reads the same in pieces as in one. Its last lines are safe to show.
pub fn attach_stream(data: &[u8]) {
    let Some((size, data)) = pieces(data) else { return };
    for tty in [false, true] {
        let mut whole = attach::Demux::new(tty);
        let expected = whole.feed(data);
        let (mut demux, mut tail, mut output) =
            (attach::Demux::new(tty), Tail::default(), Vec::new());
        for piece in data.chunks(size) {
            let said = demux.feed(piece);
            tail.feed(&said);
            output.extend(said);
        }
        assert_eq!(output, expected);
        let lines = tail.into_lines();
        assert!(lines.len() <= 20 && lines.iter().all(|line| !line.contains(char::is_control)));
    }
}

/// mountinfo, cgroup and hostname, separated by NUL.
pub fn traces(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut parts = text.splitn(3, '\0');
    let mut part = || parts.next().unwrap_or_default();
    let (mountinfo, cgroup, hostname) = (part(), part(), part());
    for id in procfs::candidates(mountinfo, cgroup, hostname) {
        assert!(
            (12..=64).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_hexdigit()),
            "{id}"
        );
        assert!(mountinfo.contains(&id) || cgroup.contains(&id) || hostname.contains(&id));
        if procfs::is_in_cgroup_of(cgroup, &id) {
            assert!(cgroup.contains(&id));
        }
    }
    procfs::propagates(mountinfo, Path::new("/a/b"));
    for (hierarchy, path) in procfs::cgroups(cgroup) {
        assert!(cgroup.contains(hierarchy) && cgroup.contains(path));
    }
}

/// A container's output that is searched for a line.
pub fn announcement(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let handoff = HandoffId::random().unwrap();
    assert!(!logging::announces(&text, logging::ARMED, &handoff));
    let line = format!("{text}\n{{\"message\":\"armed\",\"handoff\":\"{}\"}}\n", handoff.as_str());
    assert!(logging::announces(&line, logging::ARMED, &handoff));
}
