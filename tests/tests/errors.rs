//! The errors people meet, and who they are when they meet them: each says what happened, why, and what to do.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;
use skep_tests::Outcome;
use skep_tests::audit::Record;
use skep_tests::ground::CANARY;
use skep_tests::process::{self, Finished, Running};
use skep_tests::skep::{HOLD, Skep};

const PATIENCE: Duration = Duration::from_secs(60);

/// `nobody`: a user every host has, and who owns nothing.
const NOBODY: u32 = 65_534;

/// A refusal of `skep`: its exit code, and words that must be in what it says.
fn refused(command: &mut Command, words: &[&str]) -> Outcome {
    let finished = process::run(command, PATIENCE)?;
    let said = &finished.stderr;
    ensure!(finished.code() == 125, "exit {}: {said}", finished.code());
    let missing: Vec<_> = words.iter().filter(|word| !said.contains(**word)).collect();
    ensure!(missing.is_empty(), "{missing:?} missing in: {said}");
    Ok(())
}

fn as_nobody(mut command: Command) -> Command {
    command.uid(NOBODY).gid(NOBODY);
    command
}

/// A sandbox that stays, and with it a skepd whose socket is open to the group `nogroup`, as it would be to `skep`.
struct Open {
    skep: Skep,
    _holder: Running,
}

impl Open {
    fn new() -> anyhow::Result<Self> {
        let skep = Skep::new()?;
        let holder = skep.shell(HOLD).command();
        Self::with(skep, holder)
    }

    fn with(skep: Skep, holder: Command) -> anyhow::Result<Self> {
        let open = Self { _holder: skep.hold(holder)?, skep };
        let socket = open.skep.runtime().join("skepd.sock");
        chown(&socket, None, Some(NOBODY))?;
        fs::set_permissions(&socket, fs::Permissions::from_mode(0o660))?;
        Ok(open)
    }
}

fn give_to_nobody(path: &Path) -> Outcome {
    chown(path, Some(NOBODY), Some(NOBODY)).with_context(|| format!("chown {}", path.display()))
}

fn owner(path: &Path) -> anyhow::Result<(u32, u32)> {
    let metadata = fs::metadata(path).with_context(|| format!("stat {}", path.display()))?;
    Ok((metadata.uid(), metadata.gid()))
}

/// Every line is a JSON object.
fn objects(text: &str) -> anyhow::Result<Vec<Value>> {
    text.lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("no JSON: {line:?}")))
        .collect()
}

#[test]
fn without_a_daemon_only_root_starts_one() -> Outcome {
    let skep = Skep::new()?;
    let by_path = |program: &str| format!("sudo {}", skep.program(program).display());
    let words = ["no skepd is running", &by_path("skep"), &by_path("skepd")];
    refused(&mut as_nobody(skep.run(["true"]).command()), &words)
}

#[test]
fn without_a_daemon_a_user_is_told_how_to_read_his_audit() -> Outcome {
    let skep = Skep::new()?;
    let how = format!("sudo {} audit --owner {NOBODY}", skep.program("skep").display());
    refused(&mut as_nobody(skep.command(["audit"])), &["the audit is root's", &how])?;
    refused(&mut as_nobody(skep.command(["status", "bee"])), &["no sandbox is running", &how, "bee"])?;
    let listed = process::run(&mut as_nobody(skep.command(["ls"])), PATIENCE)?;
    ensure!(listed.code() == 0 && listed.stdout == "no sandbox is running\n", "{listed:?}");
    Ok(())
}

#[test]
fn a_daemon_that_ends_before_it_answers_has_its_last_words_repeated() -> Outcome {
    let skep = Skep::with_script("skepd", "echo it fell over >&2")?;
    // Another daemon's words are not its own.
    fs::create_dir(skep.state())?;
    fs::write(skep.state().join("skepd.log"), "long ago\n")?;
    let finished = process::run(&mut skep.run(["true"]).command(), PATIENCE)?;
    let said = &finished.stderr;
    ensure!(finished.code() == 125 && said.contains("said last:\nit fell over"), "{said}");
    ensure!(!said.contains("long ago"), "{said}");
    let silent = Skep::with_script("skepd", "kill -9 $$")?;
    refused(&mut silent.run(["true"]).command(), &["it ended without a word", "skep doctor"])
}

#[test]
fn what_a_transient_daemon_says_is_kept_in_its_state() -> Outcome {
    let skep = Skep::new()?;
    let audit = skep.state().join("audit");
    fs::create_dir_all(&audit)?;
    fs::set_permissions(&audit, fs::Permissions::from_mode(0o777))?;
    refused(&mut skep.run(["true"]).command(), &["starting skepd failed: audit: "])?;
    let log = skep.state().join("skepd.log");
    let said = fs::read_to_string(&log)?;
    ensure!(said.starts_with("skepd: audit: "), "{said}");
    ensure!(fs::metadata(&log)?.mode() & 0o777 == 0o600, "{:o}", fs::metadata(&log)?.mode());
    Ok(())
}

#[test]
fn what_a_gateway_says_that_cannot_start_is_in_the_error_and_in_the_audit() -> Outcome {
    let skep = Skep::with_script("skep-egress", "echo no resolver here >&2; exit 1")?;
    // It may run before there is a gateway, but not without one.
    let ran = skep.run(["sleep", "60"]).finish()?;
    let said = &ran.finished.stderr;
    let words = "skep-egress ended before it was ready; it said: no resolver here";
    ensure!(ran.code() == 125 && said.contains(words), "exit {}: {said}", ran.code());
    ensure!(ran.audit.iter().any(|record| record.says(&[words])), "the audit does not say it");
    Ok(())
}

#[test]
fn who_is_neither_root_nor_in_the_group_is_told_so() -> Outcome {
    let open = Open::new()?;
    let socket = open.skep.runtime().join("skepd.sock");
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o600))?;
    let words = ["group skep", "sudo", "usermod -aG skep nobody"];
    refused(&mut as_nobody(open.skep.run(["true"]).command()), &words)
}

/// The number of a group `skep` that no host has.
const GROUP: &str = "1927533";

/// A skepd that stays, on a host with a group `skep`: what it and its clients see as /etc/group is a file of the
/// test's, in a mount namespace that ends with each of them.
struct Grouped {
    skep: Skep,
    groups: PathBuf,
    daemon: Child,
}

impl Grouped {
    /// `listed` are the members the file names.
    fn new(listed: &str) -> anyhow::Result<Self> {
        let skep = Skep::new()?;
        let groups = skep.ground().beside("group");
        let others = fs::read_to_string("/etc/group")?;
        let others = others.lines().filter(|line| !line.starts_with("skep:"));
        let lines = others.map(str::to_owned).chain([format!("skep:x:{GROUP}:{listed}\n")]);
        fs::write(&groups, lines.collect::<Vec<_>>().join("\n"))?;
        let mut daemon = skep.command([""; 0]);
        daemon = seeing(&groups, &daemon, [skep.program("skepd")]);
        let daemon = daemon.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let mut grouped = Self { skep, groups, daemon };
        let mut said = String::new();
        let output = grouped.daemon.stdout.take().context("no output")?;
        BufReader::new(output).read_line(&mut said)?;
        ensure!(said == "ready\n", "skepd said {said:?}");
        Ok(grouped)
    }

    /// As `nobody`, whose session has these groups beside his own.
    fn as_nobody(&self, groups: &str, command: &Command) -> Command {
        let become_nobody = ["setpriv", "--reuid=65534", "--regid=65534", groups, "--"];
        let words = become_nobody.map(OsStr::new).into_iter().chain([command.get_program()]);
        seeing(&self.groups, command, words.chain(command.get_args()))
    }

    fn as_member(&self, command: &Command) -> Command {
        self.as_nobody(&format!("--groups={GROUP}"), command)
    }

    fn as_stranger(&self, command: &Command) -> Command {
        self.as_nobody("--clear-groups", command)
    }
}

impl Drop for Grouped {
    fn drop(&mut self) {
        // It ends its sandboxes first; the ground ends what is left.
        let _gone = process::send(self.daemon.id(), "TERM");
        let _ended = process::wait(&mut self.daemon, Duration::from_secs(10));
    }
}

/// `argv` with the surroundings of `like`, where `groups` lies over /etc/group.
fn seeing<S: AsRef<OsStr>>(groups: &Path, like: &Command, argv: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new("unshare");
    let script = "mount --bind \"$0\" /etc/group && exec \"$@\"";
    command.args(["--mount", "--propagation", "private", "/bin/sh", "-c", script]).arg(groups).args(argv);
    command.env_clear().envs(like.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.current_dir(like.get_current_dir().unwrap_or(Path::new("/")));
    command
}

#[test]
fn a_member_of_the_group_skep_needs_no_sudo() -> Outcome {
    let host = Grouped::new("")?;
    let socket = fs::metadata(host.skep.runtime().join("skepd.sock"))?;
    ensure!((socket.gid().to_string().as_str(), socket.mode() & 0o777) == (GROUP, 0o660), "{socket:?}");
    give_to_nobody(&host.skep.ground().workspace())?;
    let run = host.skep.shell("id -u; id -G; touch made");
    let ran = process::run(&mut host.as_member(&run.command()), PATIENCE)?;
    // The agent is the user, and in none of his groups but his own.
    ensure!(ran.code() == 0 && ran.stdout == "65534\n65534\n", "{ran:?}");
    ensure!(owner(&host.skep.ground().workspace().join("made"))? == (NOBODY, NOBODY));
    let audit = process::run(&mut host.as_member(&host.skep.command(["audit", "--json"])), PATIENCE)?;
    ensure!(audit.code() == 0 && audit.stdout.contains("\"start\""), "{audit:?}");
    let doctor = process::run(&mut host.as_member(&host.skep.command(["doctor"])), PATIENCE)?;
    ensure!(doctor.stdout.contains("nobody is a member: no sudo while a skepd runs"), "{doctor:?}");

    let stranger = || host.as_stranger(&run.command());
    refused(&mut stranger(), &["open to root and to the group skep", "sudo usermod -aG skep nobody"])?;
    let doctor = process::run(&mut host.as_stranger(&host.skep.command(["doctor"])), PATIENCE)?;
    ensure!(doctor.stdout.contains("nobody is no member"), "{doctor:?}");
    Ok(())
}

#[test]
fn who_joined_the_group_after_his_session_began_is_told_to_log_in_again() -> Outcome {
    let host = Grouped::new("nobody")?;
    let run = host.skep.run(["true"]).command();
    refused(
        &mut host.as_stranger(&run),
        &["joined after this session began", "log in again", "newgrp skep"],
    )?;
    let doctor = process::run(&mut host.as_stranger(&host.skep.command(["doctor"])), PATIENCE)?;
    ensure!(doctor.stdout.contains("nobody joined it after this session began"), "{doctor:?}");
    Ok(())
}

#[test]
fn a_member_of_the_group_works_without_sudo_as_himself() -> Outcome {
    let open = Open::new()?;
    give_to_nobody(&open.skep.ground().workspace())?;
    let run = open.skep.shell("id -u; id -G; touch made; cat /proc/self/loginuid > /dev/null");
    let finished = process::run(&mut as_nobody(run.command()), PATIENCE)?;
    ensure!(finished.code() == 0 && finished.stdout == "65534\n65534\n", "{finished:?}");
    ensure!(owner(&open.skep.ground().workspace().join("made"))? == (NOBODY, NOBODY));
    Ok(())
}

#[test]
fn a_member_of_the_group_sees_only_his_own_sandboxes() -> Outcome {
    let open = Open::new()?;
    let listed = process::run(&mut as_nobody(open.skep.command(["ls", "--json"])), PATIENCE)?;
    ensure!(listed.code() == 0 && listed.stdout.is_empty(), "root's sandbox is shown: {listed:?}");
    let audit = process::run(&mut as_nobody(open.skep.command(["audit", "--json"])), PATIENCE)?;
    ensure!(audit.code() == 0 && !audit.stdout.contains("\"start\""), "root's records are shown: {audit:?}");
    Ok(())
}

#[test]
fn a_workspace_the_caller_cannot_write_is_refused_unless_the_profile_only_reads_it() -> Outcome {
    let open = Open::new()?;
    let run = || open.skep.run(["true"]);
    let words = ["workspace", "not writable", "nobody", "--workspace"];
    refused(&mut as_nobody(run().command()), &words)?;
    let profile = open.skep.ground().beside("reader.toml");
    fs::write(
        &profile,
        "schema = 1\nname = \"reader\"\nuse = [\"base\"]\n[files]\nread = [\"${workspace}\"]\n",
    )?;
    let read = process::run(&mut as_nobody(run().profile(&profile).command()), PATIENCE)?;
    ensure!(read.code() == 0, "{read:?}");
    give_to_nobody(&open.skep.ground().workspace())?;
    let written = process::run(&mut as_nobody(run().command()), PATIENCE)?;
    ensure!(written.code() == 0, "{written:?}");
    Ok(())
}

/// Runs `skep` below a program called sudo, with what sudo makes of an environment.
fn through_sudo(skep: &Skep, script: &str) -> anyhow::Result<Finished> {
    let sudo = skep.ground().beside("sudo");
    fs::copy("/bin/bash", &sudo)?;
    let sandboxed = skep.shell(script).command();
    let mut command = Command::new(&sudo);
    let below = "env SUDO_UID=65534 SUDO_GID=65534 SUDO_USER=nobody HOME=/root USER=root PATH=/usr/sbin:/usr/bin \
                 \"$@\"; exit $?";
    command.args(["-c", below, "sudo"]).arg(sandboxed.get_program()).args(sandboxed.get_args()).env_clear();
    command.envs(sandboxed.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.env("PATH", "/opt/of-the-user/bin:/usr/bin:/bin").current_dir(skep.ground().workspace());
    process::run(&mut command, PATIENCE)
}

#[test]
fn through_sudo_the_agent_is_the_user_with_his_home_and_path() -> Outcome {
    let skep = Skep::new()?;
    give_to_nobody(&skep.ground().workspace())?;
    let finished = through_sudo(&skep, "id -u; echo $HOME; echo $PATH; touch made; env | grep -c ^SUDO_")?;
    let home = skep.ground().home().display().to_string();
    let lines: Vec<_> = finished.stdout.lines().collect();
    ensure!(lines.len() == 4, "{finished:?}");
    ensure!(lines[0] == "65534" && lines[1] == home && lines[3] == "0", "{lines:?}");
    ensure!(lines[2].starts_with("/opt/of-the-user/bin:"), "{lines:?}");
    ensure!(owner(&skep.ground().workspace().join("made"))? == (NOBODY, NOBODY));
    Ok(())
}

#[test]
fn a_rule_this_host_cannot_enforce_is_named_with_why_and_what_to_do() -> Outcome {
    let skep = Skep::new()?;
    let profile = skep.ground().beside("strict.toml");
    let text = "schema = 1\nname = \"strict\"\nuse = [\"base\"]\n[files]\nwrite = [\"${workspace}\"]\n\
                [guards]\nprotect = [\"**/.secret\"]\n";
    fs::write(&profile, text)?;
    let run = || skep.run(["true"]).profile(&profile);
    let words = ["strict:7", "**/.secret", "why:", "do:", "--accept-weaker"];
    refused(&mut run().command(), &words)?;
    let check = |option: &[&str]| {
        let arguments = ["profile", "check"].iter().chain(option).map(OsStr::new);
        process::run(&mut skep.command(arguments.chain([profile.as_os_str()])), PATIENCE)
    };
    let (checked, written) = (check(&[])?, check(&["--syntax"])?);
    ensure!(checked.code() == 1 && words.iter().all(|word| checked.stdout.contains(word)), "{checked:?}");
    ensure!(written.code() == 0 && written.stdout.contains("right, "), "{written:?}");
    let accepted = run().option("--accept-weaker", "guards.protect \"**/.secret\"").finish()?;
    ensure!(accepted.code() == 0 && accepted.finished.stderr.contains("WEAKER"), "{accepted:?}");
    let rule = "guards.protect \"**/.secret\"";
    let mut slipped = run().option("--accept-weaker", rule).option("--accept-weaker", "nonsense").command();
    refused(&mut slipped, &["--accept-weaker nonsense: no rule has this name", rule])
}

/// What is told of them is larger than a message.
#[test]
fn a_sandbox_with_many_rules_and_a_long_command_starts_and_is_listed() -> Outcome {
    let skep = Skep::new()?;
    let profile = skep.ground().beside("many.toml");
    let guards: Vec<_> = (0..900).map(|number| format!("\"**/.secret-{number}\"")).collect();
    let text = format!(
        "schema = 1\nname = \"many\"\nuse = [\"base\"]\n[files]\nwrite = [\"${{workspace}}\"]\n[guards]\n\
         protect = [{{ path = {}, best_effort = true }}]\n",
        guards.join(", best_effort = true }, { path = ")
    );
    fs::write(&profile, text)?;
    let argument = "x".repeat(100_000);
    let run = skep.run(["/bin/bash", "-c", HOLD, &argument, &argument]).profile(&profile);
    let (name, holder) = (run.name().to_owned(), run.command());
    let open = Open::with(skep, holder)?;
    for question in [&["ls", "--json"][..], &["status", &name, "--json"]] {
        let listed = process::run(&mut open.skep.command(question), PATIENCE)?;
        let listed = objects(&listed.stdout)?;
        let weaker = listed[0]["weaker"].as_array().map_or(0, Vec::len);
        ensure!(weaker >= 900, "{question:?}: {weaker} of them");
    }
    let start = open.skep.audit(Some(&name))?.into_iter().find(|record| record.kind() == "start");
    ensure!(start.is_some_and(|start| start.says(&[&argument])), "the record of the start is not told whole");
    Ok(())
}

/// What its gateway is told of them is larger than a message.
#[test]
fn a_sandbox_with_many_long_names_starts_and_has_them_judged() -> Outcome {
    let skep = Skep::new()?;
    let profile = skep.ground().beside("names.toml");
    let name = |number| format!("{}{number:03}.example", "a".repeat(48));
    let names: Vec<_> = (0..900).map(|number| format!("\"{}:443\"", name(number))).collect();
    let text =
        format!("schema = 1\nname = \"names\"\nuse = [\"base\"]\n[[egress]]\nto = [{}]\n", names.join(", "));
    fs::write(&profile, text)?;
    let look_up = format!("getent ahosts {}; getent ahosts a.example", name(899));
    let ran = skep.run(["/bin/bash", "-c", &look_up]).profile(&profile).finish()?;
    ensure!(ran.code() == 2 && ran.finished.stdout.starts_with("fd5c:e900::"), "{ran:?}");
    ensure!(ran.denied(&["a.example"]) && !ran.denied(&[&name(899)]), "{:#?}", ran.audit);
    Ok(())
}

#[test]
fn a_request_for_more_than_anybody_needs_is_refused_with_how_much_that_is() -> Outcome {
    let skep = Skep::new()?;
    let accepted = (0..1025).flat_map(|number| ["--accept-weaker".to_owned(), format!("r{number}")]);
    let arguments: Vec<_> =
        ["run".to_owned()].into_iter().chain(accepted).chain(["true".to_owned()]).collect();
    refused(&mut skep.command(&arguments), &["more than 1024 rules to accept as weaker"])
}

#[test]
fn a_profile_in_the_workspace_is_not_the_agents_to_change() -> Outcome {
    let skep = Skep::new()?;
    let profile = skep.ground().workspace().join("mine.toml");
    let text = "schema = 1\nname = \"mine\"\nuse = [\"workspace\"]\n";
    fs::write(&profile, text)?;
    let script = "touch neighbour; echo 'files.read = [\"~/.ssh\"]' >> mine.toml; mv mine.toml old.toml; rm -f mine.toml; true";
    let ran = skep.shell(script).profile(&profile).finish()?;
    ensure!(ran.code() == 0 && skep.ground().workspace().join("neighbour").exists(), "{ran:?}");
    ensure!(fs::read_to_string(&profile)? == text, "the profile was changed");
    ensure!(ran.denied(&["mine.toml"]), "{:#?}", ran.audit);
    skep.ground().shell(script)?;
    ensure!(!profile.exists(), "outside, the same commands do it");
    Ok(())
}

#[test]
fn the_line_of_a_denial_says_where_it_goes_and_allows_it_there() -> Outcome {
    let skep = Skep::new()?;
    let profile = skep.ground().beside("mine.toml");
    let text = "schema = 1\nname = \"mine\"\nuse = [\"workspace\"]\n";
    fs::write(&profile, text)?;
    // Named as people name it, and told so that it is found from anywhere.
    let run = || skep.shell("cat ~/.bashrc").profile("../mine.toml");
    let ran = run().finish()?;
    ensure!(ran.code() == 1 && !ran.finished.stdout.contains(CANARY), "{ran:?}");
    let audit = process::run(&mut skep.command(["audit", "--denied"]), PATIENCE)?;
    let place = format!("  # in {}, above the first [table]", profile.display());
    let hint =
        audit.stdout.lines().find_map(|line| line.trim().strip_prefix("allow with: ")?.strip_suffix(&place));
    let line = hint.with_context(|| format!("no line for {place}: {}", audit.stdout))?;
    fs::write(&profile, format!("{text}{line}\n"))?;
    let ran = run().finish()?;
    ensure!(ran.code() == 0 && ran.finished.stdout.contains(CANARY), "{line}: {ran:?}");
    Ok(())
}

#[test]
fn whoever_may_not_read_the_log_is_not_told_that_it_is_broken() -> Outcome {
    let skep = Skep::new()?;
    ensure!(skep.run(["true"]).finish()?.code() == 0);
    let verify = || skep.command(["audit", "verify"]);
    ensure!(process::run(&mut verify(), PATIENCE)?.code() == 0);
    let denied = process::run(&mut as_nobody(verify()), PATIENCE)?;
    ensure!(denied.code() == 125 && denied.stdout.contains("nothing was verified"), "{denied:?}");
    ensure!(denied.stdout.contains("sudo") && !denied.stdout.contains("NOT INTACT"), "{denied:?}");
    Ok(())
}

#[test]
fn a_typo_has_its_line_and_column_and_what_was_meant() -> Outcome {
    let skep = Skep::new()?;
    let profile = skep.ground().beside("typo.toml");
    fs::write(&profile, "schema = 1\nname = \"typo\"\n[files]\nraed = [\"/usr\"]\n")?;
    refused(&mut skep.run(["true"]).profile(&profile).command(), &["typo.toml:4:1", "did you mean `read`"])
}

#[test]
fn a_host_that_is_not_allowed_is_named_at_the_end_and_in_the_audit() -> Outcome {
    let skep = Skep::new()?;
    let ran = skep.shell("exec 3<>/dev/tcp/api.anthropic.com/443").finish()?;
    ensure!(ran.finished.stderr.contains("connect api.anthropic.com"), "{}", ran.finished.stderr);
    ensure!(ran.denied(&["api.anthropic.com"]), "{:#?}", ran.audit);
    Ok(())
}

#[test]
fn what_the_host_does_not_have_either_is_no_denial() -> Outcome {
    let skep = Skep::new()?;
    let script = "cat ~/.ssh/id_ed25519 ~/.ssh/id_nobody_has /nowhere/at/all; echo x > ~/new; true";
    let ran = skep.shell(script).finish()?;
    ensure!(ran.denied(&[".ssh/id_ed25519"]) && ran.denied(&["home/new"]), "{:#?}", ran.audit);
    ensure!(!ran.denied(&["id_nobody_has"]) && !ran.denied(&["/nowhere"]), "{:#?}", ran.audit);
    let counted = |record: &Record| record.body()["counters"]["missing"].as_u64() >= Some(2);
    ensure!(ran.audit.iter().any(counted), "{:#?}", ran.audit);
    ensure!(ran.finished.stderr.contains(" not granted ("), "{}", ran.finished.stderr);
    Ok(())
}

#[test]
fn a_name_in_use_is_refused() -> Outcome {
    let open = Open::new()?;
    let listed = objects(&process::run(&mut open.skep.command(["ls", "--json"]), PATIENCE)?.stdout)?;
    let name = listed[0]["name"].as_str().context("no name")?.to_owned();
    refused(
        &mut open.skep.command(["run", "--name", &name, "--", "true"]),
        &[&name, "running already", "--name"],
    )
}

#[test]
fn with_json_standard_error_has_one_object_a_line() -> Outcome {
    let skep = Skep::new()?;
    let run = |argv| skep.command([&["run", "--json", "--"][..], argv].concat());
    let good = objects(&process::run(&mut run(&["true"]), PATIENCE)?.stderr)?;
    let events: Vec<_> = good.iter().filter_map(|line| line["event"].as_str()).collect();
    ensure!(events.ends_with(&["started", "ended"]), "{events:?}");
    ensure!(good.last().is_some_and(|end| end["exit"] == 0), "{good:?}");
    let bad = objects(&process::run(&mut run(&["no-such-command"]), PATIENCE)?.stderr)?;
    let end = bad.last().context("nothing said")?;
    ensure!(end["event"] == "refused" && end["code"] == "command-not-found" && end["exit"] == 127, "{end}");
    ensure!(end["advice"].as_str().is_some_and(|advice| !advice.is_empty()), "{end}");
    Ok(())
}

#[test]
fn where_no_agent_can_work_run_and_doctor_say_so_without_blaming_the_profiles() -> Outcome {
    let skep = Skep::new()?;
    for (place, why) in [
        (skep.ground().home(), "holds the whole home directory"),
        ("/tmp".into(), "is what every sandbox has of its own"),
        ("/".into(), "the whole"),
    ] {
        let finished = process::run(&mut skep.run(["true"]).directory(&place).command(), PATIENCE)?;
        let said = &finished.stderr;
        let plain = said.contains(&format!("the workspace {} ", place.display())) && said.contains("cd into");
        ensure!(finished.code() == 125 && plain && said.contains(why) && said.lines().count() == 2, "{said}");
        let doctor = process::run(skep.command(["doctor"]).current_dir(&place), PATIENCE)?;
        let said = &doctor.stdout;
        ensure!(doctor.code() == 125 && !said.contains("WRONG"), "{}: {said}", place.display());
        ensure!(said.contains("not judged here: this directory ") && said.contains(why), "{said}");
    }
    // Where no rule names the workspace, it may be anywhere.
    let run = skep.run(["true"]).profile("base").directory(skep.ground().home());
    let finished = process::run(&mut run.command(), PATIENCE)?;
    ensure!(!finished.stderr.contains("the workspace"), "{finished:?}");
    Ok(())
}

#[test]
fn a_plan_is_printed_and_nothing_started() -> Outcome {
    let skep = Skep::new()?;
    let command = ["run", "--plan", "--", "/bin/touch", "made"];
    let finished = process::run(&mut skep.command(command), PATIENCE)?;
    let plan: Value = serde_json::from_str(&finished.stdout).context("the plan")?;
    ensure!(finished.code() == 0 && plan["command"]["argv"].is_array(), "{plan}");
    ensure!(!skep.ground().workspace().join("made").exists(), "the command ran");
    ensure!(!skep.state().join("agents").exists(), "a directory was made for it");
    Ok(())
}

#[test]
fn a_workspace_may_be_called_anything() -> Outcome {
    let skep = Skep::new()?;
    let place = skep.ground().workspace().join(OsStr::from_bytes(b"caf\xe9"));
    fs::create_dir(&place)?;
    let link = skep.ground().workspace().join("link");
    symlink(&place, &link)?;
    let run = || skep.shell("pwd; touch made").option("--workspace", &link);
    let ran = run().finish()?;
    ensure!(ran.code() == 0 && place.join("made").exists(), "{ran:?}");
    let mut command = run().command();
    let inside = process::run(command.current_dir(&place), PATIENCE)?;
    ensure!(inside.code() == 0, "{inside:?}");
    let plan =
        process::run(&mut skep.command(["run", "--plan", "--workspace", "link", "--", "true"]), PATIENCE)?;
    ensure!(plan.code() == 0 && plan.stdout.contains("/caf\\\\xe9\""), "{plan:?}");
    Ok(())
}

#[test]
fn every_question_has_an_answer_in_json() -> Outcome {
    let open = Open::new()?;
    let questions = [
        "ls",
        "status",
        "audit",
        "audit verify",
        "profile check base",
        "profile explain base read /etc/passwd",
        "profile show workspace",
        "doctor",
    ];
    for question in questions {
        let words = question.split(' ').chain(["--json"]);
        let finished = process::run(&mut open.skep.command(words), PATIENCE)?;
        ensure!(finished.code() == 0, "{question}: {finished:?}");
        let answers = objects(&finished.stdout).with_context(|| question.to_owned())?;
        ensure!(!answers.is_empty() && answers.iter().all(Value::is_object), "{question}: {finished:?}");
    }
    Ok(())
}

#[test]
fn a_question_about_what_is_not_there_is_answered_as_such() -> Outcome {
    let skep = Skep::new()?;
    let empty = process::run(&mut skep.command(["ls"]), PATIENCE)?;
    ensure!(empty.code() == 0 && empty.stdout.contains("no sandbox is running"), "{empty:?}");
    refused(
        &mut skep.command(["status", "no-such-one"]),
        &["no sandbox is running", "skep audit no-such-one"],
    )?;
    let unseen = process::run(&mut skep.command(["audit", "no-such-one"]), PATIENCE)?;
    ensure!(unseen.code() == 0 && unseen.stderr.contains("no record matches"), "{unseen:?}");
    let open = Open::new()?;
    refused(&mut open.skep.command(["status", "no-such-one"]), &["no-such-one", "skep ls"])
}

#[test]
fn a_socket_or_a_log_that_is_named_and_not_there_is_an_error() -> Outcome {
    let open = Open::new()?;
    let ask = |line: &str| open.skep.command(line.split(' '));
    for line in ["ls", "status", "audit", "status bee", "run true"] {
        refused(
            &mut ask(&format!("--socket /nonexistent/s {line}")),
            &["there is no socket /nonexistent/s"],
        )?;
    }
    for line in ["audit --state /nonexistent", "audit verify --state /nonexistent"] {
        refused(&mut ask(line), &["/nonexistent", "No such file"])?;
    }
    Ok(())
}

#[test]
fn the_audit_at_a_named_socket_is_that_skepds() -> Outcome {
    let (open, other) = (Open::new()?, Skep::new()?);
    let socket = open.skep.runtime().join("skepd.sock").display().to_string();
    let asked = |words: &[&str]| {
        let words = ["--socket", &socket].into_iter().chain(words.iter().copied());
        process::run(&mut other.command(words), PATIENCE)
    };
    let audit = asked(&["audit", "--json"])?;
    ensure!(audit.code() == 0 && audit.stdout.contains("\"start\""), "{audit:?}");
    for words in [&["audit", "--state", "/"][..], &["audit", "verify"]] {
        let both = asked(words)?;
        ensure!(both.code() == 2 && both.stderr.contains("--state"), "{both:?}");
    }
    Ok(())
}

#[test]
fn a_new_window_size_reaches_the_agent() -> Outcome {
    hears_its_new_size(&Skep::new()?)
}

/// The agent runs while its gateway gets ready, and `skep` has not been told yet.
#[test]
fn a_new_window_size_reaches_the_agent_also_while_it_is_launched() -> Outcome {
    hears_its_new_size(&Skep::with_script("skep-egress", "sleep 1; exec \"$0.real\" \"$@\"")?)
}

fn hears_its_new_size(skep: &Skep) -> Outcome {
    let inside = "trap 'stty size > told' WINCH; touch ready; for i in {1..300}; do sleep 0.1; test -s told && exit 5; done";
    let sandboxed = skep.shell(inside).command();
    let mut command = Command::new("/bin/bash");
    let outer = "(until test -e ready; do sleep 0.1; done; stty rows 40 cols 90 < /dev/tty) & exec \"$@\"";
    let script = "printf -v line '%q ' /bin/bash -c \"$0\" bash \"$@\"; SHELL=/bin/bash script -qec \"$line\" /dev/null";
    command.args(["-c", script, outer]).arg(sandboxed.get_program()).args(sandboxed.get_args()).env_clear();
    command.envs(sandboxed.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.current_dir(skep.ground().workspace());
    let finished = process::run(&mut command, PATIENCE)?;
    let told = fs::read_to_string(skep.ground().workspace().join("told")).unwrap_or_default();
    ensure!(finished.code() == 5 && told == "40 90\n", "{told:?} {finished:?}");
    Ok(())
}
