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
