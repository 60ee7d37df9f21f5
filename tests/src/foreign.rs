//! What belongs to other tests that run on this machine at the same time.
//!
//! A snapshot sees the whole machine. What a living process of somebody else's holds cannot be ours; what nobody
//! holds, or a process whose origin is unknown, may be, and is reported.

use std::collections::BTreeSet;
use std::fs;

use anyhow::Context;
use aya::programs::{loaded_links, loaded_programs};

use crate::process;

/// Variables that only tests and the daemons they start have.
const TELLTALE: [&str; 2] = ["SKEP_STATE=", "CARGO_MANIFEST_DIR="];

/// Processes of others and the BPF objects they hold.
#[derive(Debug, Default)]
pub(crate) struct Foreign {
    processes: BTreeSet<u32>,
    links: BTreeSet<u32>,
    programs: BTreeSet<u32>,
    maps: BTreeSet<u32>,
}

impl Foreign {
    /// Looks for what is neither this process's nor carries `mark`.
    pub(crate) fn beside(mark: &str) -> anyhow::Result<Self> {
        let mut foreign = Self { processes: processes(mark)?, ..Self::default() };
        for process in foreign.processes.clone() {
            foreign.hold(process);
        }
        foreign.hold_what_those_use()?;
        Ok(foreign)
    }

    pub(crate) fn has_process(&self, id: u32) -> bool {
        self.processes.contains(&id)
    }

    pub(crate) fn has_link(&self, id: u32) -> bool {
        self.links.contains(&id)
    }

    pub(crate) fn has_program(&self, id: u32) -> bool {
        self.programs.contains(&id)
    }

    pub(crate) fn has_map(&self, id: u32) -> bool {
        self.maps.contains(&id)
    }

    /// Adds the objects a process has descriptors of. One that ends meanwhile holds nothing.
    fn hold(&mut self, process: u32) {
        let entries = fs::read_dir(format!("/proc/{process}/fdinfo")).into_iter().flatten().flatten();
        for text in entries.filter_map(|entry| fs::read_to_string(entry.path()).ok()) {
            let id = |key: &str| {
                text.lines().find_map(|line| {
                    line.strip_prefix(key)?.trim_start_matches(':').trim().parse::<u32>().ok()
                })
            };
            self.links.extend(id("link_id"));
            self.programs.extend(id("prog_id"));
            self.maps.extend(id("map_id"));
        }
    }

    /// A link keeps its program, and a program its maps, without a descriptor.
    fn hold_what_those_use(&mut self) -> anyhow::Result<()> {
        for link in loaded_links().flatten().filter(|link| self.links.contains(&link.id())) {
            self.programs.insert(link.program_id());
        }
        for program in loaded_programs().flatten().filter(|program| self.programs.contains(&program.id())) {
            self.maps.extend(program.map_ids().context("maps of a program")?.unwrap_or_default());
        }
        Ok(())
    }
}

fn processes(mark: &str) -> anyhow::Result<BTreeSet<u32>> {
    let own = std::process::id();
    let ours: Vec<u32> = process::marked(mark)?.into_iter().chain([own]).collect();
    let ours = with_descendants(ours)?;
    let is_root = |id: &u32| {
        let environment = fs::read(format!("/proc/{id}/environ")).unwrap_or_default();
        let mut variables = environment.split(|byte| *byte == 0);
        variables.any(|variable| TELLTALE.iter().any(|name| variable.starts_with(name.as_bytes())))
    };
    let roots = process::ids()?.into_iter().filter(|id| !ours.contains(id)).filter(is_root).collect();
    Ok(&with_descendants(roots)? - &ours)
}

fn with_descendants(roots: Vec<u32>) -> anyhow::Result<BTreeSet<u32>> {
    let mut found = BTreeSet::new();
    for root in roots {
        found.insert(root);
        found.extend(process::descendants(root)?);
    }
    Ok(found)
}
