//! Taking the machine down if the user's command could not.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::error::{Context, Failure};
use crate::machine::power::Request;
use crate::signals::Signals;

/// How long a machine that is asked to reboot by its init may go on before it is asked otherwise.
const GRACE: Duration = Duration::from_secs(3);
/// How long systemd may take to end us once it was asked.
const EFFECT_LIMIT: Duration = Duration::from_secs(60);
/// It is asked again after this time: the SIGTERM of BusyBox's command makes it re-execute itself, and what comes
/// meanwhile may be lost. Asking for what it does already changes nothing.
const ASK_AGAIN_EVERY: Duration = Duration::from_secs(5);

/// Asks systemd for what the user's command asked of an init that is not there. Returns when the
/// machine goes down, which ends us.
///
/// # Errors
/// If the machine does not go down.
pub async fn finish_reboot(request: Request, signals: &mut Signals) -> Result<(), Failure> {
    let name = request.name();
    tokio::select! {
        biased;
        () = sleep(GRACE) => {}
        _ = signals.stop() => return Ok(()),
    }
    tracing::warn!(
        "`{name}` exited 0 but the machine is still up: systemd ignores BusyBox's signal; asking systemd for {name}"
    );
    let end = Instant::now() + EFFECT_LIMIT;
    while Instant::now() < end {
        request.ask_systemd().context(format!("cannot ask systemd for {name}"))?;
        tokio::select! {
            biased;
            () = sleep(ASK_AGAIN_EVERY) => {}
            _ = signals.stop() => return Ok(()),
        }
    }
    let message = format!("the machine still runs {} s after systemd was asked for {name}", EFFECT_LIMIT.as_secs());
    Err(Failure::new(message).field("command").fix(format!("use {name} -f, which asks the kernel")))
}
