//! The floors of the source tree: docs/design.md draws them, and the imports under src keep to
//! them. A file uses only what is drawn below it, and the imports form no cycle.

mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::{Context, Result};

use self::source::{code, files, root};

type Edges = BTreeMap<String, BTreeSet<String>>;

/// The paths that begin with this word: `crate::a::{b, c::d}` gives `a::b` and `a::c::d`.
fn paths_after(code: &str, word: &str) -> Vec<String> {
    let starts = code.match_indices(word).filter(|(at, _)| {
        let before = code[..*at].chars().next_back();
        before.is_none_or(|c| !c.is_alphanumeric() && c != '_' && c != ':')
    });
    starts.flat_map(|(at, _)| expand(&code[at + word.len()..])).collect()
}

fn expand(text: &str) -> Vec<String> {
    let end =
        text.find(|c: char| !c.is_alphanumeric() && c != '_' && c != ':').unwrap_or(text.len());
    let (head, rest) = text.split_at(end);
    if !(head.is_empty() || head.ends_with("::")) || !rest.starts_with('{') {
        return vec![head.trim_end_matches(':').to_owned()];
    }
    let (mut depth, mut parts, mut part) = (0, Vec::new(), String::new());
    for c in rest.chars() {
        match c {
            '{' if depth == 0 => depth = 1,
            ',' if depth == 1 => parts.push(std::mem::take(&mut part)),
            '}' if depth == 1 => break,
            c => {
                depth += i32::from(c == '{') - i32::from(c == '}');
                part.push(c);
            }
        }
    }
    parts.push(part);
    let parts = parts.iter().map(|part| part.trim()).filter(|part| !part.is_empty());
    parts
        .flat_map(|part| {
            expand(part).into_iter().map(|tail| format!("{head}{tail}")).collect::<Vec<_>>()
        })
        .collect()
}

/// The file that defines what a path names, if the file is one of ours.
fn file_of(path: &str, known: &BTreeSet<String>) -> Option<String> {
    let mut parts: Vec<&str> = path.split("::").filter(|part| !part.is_empty()).collect();
    while !parts.is_empty() {
        let joined = parts.join("/");
        let found = [format!("{joined}.rs"), format!("{joined}/mod.rs")]
            .into_iter()
            .find(|file| known.contains(file));
        if found.is_some() {
            return found;
        }
        parts.pop();
    }
    None
}

/// Maps each file to the files that it uses.
fn edges(sources: &BTreeMap<String, String>) -> Edges {
    let known: BTreeSet<String> = sources.keys().cloned().collect();
    let mut edges = Edges::new();
    for (file, text) in sources {
        let code = code(text);
        let module = file.trim_end_matches("/mod.rs").trim_end_matches(".rs").replace('/', "::");
        let parent = if file.ends_with("/mod.rs") { module.clone() } else { parent_of(&module) };
        // For a mod.rs, `super` is the folder above.
        let above = if file.ends_with("/mod.rs") { parent_of(&module) } else { parent.clone() };
        let mut paths = paths_after(&code, "crate::");
        paths.extend(paths_after(&code, "waitdaemon::"));
        paths.extend(
            paths_after(&code, "self::").into_iter().map(|path| format!("{module}::{path}")),
        );
        paths.extend(
            paths_after(&code, "super::").into_iter().map(|path| format!("{above}::{path}")),
        );
        let declared = code.lines().filter_map(|line| {
            line.trim_start_matches("pub ").strip_prefix("mod ")?.strip_suffix(';')
        });
        for child in declared {
            let inside = paths_after(&code, &format!("{child}::"));
            paths.extend(inside.into_iter().map(|path| format!("{module}::{child}::{path}")));
        }
        let used =
            paths.iter().filter_map(|path| file_of(path, &known)).filter(|used| used != file);
        edges.entry(file.clone()).or_default().extend(used);
    }
    edges
}

fn parent_of(module: &str) -> String {
    module.rsplit_once("::").map_or_else(String::new, |(parent, _)| parent.to_owned())
}

/// The floors as docs/design.md draws them, from the top: each a list of files and folders.
fn floors() -> Result<Vec<Vec<String>>> {
    let text = fs::read_to_string(root().join("docs/design.md"))?;
    let (_, layout) = text.split_once("## Layout").context("docs/design.md has no layout")?;
    let picture = layout.split("```").nth(1).context("the layout has no picture")?;
    let lines = picture.lines().skip(1).filter(|line| !line.trim().is_empty());
    Ok(lines
        .map(|line| {
            line.split('#')
                .next()
                .unwrap_or_default()
                .split_whitespace()
                .map(str::to_owned)
                .collect()
        })
        .collect())
}

/// The floor of a file, counted from the top: the floor of the longest name that matches.
fn floor_of(file: &str, floors: &[Vec<String>]) -> Option<usize> {
    let fits = |unit: &str| unit == file || (unit.ends_with('/') && file.starts_with(unit));
    let units = floors
        .iter()
        .enumerate()
        .flat_map(|(floor, units)| units.iter().map(move |unit| (floor, unit)));
    units.filter(|(_, unit)| fits(unit)).max_by_key(|(_, unit)| unit.len()).map(|(floor, _)| floor)
}

fn unit_of<'a>(file: &str, floors: &'a [Vec<String>]) -> Option<&'a String> {
    let fits = |unit: &str| unit == file || (unit.ends_with('/') && file.starts_with(unit));
    floors.iter().flatten().filter(|unit| fits(unit)).max_by_key(|unit| unit.len())
}

/// The violations of the floors.
fn faults(edges: &Edges, floors: &[Vec<String>]) -> Vec<String> {
    let mut faults = Vec::new();
    for (file, used) in edges {
        let Some(floor) = floor_of(file, floors) else {
            faults.push(format!("{file} is on no floor"));
            continue;
        };
        for other in used {
            let same_room = unit_of(file, floors) == unit_of(other, floors);
            if floor_of(other, floors).is_some_and(|below| below <= floor) && !same_room {
                faults.push(format!("{file} uses {other}, which is not below it"));
            }
        }
    }
    for unit in floors.iter().flatten() {
        if !edges.keys().any(|file| unit_of(file, floors) == Some(unit)) {
            faults.push(format!("{unit} is drawn and not there"));
        }
    }
    faults.extend(
        edges
            .keys()
            .filter(|file| reaches(edges, file, file))
            .map(|file| format!("{file} is in a circle")),
    );
    faults
}

/// True if a chain of imports leads from one file to another.
fn reaches(edges: &Edges, from: &str, to: &str) -> bool {
    let (mut todo, mut seen) = (vec![from], BTreeSet::new());
    while let Some(file) = todo.pop() {
        for next in edges.get(file).into_iter().flatten() {
            if next == to {
                return true;
            }
            if seen.insert(next.as_str()) {
                todo.push(next);
            }
        }
    }
    false
}

/// All source files except those that are compiled only for tests, which are not on any floor.
fn sources() -> Result<BTreeMap<String, String>> {
    let mut all = all_sources()?;
    all.retain(|file, _| {
        !file.starts_with("simulation/") && !file.starts_with("engine/fake/") && file != "lib.rs"
    });
    Ok(all)
}

fn all_sources() -> Result<BTreeMap<String, String>> {
    let mut found = Vec::new();
    files(&root().join("src"), &mut found)?;
    found
        .into_iter()
        .map(|file| Ok((file.clone(), fs::read_to_string(root().join("src").join(file))?)))
        .collect()
}

#[test]
fn every_import_leads_down() {
    let edges = edges(&sources().unwrap());
    assert!(
        edges.values().map(BTreeSet::len).sum::<usize>() > 100,
        "the imports are not read: {edges:?}"
    );
    let faults = faults(&edges, &floors().unwrap());
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// The test's own control: it finds each kind of violation.
#[test]
fn upward_and_circular_imports_are_found() {
    let real = sources().unwrap();
    let with = |file: &str, line: &str| {
        let mut sources = real.clone();
        sources.entry(file.to_owned()).or_default().insert_str(0, line);
        faults(&edges(&sources), &floors().unwrap()).join("\n")
    };
    for (file, line, fault) in [
        (
            "lifecycle.rs",
            "use crate::waiter::run;\n",
            "lifecycle.rs uses waiter/mod.rs, which is not below it",
        ),
        (
            "engine/mod.rs",
            "use crate::{error, engine::{docker::{api::Api}}};\n",
            "engine/mod.rs uses engine/docker/api.rs",
        ),
        ("engine/docker/seen.rs", "use super::Docker;\n", "engine/docker/seen.rs is in a circle"),
        ("names.rs", "fn f() { crate::retry::pause() }\n", "names.rs uses retry.rs"),
        ("new.rs", "\n", "new.rs is on no floor"),
    ] {
        let found = with(file, line);
        assert!(found.contains(fault), "{fault:?} is not in {found:?}");
    }
}

/// A file has one job and fits on a few screens.
#[test]
fn no_file_is_long() {
    for (file, text) in all_sources().unwrap() {
        let lines = text.lines().count();
        assert!(lines <= 500, "src/{file} has {lines} lines, more than 500");
    }
}

/// The `Engine` trait stays small.
#[test]
fn the_engine_trait_is_small() {
    let text = fs::read_to_string(root().join("src/engine/mod.rs")).unwrap();
    let (_, body) = text.split_once("pub trait Engine {").unwrap();
    let methods = body.split("\n}").next().unwrap().matches("    fn ").count();
    assert!((1..=14).contains(&methods), "{methods} methods");
}
