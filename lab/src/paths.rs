//! The paths of this checkout.

use std::path::{Path, PathBuf};

use packaging::architecture::Architecture;

/// The root of the checkout.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// The folder with what was built from the Go module proxy: engines and agent (`make cache`).
pub fn cache() -> PathBuf {
    root().join(".cache")
}

/// The folder with what was built for machines of this architecture.
pub fn cache_for(architecture: Architecture) -> PathBuf {
    cache().join(subfolder(architecture))
}

/// The folder with waitdaemon's images for this architecture (`make image`).
pub fn images_for(architecture: Architecture) -> PathBuf {
    root().join("dist").join(subfolder(architecture))
}

fn subfolder(architecture: Architecture) -> &'static str {
    if architecture == Architecture::NATIVE { "" } else { architecture.name() }
}

/// waitdaemon as it was built for this architecture.
pub fn program_for(architecture: Architecture) -> PathBuf {
    root().join(format!("target/{}-unknown-linux-musl/release/waitdaemon", architecture.machine()))
}

/// The folder where nested machines keep their state while they run; it is removed with them.
pub fn machines() -> PathBuf {
    root().join("target/machines")
}
