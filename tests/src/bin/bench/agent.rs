//! A scripted session of a real agent, bare and inside: the same agent, script, server and TLS.
//!
//! Under the real name of its API an agent asks for more than it does of any other server (settings, limits). Bare it
//! cannot have that name here, so inside it has none of the real ones either.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::ensure;
use skep_tests::agents::{Agent, Surroundings};
use skep_tests::model::{NEUTRAL, Server};
use skep_tests::play;
use skep_tests::process;
use skep_tests::session::{self, Session};
use skep_tests::skep::Skep;

use crate::report::{Samples, publish, table};

/// Several turns with shell commands, edits and reads.
const SESSION: &str = "long-session";

/// No run takes as long.
const DEADLINE: Duration = Duration::from_secs(90);

/// Runs not counted.
const WARM_UP: usize = 1;

/// Measures and publishes.
pub(crate) fn run(rounds: usize) -> anyhow::Result<()> {
    let mut body = format!("Session `{SESSION}`, from start to exit; inside: skepd warm, shipped profile.\n");
    for agent in [Agent::Claude, Agent::CodexFunctions] {
        let session = session::named(SESSION)?;
        let pair = Pair::new(&session, agent)?;
        let (mut bare, mut inside) = (Samples::new("bare"), Samples::new("inside"));
        for round in 0..WARM_UP + rounds {
            let inside_first = round % 2 == 1;
            for is_inside in [inside_first, !inside_first] {
                let took = pair.play(is_inside)?;
                if round >= WARM_UP {
                    if is_inside { inside.add(took) } else { bare.add(took) }
                }
            }
        }
        body += &format!("\n{}:\n\n{}", agent.name(), table(&[bare, inside], "bare"));
    }
    publish("agent", "cargo xtask bench agent", &body)
}

/// One agent with its server, ground and skepd.
struct Pair<'a> {
    session: &'a Session,
    agent: Agent,
    skep: Skep,
    server: Server,
    profile: PathBuf,
}

impl<'a> Pair<'a> {
    fn new(session: &'a Session, agent: Agent) -> anyhow::Result<Self> {
        let (skep, server) = (Skep::new()?, Server::start()?);
        let profile = skep.ground().beside("profile.toml");
        server.authority().write(&skep.ground().beside("authority.pem"))?;
        let pair = Self { session, agent, skep, server, profile };
        let mut profile = agent.profile(&pair.surroundings(true))?;
        profile += &format!("\n[[egress]]\nto = [\"{NEUTRAL}:443\"]\n");
        fs::write(&pair.profile, profile)?;
        Ok(pair)
    }

    fn surroundings(&self, inside: bool) -> Surroundings {
        let ground = self.skep.ground();
        let (host, temporary) = match inside {
            true => (NEUTRAL.to_owned(), PathBuf::from("/tmp")),
            false => (format!("localhost:{}", self.server.https().port()), ground.temporary()),
        };
        Surroundings {
            home: ground.home(),
            temporary,
            base: format!("https://{host}"),
            key: ground.mark().to_owned(),
            authority: Some(ground.beside("authority.pem")),
        }
    }

    /// One run; the files it works on are made anew before the clock starts.
    fn play(&self, inside: bool) -> anyhow::Result<Duration> {
        let ground = self.skep.ground();
        let emptied = ground.shell("find . -mindepth 1 -maxdepth 1 ! -name .git -exec rm -rf {} +")?;
        ensure!(emptied.status.success(), "the workspace could not be emptied");
        play::prepare(self.session, ground)?;
        let script = self.session.script(&ground.workspace(), &ground.home())?;
        self.server.script(ground.mark(), script);
        let surroundings = self.surroundings(inside);
        let program = self.agent.program()?;
        let mut command = if inside {
            let words =
                std::iter::once(program.display().to_string()).chain(self.agent.arguments(&surroundings));
            let upstream = format!("{NEUTRAL}={}", self.server.https());
            let run = self.skep.run(words).profile(&self.profile).option("--upstream", upstream);
            run.environment(self.agent.environment(&surroundings)).command()
        } else {
            let mut command = Command::new(program);
            command.args(self.agent.arguments(&surroundings)).current_dir(ground.workspace());
            command.env_clear().envs(self.agent.environment(&surroundings));
            command
        };
        let began = Instant::now();
        let finished = process::run(&mut command, DEADLINE)?;
        let took = began.elapsed();
        let expected = self.session.expect.exit;
        ensure!(finished.code() == expected, "exit {}: {}", finished.code(), finished.stderr);
        Ok(took)
    }
}
