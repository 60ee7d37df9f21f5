//! Set-up, build, run, test and lint of skep: `cargo xtask VERB`.
//!
//! Everything it says goes to standard error, for the standard output of `run` belongs to the command.

#![forbid(unsafe_code)]

mod bench;
mod build;
mod call;
mod compliance;
mod lint;
mod picture;
mod run;
mod setup;
mod test;
mod tree;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::build::Variant;
use crate::setup::Purpose;
use crate::tree::Tree;

#[derive(Parser)]
#[command(name = "cargo xtask", about, disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Install what is missing: packages, the BPF toolchain; says so before it does
    Setup {
        /// Also what the tests need: the real agents, bubblewrap, npm
        #[arg(long)]
        tests: bool,
    },
    /// Build the BPF programs and the binaries into target/skep
    Build {
        /// The variant for tests, into target/skep-test: names may be dialled at a local server
        #[arg(long)]
        tests: bool,
    },
    /// Set up, build, and run COMMAND in a skep
    Run {
        /// Options of `skep run`
        #[arg(allow_hyphen_values = true)]
        options: Vec<OsString>,
        /// The command and its arguments
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
    /// Set up, build, and run all tests, with the real agents
    Test {
        /// The long ones too: 500 launches, races of 10 s
        #[arg(long)]
        full: bool,
        /// Only tests whose name has this in it
        filter: Option<String>,
    },
    /// Measure and write the figures into docs/performance.md
    Bench {
        /// What to measure
        what: bench::What,
        /// How many rounds
        rounds: Option<u32>,
    },
    /// Take the README's picture anew, from a real session
    Picture,
    /// rustfmt, clippy and the rules of the repository
    Lint,
    /// What continuous integration runs beside the tests
    Ci,
}

fn main() -> ExitCode {
    match act() {
        Ok(code) => code,
        Err(error) => {
            // Causes, and no backtrace: what failed is nearly always another program.
            call::say(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn act() -> anyhow::Result<ExitCode> {
    let verb = Arguments::parse().verb;
    let tree = Tree::find()?;
    match verb {
        Verb::Setup { tests } => setup::setup(&tree, purpose(tests)).map(|_toolchain| ExitCode::SUCCESS),
        Verb::Build { tests } => {
            let toolchain = setup::setup(&tree, Purpose::Build)?;
            let variant = if tests { Variant::Test } else { Variant::Plain };
            build::build(&tree, &toolchain, variant).map(|_directory| ExitCode::SUCCESS)
        }
        Verb::Run { options, command } => run::run(&tree, &options, &command),
        Verb::Test { full, filter } => test::test(&tree, full, filter.as_deref()),
        Verb::Bench { what, rounds } => bench::bench(&tree, what, rounds),
        Verb::Picture => picture::picture(&tree).map(|()| ExitCode::SUCCESS),
        Verb::Lint => lint::lint(&tree).map(|()| ExitCode::SUCCESS),
        Verb::Ci => lint::ci(&tree).map(|()| ExitCode::SUCCESS),
    }
}

fn purpose(tests: bool) -> Purpose {
    if tests { Purpose::Test } else { Purpose::Build }
}
