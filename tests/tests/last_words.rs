//! What an agent has sent when it ends is delivered, and nobody else waits for that.

use std::io::Read;
use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use skep_tests::Outcome;
use skep_tests::process::{Running, until, wait};
use skep_tests::skep::{Run, Skep};

const PATIENCE: Duration = Duration::from_secs(30);

/// The one name the profile allows, and where it leads here.
fn with_server<'a>(run: Run<'a>, server: &TcpListener) -> anyhow::Result<Run<'a>> {
    let profile = Path::new(env!("CARGO_MANIFEST_DIR")).join("profiles/attacked.toml");
    let upstream = format!("api.anthropic.com={}", server.local_addr()?);
    Ok(run.profile(profile).option("--upstream", upstream))
}

#[test]
fn what_an_agent_sends_just_before_it_ends_arrives_and_is_recorded() -> Outcome {
    let skep = Skep::new()?;
    let server = TcpListener::bind("127.0.0.1:0")?;
    for round in 0..20 {
        let run = skep.shell("echo last words > /dev/tcp/api.anthropic.com/443");
        let ran = with_server(run, &server)?.finish()?;
        ensure!(ran.code() == 0, "round {round}: {ran:?}");
        // It waits in the backlog by now.
        server.set_nonblocking(true)?;
        let (mut stream, _) = server.accept().with_context(|| format!("round {round}: {:#?}", ran.audit))?;
        stream.set_nonblocking(false)?;
        let mut got = String::new();
        stream.read_to_string(&mut got)?;
        ensure!(got == "last words\n", "round {round}: {got:?}");
        let closed = ran.audit.iter().any(|record| record.kind() == "closed" && record.body()["sent"] == 11);
        ensure!(closed, "round {round}: {:#?}", ran.audit);
    }
    Ok(())
}

#[test]
fn a_sandbox_whose_server_never_reads_holds_up_no_other() -> Outcome {
    const FILLS: &str = "import socket\n\
        s = socket.create_connection(('api.anthropic.com', 443))\n\
        s.settimeout(0.5)\n\
        try:\n\
        \x20   while True: s.send(bytes(1 << 16))\n\
        except TimeoutError: open('full', 'w')\n";
    let skep = Skep::new()?;
    let server = TcpListener::bind("127.0.0.1:0")?;
    let full = skep.ground().workspace().join("full");
    // On a loaded machine a whole run may take longer than the other's end; five in a row do not.
    for _ in 0..5 {
        let mut run = with_server(skep.run(["python3", "-c", FILLS]), &server)?.command();
        let mut stuck = Running(run.spawn().context("start the run that gets stuck")?);
        until(PATIENCE, || Ok(full.exists())).context("the connection was never full")?;
        std::fs::remove_file(&full)?;
        ensure!(skep.run(["true"]).finish()?.code() == 0, "the other run failed");
        let first = stuck.0.try_wait()?.is_none();
        ensure!(wait(&mut stuck.0, PATIENCE)?.is_some(), "the stuck run does not end");
        if first {
            return Ok(());
        }
    }
    anyhow::bail!("the other run always ended later")
}
