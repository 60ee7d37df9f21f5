//! The sandboxes that exist, found by name, id or cgroup.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Instant;

use skep_policy::egress::LONGEST_NAME;
use skep_policy::launch::Ids;
use skep_policy::layers::Binding;
use skep_policy::policy::Policy;

use crate::audit::Origin;
use crate::distinct::Distinct;
use crate::prepare::{enforced, weaker};
use crate::protocol::{Counters, Denial, Sandbox};

/// One sandbox as everybody but its own task sees it.
#[derive(Debug)]
pub struct Live {
    /// Id: 16 hex digits, unique for the life of the state directory in practice (64 random bits).
    pub id: String,
    /// Name, unique among the living sandboxes of its owner.
    pub name: String,
    /// Uid of the user it works for.
    pub owner: u32,
    /// The same user, with whose rights the host's files are looked at.
    pub lookup: Ids,
    /// Name of its profile.
    pub profile: String,
    /// Its workspace.
    pub workspace: PathBuf,
    /// Its command, escaped.
    pub command: String,
    /// Id of its cgroup, by which the kernel's records name it.
    pub cgroup: u64,
    /// What it may do.
    pub policy: Policy,
    /// What its records repeat.
    pub origin: Arc<Origin>,
    /// What enforces each rule here.
    pub binding: Binding,
    /// When it was asked for.
    pub since: Instant,
    /// What changes.
    pub progress: Mutex<Progress>,
}

/// What changes while a sandbox lives.
#[derive(Debug, Default)]
pub struct Progress {
    /// `preparing`, `running` or `ending`.
    pub phase: Phase,
    /// The agent's pid.
    pub pid: Option<u32>,
    /// What it did.
    pub counters: Counters,
    /// Records of those it lost that had room and were not judged.
    pub unjudged: u64,
    /// The paths it changed, and how.
    pub changed: Distinct<(Trace, Vec<u8>)>,
    /// What passed although the policy denies it.
    pub unenforced: Distinct<String>,
    /// What was denied, with its repeats.
    pub denials: Distinct<String, Repeated>,
    /// Names by their virtual addresses. The gateway says so, and it is believed only for what is written down.
    pub names: Distinct<IpAddr, String>,
}

/// What a change left at a path: what is made again after it was removed must not hide that it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trace {
    /// It was made or changed.
    Written,
    /// What was there is there no more.
    Removed,
}

/// A denial and how often it was repeated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Repeated {
    /// How often.
    pub count: u64,
    /// The rule that denies it; `None` when no rule grants it.
    pub rule: Option<String>,
    /// The line of TOML that would allow it.
    pub allow_with: Option<String>,
}

/// Where a sandbox stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// It is being built.
    #[default]
    Preparing,
    /// The agent runs.
    Running,
    /// The agent ended and the rest is being removed.
    Ending,
}

impl Progress {
    /// What a person wants to hear of first: what a rule denies, then connections, then what was tried most.
    #[must_use]
    pub fn most_telling(&self, most: usize) -> Vec<Denial> {
        let mut denials: Vec<_> = self.denials.iter().collect();
        denials.sort_by_key(|(what, repeated)| {
            (repeated.rule.is_none(), !what.starts_with("connect "), std::cmp::Reverse(repeated.count))
        });
        let denial = |(what, repeated): (&String, &Repeated)| Denial {
            what: what.clone(),
            rule: repeated.rule.clone(),
            allow_with: repeated.allow_with.clone(),
        };
        denials.into_iter().take(most).map(denial).collect()
    }

    /// Remembers which addresses stand for a name. A gateway that is started again may give them to another one.
    pub fn learn(&mut self, name: &str, addresses: Option<(Ipv4Addr, Ipv6Addr)>) {
        let Some((v4, v6)) = addresses.filter(|_| name.len() <= LONGEST_NAME) else { return };
        for address in [v4.into(), v6.into()] {
            // The name may be replaced by a longer one, so each counts as the longest.
            if let (_, Some(known)) = self.names.meet(address, String::new(), LONGEST_NAME) {
                name.clone_into(known);
            }
        }
    }
}

impl Live {
    /// The changing part. A task that panicked while it held the lock has left only counters behind.
    pub fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As `ls` and `status` show it.
    #[must_use]
    pub fn report(&self) -> Sandbox {
        let progress = self.progress();
        let state = match progress.phase {
            Phase::Preparing => "preparing",
            Phase::Running => "running",
            Phase::Ending => "ending",
        };
        Sandbox {
            id: self.id.clone(),
            name: self.name.clone(),
            owner: self.owner,
            profile: self.profile.clone(),
            workspace: self.workspace.clone(),
            command: self.command.clone(),
            state: state.to_owned(),
            age_seconds: self.since.elapsed().as_secs(),
            pid: progress.pid,
            counters: progress.counters,
            enforced: enforced(&self.binding),
            weaker: weaker(&self.binding),
        }
    }
}

#[cfg(test)]
impl Live {
    /// A sandbox that no rule grants anything.
    pub(crate) fn for_tests(name: &str, cgroup: u64) -> Self {
        Self::with_profile(name, cgroup, "schema = 1\nname = \"p\"\n")
    }

    /// A sandbox with this profile.
    pub(crate) fn with_profile(name: &str, cgroup: u64, profile: &str) -> Self {
        use skep_policy::compose::compose;
        use skep_policy::diagnostics::Source;
        use skep_policy::policy::Bindings;
        use skep_policy::profile::Profile;
        use skep_policy::shipped::Shipped;
        use skep_policy::tree::Imagined;

        use crate::audit::{self, Redactor};

        let profile = Profile::parse(&Source::new("p", profile)).unwrap();
        let effective = compose(&profile, &Shipped).unwrap();
        let sandbox = audit::Sandbox {
            id: cgroup.to_string(),
            name: name.into(),
            owner: 0,
            profile: "p".into(),
            version: String::new(),
            weaker: None,
        };
        Self {
            id: cgroup.to_string(),
            name: name.to_owned(),
            owner: 0,
            lookup: Ids { uid: 0, gid: 0 },
            profile: "p".to_owned(),
            workspace: PathBuf::new(),
            command: String::new(),
            cgroup,
            policy: Policy::compile(&effective, &Bindings::for_tests(), &Imagined).unwrap(),
            origin: Arc::new(Origin {
                sandbox,
                redactor: Redactor::default(),
                share: audit::Share::of(u64::MAX),
            }),
            binding: Binding::default(),
            since: Instant::now(),
            progress: Mutex::default(),
        }
    }
}

/// All living sandboxes.
#[derive(Debug, Default)]
pub struct Registry {
    inner: RwLock<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// By name and owner: nobody may take a name away from somebody else.
    by_name: BTreeMap<(String, u32), Arc<Live>>,
    by_cgroup: HashMap<u64, Arc<Live>>,
}

impl Registry {
    /// Adds a sandbox; `false` if its owner has one of this name.
    #[must_use]
    pub fn insert(&self, live: Arc<Live>) -> bool {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        let key = (live.name.clone(), live.owner);
        if inner.by_name.contains_key(&key) {
            return false;
        }
        inner.by_cgroup.insert(live.cgroup, Arc::clone(&live));
        inner.by_name.insert(key, live);
        true
    }

    /// Nobody finds the sandbox any more, and its name is free; its cgroup is still there.
    pub fn retire(&self, live: &Live) {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        // The name may be another's by now.
        let key = (live.name.clone(), live.owner);
        if inner.by_name.get(&key).is_some_and(|named| named.id == live.id) {
            inner.by_name.remove(&key);
        }
    }

    /// Nothing is left of a sandbox.
    pub fn remove(&self, live: &Live) {
        self.retire(live);
        self.inner.write().unwrap_or_else(PoisonError::into_inner).by_cgroup.remove(&live.cgroup);
    }

    /// The sandbox of a cgroup.
    #[must_use]
    pub fn of_cgroup(&self, cgroup: u64) -> Option<Arc<Live>> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner).by_cgroup.get(&cgroup).cloned()
    }

    /// The sandbox with this id. What our own processes say of a sandbox is found by this alone: a name is
    /// chosen by a user, who might choose another sandbox's id.
    #[must_use]
    pub fn of_id(&self, id: &str) -> Option<Arc<Live>> {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        inner.by_name.values().find(|live| live.id == id).cloned()
    }

    /// The sandbox with this id, or else those with this name, of the ones the asker may see: users may have given
    /// theirs the same name, or another sandbox's id for a name.
    #[must_use]
    pub fn find(&self, name_or_id: &str, may_see: impl Fn(&Live) -> bool) -> Vec<Arc<Live>> {
        let (mut found, others): (Vec<_>, Vec<_>) =
            self.all().into_iter().filter(|live| may_see(live)).partition(|live| live.id == name_or_id);
        if found.is_empty() {
            found = others.into_iter().filter(|live| live.name == name_or_id).collect();
        }
        found
    }

    /// All of them, by name.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Live>> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner).by_name.values().cloned().collect()
    }

    /// Is nothing left of any?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.inner.read().unwrap_or_else(PoisonError::into_inner).by_cgroup.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str, cgroup: u64) -> Arc<Live> {
        Arc::new(Live::for_tests(name, cgroup))
    }

    #[test]
    fn a_sandbox_that_ends_late_does_not_take_its_name_from_the_next() {
        let registry = Registry::default();
        let (old, new) = (named("twin", 1), named("twin", 2));
        assert!(registry.insert(Arc::clone(&old)));
        assert!(!registry.insert(Arc::clone(&new)));
        registry.retire(&old);
        assert!(registry.insert(new));
        registry.remove(&old);
        let found = registry.find("twin", |_| true);
        assert_eq!(found.iter().map(|live| live.id.as_str()).collect::<Vec<_>>(), ["2"]);
        assert!(registry.of_id("2").is_some() && registry.of_cgroup(1).is_none());
    }

    #[test]
    fn nobody_takes_a_name_or_an_id_from_somebody_else() {
        let of = |owner, name, cgroup| Arc::new(Live { owner, ..Live::for_tests(name, cgroup) });
        let registry = Registry::default();
        // The third is named like the first one's id.
        for live in [of(1000, "ci", 1), of(1001, "ci", 2), of(1001, "1", 3)] {
            assert!(registry.insert(live));
        }
        assert!(!registry.insert(of(1001, "ci", 4)));
        let found = |name, may_see: fn(&Live) -> bool| -> Vec<String> {
            registry.find(name, may_see).iter().map(|live| live.id.clone()).collect()
        };
        assert_eq!(found("ci", |live| live.owner == 1000), ["1"]);
        assert_eq!(found("ci", |live| live.owner == 1001), ["2"]);
        assert_eq!(found("ci", |_root| true), ["1", "2"]);
        assert_eq!(found("1", |_root| true), ["1"]);
        assert_eq!(found("1", |live| live.owner == 1001), ["3"]);
    }

    #[test]
    fn an_address_has_the_name_it_was_given_last() {
        let (mut progress, addresses) = (Progress::default(), (Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST));
        for name in ["a.example", "b.example"] {
            progress.learn(name, Some(addresses));
            for address in [addresses.0.into(), addresses.1.into()] {
                assert_eq!(progress.names.get(&address).map(String::as_str), Some(name));
            }
        }
    }

    #[test]
    fn what_a_gateway_says_of_names_has_a_bound_in_bytes() {
        let mut progress = Progress::default();
        for number in 0..20_000 {
            let addresses = Some((Ipv4Addr::from_bits(number), Ipv6Addr::from_bits(number.into())));
            progress.learn("a.example", addresses);
            progress.learn(&"x".repeat(LONGEST_NAME), addresses);
            progress.learn(&"y".repeat(LONGEST_NAME + 1), addresses);
        }
        let bytes: usize = progress.names.iter().map(|(_, name)| name.len()).sum();
        assert!(bytes > 1 << 20 && bytes < 4 << 20, "{bytes}");
        assert!(progress.names.iter().all(|(_, name)| name.starts_with('x')));
    }

    #[test]
    fn what_a_rule_denies_comes_before_connections_and_what_was_only_not_granted() {
        let denial =
            |count, rule: Option<&str>| Repeated { count, rule: rule.map(str::to_owned), allow_with: None };
        let denials = [
            ("read /a", denial(9, None)),
            ("read /b", denial(10, None)),
            ("connect x:443", denial(1, None)),
            ("write /w/.git/hooks/x", denial(1, Some("git:15"))),
        ];
        let mut progress = Progress::default();
        for (what, denial) in denials {
            progress.denials.meet(what.to_owned(), denial, what.len());
        }
        let telling = progress.most_telling(3);
        let whats: Vec<_> = telling.iter().map(|denial| denial.what.as_str()).collect();
        assert_eq!(whats, ["write /w/.git/hooks/x", "connect x:443", "read /b"]);
    }
}
