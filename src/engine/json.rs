//! Reading the engines' documents: what is missing or of another type reads as empty. Pure.

use serde_json::Value;

/// The elements of an array.
pub fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// The text of a string.
pub fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// A path as the engines keep it, however the user wrote it (moby, nerdctl: `filepath.Clean`).
pub fn cleaned(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}
