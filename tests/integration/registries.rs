//! How a registry is reached: through the machine's proxies, with its certificates and its
//! hosts.toml, even if nerdctl runs in the action's own namespaces. Docker's engine pulls by
//! itself; what it trusts is the machine's matter too.

use std::fs;

use anyhow::{Context, Result, ensure};
use base64ct::{Base64, Encoding};
use lab::agent::Agent;
use lab::machine::Machine;
use lab::paths;
use lab::proxy::{PASSWORD, Proxy};
use lab::registry::{BEHIND, Registry, TLS_NAME};

use crate::by_agent::own_volumes;
use crate::case;
use crate::cases::{ON_CAPTAIN, ON_MAIN};
use crate::world::{
    Action, LIMIT, RUN, USER, WAITER, nothing_left, nothing_there, own_image_with_nerdctl, ran_once,
};

/// An address of the machine that is not in 127.0.0.0/8.
const ADDRESS: &str = "10.9.9.9";

/// Runs a script in the machine.
fn in_machine(machine: &Machine, script: &str) -> Result<()> {
    ensure!(machine.command("sh").args(["-c", script]).status()?.success(), "{script}");
    Ok(())
}

/// Lets the machine talk to a registry without TLS, with a hosts.toml.
fn plain(machine: &Machine, host: &str) -> Result<()> {
    let folder = format!("/etc/containerd/certs.d/{host}");
    in_machine(
        machine,
        &format!("mkdir -p {folder} && echo 'server = \"http://{host}\"' > {folder}/hosts.toml"),
    )
}

/// A machine's registry behind a proxy.
fn behind(machine: &Machine) -> Result<(Registry, Proxy)> {
    let registry = Registry::start(machine)?;
    let proxy = Proxy::start(machine, BEHIND)?;
    plain(machine, &format!("{BEHIND}:5000"))?;
    Ok((registry, proxy))
}

fn action(machine: &Machine) -> Action<'_> {
    Action::new(machine)
        .env("IMAGE", &format!("{BEHIND}:5000/ok:1"))
        .env("WAITDAEMON_LOG", "debug")
        .script(RUN)
}

case!(by_the_proxy_of_the_environment, ON_CAPTAIN, |machine| {
    let (mut registry, proxy) = behind(&machine)?;
    for name in ["HTTP_PROXY", "http_proxy"] {
        let dry =
            action(&machine).env(name, &proxy.url()).env("WAITDAEMON_DRY_RUN", "true").run()?;
        ensure!(dry.code == 0 && proxy.asked() > 0, "{dry:?}");
        let before = proxy.asked();
        action(&machine).env(name, &proxy.url()).wait("0").run_well()?;
        ran_once(&machine)?;
        ensure!(proxy.asked() > before, "{name}: pulled without the proxy");
        fs::remove_file(machine.out().join("runs"))?;
        machine.engine(&["rmi", &format!("{BEHIND}:5000/ok:1")])?;
    }
    // A registry with TLS is reached by the other proxy.
    let tls = format!("{BEHIND}:5004/ok:1");
    trust(&machine, &registry.with_tls(&machine)?)?;
    for name in ["HTTPS_PROXY", "https_proxy"] {
        let before = proxy.asked();
        let action = action(&machine).env("IMAGE", &tls).env(name, &proxy.url());
        action.env("HTTP_PROXY", "http://127.0.0.1:9").wait("0").run_well()?;
        ran_once(&machine)?;
        ensure!(proxy.asked() > before, "{name}: pulled without the proxy");
        fs::remove_file(machine.out().join("runs"))?;
        machine.engine(&["rmi", &tls])?;
    }
    // The proxy is not used for this host.
    let said = action(&machine).env("HTTP_PROXY", &proxy.url()).env("NO_PROXY", BEHIND);
    let said = said.env("WAITDAEMON_PULL_TIMEOUT_SECONDS", "3").run()?;
    said.expect(1, "environment.IMAGE", "cannot pull")?;
    nothing_there(&machine)
});

// The proxy has a password, and nothing of ours may show it.
case!(by_the_proxy_of_the_command_line, ON_CAPTAIN, |machine| {
    let (_registry, proxy) = behind(&machine)?;
    machine.set_command_line(&format!("quiet HTTP_PROXY={} NO_PROXY=10.0.0.1\n", proxy.url()))?;
    let said = action(&machine).wait("5").run_well()?;
    ensure!(!said.all().contains(PASSWORD), "the log shows the proxy's password: {said:?}");
    for container in [USER, WAITER] {
        let document = machine.inspect(container)?.to_string();
        ensure!(
            !document.contains(PASSWORD) && !document.contains("_PROXY"),
            "{container}: {document}"
        );
    }
    ran_once(&machine)?;
    ensure!(proxy.asked() > 0, "pulled without the proxy");
    // The action's setting takes precedence, even if it is empty.
    machine.engine(&["rmi", &format!("{BEHIND}:5000/ok:1")])?;
    let none = action(&machine).env("HTTP_PROXY", "").env("WAITDAEMON_PULL_TIMEOUT_SECONDS", "3");
    none.run()?.expect(1, "environment.IMAGE", "cannot pull")
});

/// Adds a certificate to the machine's bundle, as a host does to trust it.
fn trust(machine: &Machine, certificate: &std::path::Path) -> Result<()> {
    let bundle = "/etc/ssl/certs/ca-certificates.crt";
    in_machine(
        machine,
        &format!("mkdir -p /etc/ssl/certs && cat {} >> {bundle}", certificate.display()),
    )
}

/// An action with nerdctl in its own namespaces and more volumes.
fn own<'a>(machine: &'a Machine, image: &str, more: &[&str]) -> Action<'a> {
    let mut volumes = own_volumes(machine);
    volumes.extend(more.iter().map(|volume| (*volume).to_owned()));
    let action =
        Action::new(machine).env("IMAGE", image).env("NERDCTL_HOST", "false").volumes(volumes);
    action.network("host").wait("0").script(RUN)
}

case!(own_nerdctl_has_the_hosts_certificates, ON_CAPTAIN, |machine| {
    let mut registry = Registry::start(&machine)?;
    let certificate = registry.with_tls(&machine)?;
    machine.load(&own_image_with_nerdctl())?;
    in_machine(&machine, &format!("echo '127.0.0.1 {TLS_NAME} {BEHIND}' >> /etc/hosts"))?;
    let (with_tls, without) = (format!("{TLS_NAME}:5004/ok:1"), format!("{BEHIND}:5000/ok:1"));
    // The registry is not trusted yet: the fix names who has to trust it.
    for image in [&with_tls, &without] {
        for (own_image, host_pids) in [("waitdaemon:dev", true), ("waitdaemon:dev-nerdctl", false)]
        {
            let action = own(&machine, image, &[]).image(own_image);
            let action = if host_pids { action } else { action.with_own_pids() };
            let said = action.run()?;
            said.expect(1, "environment.IMAGE", "/etc/ssl/certs:/etc/ssl/certs:ro")
                .context(own_image)?;
            nothing_there(&machine)?;
        }
    }
    trust(&machine, &certificate)?;
    plain(&machine, &format!("{BEHIND}:5000"))?;
    let volumes =
        ["/etc/ssl/certs:/etc/ssl/certs:ro", "/etc/containerd/certs.d:/etc/containerd/certs.d:ro"];
    for image in [&with_tls, &without] {
        // Through PID 1, whose root is visible, or through the volumes that the fix names.
        own(&machine, image, &[]).run_well()?;
        ran_once(&machine).with_context(|| image.clone())?;
        fs::remove_file(machine.out().join("runs"))?;
        machine.engine(&["rmi", image])?;
        own(&machine, image, &volumes)
            .image("waitdaemon:dev-nerdctl")
            .with_own_pids()
            .run_well()?;
        ran_once(&machine).with_context(|| image.clone())?;
        fs::remove_file(machine.out().join("runs"))?;
        machine.engine(&["rmi", image])?;
    }
    nothing_left(&machine)
});

// The image that bundles nerdctl knows the authorities that sign the certificates of public
// registries.
case!(the_bundled_certificates_are_there, ON_CAPTAIN, |machine| {
    machine.load(&own_image_with_nerdctl())?;
    let name = machine.engine(&["create", "--name", "look", "waitdaemon:dev-nerdctl"])?;
    let file = machine.out().join("bundle");
    let copied = machine.engine(&[
        "cp",
        "look:/etc/ssl/certs/ca-certificates.crt",
        &file.display().to_string(),
    ]);
    copied.with_context(|| name)?;
    let count = fs::read_to_string(file)?.matches("BEGIN CERTIFICATE").count();
    ensure!(count > 100, "{count} certificates");
    Ok(())
});

// The documentation's action for a registry whose certificate an authority of one's own has signed.
case!(example_registry_ca, ON_MAIN, |machine| {
    let mut registry = Registry::start(&machine)?;
    let certificate = registry.with_tls(&machine)?;
    registry.with_tls_at(&machine, ADDRESS)?;
    in_machine(&machine, &format!("echo '{ADDRESS} {TLS_NAME}' >> /etc/hosts"))?;
    let image = format!("{TLS_NAME}:5004/ok:1");
    let action = || Action::new(&machine).env("IMAGE", &image).wait("0").script(RUN);
    let said = action().env("WAITDAEMON_PULL_TIMEOUT_SECONDS", "10").run()?;
    said.expect(1, "environment.IMAGE", "x509")?;
    nothing_there(&machine)?;
    let example = fs::read_to_string(paths::root().join("examples/registry-ca.yaml"))?
        .replace("registry.example.org", &format!("{TLS_NAME}:5004"))
        .replace("{{ .registry_ca }}", &Base64::encode_string(&fs::read(certificate)?));
    let place = machine.out().join("registry-ca.yaml");
    fs::write(&place, example)?;
    let agent = Agent::start(&machine, &place)?;
    let report = agent.final_report(LIMIT)?;
    ensure!(report.state == "SUCCESS", "{}: {}", report.state, agent.log());
    drop(agent);
    action().run_well()?;
    ran_once(&machine)
});
