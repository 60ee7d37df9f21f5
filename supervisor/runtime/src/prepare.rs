//! From a request to a plan: everything that is decided before anything is done.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, lchown};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use skep_kernel::SyscallError;
use skep_kernel::cgroup::Limits;
use skep_kernel::listener::Peer;
use skep_kernel::view;
use skep_policy::compose::Effective;
use skep_policy::decision::Decision;
use skep_policy::launch::{self, Command, Ids, Plan, Terminal};
use skep_policy::layers::{self, Binding, Layer};
use skep_policy::plan::{self, Context};
use skep_policy::policy::{Bindings, FileOp, Policy};
use skep_policy::profile::{Guard, Identity};
use skep_policy::tree::{Found, Tree as _, walk};

use crate::audit::{self, Origin, Redactor, Share, Text};
use crate::caller::{Caller, OwnIds, variable};
use crate::hex::hex;
use crate::host;
use crate::protocol::{Profile, Refusal, Run};
use crate::registry::{Live, Progress};
use crate::supervisor::Supervisor;
use crate::view::{HostTree, NoCommand, package, program};

/// Everything decided about one run.
#[derive(Debug)]
pub struct Prepared {
    /// The sandbox as the rest of skepd sees it.
    pub live: Live,
    /// The launch as data.
    pub plan: Plan,
    /// Names with fixed addresses, in test builds.
    pub upstreams: Vec<(String, SocketAddr)>,
    /// Limits of the cgroup.
    pub limits: Limits,
    /// The first record.
    pub start: audit::Start,
}

impl Prepared {
    /// The plan for people and programs.
    #[must_use]
    pub fn plan_as_json(&self) -> String {
        // Only maps with keys that are no strings can fail, and the plan has none.
        serde_json::to_string_pretty(&self.plan).unwrap_or_default()
    }

    /// The rules that are weaker here, each with why.
    #[must_use]
    pub fn weaker(&self) -> Vec<(String, String)> {
        weaker(&self.live.binding)
    }

    /// How long it may run.
    #[must_use]
    pub fn wall_clock(&self) -> Option<Duration> {
        self.live.binding.wall_clock_ms.map(Duration::from_millis)
    }
}

/// The sandbox that a run is prepared for.
#[derive(Clone, Debug)]
pub struct Place {
    /// Its id.
    pub id: String,
    /// The number of its cgroup.
    pub cgroup: u64,
    /// Ids that no other sandbox has.
    pub own: OwnIds,
}

/// Decides everything about a run. Blocking: it looks at files, with the caller's rights.
///
/// # Errors
/// With what the caller did wrong, or what this host cannot enforce.
pub fn prepare(
    supervisor: &Supervisor,
    peer: Peer,
    request: &Run,
    place: Place,
) -> Result<Prepared, Refusal> {
    let since = Instant::now();
    if !request.upstreams.is_empty() && !cfg!(feature = "test-upstreams") {
        return Err(Refusal::new("upstream", "this skepd was not built for tests", "leave --upstream out"));
    }
    let caller = Caller::resolve(peer.uid, request.subject, variable(&request.environment, "HOME"))?;
    let command = request.argv.first().ok_or_else(|| Refusal::new("request", "no command", "name one"))?;
    let composed = supervisor.shelf.choose(&request.profile, command)?;
    let effective = &composed.effective;
    let tree = HostTree::default();
    let no_rights = |error: SyscallError| Refusal::new("launch", error.to_string(), "try again");
    // By its real path, and only if it is there: what is kept for it would be made for any number of names.
    let workspace =
        view::with_rights_of(caller.ids, || workspace(&tree, &request.workspace)).map_err(no_rights)??;
    let state = agent_state(supervisor, &caller, &effective.name, &workspace);
    if !request.plan_only {
        make_agent_state(&state, caller.ids)?;
    }
    let own = Own { tree, workspace, state, ids: place.own };
    let look = || look(supervisor, &caller, request, effective, own);
    let seen = view::with_rights_of(caller.ids, look).map_err(no_rights)??;
    finish(supervisor, request, &caller, seen, Given { place, version: &composed.version, since })
}

/// What a sandbox has of its own on the host, and what was seen of the host to find it.
struct Own {
    tree: HostTree,
    workspace: PathBuf,
    state: PathBuf,
    ids: OwnIds,
}

/// What the look at the host's files gave.
struct Seen {
    policy: Policy,
    binding: Binding,
    plan: Plan,
}

/// The part that looks at files; runs with the caller's rights.
fn look(
    supervisor: &Supervisor,
    caller: &Caller,
    request: &Run,
    effective: &Effective,
    own: Own,
) -> Result<Seen, Refusal> {
    let Own { tree, workspace, state, ids } = own;
    if request.plan_only {
        tree.suppose(&state, caller.ids);
    }
    let home = walk(&tree, &caller.home).real;
    let command = request.argv.first().map(Vec::as_slice).unwrap_or_default();
    let search = variable(&request.environment, "PATH").unwrap_or(b"/usr/local/bin:/usr/bin:/bin");
    let program = program(&tree, command, search, &request.directory)
        .map_err(|why| no_command(why, command, search))?;
    let bindings = Bindings {
        program: package(&program, &[&home, &workspace]),
        workspace: workspace.clone(),
        agent_state: state,
        home,
        environment: environment(&request.environment),
        reserved: [&supervisor.places.state, &supervisor.places.runtime]
            .map(|own| walk(&tree, own).real)
            .to_vec(),
    };
    let effective = guarding_itself(effective, &tree, request)?;
    let policy = Policy::compile(&effective, &bindings, &tree).map_err(|errors| {
        match bindings.unfit_workspace(&effective, &tree) {
            Some(why) => no_workspace(&format!("{} {why}", workspace.display())),
            None => Refusal::new("profile", errors.to_string(), "skep profile check FILE says this too"),
        }
    })?;
    check_writing(&policy, caller, &tree)?;
    let binding =
        layers::bind(&policy, &supervisor.host, &tree, &request.accept_weaker).map_err(|refusal| {
            let advice = "skep doctor shows what this host enforces; --accept-weaker RULE goes on without";
            Refusal::new("rule-not-enforceable", refusal.to_string(), advice)
        })?;
    check_accepted(&binding)?;
    let has_own = caller.is_root() || policy.identity() == Some(Identity::Own);
    let agent = if has_own { ids.agent } else { caller.ids };
    let directory = working_directory(&tree, &request.directory, &workspace);
    let context = Context { agent, caller: caller.ids, user: caller.name.clone(), directory };
    let prepared = plan::prepare(&policy, &binding, &tree, &context)
        .map_err(|error| Refusal::new("plan", error.to_string(), "skep run --plan shows what was planned"))?;
    let who = Who { agent, init: ids.init, lookup: caller.ids };
    let plan = assemble(prepared, request, who, program.as_os_str().as_bytes());
    Ok(Seen { policy, binding, plan })
}

/// The ids of a [`Plan`].
#[derive(Clone, Copy)]
struct Who {
    agent: Ids,
    init: Ids,
    lookup: Ids,
}

/// The launch as data: what the policy decided, and what only the request and the daemon know. The id and the
/// seccomp programs are added last.
fn assemble(prepared: plan::Prepared, request: &Run, who: Who, program: &[u8]) -> Plan {
    let Who { agent, init, lookup } = who;
    let plan::Prepared { template, private, landlock, rlimits, environment, directory } = prepared;
    Plan {
        version: launch::VERSION,
        sandbox: String::new(),
        agent,
        init,
        lookup,
        template,
        private,
        landlock,
        rlimits,
        agent_filter: Vec::new(),
        init_filter: Vec::new(),
        command: Command { program: program.to_vec(), argv: request.argv.clone(), environment, directory },
        terminal: request.window.map_or(Terminal::Pipes, |(rows, columns)| Terminal::Pty { rows, columns }),
    }
}

/// What was known before the look.
struct Given<'a> {
    place: Place,
    version: &'a str,
    since: Instant,
}

fn finish(
    supervisor: &Supervisor,
    request: &Run,
    caller: &Caller,
    seen: Seen,
    given: Given<'_>,
) -> Result<Prepared, Refusal> {
    let Seen { policy, binding, mut plan } = seen;
    let Given { place: Place { id, cgroup, .. }, version, since } = given;
    plan.sandbox.clone_from(&id);
    plan.agent_filter.clone_from(&supervisor.filters.agent);
    plan.init_filter.clone_from(&supervisor.filters.init);
    let name = request.name.clone().unwrap_or_else(|| format!("{}-{}", policy.name, &id[..8]));
    let weaker: Vec<audit::Weaker> = weaker(&binding)
        .into_iter()
        .map(|(rule, why)| audit::Weaker { rule: Text::from(rule), reason: Text::from(why) })
        .collect();
    let redactor = Redactor::from_environment(&plan.command.environment, &[])
        .map_err(|error| Refusal::new("environment", error.to_string(), "pass less"))?;
    let origin = Arc::new(Origin {
        sandbox: audit::Sandbox {
            id: id.clone(),
            name: Text::from(name.as_str()),
            owner: caller.ids.uid,
            profile: Text::from(policy.name.as_str()),
            version: version.to_owned(),
            weaker: audit::weaker_id(&weaker),
        },
        redactor,
        share: Share::of(supervisor.share),
    });
    let start = audit::Start {
        command: request.argv.iter().map(|argument| Text::from(argument.as_slice())).collect(),
        workspace: Text::from(policy.bindings.workspace.as_os_str().as_bytes()),
        caller: caller.ids.uid,
        kernel: supervisor.kernel_release.clone(),
        layers: supervisor.layers.clone(),
        weaker,
    };
    Ok(Prepared {
        limits: host::limits(&binding.cgroup),
        upstreams: request.upstreams.clone(),
        plan,
        start,
        live: Live {
            id,
            name,
            owner: caller.ids.uid,
            lookup: caller.ids,
            profile: policy.name.clone(),
            workspace: policy.bindings.workspace.clone(),
            command: shown_command(&request.argv),
            cgroup,
            policy,
            origin,
            binding,
            since,
            progress: Mutex::new(Progress::default()),
        },
    })
}

/// Each rule with the layers that hold it, which may be none. An example was true when the profile was loaded: it holds
/// nothing that an agent does.
pub(crate) fn enforced(binding: &Binding) -> Vec<(String, Vec<String>)> {
    let layers = |bound: &layers::Bound| {
        bound.layers.iter().map(|layer| format!("{layer:?}").to_lowercase()).collect()
    };
    let rules = binding.rules.iter().filter(|bound| bound.layers != [Layer::Load]);
    rules.map(|bound| (bound.rule.to_string(), layers(bound))).collect()
}

/// Each rule that is weaker here, and why.
pub(crate) fn weaker(binding: &Binding) -> Vec<(String, String)> {
    let why = |weaker: &layers::Weaker| format!("{}; what remains: {}", weaker.why, weaker.remains);
    binding.weaker().map(|(rule, weaker)| (rule.to_string(), why(weaker))).collect()
}

/// How much of a command is shown, in bytes before escaping. The audit has all of it.
const SHOWN: usize = 1_000;

/// The beginning of a command, escaped.
fn shown_command(argv: &[Vec<u8>]) -> String {
    let whole = argv.join(&b' ');
    let begun = &whole[..whole.len().min(SHOWN)];
    let cut = if begun.len() < whole.len() { " …" } else { "" };
    format!("{}{cut}", skep_policy::escape::escape(begun))
}

/// A name that is no rule's is a slip, and the rule it was meant for may be another one.
fn check_accepted(binding: &Binding) -> Result<(), Refusal> {
    let Some(name) = binding.accepted_nothing.first() else { return Ok(()) };
    let weaker: Vec<_> = binding.weaker().map(|(rule, _)| format!("\n  {}", rule.name())).collect();
    let here = match weaker.len() {
        0 => "none is weaker here".to_owned(),
        _ => format!("these are weaker here:{}", weaker.concat()),
    };
    let message = format!("--accept-weaker {}: no rule has this name; {here}", name.escape_debug());
    Err(Refusal::new("no-such-rule", message, "name one of these, or leave it out"))
}

/// The profile; where it is a file of the caller's, with a guard on that file, or the agent would decide what its
/// next run may do.
fn guarding_itself<'e>(
    effective: &'e Effective,
    tree: &HostTree,
    request: &Run,
) -> Result<Cow<'e, Effective>, Refusal> {
    let Profile::Text { path, .. } = &request.profile else { return Ok(Cow::Borrowed(effective)) };
    let path = request.directory.join(path);
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(Cow::Borrowed(effective));
    };
    // The last component stays as it is: a link that can be replaced is not the file.
    let path = walk(tree, parent).real.join(name);
    let path = path.to_str().ok_or_else(|| {
        let message = format!("the profile {}: its path is not UTF-8", path.display());
        Refusal::new("profile", message, "keep it where it can be named in a rule")
    })?;
    let mut effective = effective.clone();
    // What is said about it is read later, and elsewhere.
    if let Some((_, source)) = effective.sources.last_mut() {
        path.clone_into(&mut source.file);
    }
    Arc::make_mut(&mut effective.rules).guards.push(Guard::of_profile(path));
    Ok(Cow::Owned(effective))
}

/// The workspace without symbolic links; it must be a directory the caller can reach.
fn workspace(tree: &HostTree, path: &Path) -> Result<PathBuf, Refusal> {
    let walked = walk(tree, path);
    let shown = path.display();
    let problem = match walked.found {
        Found::Directory(_) if walked.real == Path::new("/") => format!("{shown} is the whole file system"),
        Found::Directory(_) => return Ok(walked.real),
        Found::Missing => format!("{shown} does not exist"),
        Found::Unreachable(errno) => format!("{shown}: {}", std::io::Error::from_raw_os_error(errno)),
        Found::File(_) | Found::Other(_) | Found::Symlink(_) => format!("{shown} is no directory"),
    };
    Err(no_workspace(&problem))
}

fn no_workspace(problem: &str) -> Refusal {
    let advice = "cd into the project, or name it with --workspace DIR";
    Refusal::new("workspace", format!("the workspace {problem}"), advice)
}

/// A workspace that the profile opens for writing must be one the agent can write to: otherwise it would find out, one
/// failed edit after the other.
fn check_writing(policy: &Policy, caller: &Caller, tree: &HostTree) -> Result<(), Refusal> {
    let workspace = &policy.bindings.workspace;
    if policy.judge(FileOp::Write, workspace).decision != Decision::Allow {
        return Ok(());
    }
    if policy.identity() == Some(Identity::Own) && !caller.is_root() {
        shown_with_its_group(workspace, caller, tree)?;
    }
    writable(workspace, caller)
}

/// An agent with ids of its own is shown the caller's files as its own, but not a group he may be no member of: the
/// kernel then refuses every change below.
fn shown_with_its_group(workspace: &Path, caller: &Caller, tree: &HostTree) -> Result<(), Refusal> {
    let Ids { uid, gid } = caller.ids;
    match tree.look(workspace).owner() {
        Some(owner) if owner.uid == uid && owner.gid != gid => Err(Refusal::new(
            "workspace",
            format!(
                "the workspace {} has the group {}, and {} the group {gid}",
                workspace.display(),
                owner.gid,
                caller.name
            ),
            "chgrp it, or leave `identity = \"own\"` out",
        )),
        _ => Ok(()),
    }
}

/// May the caller himself write there?
fn writable(workspace: &Path, caller: &Caller) -> Result<(), Refusal> {
    view::may_change(workspace).map_err(|error| {
        let reason = std::io::Error::from_raw_os_error(error.errno);
        let Ids { uid, gid } = caller.ids;
        let shown = workspace.display();
        Refusal::new(
            "workspace",
            format!(
                "the workspace {shown} is not writable for {} (uid {uid}, gid {gid}): {reason}",
                caller.name
            ),
            "give it to this user, name another with --workspace DIR, or a profile that only reads it",
        )
    })
}

/// The caller's directory if it lies in the workspace, else the workspace.
fn working_directory(tree: &HostTree, directory: &Path, workspace: &Path) -> PathBuf {
    let real = walk(tree, directory).real;
    if real.starts_with(workspace) { real } else { workspace.to_owned() }
}

fn no_command(why: NoCommand, command: &[u8], search: &[u8]) -> Refusal {
    let shown = skep_policy::escape::escape(command);
    let search = skep_policy::escape::escape(search);
    let not_found =
        |message, advice| Refusal { exit: 127, ..Refusal::new("command-not-found", message, advice) };
    match why {
        NoCommand::NotFound if command.contains(&b'/') => {
            not_found(format!("there is no {shown}"), "name a program that exists and that you may run")
        }
        NoCommand::NotFound => {
            not_found(format!("{shown}: command not found in {search}"), "install it, or give its path")
        }
        NoCommand::NotExecutable => Refusal {
            exit: 126,
            ..Refusal::new(
                "not-executable",
                format!("{shown} is no executable file"),
                "chmod +x makes it one",
            )
        },
    }
}

/// The private state directory of this user, profile and workspace.
fn agent_state(supervisor: &Supervisor, caller: &Caller, profile: &str, workspace: &Path) -> PathBuf {
    let digest = hex(&Sha256::digest(workspace.as_os_str().as_bytes())[..8]);
    supervisor.places.agent_state(caller.ids.uid, profile, &digest)
}

/// Makes it, for a launch: his alone.
fn make_agent_state(path: &Path, user: Ids) -> Result<(), Refusal> {
    let failed = |error: std::io::Error| {
        Refusal::new("state", format!("{}: {error}", path.display()), "make room, or mend its owner and mode")
    };
    if let Some(parent) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o711).create(parent).map_err(failed)?;
    }
    give_directory(path, user).map_err(failed)
}

/// Makes a directory of a user's alone, below a directory of root's: so what has this name was made here. A skepd
/// that died between the two steps has left it root's.
fn give_directory(path: &Path, user: Ids) -> std::io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    if fs::symlink_metadata(path)?.uid() == user.uid {
        return Ok(());
    }
    lchown(path, Some(user.uid), Some(user.gid))
}

/// Entries `NAME=value` by their names; those without one are left out.
fn environment(entries: &[Vec<u8>]) -> BTreeMap<Vec<u8>, Vec<u8>> {
    entries
        .iter()
        .filter_map(|entry| {
            let equals = entry.iter().position(|byte| *byte == b'=')?;
            Some((entry[..equals].to_vec(), entry[equals + 1..].to_vec()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use skep_policy::rule::RuleRef;

    use super::*;

    #[test]
    fn a_command_is_shown_up_to_where_it_stops_telling_anything() {
        let argv = |words: &[&str]| words.iter().map(|word| word.as_bytes().to_vec()).collect::<Vec<_>>();
        assert_eq!(shown_command(&argv(&["echo", "a b", "\n"])), "echo a b \\n");
        let long = shown_command(&argv(&["echo", &"x".repeat(9_000)]));
        assert!(long.len() < SHOWN + 8 && long.ends_with("x …"), "{long}");
    }

    #[test]
    fn an_example_is_no_rule_that_is_enforced() {
        let bound = |text: &str, layers: &[Layer]| {
            let rule =
                RuleRef { profile: "p".into(), line: 3, column: 1, key: "k".into(), text: text.into() };
            layers::Bound { rule, layers: layers.to_vec(), weaker: None }
        };
        let rules = vec![bound("a", &[Layer::Mount]), bound("b", &[Layer::Load]), bound("c", &[])];
        let layers = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let expected =
            [("p:3 k \"a\"".to_owned(), layers(&["mount"])), ("p:3 k \"c\"".to_owned(), layers(&[]))];
        assert_eq!(enforced(&Binding { rules, ..Binding::default() }), expected);
    }

    #[test]
    fn root_only_a_state_directory_that_was_made_and_not_given_away_is_the_users_the_next_time() {
        let ground = tempfile::tempdir().unwrap();
        let path = ground.path().join("profile-digest");
        let user = Ids { uid: 65_533, gid: 65_532 };
        fs::create_dir(&path).unwrap();
        for _ in 0..2 {
            give_directory(&path, user).unwrap();
            let metadata = fs::metadata(&path).unwrap();
            assert_eq!((metadata.uid(), metadata.gid()), (user.uid, user.gid));
        }
        let below_a_file = ground.path().join("file/directory");
        fs::write(ground.path().join("file"), "").unwrap();
        assert!(give_directory(&below_a_file, user).is_err());
    }
}
