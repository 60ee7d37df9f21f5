//! Nobody blinds the audit or flushes it: what a sandbox has too much of is its own loss, and then its own end.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::time::Duration;

use anyhow::{Context, ensure};
use skep_tests::Outcome;
use skep_tests::audit::Record;
use skep_tests::process::{Running, run, until, wait};
use skep_tests::skep::{HOLD, Skep};

const PATIENCE: Duration = Duration::from_secs(60);

/// Opens what is not there until the file `stop` is, or a minute is over.
const FLOODS: &str = "import os, time\n\
    begun, number = time.monotonic(), 0\n\
    while not os.path.exists('stop') and time.monotonic() < begun + 60:\n\
    \x20   for _ in range(1000):\n\
    \x20       number += 1\n\
    \x20       try: os.open(f'/nowhere/{number}', os.O_RDONLY)\n\
    \x20       except OSError: pass\n";

/// How often `true` was executed.
fn executed(audit: &[Record]) -> usize {
    let is_true = |record: &&Record| {
        record.kind() == "exec" && record.body()["path"].as_str().is_some_and(|path| path.ends_with("/true"))
    };
    audit.iter().filter(is_true).count()
}

/// Records that the sandbox has lost by its own last record.
fn lost(audit: &[Record]) -> Option<u64> {
    audit.iter().find(|record| record.kind() == "end")?.body()["counters"]["lost"].as_u64()
}

/// Waits until a running sandbox has lost records.
fn await_losses(skep: &Skep, name: &str) -> Outcome {
    let has_lost = || {
        let status = run(&mut skep.command(["status", "--json", name]), PATIENCE)?;
        let status: serde_json::Value = serde_json::from_str(status.stdout.trim()).unwrap_or_default();
        Ok(status["counters"]["lost"].as_u64().is_some_and(|lost| lost > 0))
    };
    until(PATIENCE, has_lost).context("the flood is read as fast as it comes: the test shows nothing")
}

#[test]
fn a_flood_of_one_sandbox_loses_no_record_of_another() -> Outcome {
    let skep = Skep::new()?;
    let flood = skep.run(["python3", "-c", FLOODS]);
    let mut flooding = Running(flood.command().spawn().context("start the flood")?);
    await_losses(&skep, flood.name())?;
    let other = skep.shell("for i in {1..200}; do /bin/true; done").finish()?;
    ensure!(flooding.0.try_wait()?.is_none(), "the flood ended too early");
    File::create(skep.ground().workspace().join("stop"))?;
    ensure!(wait(&mut flooding.0, PATIENCE)?.is_some(), "the flood does not end");
    ensure!(executed(&other.audit) == 200, "{} of 200 executions are recorded", executed(&other.audit));
    ensure!(lost(&other.audit) == Some(0) && !other.finished.stderr.contains("LOST"), "{other:?}");
    let flooded = skep.audit(Some(flood.name()))?;
    ensure!(lost(&flooded) > Some(0), "the flood lost nothing: {flooded:#?}");
    ensure!(flooded.iter().any(|record| record.kind() == "lost"), "no record says what was lost");
    Ok(())
}

/// Opens two hundred files below a directory, starts `true`, and stays until the file `stop` is.
const OPENS_BELOW: &str = "import os, subprocess, sys, time\n\
    for number in range(200):\n\
    \x20   try: os.open(f'{sys.argv[1]}/{number}', os.O_RDONLY)\n\
    \x20   except FileNotFoundError: pass\n\
    subprocess.run(['/bin/true'], check=True)\n\
    open('opened', 'x')\n\
    begun = time.monotonic()\n\
    while not os.path.exists('stop') and time.monotonic() < begun + 60: time.sleep(0.05)\n";

/// A sandbox opens what is `below` a directory, and another one ends soon all the same: what the first one has opened
/// took skepd more than half a minute once. Returns the records of the first: those that were written when the other had
/// ended, and all of them.
fn another_ends_meanwhile(
    skep: &Skep,
    profile: &str,
    below: &str,
) -> anyhow::Result<(Vec<Record>, Vec<Record>)> {
    let workspace = skep.ground().workspace();
    let opens = skep.run(["python3", "-c", OPENS_BELOW, below]).profile(profile);
    let mut opening = Running(opens.command().spawn().context("start the one that opens")?);
    until(PATIENCE, || Ok(workspace.join("opened").exists())).context("nothing was opened")?;
    let other = skep.run(["/bin/true"]).deadline(Duration::from_secs(10)).finish()?;
    ensure!(other.code() == 0 && executed(&other.audit) == 1, "{other:?}");
    let meanwhile = skep.audit(Some(opens.name()))?;
    File::create(workspace.join("stop"))?;
    ensure!(wait(&mut opening.0, PATIENCE)?.is_some(), "the one that opens does not end");
    Ok((meanwhile, skep.audit(Some(opens.name()))?))
}

#[test]
fn links_that_take_long_to_follow_keep_no_other_sandbox_waiting() -> Outcome {
    let skep = Skep::new()?;
    let links = skep.ground().beside("links");
    fs::create_dir_all(links.join("x"))?;
    for number in 0..40 {
        symlink(format!("{}{}", "x/../".repeat(800), number + 1), links.join(number.to_string()))?;
    }
    let below = format!("{}/0", links.display());
    let (_, audit) = another_ends_meanwhile(&skep, "workspace", &below)?;
    let denied = audit.iter().filter(|record| record.is_denial() && record.says(&[&below])).count();
    ensure!(denied == 200, "{denied} of 200 opens behind links are recorded as denied");
    Ok(())
}

#[test]
fn a_profile_that_takes_long_to_compare_with_keeps_no_other_sandbox_waiting() -> Outcome {
    let skep = Skep::new()?;
    let parts = "a*/".repeat(480);
    let guard = |number| format!("{{ path = \"**/{parts}z{number}\", best_effort = true }},\n");
    let guards: String = (0..42).map(guard).collect();
    let profile = skep.ground().beside("slow.toml");
    let text = format!("schema = 1\nname = \"slow\"\nuse = [\"workspace\"]\n[guards]\nhide = [\n{guards}]\n");
    fs::write(&profile, text)?;
    let profile = profile.to_str().context("the ground's name is no text")?;
    let (meanwhile, audit) = another_ends_meanwhile(&skep, profile, &"/a".repeat(1900))?;
    ensure!(executed(&meanwhile) == 0, "the other one ended after all that was recorded before it began");
    ensure!(executed(&audit) == 1, "a start is not counted only, however long what was before it takes");
    let end = audit.iter().find(|record| record.kind() == "end").context("no last record")?;
    let [missing, lost] = ["missing", "lost"].map(|name| end.body()["counters"][name].as_u64().unwrap_or(0));
    ensure!(missing + lost >= 200, "{missing} opens are counted, {lost} are lost");
    Ok(())
}

#[test]
fn an_agent_that_overdraws_its_share_of_the_audit_is_ended_and_told_why() -> Outcome {
    let skep = Skep::new()?;
    let small = [("SKEP_AUDIT_SIZE", "4MiB")];
    let modest = skep.shell("for i in {1..50}; do /bin/true; done").environment(small);
    let name = modest.name().to_owned();
    let modest = modest.finish()?;
    ensure!(modest.code() == 0 && executed(&modest.audit) == 50, "{modest:?}");
    let loud = skep.shell("while :; do /bin/true; done").environment(small).finish()?;
    let said = &loud.finished.stderr;
    ensure!(loud.code() == 137 && said.contains("share of the audit"), "exit {}: {said}", loud.code());
    ensure!(said.contains("(1MiB)") && said.contains("SKEP_AUDIT_SIZE"), "{said}");
    let end = loud.audit.iter().find(|record| record.kind() == "end").context("no last record")?;
    ensure!(end.says(&["killed: ", "share of the audit"]), "{end:?}");
    ensure!(executed(&skep.audit(Some(&name))?) == 50, "records of another sandbox were pushed out");
    Ok(())
}

#[test]
fn an_audit_that_cannot_be_written_ends_what_runs_and_nothing_that_starts_when_it_can() -> Outcome {
    let skep = Skep::new()?;
    let small = [("SKEP_AUDIT_SIZE", "4MiB")];
    let mut holder = skep.hold(skep.shell(HOLD).environment(small).command())?;
    // Where the log would go on, something lies that is not to be overwritten.
    let in_the_way = skep.state().join("audit/000002.jsonl");
    fs::write(&in_the_way, "x")?;
    let loud = skep.shell("while :; do /bin/true; done").finish()?;
    let said = &loud.finished.stderr;
    ensure!(loud.code() == 125 && said.contains("the audit cannot be written"), "{}: {said}", loud.code());
    ensure!(wait(&mut holder.0, PATIENCE)?.is_some(), "another sandbox goes on unrecorded");
    fs::remove_file(&in_the_way)?;
    let later = skep.shell("for i in {1..50}; do /bin/true; done").finish()?;
    ensure!(later.code() == 0 && executed(&later.audit) == 50, "{later:?}");
    Ok(())
}
