//! Serving the same action again: there is one pending user container, not two. A user container
//! that runs is left alone and keeps its waiter, whatever the order of the list and whatever
//! happens in between.

use std::fs;

use anyhow::{Context, Result, ensure};
use lab::agent::Agent;
use lab::machine::{Machine, State};
use lab::system::System;
use lab::until::until;

use crate::case;
use crate::cases::{ON_ALL, ON_CAPTAINS, ON_MAIN};
use crate::faults::hold::Hold;
use crate::world::{
    Action, LIMIT, RUN, USER, WAITER, nothing_left, ours, process, ran_once, running, runs,
    waiter_line, waiter_log, waits, watches,
};

case!(while_waiting, ON_ALL, |machine: Shared| {
    let action = Action::alpine(&machine).wait("6").script(RUN);
    action.run_well()?;
    waits(&machine)?;
    let first = machine.seen(USER).context("no user container")?;
    ensure!(first.state == State::Created, "the user container must not run yet: {first:?}");
    action.run_well()?;
    let second = machine.seen(USER).context("no user container")?;
    ensure!(second.id != first.id, "the first attempt's user container must be gone");
    ensure!(
        ours(&machine)?.lines().count() == 2,
        "one waiter and one user container: {}",
        ours(&machine)?
    );
    ran_once(&machine)
});

/// An action whose user container keeps running and is watched.
fn long<'a>(machine: &'a Machine, wait: &str) -> Action<'a> {
    Action::alpine(machine)
        .wait(wait)
        .env("WAITDAEMON_WATCH_SECONDS", "600")
        .script(&format!("{RUN}; exec sleep 1000"))
}

/// Waits until `count` waiters have started their user containers.
fn started(machine: &Machine, count: usize) -> Result<()> {
    until(&format!("{count} user containers to be started"), LIMIT, || {
        let lines = waiter_log(machine);
        Ok((lines.iter().filter(|line| line["message"] == "user container started").count()
            == count)
            .then_some(()))
    })
}

// nerdctl lists containers in random order, so this takes ten names.
case!(while_the_user_container_runs, ON_MAIN, |machine: Shared| {
    let names = if machine.system() == System::CaptainOS { 10 } else { 2 };
    for round in 0..names {
        let action = long(&machine, "0").name(&format!("round{round}"));
        action.run_well()?;
        started(&machine, round + 1)?;
        let both = ["waiter", "user"].map(|role| format!("{}-{role}", action.container()));
        let seen = || both.iter().map(|one| running(&machine, one)).collect::<Result<Vec<_>>>();
        let before = seen()?;
        let said = action.run_well()?;
        ensure!(said.all().contains("is already running; leaving it alone"), "{said:?}");
        let after = seen().with_context(|| format!("round {round}: {said:?}"))?;
        ensure!(after == before, "round {round}: {before:?} became {after:?}");
        ensure!(runs(&machine) == round + 1, "it was started again");
    }
    let there = machine.list()?;
    let ours = |line: &&str| line.contains("-waiter ") || line.contains("-user ");
    ensure!(there.lines().filter(ours).count() == 2 * names, "{there}");
    Ok(())
});

case!(when_the_watch_is_over, ON_MAIN, |machine: Shared| {
    let action = Action::alpine(&machine)
        .wait("0")
        .env("WAITDAEMON_WATCH_SECONDS", "1")
        .command(&["sleep", "1000"]);
    action.run_well()?;
    until("the waiter's end", LIMIT, || Ok((!machine.has(WAITER)).then_some(())))?;
    let first = running(&machine, USER)?;
    action.run_well()?;
    ensure!(running(&machine, USER)? == first, "it was not left alone");
    ensure!(!machine.has(WAITER), "there is a second waiter: {}", machine.list()?);
    Ok(())
});

// The engine restarts the waiter; containerd's restart monitor looks every 10 s.
case!(while_the_waiter_is_killed, ON_MAIN, |machine: Shared| {
    let action = long(&machine, "0");
    action.run_well()?;
    watches(&machine)?;
    let (user, waiter) = (running(&machine, USER)?, running(&machine, WAITER)?.1);
    machine.signal(process(&machine, WAITER)?, "KILL")?;
    action.run_well()?;
    ensure!(running(&machine, USER)? == user, "the user container was not left alone");
    let again = until("the waiter to run again", LIMIT, || {
        Ok(running(&machine, WAITER).ok().filter(|(_, now)| now.pid != waiter.pid))
    });
    let (_, again) = again.with_context(|| machine.list().unwrap_or_default())?;
    ensure!(again.id == waiter.id, "another waiter: {again:?}");
    let watches = "the waiter was restarted: the user container was started before";
    waiter_line(&machine, watches, |line| line["message"] == watches)?;
    ensure!(running(&machine, USER)? == user, "the user container was not left alone");
    ensure!(runs(&machine) == 1, "it was started again");
    Ok(())
});

// The user container is seen as not running, but runs by the time it is removed.
case!(the_start_comes_first, ON_MAIN, |machine| {
    long(&machine, "15").run_well()?;
    let hold = Hold::a_removal(&machine)?;
    let second = hold.on_its_way(long(&machine, "15")).start()?;
    hold.held()?;
    until("the user container's start", LIMIT, || Ok((runs(&machine) == 1).then_some(())))?;
    watches(&machine)?;
    let before = [running(&machine, USER)?, running(&machine, WAITER)?];
    hold.go()?;
    let said = second.end()?;
    ensure!(said.code == 0, "the second failed: {said:?}");
    let now = [running(&machine, USER)?, running(&machine, WAITER)?];
    ensure!(now == before, "{before:?} became {now:?}: {said:?}");
    ensure!(runs(&machine) == 1, "it ran {} times", runs(&machine));
    Ok(())
});

// The user container is removed while its waiter is about to start it.
case!(the_removal_comes_first, ON_MAIN, |machine| {
    let action = || Action::alpine(&machine).wait("0").script(RUN);
    let hold = Hold::the_users_start(&machine)?;
    hold.on_its_way(action()).run_well()?;
    hold.held()?;
    let earlier = machine.seen(USER).context("no user container")?;
    hold.no_more()?;
    let second = action().start()?;
    until("the removal of the earlier user container", LIMIT, || {
        Ok(machine.seen(USER).is_none_or(|user| user.id != earlier.id).then_some(()))
    })?;
    hold.go()?;
    let said = second.end()?;
    ensure!(said.code == 0, "the second failed: {said:?}");
    ran_once(&machine).with_context(|| format!("{said:?}"))
});

// The user container failed and is kept, and its waiter has ended: the action runs anew, with its
// own waiter.
case!(after_a_failure, ON_MAIN, |machine: Shared| {
    let fails = Action::alpine(&machine).wait("0").script(&format!("{RUN}; exit 7"));
    fails.run_well()?;
    let ended = |name| machine.seen(name).is_some_and(|seen| seen.state == State::Ended);
    until("the waiter's end", LIMIT, || Ok((ended(USER) && ended(WAITER)).then_some(())))?;
    let kept = machine.seen(USER).context("no user container")?;
    long(&machine, "0").run_well()?;
    until("the second run", LIMIT, || Ok((runs(&machine) == 2).then_some(())))?;
    let (_, now) = running(&machine, USER)?;
    running(&machine, WAITER)?;
    ensure!(now.id != kept.id, "the user container that failed was started again");
    // A run that ends well leaves nothing behind.
    machine.engine(&["rm", "-f", WAITER, USER])?;
    Action::alpine(&machine).wait("0").script("exit 0").run_well()?;
    nothing_left(&machine)
});

case!(after_success_it_runs_again, ON_MAIN, |machine: Shared| {
    for run in 1..=2 {
        Action::alpine(&machine).wait("0").script(RUN).run_well()?;
        nothing_left(&machine)?;
        ensure!(runs(&machine) == run, "served {run} times, it ran {} times", runs(&machine));
    }
    Ok(())
});

// Another Workflow's action has the same name, as with tink-worker's names. It must not be mistaken
// for the action that runs or is about to run.
case!(another_request_by_the_same_name, ON_MAIN, |machine| {
    let first = long(&machine, "0");
    first.run_well()?;
    watches(&machine)?;
    let user = running(&machine, USER)?;
    let others = [
        Action::alpine(&machine).wait("0").script("true"),
        long(&machine, "0").env("CMD_LINE", "quiet"),
        long(&machine, "0")
            .image("ghcr.io/waitdaemon/waitdaemon:latest")
            .env("IMAGE", "waitdaemon:other"),
    ];
    for other in others {
        let said = other.run()?;
        said.expect(1, "name", "belongs to another action of the same name")?;
        ensure!(running(&machine, USER)? == user, "the first's user container was not left alone");
    }
    machine.engine(&["rm", "-f", WAITER, USER])?;
    // An action that waits.
    Action::alpine(&machine).wait("60").script(RUN).run_well()?;
    waits(&machine)?;
    Action::alpine(&machine).wait("0").script("true").run()?.expect(
        1,
        "name",
        "belongs to another action",
    )?;
    ensure!(machine.has(WAITER) && machine.has(USER), "{}", machine.list()?);
    // An action whose waiter is gone waits for nothing.
    machine.engine(&["rm", "-f", WAITER])?;
    Action::alpine(&machine).wait("0").script(RUN).run_well()?;
    until("its run", LIMIT, || Ok((runs(&machine) >= 1).then_some(())))?;
    nothing_left(&machine)
});

// Two agents run the same action at the same moment. containerd, unlike Docker, accepts a name
// twice. One may have the user container's name and the other the waiter's: then they wait for each
// other.
case!(twice_at_once, ON_CAPTAINS, |machine: Shared| {
    let file = Action::alpine(&machine).wait("4").script(RUN).file()?;
    let agents = [0, 1].map(|number| Agent::start_another(&machine, &file, number));
    let (mut succeeded, mut said) = (0, String::new());
    for agent in agents {
        let agent = agent?;
        succeeded += usize::from(agent.final_report(LIMIT)?.state == "SUCCESS");
        said += &agent.log();
    }
    ran_once(&machine).with_context(|| said.clone())?;
    ensure!(succeeded == 2, "{succeeded} succeeded: {said}");
    Ok(())
});

// A nerdctl that is killed while it creates a container leaves the name taken. But another nerdctl
// that still runs has its name for a reason.
case!(a_name_that_a_killed_nerdctl_kept, ON_CAPTAINS, |machine| {
    let keep = |name: &str| -> Result<()> {
        // Any container creates the name store.
        machine.engine(&["create", "--name", "other", "alpine"])?;
        let stores = fs::read_dir(machine.folder().join("data/nerdctl"))?.flatten();
        let names =
            stores.map(|store| store.path().join("names/tinkerbell")).find(|names| names.is_dir());
        fs::write(names.context("no store of names")?.join(name), "ab".repeat(32))?;
        machine.engine(&["rm", "other"]).map(drop)
    };
    let action = || Action::alpine(&machine).wait("0").script(RUN);
    keep(WAITER)?;
    keep(USER)?;
    action().run_well()?;
    ran_once(&machine)?;

    keep(WAITER)?;
    let named = format!("--name={WAITER}");
    let _nerdctl = machine.start(
        "sh",
        &["-c", "sleep 1000; :", "nerdctl", &named],
        &machine.out().join("log"),
    )?;
    let said = action().run()?;
    ensure!(said.code == 1 && said.all().contains("is already used by ID"), "{said:?}");
    Ok(())
});
