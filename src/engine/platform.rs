//! Which machines an image is built for. Pure.

use std::fmt;

use serde_json::Value;

use super::json::{list, text};

/// An operating system and an architecture, in the terms of Go and OCI (`GOOS`, `GOARCH`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Platform {
    /// Such as `linux`.
    pub os: String,
    /// Such as `amd64`.
    pub architecture: String,
}

impl Platform {
    /// Reads a platform from an object's values under these keys; `None` if one of them is missing.
    pub fn read(object: &Value, os: &str, architecture: &str) -> Option<Self> {
        let (os, architecture) = (text(&object[os]), text(&object[architecture]));
        let said = !os.is_empty() && !architecture.is_empty() && architecture != "unknown";
        said.then(|| Self { os: os.to_owned(), architecture: architecture.to_owned() })
    }

    /// Reads a list of platforms, as a registry gives it.
    pub fn read_all(objects: &Value) -> Vec<Self> {
        list(objects).iter().filter_map(|object| Self::read(object, "os", "architecture")).collect()
    }

    /// True if a machine of this architecture runs it: its own architecture, or the 32-bit one that
    /// its processor supports as well.
    pub fn runs_on(&self, machine: &str) -> bool {
        let smaller = match machine {
            "arm64" => "arm",
            "amd64" => "386",
            _ => "",
        };
        self.os == "linux" && [machine, smaller].contains(&self.architecture.as_str())
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.os == "linux" {
            f.write_str(&self.architecture)
        } else {
            write!(f, "{}/{}", self.os, self.architecture)
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn platforms_are_read_and_compared() {
        let read = |os: &str, architecture: &str| {
            Platform::read(&json!({"Os": os, "Architecture": architecture}), "Os", "Architecture")
        };
        for (os, architecture, machines, shown) in [
            ("linux", "amd64", &["amd64"][..], "amd64"),
            ("linux", "386", &["amd64"], "386"),
            ("linux", "arm64", &["arm64"], "arm64"),
            ("linux", "arm", &["arm64"], "arm"),
            ("linux", "riscv64", &["riscv64"], "riscv64"),
            ("windows", "amd64", &[], "windows/amd64"),
        ] {
            let platform = read(os, architecture).unwrap();
            for machine in ["amd64", "arm64", "riscv64"] {
                assert_eq!(
                    platform.runs_on(machine),
                    machines.contains(&machine),
                    "{platform} on {machine}"
                );
            }
            assert_eq!(platform.to_string(), shown);
        }
        for (os, architecture) in [("", "amd64"), ("linux", ""), ("unknown", "unknown")] {
            assert_eq!(read(os, architecture), None);
        }
        assert_eq!(
            Platform::read_all(&json!([{"os": "linux", "architecture": "arm"}, 1, {}])).len(),
            1
        );
        assert!(Platform::read_all(&Value::Null).is_empty());
    }
}
