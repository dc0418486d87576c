//! The paths of this checkout.

use std::path::{Path, PathBuf};

/// The root of the checkout.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// The folder with what was built from the Go module proxy: engines and agent (`make cache`).
pub fn cache() -> PathBuf {
    root().join(".cache")
}

/// The folder where nested machines keep their state while they run; it is removed with them.
pub fn machines() -> PathBuf {
    root().join("target/machines")
}
