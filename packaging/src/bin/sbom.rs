//! `scripts/release sbom`: sbom OUT.json VERSION ARCHITECTURE PART.json[#NAME]... writes the
//! CycloneDX document of an image: the components of all parts, or the one of this name. The same
//! input gives the same bytes.

use std::fs;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [out, version, architecture, parts @ ..] = arguments.as_slice() else {
        bail!("usage: sbom OUT.json VERSION ARCHITECTURE PART.json[#NAME]...");
    };
    let mut components: Vec<Value> = Vec::new();
    for part in parts {
        let (path, name) =
            part.split_once('#').map_or((part.as_str(), None), |(path, name)| (path, Some(name)));
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
        let mut document: Value = serde_json::from_str(&text)?;
        let mut found =
            document["components"].as_array_mut().map(std::mem::take).unwrap_or_default();
        match name {
            Some(name) => found.retain(|component| component["name"] == name),
            // What the part itself describes: the program.
            None => found.extend(document.pointer_mut("/metadata/component").map(Value::take)),
        }
        ensure!(!found.is_empty(), "{part} has no components");
        components.append(&mut found);
    }
    components.iter_mut().for_each(without_paths);
    let document = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": {
            "type": "container",
            "name": "waitdaemon",
            "version": version,
            "properties": [{"name": "architecture", "value": architecture}],
        }},
        "components": components,
    });
    fs::write(out, serde_json::to_vec_pretty(&document)?)?;
    let count = document["components"].as_array().map_or(0, Vec::len);
    println!("{out}: {version} for {architecture}, {count} components");
    Ok(())
}

/// Takes out what names a folder of the machine that built it.
fn without_paths(component: &mut Value) {
    let is_path = |value: &Value| value.as_str().is_some_and(|text| text.contains("file://"));
    if let Some(fields) = component.as_object_mut() {
        fields.retain(|_, value| !is_path(value));
        for inner in
            fields.get_mut("components").and_then(Value::as_array_mut).into_iter().flatten()
        {
            without_paths(inner);
        }
    }
}
