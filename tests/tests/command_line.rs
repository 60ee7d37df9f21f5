//! `skep` as a person meets it: streams, exit codes, identity, and the errors.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use skep_tests::Outcome;
use skep_tests::audit::Record;
use skep_tests::process;
use skep_tests::skep::{Ran, Skep};

const PATIENCE: Duration = Duration::from_secs(30);

fn ran(script: &str) -> anyhow::Result<Ran> {
    Skep::new()?.shell(script).finish()
}

/// A refusal: its exit code, and words that must be in what it says.
fn refused(finished: &process::Finished, code: i32, words: &[&str]) -> Outcome {
    let said = &finished.stderr;
    ensure!(finished.code() == code, "exit {} instead of {code}: {said}", finished.code());
    let missing: Vec<_> = words.iter().filter(|word| !said.contains(**word)).collect();
    ensure!(missing.is_empty(), "{missing:?} missing in: {said}");
    Ok(())
}

#[test]
fn output_and_exit_code_come_through() -> Outcome {
    let ran = ran("echo out; echo err >&2; exit 3")?;
    ensure!(ran.code() == 3 && ran.finished.stdout == "out\n", "{ran:?}");
    ensure!(ran.finished.stderr.contains("err\n"), "{ran:?}");
    Ok(())
}

#[test]
fn a_signal_is_128_and_its_number() -> Outcome {
    for (signal, code) in [("TERM", 143), ("KILL", 137), ("SEGV", 139)] {
        let ran = ran(&format!("kill -{signal} $$"))?;
        ensure!(ran.code() == code, "{signal}: {}", ran.code());
    }
    Ok(())
}

#[test]
fn a_run_whose_time_is_over_is_ended_and_told_why() -> Outcome {
    let skep = Skep::new()?;
    let profile = skep.ground().beside("short.toml");
    fs::write(&profile, "schema = 1\nname = \"short\"\nuse = [\"workspace\"]\n[limits]\ntime = \"1s\"\n")?;
    let ran = skep.run(["sleep", "600"]).profile(&profile).finish()?;
    let words = ["ended by skepd: its time is over (1s)", "limits.time", "audit"];
    refused(&ran.finished, 137, &words)?;
    let said = |record: &Record| record.kind() == "end" && record.says(&["killed: its time is over"]);
    ensure!(ran.audit.iter().any(said), "{:#?}", ran.audit);
    Ok(())
}

#[test]
fn a_run_ends_with_two_lines_that_say_where_the_audit_is() -> Outcome {
    let ran = ran("true")?;
    let lines: Vec<_> = ran.finished.stderr.lines().collect();
    ensure!(lines.len() >= 2 && lines.last().is_some_and(|last| last.contains("audit")), "{lines:?}");
    Ok(())
}

#[test]
fn what_the_keeper_does_to_launch_is_not_told_as_the_agents_deed() -> Outcome {
    let ran = ran("true")?;
    let told: Vec<_> = ran.audit.iter().map(Record::kind).collect();
    let foreign = told.iter().find(|kind| ["denied", "error", "open", "change"].contains(kind));
    ensure!(told.contains(&"exec") && foreign.is_none(), "{:?}", ran.audit);
    Ok(())
}

#[test]
fn input_passes_and_ends() -> Outcome {
    let skep = Skep::new()?;
    let mut command = Command::new("/bin/bash");
    let sandboxed = skep.run(["sha256sum"]).command();
    command.args(["-c", "head -c 3000000 /dev/zero | \"$@\"", "bash"]).arg(sandboxed.get_program());
    command.args(sandboxed.get_args()).env_clear();
    command.envs(sandboxed.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.current_dir(skep.ground().workspace());
    let finished = process::run(&mut command, PATIENCE)?;
    let outside = skep.ground().shell("head -c 3000000 /dev/zero | sha256sum")?;
    ensure!(finished.stdout == outside.stdout, "{finished:?}");
    Ok(())
}

#[test]
fn a_signal_to_skep_reaches_the_agent() -> Outcome {
    let skep = Skep::new()?;
    let script = "trap 'echo caught > caught; exit 7' TERM; touch ready; while :; do sleep 0.05; done";
    let mut child = skep.shell(script).command().stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let ready = skep.ground().workspace().join("ready");
    for _ in 0..400 {
        if ready.exists() {
            break;
        }
        std::thread::sleep(Duration::from_millis(25));
    }
    process::send(child.id(), "TERM")?;
    let status = child.wait()?;
    ensure!(status.code() == Some(7), "{status}");
    ensure!(skep.ground().workspace().join("caught").exists());
    Ok(())
}

/// It would leave by itself, but later.
#[test]
fn a_transient_daemon_ends_at_once_when_it_is_told_to() -> Outcome {
    let skep = Skep::new()?;
    ensure!(skep.run(["true"]).finish()?.code() == 0, "the run failed");
    let daemons = skep.processes_named("skepd")?;
    ensure!(daemons.len() == 1, "{daemons:?}");
    daemons.into_iter().try_for_each(|daemon| process::send(daemon, "TERM"))?;
    skep.await_idle(Duration::from_secs(3))
}

#[test]
fn the_agent_is_not_root_and_its_files_belong_to_the_workspaces_owner() -> Outcome {
    let skep = Skep::new()?;
    let ran = skep.shell("id -u; touch made; mkdir directory; stat -c %u made").finish()?;
    ensure!(ran.code() == 0, "{ran:?}");
    ensure!(!ran.finished.stdout.lines().any(|line| line == "0"), "root inside: {}", ran.finished.stdout);
    let workspace = fs::metadata(skep.ground().workspace())?;
    for name in ["made", "directory"] {
        let made = fs::metadata(skep.ground().workspace().join(name)).context(name)?;
        ensure!(
            (made.uid(), made.gid()) == (workspace.uid(), workspace.gid()),
            "{name} belongs to {}",
            made.uid()
        );
    }
    Ok(())
}

#[test]
fn the_closing_lines_do_not_follow_an_unfinished_line() -> Outcome {
    let skep = Skep::new()?;
    let piped = skep.shell("printf unfinished >&2").finish()?;
    ensure!(piped.finished.stderr.contains("unfinished\nskep: "), "{piped:?}");
    let interrupted = in_terminal(
        &skep,
        "touch ready; exec sleep 60",
        "until test -e ready; do sleep 0.1; done; printf '\\3'",
    )?;
    ensure!(interrupted.stdout.contains("^C\r\nskep: "), "{interrupted:?}");
    let finished = in_terminal(&skep, "echo finished", "")?;
    ensure!(finished.stdout.contains("finished\r\nskep: "), "{finished:?}");
    Ok(())
}

/// Runs a script in a sandbox in a terminal, in which another script types.
fn in_terminal(skep: &Skep, script: &str, typing: &str) -> anyhow::Result<process::Finished> {
    let sandboxed = skep.shell(script).command();
    let mut command = Command::new("/bin/bash");
    // What types stays until the end: `script` passes on that nobody types any more, and the terminal shows it.
    let outer = "printf -v line '%q ' \"${@:2}\"; rm -f over; \
        { eval \"$1\"; until test -e over; do sleep 0.05; done; } \
        | { SHELL=/bin/bash script -qec \"$line\" /dev/null; code=$?; : > over; exit $code; }";
    command
        .args(["-c", outer, "bash", typing])
        .arg(sandboxed.get_program())
        .args(sandboxed.get_args())
        .env_clear();
    command.envs(sandboxed.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.current_dir(skep.ground().workspace());
    process::run(&mut command, PATIENCE)
}

#[test]
fn a_terminal_has_its_size_and_is_the_agents_own() -> Outcome {
    let skep = Skep::new()?;
    let sandboxed = skep.shell("tty; stty size; test -t 0 -a -t 1 && echo terminal").command();
    let mut command = Command::new("/bin/bash");
    let script =
        "printf -v line '%q ' \"$@\"; SHELL=/bin/bash script -qec \"stty rows 33 cols 101; $line\" /dev/null";
    command.args(["-c", script, "bash"]).arg(sandboxed.get_program()).args(sandboxed.get_args()).env_clear();
    command.envs(sandboxed.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.current_dir(skep.ground().workspace());
    let finished = process::run(&mut command, PATIENCE)?;
    for word in ["/dev/pts/", "33 101", "terminal"] {
        ensure!(finished.stdout.contains(word), "{word} missing: {finished:?}");
    }
    Ok(())
}

#[test]
fn the_environment_is_what_the_profile_passes() -> Outcome {
    let skep = Skep::new()?;
    let run = skep.run(["env"]).environment([("LD_PRELOAD", "/tmp/x.so"), ("SECRET_OF_MINE", "hunter2")]);
    let ran = run.finish()?;
    ensure!(
        !ran.finished.stdout.contains("hunter2") && !ran.finished.stdout.contains("LD_PRELOAD"),
        "{ran:?}"
    );
    ensure!(ran.finished.stdout.contains("HOME="), "{ran:?}");
    Ok(())
}

#[test]
fn a_command_that_is_not_there_is_127_and_one_that_cannot_run_126() -> Outcome {
    let skep = Skep::new()?;
    let missing = process::run(&mut skep.run(["no-such-command"]).command(), PATIENCE)?;
    refused(&missing, 127, &["no-such-command"])?;
    fs::write(skep.ground().workspace().join("plain"), "text")?;
    let plain = process::run(&mut skep.run(["./plain"]).command(), PATIENCE)?;
    refused(&plain, 126, &["plain"])
}

#[test]
fn a_program_that_does_not_start_is_told_by_its_cause() -> Outcome {
    let skep = Skep::new()?;
    let program = |path: &Path, text: &[u8]| {
        fs::write(path, text)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))
    };
    let workspace = skep.ground().workspace();
    program(&workspace.join("text"), b"echo text\n")?;
    program(&workspace.join("script"), b"#!/usr/bin/no-such-interpreter -x\n")?;
    let outside = skep.ground().beside("outside");
    program(&outside, &fs::read("/bin/true")?)?;
    let run = |command: &str| process::run(&mut skep.run([command]).command(), PATIENCE);
    refused(&run("./text")?, 126, &["text: ", "no #! line"])?;
    refused(&run("./script")?, 127, &["script: ", "not what runs it: /usr/bin/no-such-interpreter\n"])?;
    let outside = outside.display().to_string();
    refused(&run(&outside)?, 127, &[&outside, "does not grant it", "read and exec"])
}

#[test]
fn a_profile_with_a_typo_is_refused_with_its_place() -> Outcome {
    let skep = Skep::new()?;
    let profile = skep.ground().beside("typo.toml");
    fs::write(&profile, "schema = 1\nname = \"typo\"\n[files]\nraed = [\"/usr\"]\n[limtis]\n")?;
    let finished = process::run(&mut skep.run(["true"]).profile(&profile).command(), PATIENCE)?;
    refused(&finished, 125, &["typo.toml", "raed", "limtis", "4"])
}

#[test]
fn a_profile_nobody_has_is_refused() -> Outcome {
    let skep = Skep::new()?;
    let finished = process::run(&mut skep.run(["true"]).profile("no-such-profile").command(), PATIENCE)?;
    refused(&finished, 125, &["no-such-profile"])
}

#[test]
fn a_workspace_that_is_missing_is_refused() -> Outcome {
    let skep = Skep::new()?;
    let finished =
        process::run(&mut skep.run(["true"]).option("--workspace", "/no/such/place").command(), PATIENCE)?;
    refused(&finished, 125, &["/no/such/place"])
}

#[test]
fn a_key_that_is_not_in_force_yet_refuses_the_start() -> Outcome {
    let skep = Skep::new()?;
    let profile = skep.ground().beside("future.toml");
    let rule = "[[commands.rule]]\nrun = [\"git\", \"**\", \"push\", \"**\"]\ndecision = \"ask\"\n";
    fs::write(&profile, format!("schema = 1\nname = \"future\"\nuse = [\"host-floor\"]\n{rule}"))?;
    let finished = process::run(&mut skep.run(["true"]).profile(&profile).command(), PATIENCE)?;
    refused(&finished, 125, &["commands"])
}

#[test]
fn a_changed_audit_does_not_verify() -> Outcome {
    let skep = Skep::new()?;
    ensure!(skep.shell("echo x > y").finish()?.code() == 0);
    let verified = process::run(&mut skep.command(["audit", "verify"]), PATIENCE)?;
    ensure!(verified.code() == 0, "{verified:?}");
    skep.await_idle(PATIENCE)?;
    let changed = skep.ground().shell("cd ../state; f=$(grep -rl '\"kind\"' . | head -1); sed -i '2d' $f")?;
    ensure!(changed.code() == 0, "{changed:?}");
    let verified = process::run(&mut skep.command(["audit", "verify"]), PATIENCE)?;
    ensure!(verified.code() != 0, "a deleted line was not found: {verified:?}");
    Ok(())
}

#[test]
fn what_ran_is_in_the_audit_with_its_arguments() -> Outcome {
    let ran = ran("/bin/echo an-argument-to-find")?;
    let found =
        ran.audit.iter().any(|record| record.kind() == "exec" && record.says(&["an-argument-to-find"]));
    ensure!(found, "{:#?}", ran.audit);
    let kinds: Vec<_> = ran.audit.iter().map(|record| record.kind().to_owned()).collect();
    ensure!(kinds.iter().any(|kind| kind == "start") && kinds.iter().any(|kind| kind == "end"), "{kinds:?}");
    Ok(())
}

#[test]
fn what_a_file_is_moved_over_is_in_the_audit_also_when_both_were_written_before() -> Outcome {
    let ran = ran("echo x > made; echo x > replaced; mv made replaced")?;
    let moved =
        ran.audit.iter().any(|record| record.kind() == "change" && record.says(&["/made", "/replaced"]));
    ensure!(moved, "{:#?}", ran.audit);
    Ok(())
}

#[test]
fn a_process_that_names_itself_is_told_of_nobody() -> Outcome {
    let ran = ran("echo name > /proc/self/comm; echo 0 > /proc/self/oom_score_adj; true")?;
    ensure!(
        ran.denied(&["/proc/self/oom_score_adj"]) && !ran.denied(&["/proc/self/comm"]),
        "{:#?}",
        ran.audit
    );
    let whole = ran.finished.stderr.contains(" 1 denied by rules (create /proc/self/oom_score_adj)");
    ensure!(whole, "{}", ran.finished.stderr);
    Ok(())
}

#[test]
fn control_characters_never_reach_a_terminal_raw() -> Outcome {
    let skep = Skep::new()?;
    let ran = skep.shell("/bin/echo $'\\x1b]52;c;evil\\x07' > /dev/null; touch $'\\x1b[2Jname'").finish()?;
    ensure!(ran.code() == 0, "{ran:?}");
    let shown = process::run(&mut skep.command(["audit"]), PATIENCE)?;
    ensure!(!shown.stdout.contains('\x1b'), "{:?}", shown.stdout);
    Ok(())
}
