//! docs/troubleshooting.md explains every message that an operator may meet: each that stands in
//! the code as the text of a failure or of a warning. A message that is composed of variables is
//! not seen here.

mod source;

use std::fs;

use anyhow::{Result, ensure};

use self::source::{code, files, root};

/// Failures that no setting and no machine can cause: the types allow them, the program does not.
const INTERNAL: [&str; 5] = [
    "there is no plan for the waiter",
    "there is no fallback",
    "there is no user container",
    "the ticket has no URL",
    "Smee's address makes no URL",
];
/// What is only ever a part of another message, or its cause.
const PARTS: [&str; 4] = [
    "Smee serves no boot script for this machine, so it cannot tell when netboot is switched off",
    "waitdaemon will not end the machine itself: IMAGE is set and WAITDAEMON_FALLBACK is not",
    "the engine does not say how it ended",
    "the user container was about to be removed",
];
/// A message whose texts are all shorter is made of other messages.
const MIN_TEXT: usize = 10;

/// The messages in the code that ships, each with its file.
fn messages_of_code() -> Result<Vec<(String, String)>> {
    let (sources, mut found) = (root().join("src"), Vec::new());
    files(&sources, &mut found)?;
    found.retain(|file| !file.starts_with("simulation/"));
    let mut messages = Vec::new();
    for file in found {
        let code = code(&fs::read_to_string(sources.join(&file))?);
        messages.extend(messages_in(&code).into_iter().map(|message| (file.clone(), message)));
    }
    Ok(messages)
}

/// The messages of failures, of their contexts, and of the log's warnings and errors; and those
/// that have a name first.
fn messages_in(code: &str) -> Vec<String> {
    let calls = ["Failure::new(", ".context(", "logging::warning("];
    let named = ["message =", "what =", "failed =", "taken =", "why =", "problem ="];
    let named = named.iter().map(|name| format!("let {name}"));
    let constants = ["NO_JOURNAL: &str =", "NO_END: &str ="].map(str::to_owned);
    let before = calls.into_iter().map(str::to_owned).chain(named).chain(constants);
    let mut found: Vec<String> = before
        .flat_map(|before| {
            code.split(&before).skip(1).filter_map(first_argument).collect::<Vec<_>>()
        })
        .collect();
    for before in ["log::warn!(", "log::error!("] {
        found.extend(code.split(before).skip(1).filter_map(log_message));
    }
    found
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

/// A message as the code or the page has it: texts, and between them anything.
struct Pattern(Vec<Option<char>>);

impl Pattern {
    /// Reads a message of the code, in which `{...}` stands for anything.
    fn of_code(message: &str) -> Self {
        let texts = message.split('{').enumerate();
        let text = |(at, text): (usize, &'_ str)| {
            if at == 0 {
                text.to_owned()
            } else {
                text.split_once('}').map_or("", |all| all.1).to_owned()
            }
        };
        Self::of(texts.map(text))
    }

    /// Reads a message of the page, in which `...` stands for anything.
    fn of_page(message: &str) -> Self {
        Self::of(message.split("...").map(str::to_owned))
    }

    fn of(texts: impl Iterator<Item = String>) -> Self {
        let mut all = Vec::new();
        for (at, text) in texts.enumerate() {
            all.extend((at > 0).then_some(None));
            all.extend(text.chars().filter(|c| *c != '`').map(Some));
        }
        Self(all)
    }

    /// True if some text fits both.
    fn meets(&self, other: &Self) -> bool {
        meet(&self.0, &other.0)
    }
}

fn meet(one: &[Option<char>], other: &[Option<char>]) -> bool {
    match (one, other) {
        ([], []) => true,
        ([None, rest @ ..], other) => (0..=other.len()).any(|at| meet(rest, &other[at..])),
        (one, [None, rest @ ..]) => (0..=one.len()).any(|at| meet(&one[at..], rest)),
        ([a, one @ ..], [b, other @ ..]) => a == b && meet(one, other),
        _ => false,
    }
}

/// The messages in the first column of the page's tables of messages.
fn messages_of_page(page: &str) -> Vec<Pattern> {
    let tables = page.split_once("\n## Messages\n").map_or("", |(_, tables)| tables);
    let rows = tables.lines().filter_map(|line| line.strip_prefix("| `"));
    let cells = rows.filter_map(|row| row.split_once(" | ")).map(|(cell, _)| format!("`{cell}"));
    cells.flat_map(|cell| of_cell(&cell)).collect()
}

/// The messages of one cell, each in backquotes; one that has backquotes in it is in two of them.
fn of_cell(cell: &str) -> Vec<Pattern> {
    let quote = if cell.contains("``") { "``" } else { "`" };
    cell.split(quote).skip(1).step_by(2).map(|text| Pattern::of_page(text.trim())).collect()
}

#[test]
fn troubleshooting_explains_every_message() -> Result<()> {
    let page = fs::read_to_string(root().join("docs/troubleshooting.md"))?;
    let explained = messages_of_page(&page);
    ensure!(explained.len() > 100, "only {} messages were found on the page", explained.len());
    let messages = messages_of_code()?;
    ensure!(messages.len() > 100, "only {} messages were found in the code", messages.len());
    let unexplained: Vec<String> = messages
        .iter()
        .filter(|(_, message)| is_whole(message))
        .filter(|(_, message)| {
            let pattern = Pattern::of_code(message);
            !explained.iter().any(|other| pattern.meets(other))
        })
        .map(|(file, message)| format!("{file}: {message}"))
        .collect();
    ensure!(
        unexplained.is_empty(),
        "docs/troubleshooting.md lacks these messages:\n{}",
        unexplained.join("\n")
    );
    Ok(())
}

/// True for a message that may stand alone.
fn is_whole(message: &str) -> bool {
    let texts = message.split(['{', '}']).step_by(2);
    let longest = texts.map(|text| text.trim().len()).max().unwrap_or_default();
    longest >= MIN_TEXT && !INTERNAL.contains(&message) && !PARTS.contains(&message)
}

#[test]
fn messages_are_found_in_code() -> Result<()> {
    let code = r#"Failure::new(format!("no {a} here, \
        or there")).context("one") log::warn!(field = FIELD, fix = "do (it)"; "two {}", x(3));
        log::error!(output = line.as_str(); "three \"words\""); Failure::new(message)
        let message =
            "four";"#;
    let mut found = messages_in(code);
    found.sort_unstable();
    let expected = ["four", "no {a} here, or there", "one", "three \"words\"", "two {}"];
    ensure!(found == expected, "{found:?}");
    Ok(())
}

#[test]
fn a_message_meets_only_its_row() -> Result<()> {
    let code = Pattern::of_code("no {a} on {b}: `it` is {}");
    for (page, meets) in [
        ("no ... on ...: it is ...", true),
        ("no disk on ...", true),
        ("no ...", true),
        ("... is ...", true),
        ("a disk on ...: it is ...", false),
        ("no disk", false),
    ] {
        ensure!(code.meets(&Pattern::of_page(page)) == meets, "{page}");
    }
    Ok(())
}
