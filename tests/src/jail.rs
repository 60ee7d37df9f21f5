//! Where an attempt is jailed.
//!
//! With `SKEP_TESTS_JAIL=bwrap` a peer takes the place of skep: to see that the attempts, controls and oracles are
//! sound before trusting what they say about ours. Its results are never recorded.

use std::process::Command;

use anyhow::Context;

use crate::skep::Skep;

/// The profile of an attempt that names no other.
pub(crate) const PROFILE: &str = include_str!("../profiles/attacked.toml");

/// Is a peer in the place of skep?
pub(crate) fn is_peer() -> bool {
    std::env::var_os("SKEP_TESTS_JAIL").is_some_and(|jail| jail == "bwrap")
}

/// The command that runs a script in the jail.
pub(crate) fn command(
    skep: &Skep,
    profile: &str,
    upstream: Option<&str>,
    script: &str,
) -> anyhow::Result<Command> {
    if is_peer() {
        return Ok(bubblewrap(skep, script));
    }
    let file = skep.ground().beside("profile.toml");
    std::fs::write(&file, profile).context("write profile")?;
    let run = skep.shell(script).profile(file);
    Ok(upstream.into_iter().fold(run, |run, upstream| run.option("--upstream", upstream)).command())
}

fn bubblewrap(skep: &Skep, script: &str) -> Command {
    let ground = skep.ground();
    let mut command = Command::new("bwrap");
    command.args("--unshare-all --new-session --die-with-parent --proc /proc --dev /dev".split(' '));
    command.args("--ro-bind /usr /usr --ro-bind /etc /etc --tmpfs /tmp --cap-drop ALL".split(' '));
    command.args(
        ["bin", "sbin", "lib", "lib64"]
            .iter()
            .flat_map(|link| ["--symlink".to_owned(), format!("usr/{link}"), format!("/{link}")]),
    );
    command
        .arg("--bind")
        .arg(ground.workspace())
        .arg(ground.workspace())
        .arg("--chdir")
        .arg(ground.workspace());
    let hooks = ground.workspace().join(".git/hooks");
    command.arg("--ro-bind").arg(&hooks).arg(&hooks);
    command.args(["--uid", "65534", "--", "/bin/bash", "-c", script]);
    command.current_dir(ground.workspace()).env_clear();
    command.envs([("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"), ("LANG", "C.UTF-8")]);
    command.env("MARK", ground.mark());
    command
}
