//! `skep doctor`: what this host can enforce, and which profiles start here.

use serde_json::{Value, json};
use skep_kernel::probe::{Facts, Proof};
use skep_policy::layers::Host;

use crate::access::{Access, Standing};

use super::profile::{Checked, starts, written_rules};
use super::render::{Ink, Screen, counted, foreign, lines, pad, table};
use super::weaker::{grouped, refused_json, weaker_json};

/// What doctor found out about a profile; where the directory it was called in can be no workspace, why not.
pub type Judged = Result<Checked, &'static str>;

/// One layer: is it here, how is that known, what would change it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What people call it.
    pub layer: &'static str,
    /// Whether rules can rely on it.
    pub here: bool,
    /// How that was found, or why not.
    pub why: String,
    /// What to do about it; empty where nothing needs to be done.
    pub advice: String,
}

/// Whether the user needs no sudo.
#[must_use]
pub fn access(access: &Access) -> Finding {
    let why = match (access.standing, &access.user) {
        (Standing::NoGroup, _) => "there is no such group: only root uses skep".to_owned(),
        (Standing::Outside, Some(user)) => format!("{user} is no member"),
        (Standing::NotYet, Some(user)) => format!("{user} joined it after this session began"),
        (Standing::Member, Some(user)) => format!("{user} is a member: no sudo while a skepd runs"),
        (_, None) => "its members need no sudo while a skepd runs".to_owned(),
    };
    let here = access.standing == Standing::Member;
    Finding { layer: "group skep", here, why, advice: access.advice() }
}

/// Turns facts into findings.
#[must_use]
pub fn findings(facts: &Facts, host: &Host) -> Vec<Finding> {
    vec![
        proven("landlock", &facts.landlock.proof, "boot with landlock in lsm= (kernel 5.13 or later)")
            .with_detail(&format!("ABI {}", facts.landlock.abi)),
        proven("seccomp filter", &facts.seccomp.proof, "use a kernel with CONFIG_SECCOMP_FILTER"),
        judge(facts, host),
        Finding {
            layer: "network gateway",
            here: host.sk_lookup,
            why: if host.sk_lookup { "sk_lookup loads" } else { "the sk_lookup program does not load" }
                .to_owned(),
            advice: unless(
                host.sk_lookup,
                "run as root with CAP_BPF and CAP_NET_ADMIN, on kernel 5.9 or later",
            ),
        },
        cgroup(facts),
        idmap(facts),
        nested(facts),
        unprivileged_bpf(facts),
    ]
}

impl Finding {
    fn with_detail(mut self, detail: &str) -> Self {
        if self.here {
            self.why = format!("{detail}, {}", self.why);
        }
        self
    }
}

fn unless(here: bool, advice: &str) -> String {
    if here { String::new() } else { advice.to_owned() }
}

fn proven(layer: &'static str, proof: &Proof, advice: &str) -> Finding {
    Finding { layer, here: proof.works(), why: explain(proof), advice: unless(proof.works(), advice) }
}

fn explain(proof: &Proof) -> String {
    match proof {
        Proof::Works => "seen to refuse".to_owned(),
        Proof::Refused(errno) => {
            format!("the kernel refused it: {}", std::io::Error::from_raw_os_error(*errno))
        }
        Proof::Ineffective => "it was set up and refused nothing".to_owned(),
        Proof::Untried(why) => format!("could not be tried: {why}"),
    }
}

/// The path judge needs `bpf` in the boot line, and the line is given whole: leaving an LSM out of it would
/// switch that one off.
fn judge(facts: &Facts, host: &Host) -> Finding {
    let layer = "path judge (BPF LSM)";
    if host.judge {
        return Finding { layer, here: true, why: "its canary was denied".to_owned(), advice: String::new() };
    }
    if facts.lists_bpf_lsm() {
        let why =
            "the kernel would call it, but this version of skep has none; guards with patterns hold as far \
                   as mounts and Landlock reach"
                .to_owned();
        return Finding { layer, here: false, why, advice: String::new() };
    }
    let (why, advice) = match &facts.lsms {
        Some(names) => {
            ("bpf is not among the kernel's LSMs".to_owned(), format!("boot with lsm={}", boot_line(names)))
        }
        None => (
            "it is unknown which LSMs the kernel has".to_owned(),
            "mount -t securityfs securityfs /sys/kernel/security, and run this again".to_owned(),
        ),
    };
    Finding { layer, here: false, why, advice }
}

/// The active LSMs and `bpf`. `capability` is always first and not to be named.
fn boot_line(names: &[String]) -> String {
    let named = names.iter().map(String::as_str).filter(|name| *name != "capability");
    named.chain(["bpf"]).collect::<Vec<_>>().join(",")
}

fn cgroup(facts: &Facts) -> Finding {
    let controllers: Vec<String> = facts.cgroup.controllers.iter().map(|c| c.to_string()).collect();
    let missing: Vec<&str> =
        ["memory", "pids", "cpu"].into_iter().filter(|name| !controllers.iter().any(|c| c == name)).collect();
    let works = facts.cgroup.proof.works();
    let why = match (works, missing.is_empty()) {
        (false, _) => explain(&facts.cgroup.proof),
        (true, true) => format!("frozen, thawed and killed; controllers {}", controllers.join(" ")),
        (true, false) => format!("frozen, thawed and killed, but version 2 lacks {}", missing.join(", ")),
    };
    let advice = "boot with systemd.unified_cgroup_hierarchy=1 (or mount cgroup2 with its controllers); \
                  without them a profile that limits memory or processor starts only if it says best_effort there, \
                  and these limits do not hold";
    Finding {
        layer: "cgroup v2 limits",
        here: works && missing.is_empty(),
        why,
        advice: unless(works && missing.is_empty(), advice),
    }
}

fn idmap(facts: &Facts) -> Finding {
    let bad = facts.idmapped_mounts.iter().find(|(_, proof)| !proof.works());
    let (here, why) = match (facts.idmapped_mounts.is_empty(), bad) {
        (true, _) => (false, "was not tried".to_owned()),
        (false, None) => (true, "mounted".to_owned()),
        (false, Some((path, proof))) => {
            (false, format!("{}: {}", foreign(&path.to_string_lossy()), explain(proof)))
        }
    };
    let advice =
        "identity = \"own\" (and plain root) needs kernel 5.12 or later and ext4, xfs, btrfs or tmpfs";
    Finding { layer: "idmapped mounts", here, why, advice: unless(here, advice) }
}

fn nested(facts: &Facts) -> Finding {
    let namespaces = &facts.user_namespaces;
    let restricted = namespaces.apparmor_restricts == Some(1);
    let here = namespaces.proof.works() && !restricted;
    let why = if restricted {
        "AppArmor takes the capabilities of unprivileged user namespaces away".to_owned()
    } else {
        match namespaces.proof {
            Proof::Works => "made without privilege".to_owned(),
            ref proof => explain(proof),
        }
    };
    let advice = if restricted {
        "only agents with sandboxes of their own need it: load an AppArmor profile with `userns,` for them"
    } else {
        "only agents with sandboxes of their own need it: sysctl user.max_user_namespaces=15000"
    };
    Finding { layer: "user namespaces inside", here, why, advice: unless(here, advice) }
}

fn unprivileged_bpf(facts: &Facts) -> Finding {
    let here = facts.unprivileged_bpf_disabled.is_some_and(|value| value > 0);
    let why = match facts.unprivileged_bpf_disabled {
        Some(value) => format!("kernel.unprivileged_bpf_disabled = {value}"),
        None => "kernel.unprivileged_bpf_disabled cannot be read".to_owned(),
    };
    let advice = "sysctl kernel.unprivileged_bpf_disabled=2 (sandboxes cannot call bpf(2) either way)";
    Finding { layer: "bpf(2) is root's alone", here, why, advice: unless(here, advice) }
}

/// The whole report for people.
#[must_use]
pub fn report(
    screen: &Screen,
    kernel: &str,
    findings: &[Finding],
    access: &Finding,
    profiles: &[(String, Judged)],
) -> String {
    let mut out = format!("kernel {}\n\n", foreign(kernel));
    for finding in findings.iter().chain([access]) {
        let (word, ink) = if finding.here { ("yes", Ink::Good) } else { ("NO", Ink::Careful) };
        let why = screen.rest(&foreign(&finding.why), 31);
        out += &format!("{}  {}  {why}\n", pad(finding.layer, 24), screen.paint(ink, &pad(word, 3)));
        if !finding.advice.is_empty() {
            out += &format!("{:>31}{}\n", "", screen.paint(Ink::Faint, &format!("-> {}", finding.advice)));
        }
    }
    let row = |(name, judged): &(String, Judged)| vec![foreign(name), verdict(judged)];
    let rows: Vec<_> = profiles.iter().map(row).collect();
    out += "\n";
    out += &table(screen, &["PROFILE", "HERE, WITH THIS DIRECTORY AS WORKSPACE"], &rows);
    out + &profiles.iter().map(|(name, judged)| details(screen, name, judged)).collect::<String>()
}

fn verdict(judged: &Judged) -> String {
    let checked = match judged {
        Ok(checked) => checked,
        Err(why) => return format!("not judged here: this directory {why}; cd into a project"),
    };
    match checked {
        Ok((policy, Ok(binding))) => match binding.weaker().count() {
            0 => "starts, every rule enforced".to_owned(),
            weaker => format!("starts, {weaker} of {} weaker", counted(written_rules(policy), "rule")),
        },
        Ok((_, Err(refusal))) => {
            format!("REFUSES to start: {} cannot be enforced", counted(refusal.rules.len(), "rule"))
        }
        Err(errors) => format!("WRONG: {}", counted(errors.errors.len(), "error")),
    }
}

fn details(screen: &Screen, name: &str, judged: &Judged) -> String {
    let Ok(checked) = judged else { return String::new() };
    let head = |text: &str| screen.paint(Ink::Strong, &format!("\n{}: {text}\n", foreign(name)));
    match checked {
        Ok((_, Ok(binding))) if binding.weaker().next().is_some() => head("weaker here") + &grouped(binding),
        Ok((_, Ok(_))) => String::new(),
        Ok((_, Err(refusal))) => head("refuses") + &lines(&refusal.to_string()) + "\n",
        Err(errors) => head("wrong") + &lines(&errors.to_string()) + "\n",
    }
}

/// The whole report as one JSON object.
#[must_use]
pub fn json(kernel: &str, findings: &[Finding], access: &Finding, profiles: &[(String, Judged)]) -> String {
    let layers: Vec<Value> = findings
        .iter()
        .map(|f| json!({ "layer": f.layer, "here": f.here, "why": foreign(&f.why), "advice": f.advice }))
        .collect();
    let access = json!({ "member": access.here, "why": access.why, "advice": access.advice });
    let profiles: Vec<Value> = profiles
        .iter()
        .map(|(name, judged)| {
            let checked = match judged {
                Ok(checked) => checked,
                Err(why) => {
                    let why = format!("this directory {why}");
                    return json!({ "profile": foreign(name), "starts": null, "why": why });
                }
            };
            let (weaker, refused) = match checked {
                Ok((_, Ok(binding))) => (weaker_json(binding), Vec::new()),
                Ok((_, Err(refusal))) => (Vec::new(), refused_json(refusal)),
                Err(errors) => {
                    let error = |e: &skep_policy::diagnostics::Diagnostic| json!({ "rule": null, "why": foreign(&e.message) });
                    (Vec::new(), errors.errors.iter().map(error).collect())
                }
            };
            json!({ "profile": foreign(name), "starts": starts(checked), "weaker": weaker, "refused": refused })
        })
        .collect();
    json!({ "kernel": foreign(kernel), "layers": layers, "group": access, "profiles": profiles }).to_string()
}

#[cfg(test)]
mod tests {
    use skep_kernel::cgroup::Controllers;
    use skep_kernel::probe::{Cgroup, Landlock, Seccomp, UserNamespaces};
    use skep_policy::compose::compose;
    use skep_policy::diagnostics::Source;
    use skep_policy::layers::{Binding, Refusal};
    use skep_policy::policy::{Bindings, Policy};
    use skep_policy::profile::Profile;
    use skep_policy::shipped::Shipped;
    use skep_policy::tree::Imagined;

    use super::*;

    fn facts() -> Facts {
        Facts {
            kernel: "6.18.0".into(),
            lsms: Some(["capability", "landlock", "yama"].map(str::to_owned).to_vec()),
            landlock: Landlock { abi: 7, proof: Proof::Works },
            seccomp: Seccomp { proof: Proof::Works, listener: true, wait_killable: true },
            cgroup: Cgroup { mount: None, controllers: Controllers::default(), proof: Proof::Works },
            user_namespaces: UserNamespaces {
                proof: Proof::Works,
                most: Some(1),
                apparmor_restricts: Some(1),
            },
            idmapped_mounts: vec![("/var/\x1b[2J".into(), Proof::Refused(22))],
            unprivileged_bpf_disabled: Some(0),
        }
    }

    #[test]
    fn the_boot_line_keeps_what_is_there() {
        let found = findings(&facts(), &Host::default());
        let judge = found.iter().find(|finding| finding.layer.starts_with("path judge")).unwrap();
        assert!(!judge.here);
        assert_eq!(judge.advice, "boot with lsm=landlock,yama,bpf");
    }

    #[test]
    fn every_layer_that_is_missing_comes_with_a_reason_and_advice() {
        let found = findings(&facts(), &Host::default());
        let missing: Vec<_> = found.iter().filter(|finding| !finding.here).collect();
        assert_eq!(missing.len(), 6, "{missing:?}");
        assert!(missing.iter().all(|finding| !finding.why.is_empty() && !finding.advice.is_empty()));
    }

    #[test]
    fn the_report_is_plain_and_tells_weaker_from_refused() {
        let source = Source::new("a", "schema = 1\nname = \"a\"\n");
        let effective = compose(&Profile::parse(&source).unwrap(), &Shipped).unwrap();
        let policy = Policy::compile(&effective, &Bindings::for_tests(), &Imagined).unwrap();
        let profiles = [
            ("a".to_owned(), Ok(Ok((policy.clone(), Ok(Binding::default()))))),
            ("b".to_owned(), Ok(Ok((policy, Err(Refusal { rules: Vec::new() }))))),
            ("c".to_owned(), Err("holds the whole home directory")),
        ];
        let found = findings(&facts(), &Host::default());
        let access = access(&Access { user: Some("bee".into()), standing: Standing::Outside });
        let text = report(&Screen::default(), "6.18", &found, &access, &profiles);
        let expected = "group skep                NO   bee is no member\n                               \
                        -> sudo usermod -aG skep bee, then log in again\n";
        assert!(text.contains(expected), "{text}");
        assert!(text.contains("a        starts, every rule enforced\nb        REFUSES to start"), "{text}");
        let unjudged =
            "c        not judged here: this directory holds the whole home directory; cd into a project\n";
        assert!(text.contains(unjudged), "{text}");
        assert!(text.lines().all(|line| line.chars().all(skep_policy::escape::is_plain)), "{text:?}");
        let value: Value = serde_json::from_str(&json("6.18", &found, &access, &profiles)).unwrap();
        assert_eq!(
            (&value["profiles"][0]["starts"], &value["profiles"][1]["starts"]),
            (&json!(true), &json!(false))
        );
        assert_eq!(value["profiles"][2]["starts"], Value::Null);
    }
}
