//! The login for the registry of IMAGE. It goes to the engine with the pull, and is in no log,
//! label or environment.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use base64ct::{Base64, Base64Url, Encoding};
use serde_json::json;

use crate::error::{Context, Failure};
use crate::machine::command_line;
use crate::names::HandoffId;
use crate::reference::Reference;
use crate::settings::Settings;

/// The prefix of a login's environment variables.
const PREFIX: &str = "WAITDAEMON_REGISTRY_";
/// The names of Docker Hub in image references and Docker's configuration (distribution,
/// `reference/normalize.go`; docker/cli, `IndexServer`).
const DOCKER_HUB: [&str; 3] = ["docker.io", "index.docker.io", "registry-1.docker.io"];
/// The parent of the login folders: in memory on every OSIE.
const FOLDERS: &str = "/run";
/// The prefix of their names.
const NAME: &str = "waitdaemon-login-";
/// The configuration's name in the folder (docker/cli, `cli/config`).
const FILE: &str = "config.json";
/// The longest password that is read, in bytes; a token of a cloud's registry has a few thousand.
const MAX_PASSWORD: u64 = 64 * 1024;
const DOCKER_HUB_LOGIN: &str = "https://index.docker.io/v1/";

/// A username and its password. It cannot be printed.
pub struct Login {
    username: String,
    password: String,
}

impl Login {
    /// Returns the login that the action's environment names.
    ///
    /// # Errors
    /// If the password's file cannot be read, or holds no password.
    pub fn from_settings(settings: &Settings) -> Result<Option<Self>, Failure> {
        let Some((username, file)) = &settings.registry_login else { return Ok(None) };
        // Somebody may have put the password itself there.
        let shown = if file.is_absolute() { file } else { Path::new("a file without a path") };
        let password =
            read_password(file).context(format!("cannot read the password in {}", shown.display()));
        let password = password.map_err(|failure| {
            let field = "environment.WAITDAEMON_REGISTRY_PASSWORD_FILE";
            failure
                .field(field)
                .fix("mount a file with the password alone: volumes: [\"/host/path:/path:ro\"]")
        })?;
        Ok(Some(Self { username: username.clone(), password }))
    }

    /// Returns the login that the kernel's command line has for the agent, if the image is in that
    /// registry. Pure.
    pub fn of_machine(line: &str, image: &Reference) -> Option<Self> {
        let value = |name| command_line::value(line, name);
        let registry = value("docker_registry")?;
        let registry = registry.split_once("://").map_or(registry, |(_, rest)| rest);
        let registry = registry.split_once('/').map_or(registry, |(host, _)| host);
        let hub = |host: &str| DOCKER_HUB.contains(&host);
        let same = registry.eq_ignore_ascii_case(image.registry())
            || (hub(registry) && hub(image.registry()));
        let (username, password) =
            (value("registry_username")?.to_owned(), value("registry_password")?.to_owned());
        same.then_some(Self { username, password })
    }

    /// Returns the header X-Registry-Auth (Engine API, "Authentication").
    pub fn registry_auth(&self, image: &Reference) -> String {
        let auth = json!({"username": self.username, "password": self.password, "serveraddress": server(image.registry())});
        Base64Url::encode_string(auth.to_string().as_bytes())
    }

    /// Writes a configuration for nerdctl into a folder of its own.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn docker_config(&self, image: &Reference) -> io::Result<Config> {
        let folder = Path::new(FOLDERS).join(format!("{NAME}{}", HandoffId::random()?.as_str()));
        DirBuilder::new().mode(0o700).create(&folder)?;
        let owner = File::open(&folder)?;
        let config = Config { folder, owner };
        config.owner.try_lock()?;
        let auth = Base64::encode_string(format!("{}:{}", self.username, self.password).as_bytes());
        let text = json!({"auths": {(server(image.registry())): {"auth": auth}}}).to_string();
        let file = config.folder.join(FILE);
        OpenOptions::new()
            .create_new(true)
            .write(true)
            .mode(0o600)
            .open(file)?
            .write_all(text.as_bytes())?;
        Ok(config)
    }
}

/// Reads a password: the whole file without the end of its last line.
///
/// # Errors
/// If the file cannot be read, is empty, or is longer than a password; or if it is not a regular
/// file, which may never end.
fn read_password(file: &Path) -> io::Result<String> {
    let invalid = |why| Err(io::Error::new(io::ErrorKind::InvalidData, why));
    // Opening a FIFO waits for a writer (fifo(7)), so check the kind of file first.
    let found = fs::metadata(file)?;
    if !found.is_file() {
        return invalid("it is not a regular file");
    }
    if found.len() > MAX_PASSWORD {
        return invalid("it is longer than 64 KiB: it holds something else than a password");
    }
    let password = fs::read_to_string(file)?.trim_end_matches(['\r', '\n']).to_owned();
    if password.is_empty() { invalid("it is empty") } else { Ok(password) }
}

/// Removes what handoffs left that were killed during a pull: folders that no process owns any
/// more.
pub fn clear_leftovers() {
    let folders = fs::read_dir(FOLDERS).into_iter().flatten().flatten();
    for path in
        folders.filter(|entry| entry.file_name().as_encoded_bytes().starts_with(NAME.as_bytes()))
    {
        let folder = path.path();
        // The kernel releases a lock when its owner ends (flock(2)).
        if let Ok(owner) = File::open(&folder)
            && owner.try_lock().is_ok()
        {
            log::warn!(
                "removing {}, the registry's login of a handoff that was killed",
                folder.display()
            );
            drop(Config { folder, owner });
        }
    }
}

/// True for a variable, `NAME=value`, that belongs to a login; the user container does not get it.
pub fn is_of_login(variable: &str) -> bool {
    variable.starts_with(PREFIX)
}

/// Returns the name of a registry in Docker's configuration.
fn server(registry: &str) -> &str {
    if DOCKER_HUB.contains(&registry) { DOCKER_HUB_LOGIN } else { registry }
}

/// A folder with a configuration for one pull; dropping the value removes it.
pub struct Config {
    folder: PathBuf,
    /// The open folder, locked for as long as this value lives.
    owner: File,
}

impl Config {
    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Config {
    fn drop(&mut self) {
        // A handoff that was killed may not have written the file yet.
        let _ = fs::remove_file(self.folder.join(FILE));
        if let Err(error) = fs::remove_dir(&self.folder) {
            log::warn!(error = error.to_string().as_str(); "cannot remove the registry's login in {}", self.folder.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_login_is_for_its_registry_alone() {
        let username = |line: &str, image: &str| {
            Login::of_machine(line, &Reference::parse(image).unwrap()).map(|login| login.username)
        };
        let line = "docker_registry=r.example.org:5000 registry_username=u registry_password=p";
        assert_eq!(username(line, "r.example.org:5000/org/image:1").as_deref(), Some("u"));
        for image in
            ["r.example.org/image", "example.org:5000/image", "alpine", "x/r.example.org:5000"]
        {
            assert_eq!(username(line, image), None, "{image}");
        }
        let hub =
            "docker_registry=https://index.docker.io/v1/ registry_username=u registry_password=p";
        assert_eq!(username(hub, "alpine").as_deref(), Some("u"));
        assert_eq!(username(hub, "quay.io/x").as_deref(), None);
        assert_eq!(username("docker_registry=r:1 registry_username=u", "r:1/x"), None);
    }

    #[test]
    fn a_password_is_what_a_file_of_its_own_holds() {
        let folder =
            std::env::temp_dir().join(format!("waitdaemon-password-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let file = folder.join("file");
        for (text, password) in
            [("p", Some("p")), (" p ä\r\n", Some(" p ä")), ("", None), ("\n", None)]
        {
            fs::write(&file, text).unwrap();
            assert_eq!(read_password(&file).ok().as_deref(), password, "{text:?}");
        }
        fs::write(&file, [0xff]).unwrap();
        assert!(read_password(&file).is_err());
        fs::write(&file, "p".repeat(70_000)).unwrap();
        assert!(read_password(&file).unwrap_err().to_string().contains("longer"));
        for other in [&folder, Path::new("/dev/zero"), Path::new("/nowhere")] {
            assert!(read_password(other).is_err(), "{}", other.display());
        }
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn engines_get_it_in_their_own_forms() {
        let login = Login { username: "fleet".into(), password: "p:ä\"".into() };
        let image = Reference::parse("alpine").unwrap();
        let auth = Base64Url::decode_vec(&login.registry_auth(&image)).unwrap();
        let auth: serde_json::Value = serde_json::from_slice(&auth).unwrap();
        assert_eq!(
            auth,
            json!({"username": "fleet", "password": "p:ä\"", "serveraddress": DOCKER_HUB_LOGIN})
        );
    }
}
