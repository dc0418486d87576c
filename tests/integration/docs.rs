//! The documents show exactly the files of examples/, which the agent's cases run, and their links
//! resolve.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use lab::paths;

use crate::case;

/// Fails if a document differs from the page that the cases make; with `WRITE_DOCS` set, writes it.
pub fn is_made(document: &str, page: &str) -> Result<()> {
    let path = paths::root().join(document);
    if std::env::var_os("WRITE_DOCS").is_some() {
        return fs::write(&path, page).with_context(|| format!("cannot write {document}"));
    }
    let there = fs::read_to_string(&path).unwrap_or_default();
    let line = there.lines().zip(page.lines()).position(|(one, other)| one != other);
    let line = line.map_or(0, |line| line + 1);
    ensure!(there == page, "{document} is not what the cases say (line {line}); run `make docs`");
    Ok(())
}

/// Reads README, CONTRIBUTING, docs/ and docs/development/.
fn documents() -> Result<Vec<(PathBuf, String)>> {
    let mut paths = vec![paths::root().join("README.md"), paths::root().join("CONTRIBUTING.md")];
    for folder in ["docs", "docs/development"] {
        let entries = fs::read_dir(paths::root().join(folder))?;
        paths.extend(entries.filter_map(|entry| Some(entry.ok()?.path())));
    }
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    paths.into_iter().map(|path| Ok((path.clone(), fs::read_to_string(path)?))).collect()
}

// Every YAML block in the documents is a file of examples/, and every such file is shown.
case!(yaml_is_the_examples, || {
    let examples = fs::read_dir(paths::root().join("examples"))?;
    let examples = examples
        .map(|entry| Ok(fs::read_to_string(entry?.path())?))
        .collect::<Result<BTreeSet<_>>>()?;
    let mut shown = BTreeSet::new();
    for (path, text) in documents()? {
        for block in text.split("```yaml\n").skip(1) {
            let (block, _) = block.split_once("```").context("a block without an end")?;
            ensure!(
                examples.contains(block),
                "{} shows a YAML that is no file of examples/:\n{block}",
                path.display()
            );
            shown.insert(block.to_owned());
        }
    }
    ensure!(shown.len() > 5, "only {} examples are shown", shown.len());
    let hidden: Vec<_> = examples.difference(&shown).collect();
    ensure!(hidden.is_empty(), "not shown: {hidden:#?}");
    Ok(())
});

// Every link to a file of this checkout, and to a heading in it, resolves.
case!(links_lead_somewhere, || {
    let mut links = 0;
    for (path, text) in documents()? {
        for link in
            text.split("](").skip(1).filter_map(|rest| rest.split_once(')').map(|(link, _)| link))
        {
            if link.starts_with("https://") {
                continue;
            }
            links += 1;
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let folder = path.parent().unwrap_or(Path::new("."));
            let target = if file.is_empty() { path.clone() } else { folder.join(file) };
            ensure!(target.exists(), "{}: {link} leads nowhere", path.display());
            if !heading.is_empty() {
                let headings = fs::read_to_string(&target)?;
                let mut headings =
                    headings.lines().filter(|line| line.starts_with('#')).map(anchor);
                ensure!(
                    headings.any(|found| found == heading),
                    "{}: {link} has no such heading",
                    path.display()
                );
            }
        }
    }
    ensure!(links > 10, "only {links} links were found");
    Ok(())
});

/// The anchor of a heading: small letters, digits, and dashes for blanks.
fn anchor(line: &str) -> String {
    let text = line.trim_start_matches('#').trim().to_lowercase();
    text.chars()
        .filter(|c| c.is_alphanumeric() || *c == ' ' || *c == '-')
        .collect::<String>()
        .replace(' ', "-")
}
