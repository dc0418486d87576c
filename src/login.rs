//! The login for the registry of IMAGE. It goes to the engine with the pull: no log, label or environment has it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE};
use serde_json::json;

use crate::error::{Context, Failure};
use crate::machine::command_line;
use crate::names::HandoffId;
use crate::reference::Reference;
use crate::settings::Settings;

/// How the environment's names of a login begin.
const PREFIX: &str = "WAITDAEMON_REGISTRY_";
/// Docker Hub, as image references and Docker's configuration name it (distribution, `reference/normalize.go`;
/// docker/cli, `IndexServer`).
const DOCKER_HUB: [&str; 3] = ["docker.io", "index.docker.io", "registry-1.docker.io"];
/// Where the folders are: memory on every OSIE.
const FOLDERS: &str = "/run";
/// How their names begin.
const NAME: &str = "waitdaemon-login-";
/// Its name in the folder (docker/cli, `cli/config`).
const FILE: &str = "config.json";
const DOCKER_HUB_LOGIN: &str = "https://index.docker.io/v1/";

/// A username and its password. It cannot be printed.
pub struct Login {
    username: String,
    password: String,
}

impl Login {
    /// The login that the action's environment names.
    ///
    /// # Errors
    /// Where the password's file cannot be read.
    pub fn given(settings: &Settings) -> Result<Option<Self>, Failure> {
        let Some((username, file)) = &settings.registry_login else { return Ok(None) };
        let password = fs::read_to_string(file).context(format!("cannot read the password in {}", file.display()));
        let password = password.map_err(|failure| {
            let field = "environment.WAITDAEMON_REGISTRY_PASSWORD_FILE";
            failure.field(field).fix("mount the file: volumes: [\"/host/path:/path:ro\"]")
        })?;
        let password = password.trim_end_matches(['\r', '\n']).to_owned();
        Ok(Some(Self { username: username.clone(), password }))
    }

    /// The login that the kernel's command line has for the agent, where the image is in that very registry. Pure.
    pub fn of_machine(line: &str, image: &Reference) -> Option<Self> {
        let value = |name| command_line::value(line, name);
        let registry = value("docker_registry")?;
        let registry = registry.split_once("://").map_or(registry, |(_, rest)| rest);
        let registry = registry.split_once('/').map_or(registry, |(host, _)| host);
        let hub = |host: &str| DOCKER_HUB.contains(&host);
        let same = registry.eq_ignore_ascii_case(image.registry()) || (hub(registry) && hub(image.registry()));
        let (username, password) = (value("registry_username")?.to_owned(), value("registry_password")?.to_owned());
        same.then_some(Self { username, password })
    }

    /// The header X-Registry-Auth (Engine API, "Authentication").
    pub fn registry_auth(&self, image: &Reference) -> String {
        let auth =
            json!({"username": self.username, "password": self.password, "serveraddress": server(image.registry())});
        BASE64_URL_SAFE.encode(auth.to_string())
    }

    /// A configuration as nerdctl reads it, in a folder of its own.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn docker_config(&self, image: &Reference) -> io::Result<Config> {
        let folder = Path::new(FOLDERS).join(format!("{NAME}{}", HandoffId::random()?.as_str()));
        DirBuilder::new().mode(0o700).create(&folder)?;
        let owner = File::open(&folder)?;
        let config = Config { folder, owner };
        config.owner.try_lock()?;
        let auth = BASE64_STANDARD.encode(format!("{}:{}", self.username, self.password));
        let text = json!({"auths": {(server(image.registry())): {"auth": auth}}}).to_string();
        let file = config.folder.join(FILE);
        OpenOptions::new().create_new(true).write(true).mode(0o600).open(file)?.write_all(text.as_bytes())?;
        Ok(config)
    }
}

/// Removes what a handoff that was killed in mid-pull left: a folder that nobody owns any more.
pub fn clear_leftovers() {
    let folders = fs::read_dir(FOLDERS).into_iter().flatten().flatten();
    for path in folders.filter(|entry| entry.file_name().as_encoded_bytes().starts_with(NAME.as_bytes())) {
        let folder = path.path();
        // The kernel gives up a lock with its owner (flock(2)).
        if let Ok(owner) = File::open(&folder)
            && owner.try_lock().is_ok()
        {
            tracing::warn!("removing {}, the registry's login of a handoff that was killed", folder.display());
            drop(Config { folder, owner });
        }
    }
}

/// True for a variable, `NAME=value`, that belongs to a login: the user container does not get it.
pub fn is_of_login(variable: &str) -> bool {
    variable.starts_with(PREFIX)
}

/// How Docker's configuration names a registry.
fn server(registry: &str) -> &str {
    if DOCKER_HUB.contains(&registry) { DOCKER_HUB_LOGIN } else { registry }
}

/// A folder with a configuration for one pull; it is removed with the value.
pub struct Config {
    folder: PathBuf,
    /// Locked for as long as this lives.
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
        // One that was killed may not have written it yet.
        let _ = fs::remove_file(self.folder.join(FILE));
        if let Err(error) = fs::remove_dir(&self.folder) {
            tracing::warn!(error = %error, "cannot remove the registry's login in {}", self.folder.display());
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
        for image in ["r.example.org/image", "example.org:5000/image", "alpine", "x/r.example.org:5000"] {
            assert_eq!(username(line, image), None, "{image}");
        }
        let hub = "docker_registry=https://index.docker.io/v1/ registry_username=u registry_password=p";
        assert_eq!(username(hub, "alpine").as_deref(), Some("u"));
        assert_eq!(username(hub, "quay.io/x").as_deref(), None);
        assert_eq!(username("docker_registry=r:1 registry_username=u", "r:1/x"), None);
    }

    #[test]
    fn engines_get_it_in_their_own_forms() {
        let login = Login { username: "fleet".into(), password: "p:ä\"".into() };
        let image = Reference::parse("alpine").unwrap();
        let auth = BASE64_URL_SAFE.decode(login.registry_auth(&image)).unwrap();
        let auth: serde_json::Value = serde_json::from_slice(&auth).unwrap();
        assert_eq!(auth, json!({"username": "fleet", "password": "p:ä\"", "serveraddress": DOCKER_HUB_LOGIN}));
    }
}
