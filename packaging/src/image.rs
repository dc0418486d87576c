//! One-layer images as a docker-archive, which `docker load` and `nerdctl load` read. The same
//! input gives the same bytes.

use std::fs;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use base64ct::{Base64, Encoding};
use serde_json::{Value, json};
use tar::Builder;

use crate::architecture::Architecture;
use crate::archive::{Entry, add, hex, layer};

/// Writes the image with tag `reference` and the `config` of its OCI image configuration to `path`,
/// for this machine's architecture.
///
/// # Errors
/// If a file cannot be read or written.
pub fn write(path: &Path, reference: &str, config: &Value, entries: &[Entry]) -> Result<()> {
    write_for(Architecture::NATIVE, path, reference, config, entries)
}

/// As [`write`], for another architecture.
///
/// # Errors
/// As [`write`].
pub fn write_for(
    architecture: Architecture,
    path: &Path,
    reference: &str,
    config: &Value,
    entries: &[Entry],
) -> Result<()> {
    let layer = layer(entries)?;
    let layer_id = hex(&layer);
    let configuration = serde_json::to_vec(&json!({
        "architecture": architecture.name(),
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{layer_id}")]},
        "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "make image"}],
    }))?;
    let config_name = format!("{}.json", hex(&configuration));
    let layer_name = format!("{layer_id}/layer.tar");
    let manifest = serde_json::to_vec(&json!([{
        "Config": config_name, "RepoTags": [reference], "Layers": [layer_name],
    }]))?;

    let mut archive = Builder::new(Vec::new());
    add(&mut archive, &config_name, 0o644, &configuration)?;
    add(&mut archive, &layer_name, 0o644, &layer)?;
    add(&mut archive, "manifest.json", 0o644, &manifest)?;
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let bytes = archive.into_inner()?;
    fs::File::create(path)?
        .write_all(&bytes)
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Writes waitdaemon's own image, for the architecture of `program`: the program as `/waitdaemon`; `/waiter`, a link to it; `/journal`,
/// where a waiter on Docker keeps what it remembers; and `/tmp`, which nerdctl needs. The variant
/// that bundles nerdctl also has `nerdctl` in /usr/local/bin and the certificates that it trusts.
///
/// # Errors
/// As [`write`].
pub fn waitdaemon(
    path: &Path,
    reference: &str,
    program: &Path,
    nerdctl: Option<&Path>,
) -> Result<()> {
    waitdaemon_with(path, reference, program, nerdctl, &json!({"Entrypoint": ["/waitdaemon"]}))
}

/// As [`waitdaemon`], repackaged with another image configuration.
///
/// # Errors
/// As [`write`].
pub fn waitdaemon_with(
    path: &Path,
    reference: &str,
    program: &Path,
    nerdctl: Option<&Path>,
    config: &Value,
) -> Result<()> {
    let architecture = Architecture::of_program(program)?;
    write_for(architecture, path, reference, config, &entries_of(program, nerdctl))
}

/// The entries of waitdaemon's image.
pub(crate) fn entries_of(program: &Path, nerdctl: Option<&Path>) -> Vec<Entry> {
    let mut entries = vec![
        Entry::Program("waitdaemon", program.into()),
        Entry::Link("waiter".into(), "waitdaemon"),
        Entry::Folder("journal", 0o1777),
        Entry::Folder("tmp", 0o1777),
    ];
    if let Some(nerdctl) = nerdctl {
        entries.push(Entry::File("usr/local/bin/nerdctl", 0o755, nerdctl.into()));
        // The bundled nerdctl pulls by itself and knows no other authorities.
        entries.push(Entry::Text("etc/ssl/certs/ca-certificates.crt", 0o644, certificates()));
    }
    entries
}

/// The certificates of the authorities that Mozilla trusts, as PEM (RFC 7468).
fn certificates() -> String {
    let pem = |der: &[u8]| {
        let text = Base64::encode_string(der);
        let lines: Vec<String> = text
            .as_bytes()
            .chunks(64)
            .map(|line| String::from_utf8_lossy(line).into_owned())
            .collect();
        format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
    };
    webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter().map(|certificate| pem(certificate)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_input_gives_the_same_bytes() -> Result<()> {
        let folder = std::env::temp_dir().join(format!("waitdaemon-image-{}", std::process::id()));
        let made: Vec<Vec<u8>> = ["a", "b"]
            .map(|name| {
                let path = folder.join(name);
                write(
                    &path,
                    "x:1",
                    &json!({}),
                    &[Entry::Text("f", 0o644, "t".into()), Entry::Link("l".into(), "f")],
                )?;
                Ok(fs::read(path)?)
            })
            .into_iter()
            .collect::<Result<_>>()?;
        fs::remove_dir_all(folder)?;
        assert!(made[0] == made[1] && !made[0].is_empty());
        Ok(())
    }
}
