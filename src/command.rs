//! What a container's command does to the machine, as far as its words tell. Pure.
//!
//! The program that finally runs counts, behind inits that only start it and behind BusyBox called
//! by its own name. Scripts are not read.

use serde_json::Value;

use crate::end::End;
use crate::engine::json::texts;

/// Programs that only start the program after their options, and those of their options that take a
/// value.
const INITS: [(&str, &[&str]); 4] = [
    ("tini", &["-p", "-e"]),
    ("tini-static", &["-p", "-e"]),
    ("docker-init", &["-p", "-e"]),
    ("dumb-init", &["-r", "--rewrite"]),
];
/// Programs that take the machine down.
const ENDS: [&str; 5] = ["reboot", "poweroff", "halt", "shutdown", "kexec"];

/// Returns the action's arguments: the words of its command line after those of its image's
/// ENTRYPOINT; none if they are the image's CMD. `image` is that image's configuration.
pub fn arguments(command: &[String], image: &Value) -> Vec<String> {
    let (entrypoint, default) = (texts(&image["Entrypoint"]), texts(&image["Cmd"]));
    // An image made from ours may start our program by an init, and have arguments.
    let of_image = (0..entrypoint.len())
        .map(|at| &entrypoint[at..])
        .find(|last| command.starts_with(last))
        .map_or(1, <[String]>::len);
    let given = command.get(of_image..).unwrap_or_default();
    if given == default || command == default { Vec::new() } else { given.to_vec() }
}

/// Returns what a container runs: the image's ENTRYPOINT with these arguments, or with its CMD if
/// there are none.
pub fn of(arguments: &[String], image: &Value) -> Vec<String> {
    let mut command = texts(&image["Entrypoint"]);
    if arguments.is_empty() {
        command.extend(texts(&image["Cmd"]));
    } else {
        command.extend_from_slice(arguments);
    }
    command
}

/// Returns the name of the program that finally runs, and its arguments.
fn program(command: &[String]) -> (&str, &[String]) {
    let Some((first, mut rest)) = command.split_first() else { return ("", &[]) };
    let name = first.rsplit('/').next().unwrap_or_default();
    if let Some((_, with_value)) = INITS.iter().find(|(init, _)| *init == name) {
        while let Some((option, others)) =
            rest.split_first().filter(|(option, _)| option.starts_with('-'))
        {
            let values = usize::from(with_value.contains(&option.as_str())).min(others.len());
            rest = &others[values..];
            if option == "--" {
                break;
            }
        }
        return program(rest);
    }
    if name == "busybox" && !rest.is_empty() {
        return program(rest);
    }
    (name, rest)
}

/// True if a command runs waitdaemon, in any version: the program has that name.
pub fn is_waitdaemon(command: &[String]) -> bool {
    program(command).0 == "waitdaemon"
}

/// True if a command is known to take the machine down. Such a command needs the host's PIDs, but
/// no network.
pub fn is_end(command: &[String]) -> bool {
    ENDS.contains(&program(command).0.trim_end_matches(".sh"))
}

/// Returns what a command asks init for: `reboot`, `poweroff` or `halt`, with those of BusyBox's
/// options with which it does: `-n` and `-d SECONDS`. With `-f` it asks the kernel, with `-w`
/// nobody; anything else is a word of another program of that name, such as a tool for remote
/// machines.
pub fn asks_init_for(command: &[String]) -> Option<End> {
    let (name, arguments) = program(command);
    let end = End::from_name(name).filter(|end| *end != End::Kexec)?;
    let mut rest = arguments.iter();
    while let Some(word) = rest.next() {
        let seconds = match word.strip_prefix('-')?.trim_start_matches('n') {
            "" if word != "-" => continue,
            "d" => rest.next()?,
            flags => flags.strip_prefix('d')?,
        };
        seconds.parse::<u64>().ok()?;
    }
    Some(end)
}

/// Returns the first of the words `reboot`, `poweroff` and `halt` in a command, wherever it stands.
pub fn end_named(command: &[String]) -> Option<End> {
    words(command).find_map(|word| End::from_name(word).filter(|end| *end != End::Kexec))
}

/// Returns the word that says that a command takes the machine down, wherever it stands: in a
/// script, in a path.
pub fn word_of_end(command: &[String]) -> Option<&'static str> {
    words(command).find_map(|word| ENDS.into_iter().find(|end| *end == word))
}

fn words(command: &[String]) -> impl Iterator<Item = &str> {
    let is_part = |letter: char| letter.is_ascii_alphanumeric() || letter == '-' || letter == '_';
    command.iter().flat_map(move |text| text.split(move |letter| !is_part(letter)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn what_runs_decides() {
        for (config, arguments, end) in [
            (json!({}), json!(["reboot"]), Some(End::Reboot)),
            (json!({"Cmd": ["poweroff"]}), json!([]), Some(End::PowerOff)),
            (json!({"Entrypoint": ["reboot"]}), json!([]), Some(End::Reboot)),
            (
                json!({"Entrypoint": ["/sbin/tini", "--"]}),
                json!(["/sbin/poweroff", "-d", "3"]),
                Some(End::PowerOff),
            ),
            (
                json!({"Entrypoint": ["tini", "-s", "-p", "SIGTERM", "--", "busybox"]}),
                json!(["halt"]),
                Some(End::Halt),
            ),
            (
                json!({"Entrypoint": ["/usr/bin/dumb-init", "--rewrite", "15:2", "reboot"]}),
                json!([]),
                Some(End::Reboot),
            ),
            (json!({"Entrypoint": ["/bin/echo", "talosctl"]}), json!(["reboot"]), None),
            (json!({"Entrypoint": ["/bin/talosctl"]}), json!(["reboot"]), None),
            (json!({}), json!(["halt", "--nodes", "192.0.2.5"]), None),
            (json!({}), json!(["reboot", "-n", "-d", "3"]), Some(End::Reboot)),
            (json!({}), json!(["reboot", "-nd3"]), Some(End::Reboot)),
            (json!({}), json!(["reboot", "-d"]), None),
            (json!({}), json!(["reboot", "-w"]), None),
            (json!({}), json!(["reboot", "-"]), None),
            (json!({}), json!(["reboot", "17"]), None),
            (json!({}), json!(["reboot", "--host=bmc-7"]), None),
            (json!({}), json!(["reboot", "-f"]), None),
            (json!({}), json!(["reboot", "-nf"]), None),
            (json!({}), json!(["reboot", "--force"]), None),
            (json!({}), json!(["sh", "-c", "reboot"]), None),
            (json!({}), json!(["kexec", "-e"]), None),
            (json!({}), json!(["rebooter"]), None),
            (json!({}), json!([]), None),
        ] {
            assert_eq!(
                asks_init_for(&of(&texts(&arguments), &config)),
                end,
                "{config} {arguments}"
            );
        }
    }

    #[test]
    fn waitdaemon_is_known_by_what_it_runs() {
        for (config, arguments, own) in [
            (json!({"Entrypoint": ["/waitdaemon"]}), json!(["reboot"]), true),
            (
                json!({"Entrypoint": ["/sbin/tini", "-v", "--", "/usr/bin/waitdaemon", "x"]}),
                json!([]),
                true,
            ),
            (json!({"Entrypoint": ["/sbin/tini", "--"], "Cmd": ["/waitdaemon"]}), json!([]), true),
            (json!({"Cmd": ["/waitdaemon", "reboot"]}), json!([]), true),
            (json!({"Cmd": ["/waitdaemon", "reboot"]}), json!(["reboot"]), false),
            (json!({"Cmd": ["sh"]}), json!(["/waitdaemon"]), true),
            (json!({"Entrypoint": ["/bin/echo"]}), json!(["waitdaemon"]), false),
            (json!({"Entrypoint": ["/waitdaemon.sh"]}), json!([]), false),
            (json!({"Entrypoint": "/waitdaemon"}), json!([]), false),
            (Value::Null, json!([]), false),
        ] {
            assert_eq!(
                is_waitdaemon(&of(&texts(&arguments), &config)),
                own,
                "{config} {arguments}"
            );
        }
    }

    #[test]
    fn a_word_of_an_end_is_found_wherever_it_stands() {
        for (command, word) in [
            (words(&["sh", "-c", "(sleep 2; reboot) & exit 0"]), Some("reboot")),
            (words(&["touch", "/worker/reboot"]), Some("reboot")),
            (words(&["/kexec.sh"]), Some("kexec")),
            (words(&["/bin/busybox", "halt"]), Some("halt")),
            (words(&["sh", "-c", "echo rebooted; my-reboot; halt_all"]), None),
            (words(&["true"]), None),
        ] {
            assert_eq!(word_of_end(&command), word, "{command:?}");
        }
        assert!(
            is_end(&words(&["tini", "--", "/kexec.sh"]))
                && is_end(&words(&["shutdown", "-r", "now"]))
        );
        assert!(!is_end(&words(&["sh", "-c", "reboot"])));
        for (script, end) in [
            ("kexec -u; poweroff", Some(End::PowerOff)),
            ("touch /run/shutdown; halt", Some(End::Halt)),
            ("kexec -e", None),
        ] {
            assert_eq!(end_named(&words(&["sh", "-c", script])), end, "{script}");
        }
    }

    #[test]
    fn only_the_actions_arguments_are_given() {
        let plain = serde_json::json!({"Entrypoint": ["/waitdaemon"]});
        let by_init = serde_json::json!({"Entrypoint": ["/sbin/tini", "--", "/waitdaemon"], "Cmd": ["reboot"]});
        let by_cmd = serde_json::json!({"Entrypoint": null, "Cmd": ["/waitdaemon", "reboot"]});
        let with_option = serde_json::json!({"Entrypoint": ["/waitdaemon", "-x"]});
        for (image, command, given) in [
            (&plain, &["/waitdaemon", "reboot", "-d", "1"][..], &["reboot", "-d", "1"][..]),
            (&plain, &["/waitdaemon", "", "--", "-x"], &["", "--", "-x"]),
            (&plain, &["/waitdaemon"], &[]),
            (&plain, &["/elsewhere", "halt"], &["halt"]),
            (&by_init, &["/waitdaemon", "halt"], &["halt"]),
            (&by_init, &["/waitdaemon", "reboot"], &[]),
            (&by_cmd, &["/waitdaemon", "halt"], &["halt"]),
            (&by_cmd, &["/waitdaemon", "reboot"], &[]),
            (&with_option, &["/waitdaemon", "-x", "halt"], &["halt"]),
            (&with_option, &["/waitdaemon", "halt"], &["halt"]),
            (&Value::Null, &["/waitdaemon", "x"], &["x"]),
            (&Value::Null, &[], &[]),
        ] {
            assert_eq!(arguments(&words(command), image), given, "{command:?} in {image}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_command_is_read(command in proptest::collection::vec("(tini|busybox|dumb-init|--|-[a-z]|reboot|.{0,8})", 0..8)) {
            let _ = (asks_init_for(&command), is_end(&command), is_waitdaemon(&command), word_of_end(&command));
        }
    }
}
