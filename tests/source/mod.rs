//! The source tree, as the tests that read it see it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

/// The folder of this checkout.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The files under src, with paths such as `engine/docker/mod.rs`.
pub fn files(folder: &Path, found: &mut Vec<String>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            files(&path, found)?;
        } else if path.extension().is_some_and(|kind| kind == "rs") {
            found.push(path.strip_prefix(root().join("src"))?.to_string_lossy().into_owned());
        }
    }
    found.sort();
    Ok(())
}

/// The code of a file without its tests and comments.
pub fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}
