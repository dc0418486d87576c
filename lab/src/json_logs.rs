//! Reads container logs as the json-file driver of Docker and nerdctl keeps them: one JSON document
//! a line.

use std::fs;
use std::path::Path;

use serde_json::Value;

/// Everything that the containers below this folder have logged, as it is on the disk.
pub fn text(folder: &Path) -> String {
    let mut text = String::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for path in
            fs::read_dir(folder).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()))
        {
            if path.is_dir() {
                folders.push(path);
            } else if path.to_string_lossy().ends_with("-json.log") {
                text.push_str(&fs::read_to_string(path).unwrap_or_default());
            }
        }
    }
    text
}

/// Those logged lines that are themselves JSON.
pub fn lines(folder: &Path) -> Vec<Value> {
    let text = text(folder);
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter_map(|line| serde_json::from_str(line["log"].as_str()?).ok()).collect()
}
