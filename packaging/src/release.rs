//! The released image: an OCI archive (image-spec 1.1) whose one index names an image for each
//! architecture. The same input gives the same bytes.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use tar::Builder;

use crate::archive::{add, hex, layer};
use crate::image::entries_of;

/// The annotations of a release.
#[derive(Debug, Clone)]
pub struct Release {
    /// Where the image will be, without the version: the name under which an archive is loaded.
    pub repository: String,
    /// The version, such as `1.2.3`.
    pub version: String,
    /// The commit that it was built from.
    pub revision: String,
    /// The time of that commit: RFC 3339, from SOURCE_DATE_EPOCH.
    pub created: String,
}

/// The image of one architecture.
#[derive(Debug, Clone)]
pub struct Part {
    /// The architecture, as Go and OCI name it: `amd64`, `arm64`.
    pub architecture: String,
    /// waitdaemon for this architecture.
    pub program: PathBuf,
    /// nerdctl for this architecture, in the variant that bundles it.
    pub nerdctl: Option<PathBuf>,
}

impl Release {
    /// The annotations, with the predefined keys of the image-spec.
    fn annotations(&self) -> Value {
        json!({
            "org.opencontainers.image.created": self.created,
            "org.opencontainers.image.description": "Runs the last action of a Tinkerbell Workflow after SUCCESS",
            "org.opencontainers.image.licenses": "Apache-2.0",
            "org.opencontainers.image.revision": self.revision,
            "org.opencontainers.image.source": "https://github.com/waitdaemon/waitdaemon",
            "org.opencontainers.image.title": "waitdaemon",
            "org.opencontainers.image.version": self.version,
        })
    }
}

/// Writes the archive with these images; returns the digest of the index.
///
/// # Errors
/// If a program cannot be read, or the archive cannot be written.
pub fn write(path: &Path, release: &Release, parts: &[Part]) -> Result<String> {
    let mut archive = Builder::new(Vec::new());
    let mut images = Vec::new();
    for part in parts {
        let mut manifest = image(&mut archive, release, part)?;
        manifest["platform"] = json!({"architecture": part.architecture, "os": "linux"});
        images.push(manifest);
    }
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": images,
        "annotations": release.annotations(),
    });
    let index = blob(
        &mut archive,
        "application/vnd.oci.image.index.v1+json",
        &serde_json::to_vec(&index)?,
    )?;
    let digest = index["digest"].as_str().unwrap_or_default().to_owned();
    let mut named = index;
    named["annotations"] = json!({
        // The name that containerd gives it on load, and Docker too since it keeps images as
        // containerd does.
        "io.containerd.image.name": format!("{}:{}", release.repository, release.version),
        "org.opencontainers.image.ref.name": release.version,
    });
    let top = json!({"schemaVersion": 2, "manifests": [named]});
    add(&mut archive, "index.json", 0o644, &serde_json::to_vec(&top)?)?;
    add(&mut archive, "oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, archive.into_inner()?)
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(digest)
}

/// Adds the image of one architecture; returns its manifest's descriptor.
fn image(archive: &mut Builder<Vec<u8>>, release: &Release, part: &Part) -> Result<Value> {
    let layer = layer(&entries_of(&part.program, part.nerdctl.as_deref()))?;
    let mut packed = GzEncoder::new(Vec::new(), Compression::best());
    packed.write_all(&layer)?;
    let configuration = json!({
        "architecture": part.architecture,
        "os": "linux",
        "created": release.created,
        "config": {"Entrypoint": ["/waitdaemon"]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", hex(&layer))]},
        "history": [{"created": release.created, "created_by": "make release-image"}],
    });
    let layer = blob(archive, "application/vnd.oci.image.layer.v1.tar+gzip", &packed.finish()?)?;
    let configuration = blob(
        archive,
        "application/vnd.oci.image.config.v1+json",
        &serde_json::to_vec(&configuration)?,
    )?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": configuration,
        "layers": [layer],
        "annotations": release.annotations(),
    });
    blob(archive, "application/vnd.oci.image.manifest.v1+json", &serde_json::to_vec(&manifest)?)
}

/// Adds a blob; returns its descriptor.
fn blob(archive: &mut Builder<Vec<u8>>, media_type: &str, content: &[u8]) -> Result<Value> {
    let digest = hex(content);
    add(archive, &format!("blobs/sha256/{digest}"), 0o644, content)?;
    Ok(
        json!({"mediaType": media_type, "digest": format!("sha256:{digest}"), "size": content.len()}),
    )
}
