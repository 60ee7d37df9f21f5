//! Everything beside paths: limits, identity, commands, egress, environment, examples.

use super::{Binder, Layer, Outcome};
use crate::decision::Decision;
use crate::profile::{Attempt, Destination, EgressRule, Identity, Limit, LimitRule, LimitScope, Mode};
use crate::units::{Bytes, Percent};

/// `RLIMIT_FSIZE`, `RLIMIT_CORE`, `RLIMIT_NPROC`, `RLIMIT_NOFILE`, `RLIMIT_SIGPENDING` and `RLIMIT_MSGQUEUE` as Linux
/// numbers them on all its usual architectures.
const RLIMIT_FSIZE: u32 = 1;
const RLIMIT_CORE: u32 = 4;
const RLIMIT_NPROC: u32 = 6;
const RLIMIT_NOFILE: u32 = 7;
const RLIMIT_SIGPENDING: u32 = 11;
const RLIMIT_MSGQUEUE: u32 = 12;

/// The floor, whatever a profile says. A core limit of 0 would still run a piped `core_pattern` helper as root, 1 does
/// not (measured on 6.18). Queued signals (and timers, which reserve one each) and POSIX message queues are memory of
/// the kernel's: some thousands are more than a session has, and the second is the kernel's own default in bytes.
const FLOOR: [(u32, u64); 3] = [(RLIMIT_CORE, 1), (RLIMIT_SIGPENDING, 4096), (RLIMIT_MSGQUEUE, 819_200)];

pub(super) fn bind(binder: &mut Binder<'_>) {
    binder.binding.rlimits.extend(FLOOR);
    let rules = &binder.policy.rules;
    for setting in &rules.mode {
        let outcome = match setting.value {
            Mode::Enforce => Outcome::Enforced(vec![Layer::Supervisor]),
            Mode::Observe => Outcome::not_in_force("mode = \"observe\"", "everything is enforced"),
        };
        binder.add(&setting.rule, false, outcome);
    }
    for setting in &rules.nested_sandbox {
        let outcome = match setting.value {
            false => Outcome::Enforced(vec![Layer::Supervisor]),
            true => Outcome::not_in_force("nested_sandbox", "sandboxes inside the sandbox do not start"),
        };
        binder.add(&setting.rule, false, outcome);
    }
    for setting in &rules.identity {
        let outcome = identity(binder, setting.value);
        binder.add(&setting.rule, false, outcome);
    }
    for rule in &rules.limits {
        let outcome = limit(binder, rule);
        binder.add(&rule.rule, rule.best_effort, outcome);
    }
    commands(binder);
    for rule in &rules.egress {
        let outcome = egress(binder, rule);
        binder.add(&rule.rule, rule.best_effort, outcome);
    }
    environment_and_examples(binder);
}

fn identity(binder: &Binder<'_>, identity: Identity) -> Outcome {
    match identity {
        Identity::Own if !binder.host.idmapped_mounts => Outcome::Lacking {
            layers: Vec::new(),
            why: "a uid of its own needs idmapped mounts, which do not work here".to_owned(),
            remains: "the agent runs with a uid that cannot write your files".to_owned(),
            remedy: "use kernel 5.12 or later and a file system that has them".to_owned(),
        },
        Identity::Own | Identity::Caller => Outcome::Enforced(vec![Layer::Identity]),
    }
}

fn limit(binder: &mut Binder<'_>, rule: &LimitRule) -> Outcome {
    if rule.scope == LimitScope::Command {
        return Outcome::not_in_force("a limit for each command", "no command is limited by itself");
    }
    let has = |controller: &str| binder.host.controllers.contains(controller);
    match rule.limit {
        Limit::Memory(Bytes(bytes)) if has("memory") => {
            lower(&mut binder.binding.cgroup.memory, bytes);
            Outcome::Enforced(vec![Layer::Cgroup])
        }
        Limit::Memory(_) => no_controller("memory", "memory is not limited"),
        Limit::Cpu(percent) if has("cpu") => {
            let cpu = &mut binder.binding.cgroup.cpu;
            *cpu = Some(cpu.map_or(percent, |other: Percent| other.min(percent)));
            Outcome::Enforced(vec![Layer::Cgroup])
        }
        Limit::Cpu(_) => no_controller("cpu", "CPU time is not limited"),
        Limit::Pids(number) if has("pids") => {
            lower(&mut binder.binding.cgroup.pids, number);
            Outcome::Enforced(vec![Layer::Cgroup])
        }
        // Since 5.14 the kernel counts processes for each user namespace, so this limits the sandbox alone.
        Limit::Pids(number) => rlimit(binder, RLIMIT_NPROC, number),
        Limit::Nofile(number) => rlimit(binder, RLIMIT_NOFILE, number),
        Limit::FileSize(Bytes(bytes)) => rlimit(binder, RLIMIT_FSIZE, bytes),
        Limit::Time(time) if binder.host.wall_clock => {
            let milliseconds = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
            lower(&mut binder.binding.wall_clock_ms, milliseconds);
            Outcome::Enforced(vec![Layer::Supervisor])
        }
        Limit::Time(_) => Outcome::not_in_force("limits.time", "the sandbox runs as long as its command"),
        Limit::Idle(_) => Outcome::not_in_force("limits.idle", "an idle sandbox goes on"),
        Limit::Io(_) => Outcome::not_in_force("limits.io", "the disk is shared as among other processes"),
    }
}

fn lower(limit: &mut Option<u64>, value: u64) {
    *limit = Some(limit.map_or(value, |other| other.min(value)));
}

fn rlimit(binder: &mut Binder<'_>, number: u32, value: u64) -> Outcome {
    match binder.binding.rlimits.iter_mut().find(|(other, _)| *other == number) {
        Some((_, limit)) => *limit = value.min(*limit),
        None => binder.binding.rlimits.push((number, value)),
    }
    Outcome::Enforced(vec![Layer::Rlimit])
}

fn no_controller(controller: &str, remains: &str) -> Outcome {
    Outcome::Lacking {
        layers: Vec::new(),
        why: format!("this host's cgroup v2 tree has no `{controller}` controller for us"),
        remains: remains.to_owned(),
        remedy: "boot with systemd.unified_cgroup_hierarchy=1, or delegate the controller to skepd"
            .to_owned(),
    }
}

fn commands(binder: &mut Binder<'_>) {
    let rules = &binder.policy.rules;
    for setting in &rules.command_default {
        let outcome = match setting.value {
            Decision::Allow => Outcome::Enforced(vec![Layer::Mount]),
            Decision::Ask | Decision::Deny => Outcome::not_in_force(
                "commands.default",
                "whatever lies where it may be executed can be started",
            ),
        };
        binder.add(&setting.rule, false, outcome);
    }
    for rule in &rules.commands {
        let outcome = Outcome::not_in_force("a rule on commands", "the command runs like any other");
        binder.add(&rule.rule, rule.best_effort, outcome);
    }
}

fn egress(binder: &Binder<'_>, rule: &EgressRule) -> Outcome {
    if matches!(rule.to, Destination::Network(..)) {
        return Outcome::not_in_force("an egress rule on addresses", "the addresses cannot be reached");
    }
    if rule.inspect || rule.protocol.is_some() {
        return Outcome::not_in_force("`protocol` and `inspect` of egress", "only name and port are judged");
    }
    if !binder.host.sk_lookup {
        return Outcome::Lacking {
            layers: vec![Layer::Network],
            why: "connections cannot be handed to the gateway on this host".to_owned(),
            remains: "the sandbox has no network at all".to_owned(),
            remedy: "use kernel 5.9 or later that loads sk_lookup programs".to_owned(),
        };
    }
    Outcome::Enforced(vec![Layer::Network])
}

fn environment_and_examples(binder: &mut Binder<'_>) {
    let rules = &binder.policy.rules;
    let environment = rules.pass.iter().map(|setting| &setting.rule);
    for rule in environment.chain(rules.set.iter().map(|setting| &setting.rule)) {
        binder.add(rule, false, Outcome::Enforced(vec![Layer::Environment]));
    }
    for example in &rules.examples {
        let outcome = match example.attempt {
            Attempt::Run(_) => Outcome::not_in_force("an example of a command", "the example is not checked"),
            Attempt::File(..) | Attempt::Connect(..) => Outcome::Enforced(vec![Layer::Load]),
        };
        binder.add(&example.rule, false, outcome);
    }
}
