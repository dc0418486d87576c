//! docs/troubleshooting.md explains every message that an operator may meet: each that stands in
//! the code as the text of a failure or of a warning. A message that is composed of variables is
//! not seen here.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

/// Failures that no setting and no machine can cause: the types allow them, the program does not.
const INTERNAL: [&str; 5] = [
    "there is no plan for the waiter",
    "there is no fallback",
    "there is no user container",
    "the ticket has no URL",
    "Smee's address makes no URL",
];
/// Shorter parts of a message occur by chance.
const MIN_PART: usize = 10;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn collect(folder: &Path, messages: &mut Vec<(PathBuf, String)>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            if !path.ends_with("simulation") {
                collect(&path, messages)?;
            }
            continue;
        }
        let text = fs::read_to_string(&path)?;
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        messages.extend(messages_in(code).into_iter().map(|message| (path.clone(), message)));
    }
    Ok(())
}

/// The messages of failures, of their contexts, and of the log's warnings and errors.
fn messages_in(code: &str) -> Vec<String> {
    let calls = ["Failure::new(", ".context(", "logging::warning("];
    let of_calls =
        calls.iter().flat_map(|call| code.split(call).skip(1)).filter_map(first_argument);
    let macros = ["log::warn!(", "log::error!("];
    let of_macros = macros.iter().flat_map(|call| code.split(call).skip(1)).filter_map(log_message);
    of_calls.chain(of_macros).collect()
}

/// The text of a string or a `format!`, if the first argument is one.
fn first_argument(rest: &str) -> Option<String> {
    let rest = rest.trim_start();
    let rest = rest.strip_prefix("format!(").map_or(rest, str::trim_start);
    literal(rest.strip_prefix('"')?).map(|(text, _)| text)
}

/// The text of a log line: the first string after the key-value pairs, which end with a semicolon.
fn log_message(mut rest: &str) -> Option<String> {
    let (mut depth, mut text) = (0, None);
    while let Some(at) = rest.find(['"', ';', '(', ')']) {
        let (found, behind) = (rest.as_bytes()[at], &rest[at + 1..]);
        rest = behind;
        match found {
            b'"' => {
                let (said, behind) = literal(behind)?;
                text = text.or(Some(said));
                rest = behind;
            }
            b';' => text = None,
            b'(' => depth += 1,
            _ if depth == 0 => return text,
            _ => depth -= 1,
        }
    }
    None
}

/// The text up to the closing quotation mark, and what follows it.
fn literal(code: &str) -> Option<(String, &str)> {
    let (mut text, mut characters) = (String::new(), code.char_indices());
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((text, &code[at + 1..])),
            '\\' => match characters.next()?.1 {
                '\n' => {
                    let behind = characters.as_str().trim_start();
                    return literal(behind).map(|(more, rest)| (text + &more, rest));
                }
                escaped => text.push(escaped),
            },
            character => text.push(character),
        }
    }
    None
}

/// The first part of a message that stands in it as written. The page may cut a message short at a
/// mark.
fn first_part(message: &str) -> &str {
    let pieces = message.split(['{', '}']).step_by(2);
    let mut parts = pieces.flat_map(|piece| piece.split([',', ';', ':', '`'])).map(str::trim);
    parts.find(|part| part.len() >= MIN_PART).unwrap_or_default()
}

#[test]
fn troubleshooting_explains_every_message() -> Result<()> {
    let page = fs::read_to_string(root().join("docs/troubleshooting.md"))?;
    let mut messages = Vec::new();
    collect(&root().join("src"), &mut messages)?;
    ensure!(messages.len() > 80, "only {} messages were found", messages.len());
    let unexplained: Vec<String> = messages
        .iter()
        .filter(|(_, message)| !INTERNAL.contains(&message.as_str()))
        .map(|(path, message)| (path, first_part(message)))
        .filter(|(_, part)| !page.contains(part))
        .map(|(path, part)| format!("{}: {part}", path.display()))
        .collect();
    ensure!(
        unexplained.is_empty(),
        "docs/troubleshooting.md lacks these messages, as they are in the code:\n{}",
        unexplained.join("\n")
    );
    Ok(())
}

#[test]
fn messages_are_found_in_code() -> Result<()> {
    let code = r#"Failure::new(format!("no {a} here, \
        or there")).context("one") log::warn!(field = FIELD, fix = "do (it)"; "two {}", x(3));
        log::error!(output = line.as_str(); "three \"words\""); Failure::new(message)"#;
    let found = messages_in(code);
    let expected = ["no {a} here, or there", "one", "two {}", "three \"words\""];
    ensure!(found == expected, "{found:?}");
    let part = first_part("no {a}: it is on the disk, {b}");
    ensure!(part == "it is on the disk", "{part:?}");
    Ok(())
}
