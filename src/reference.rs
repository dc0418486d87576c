//! Image references, after the grammar of the distribution project (`reference/regexp.go`).
//!
//! No crate is used, because the crates that parse references bring a regular expression engine,
//! which is larger than this whole program.

use std::fmt;

/// The longest repository name that registries accept, in bytes (distribution
/// `NameTotalLengthMax`).
const MAX_NAME: usize = 255;
/// The longest tag, in bytes (distribution, `tag` in `regexp.go`).
const MAX_TAG: usize = 128;

/// A valid image reference, kept as the user wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    written: String,
    name_end: usize,
    tag: Option<(usize, usize)>,
    digest: Option<usize>,
}

/// Why a text is not an image reference, in words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub &'static str);

impl Reference {
    /// Parses a reference such as `alpine`, `quay.io/org/image:v1` or `name@sha256:...`.
    ///
    /// # Errors
    /// If the text breaks a rule: [`Malformed`] with the first one.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => {
                check_digest(digest)?;
                (rest, Some(rest.len() + 1))
            }
            None => (text, None),
        };
        // A colon after the last slash starts the tag; one before it belongs to the registry's
        // port.
        let last_part = rest.rfind('/').map_or(0, |slash| slash + 1);
        let tag = rest[last_part..].find(':').map(|colon| {
            let start = last_part + colon + 1;
            (start, rest.len())
        });
        if let Some((start, end)) = tag {
            check_tag(&rest[start..end])?;
        }
        let name_end = tag.map_or(rest.len(), |(start, _)| start - 1);
        check_name(&rest[..name_end])?;
        Ok(Self { written: text.to_owned(), name_end, tag, digest })
    }

    /// Returns the reference as the user wrote it.
    pub fn as_written(&self) -> &str {
        &self.written
    }

    /// Returns the repository's name without tag and digest, as `fromImage` of the Engine API takes
    /// it.
    pub fn name(&self) -> &str {
        &self.written[..self.name_end]
    }

    /// Returns the digest, else the tag, else `latest`: what `tag` of the Engine API's pull takes.
    /// Without it the Engine would pull every tag of the repository (API 1.41, `POST
    /// /images/create`).
    pub fn digest_or_tag(&self) -> &str {
        match (self.digest, self.tag) {
            (Some(start), _) => &self.written[start..],
            (None, Some((start, end))) => &self.written[start..end],
            (None, None) => "latest",
        }
    }

    /// Returns the digest, such as `sha256:...`, if the reference has one.
    pub fn digest(&self) -> Option<&str> {
        self.digest.map(|start| &self.written[start..])
    }

    /// Returns the full name, with nothing left out: `docker.io/library/alpine:latest` for `alpine`
    /// (distribution `ParseNormalizedNamed`, `TagNameOnly`). No engine mistakes it for the
    /// beginning of an ID.
    pub fn normalized(&self) -> String {
        let path = match self.name().split_once('/') {
            Some((first, path)) if looks_like_host(first) => path,
            _ => self.name(),
        };
        let registry =
            if self.registry() == "index.docker.io" { "docker.io" } else { self.registry() };
        let library = if registry == "docker.io" && !path.contains('/') { "library/" } else { "" };
        let tag = match (self.tag, self.digest) {
            (Some((start, end)), _) => format!(":{}", &self.written[start..end]),
            (None, Some(_)) => String::new(),
            (None, None) => ":latest".to_owned(),
        };
        let digest = self.digest().map(|digest| format!("@{digest}")).unwrap_or_default();
        format!("{registry}/{library}{path}{tag}{digest}")
    }

    /// True if a name from the engine means the same image as this reference.
    pub fn is_named(&self, name: &str) -> bool {
        Self::parse(name).is_ok_and(|other| other.normalized() == self.normalized())
    }

    /// Returns the reference's registry: its first part if that looks like a host (distribution
    /// `splitDockerDomain`), else `docker.io`.
    pub fn registry(&self) -> &str {
        match self.name().split_once('/') {
            Some((first, _)) if looks_like_host(first) => first,
            _ => "docker.io",
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written)
    }
}

fn looks_like_host(part: &str) -> bool {
    part == "localhost" || part.contains(['.', ':']) || part.chars().any(|c| c.is_ascii_uppercase())
}

fn check_name(name: &str) -> Result<(), Malformed> {
    if name.is_empty() {
        return Err(Malformed("has no name"));
    }
    if name.len() > MAX_NAME {
        return Err(Malformed("has a name of more than 255 characters"));
    }
    let path = match name.split_once('/') {
        Some((first, path)) if looks_like_host(first) => {
            check_host(first)?;
            path
        }
        _ => name,
    };
    path.split('/').try_for_each(check_path_part)
}

fn check_host(host: &str) -> Result<(), Malformed> {
    let (host, port) = match host.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (host, None),
    };
    if port.is_some_and(|port| port.is_empty() || !port.bytes().all(|b| b.is_ascii_digit())) {
        return Err(Malformed("has a registry whose port is not a number"));
    }
    if let Some(inner) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        let address =
            !inner.is_empty() && inner.bytes().all(|b| b.is_ascii_hexdigit() || b == b':');
        return address
            .then_some(())
            .ok_or(Malformed("has a registry whose IPv6 address is not valid"));
    }
    let part = |part: &str| {
        let alnum = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
        let bytes = part.as_bytes();
        alnum(bytes.first())
            && alnum(bytes.last())
            && bytes.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-')
    };
    host.split('.')
        .all(part)
        .then_some(())
        .ok_or(Malformed("has a registry whose host name is not valid"))
}

/// Checks that a part is `[a-z0-9]+` joined by one `.`, one or two `_`, or any number of `-`.
fn check_path_part(part: &str) -> Result<(), Malformed> {
    if part.is_empty() {
        return Err(Malformed("has an empty part in its name (a slash too many)"));
    }
    if part.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err(Malformed("has a name that is not in lower case"));
    }
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    if !part.bytes().all(|b| word(b) || matches!(b, b'.' | b'_' | b'-')) {
        return Err(Malformed(
            "has a character in its name other than a-z, 0-9, '.', '_', '-', '/'",
        ));
    }
    let separators = part.split(|c: char| word(c as u8)).filter(|run| !run.is_empty());
    let allowed = |run: &str| matches!(run, "." | "_" | "__") || run.bytes().all(|b| b == b'-');
    let edges = part.bytes().next().is_some_and(word) && part.bytes().last().is_some_and(word);
    if edges && separators.into_iter().all(allowed) {
        return Ok(());
    }
    Err(Malformed("has a separator ('.', '_', '-') at a wrong place in its name"))
}

fn check_tag(tag: &str) -> Result<(), Malformed> {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let valid = tag.len() <= MAX_TAG
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|b| word(b) || matches!(b, b'.' | b'-'));
    valid.then_some(()).ok_or(Malformed("has a tag that is not valid"))
}

fn check_digest(digest: &str) -> Result<(), Malformed> {
    let wrong = Malformed("has a digest that is not valid (sha256: and 64 hexadecimal digits)");
    let (algorithm, hex) = digest.split_once(':').ok_or_else(|| wrong.clone())?;
    let length = match algorithm {
        "sha256" => 64,
        "sha384" => 96,
        "sha512" => 128,
        _ => return Err(wrong),
    };
    let valid = hex.len() == length
        && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    valid.then_some(()).ok_or(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(text: &str) -> (String, String, String) {
        let reference = Reference::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
        (reference.registry().into(), reference.name().into(), reference.digest_or_tag().into())
    }

    #[test]
    fn reads_what_people_write() {
        let digest = format!("sha256:{}", "0a".repeat(32));
        for (text, registry, name, tag) in [
            ("alpine", "docker.io", "alpine", "latest"),
            ("alpine:3.20", "docker.io", "alpine", "3.20"),
            ("library/alpine", "docker.io", "library/alpine", "latest"),
            (
                "quay.io/tinkerbell-actions/kexec:v1.0.0",
                "quay.io",
                "quay.io/tinkerbell-actions/kexec",
                "v1.0.0",
            ),
            ("localhost:5000/a", "localhost:5000", "localhost:5000/a", "latest"),
            ("localhost/a", "localhost", "localhost/a", "latest"),
            ("[fd00::1]:5000/a:b", "[fd00::1]:5000", "[fd00::1]:5000/a", "b"),
            ("a/b__c/d---e.f", "docker.io", "a/b__c/d---e.f", "latest"),
            (&format!("alpine@{digest}"), "docker.io", "alpine", &digest),
            (&format!("r.io:1/a:t@{digest}"), "r.io:1", "r.io:1/a", &digest),
        ] {
            assert_eq!(parts(text), (registry.into(), name.into(), tag.into()), "{text}");
        }
    }

    #[test]
    fn full_names_leave_nothing_out() {
        let digest = format!("sha256:{}", "0a".repeat(32));
        for (text, full) in [
            ("alpine", "docker.io/library/alpine:latest".to_owned()),
            ("cafe", "docker.io/library/cafe:latest".to_owned()),
            ("docker.io/alpine:3", "docker.io/library/alpine:3".to_owned()),
            ("index.docker.io/a/b", "docker.io/a/b:latest".to_owned()),
            ("localhost/a", "localhost/a:latest".to_owned()),
            ("r.io:1/a:t", "r.io:1/a:t".to_owned()),
            (&format!("alpine@{digest}"), format!("docker.io/library/alpine@{digest}")),
            (&format!("alpine:3@{digest}"), format!("docker.io/library/alpine:3@{digest}")),
        ] {
            let reference = Reference::parse(text).unwrap();
            assert_eq!(reference.normalized(), full);
            assert!(
                reference.is_named(&full) && !reference.is_named("docker.io/library/other:latest"),
                "{text}"
            );
            assert_eq!(Reference::parse(&full).unwrap().normalized(), full, "twice is once");
        }
    }

    #[test]
    fn refuses_what_no_registry_has() {
        let long = "a".repeat(256);
        for text in [
            "",
            "--privileged",
            "../x",
            "a/../b",
            "/a",
            "a/",
            "a//b",
            "Alpine",
            "a b",
            "a\nb",
            "a:",
            "a:-x",
            "a@",
            "a@sha256:12",
            "a@md5:00",
            "a._b",
            "a___b",
            "a.",
            ":x",
            "@x",
            "r.io:x/a",
            "-r.io/a",
            "[::g]/a",
            "ä",
            "a:ä",
            "a:b:c",
            &long,
        ] {
            assert!(Reference::parse(text).is_err(), "{text:?} passed");
        }
    }

    #[test]
    fn never_panics_and_keeps_the_text() {
        proptest::proptest!(|(text in "\\PC{0,40}|[a-z:@/._A-Z-]{0,30}")| {
            if let Ok(reference) = Reference::parse(&text) {
                proptest::prop_assert_eq!(reference.as_written(), text.as_str());
                proptest::prop_assert!(!reference.name().is_empty());
                proptest::prop_assert!(!reference.name().contains('@'));
            }
        });
    }
}
