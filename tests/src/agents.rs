//! The real agents, pinned, and how to call them.
//!
//! They come from npm into a cache outside the tree (`cargo xtask test` puts them there and names it in
//! `SKEP_AGENTS_DIR`). Their native programs are called directly: the JavaScript wrappers add nothing but time.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use serde::Deserialize;

/// Versions whose wire and process facts the tests rely on.
pub const CLAUDE_VERSION: &str = "2.1.329";
/// See [`CLAUDE_VERSION`].
pub const CODEX_VERSION: &str = "0.169.0";

const CLAUDE: &str = "node_modules/@anthropic-ai/claude-code-linux-x64/claude";
const CODEX: &str = "node_modules/@openai/codex-linux-x64/vendor/x86_64-unknown-linux-musl/bin/codex";

/// An agent and, for Codex, the way it calls tools, which its model decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Agent {
    /// Claude Code.
    Claude,
    /// Codex CLI with function tools.
    CodexFunctions,
    /// Codex CLI in code mode: JavaScript in a process of its own calls the tools.
    CodexCode,
}

/// What an agent needs to know about its surroundings.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// Home directory; must not lie under the temporary directory, which Codex refuses.
    pub home: PathBuf,
    /// Temporary directory; short, for Claude makes unix sockets in it.
    pub temporary: PathBuf,
    /// Where the API is, without a path (`https://api.anthropic.com`).
    pub base: String,
    /// The API key, by which the model server tells sessions apart.
    pub key: String,
    /// Certificate file of the authority behind an https base.
    pub authority: Option<PathBuf>,
}

impl Agent {
    /// All agents in all modes.
    pub const ALL: [Self; 3] = [Self::Claude, Self::CodexFunctions, Self::CodexCode];

    /// The name used in test output.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Claude => "claude",
            Self::CodexFunctions => "codex-functions",
            Self::CodexCode => "codex-code",
        }
    }

    /// The API host the agent talks to when nobody tells it otherwise.
    #[must_use]
    pub fn api_host(self) -> &'static str {
        match self {
            Self::Claude => "api.anthropic.com",
            Self::CodexFunctions | Self::CodexCode => "api.openai.com",
        }
    }

    /// The agent's native program.
    ///
    /// # Errors
    /// It is not installed: a test without its agent fails, it does not skip.
    pub fn program(self) -> anyhow::Result<PathBuf> {
        let directory = std::env::var_os("SKEP_AGENTS_DIR").map(PathBuf::from);
        let directory =
            directory.context("SKEP_AGENTS_DIR is not set: run the tests by `cargo xtask test`")?;
        let relative = if self == Self::Claude { CLAUDE } else { CODEX };
        let program = directory.join(relative);
        let installed = program.is_file();
        ensure!(installed, "{} is missing: `cargo xtask test` installs the agents", program.display());
        Ok(program)
    }

    /// A profile on top of the agent's shipped one: what only these tests need.
    ///
    /// # Errors
    /// The agent is not installed.
    pub fn profile(self, surroundings: &Surroundings) -> anyhow::Result<String> {
        let shipped = if self == Self::Claude { "claude-code" } else { "codex" };
        let program = self.program()?;
        // Codex starts its neighbours, so the whole directory of the program is granted.
        let directory = program.parent().and_then(Path::parent).context("program without a directory")?;
        let read = surroundings.authority.iter().map(PathBuf::as_path).chain([directory]);
        let read: Vec<String> = read.map(|path| format!("{:?}", path.display().to_string())).collect();
        let names = self.environment(surroundings).into_iter().map(|(name, _)| format!("{name:?}"));
        // These are the sandbox's own.
        let own = ["\"HOME\"", "\"PATH\"", "\"CODEX_HOME\""];
        let pass = names.filter(|name| !own.contains(&name.as_str()));
        Ok(format!(
            "schema = 1\nname = \"scripted\"\nuse = [{shipped:?}]\n\n[files]\nread = [{}]\nexec = [{:?}]\n\n\
             [environment]\npass = [{}]\n",
            read.join(", "),
            directory.display().to_string(),
            pass.collect::<Vec<_>>().join(", "),
        ))
    }

    /// Arguments for one session without a person.
    #[must_use]
    pub fn arguments(self, surroundings: &Surroundings) -> Vec<String> {
        match self {
            Self::Claude => claude_arguments(),
            Self::CodexFunctions => codex_arguments("gpt-5.5", surroundings),
            Self::CodexCode => codex_arguments("gpt-6-sol", surroundings),
        }
    }

    /// The agent's whole environment.
    #[must_use]
    pub fn environment(self, surroundings: &Surroundings) -> Vec<(String, String)> {
        let mut environment = match self {
            Self::Claude => claude_environment(surroundings),
            Self::CodexFunctions | Self::CodexCode => codex_environment(surroundings),
        };
        let path = |path: &Path| path.display().to_string();
        environment.push(("PATH", "/usr/local/bin:/usr/bin:/bin".to_owned()));
        environment.push(("LANG", "C.UTF-8".to_owned()));
        environment.push(("HOME", path(&surroundings.home)));
        environment.push(("TMPDIR", path(&surroundings.temporary)));
        environment.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

fn claude_arguments() -> Vec<String> {
    ["-p", "do it", "--dangerously-skip-permissions", "--output-format", "stream-json", "--verbose"]
        .map(str::to_owned)
        .to_vec()
}

fn claude_environment(surroundings: &Surroundings) -> Vec<(&'static str, String)> {
    let mut environment = vec![
        // Claude refuses to skip permissions as root unless told that a sandbox is around it.
        ("IS_SANDBOX", "1".to_owned()),
        ("ANTHROPIC_BASE_URL", surroundings.base.clone()),
        ("ANTHROPIC_API_KEY", surroundings.key.clone()),
        ("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1".to_owned()),
        ("DISABLE_TELEMETRY", "1".to_owned()),
        ("DISABLE_AUTOUPDATER", "1".to_owned()),
        ("DISABLE_ERROR_REPORTING", "1".to_owned()),
        // The default of ten retries lasts three minutes.
        ("CLAUDE_CODE_MAX_RETRIES", "2".to_owned()),
    ];
    if let Some(authority) = &surroundings.authority {
        environment.push(("NODE_EXTRA_CA_CERTS", authority.display().to_string()));
    }
    environment
}

/// Everything goes on the command line, so that a private or read-only `CODEX_HOME` changes nothing.
fn codex_arguments(model: &str, surroundings: &Surroundings) -> Vec<String> {
    let provider = format!(
        "{{ name = \"scripted\", base_url = \"{}/v1\", wire_api = \"responses\", env_key = \"SCRIPTED_KEY\", \
         request_max_retries = 2, stream_max_retries = 2 }}",
        surroundings.base
    );
    let settings = [
        format!("model=\"{model}\""),
        "model_provider=\"scripted\"".to_owned(),
        format!("model_providers.scripted={provider}"),
        "check_for_update_on_startup=false".to_owned(),
        "analytics.enabled=false".to_owned(),
        // Plugins fetch from github.com; an unreachable API would otherwise be retried for ever.
        "features.plugins=false".to_owned(),
        "features.unbounded_connection_retries=false".to_owned(),
    ];
    let fixed = ["exec", "--dangerously-bypass-approvals-and-sandbox", "--skip-git-repo-check", "--json"];
    let mut arguments = fixed.map(str::to_owned).to_vec();
    arguments.extend(settings.into_iter().flat_map(|setting| ["-c".to_owned(), setting]));
    arguments.push("do it".to_owned());
    arguments
}

fn codex_environment(surroundings: &Surroundings) -> Vec<(&'static str, String)> {
    let mut environment = vec![
        ("CODEX_HOME", surroundings.home.join(".codex").display().to_string()),
        ("SCRIPTED_KEY", surroundings.key.clone()),
    ];
    if let Some(authority) = &surroundings.authority {
        environment.push(("CODEX_CA_CERTIFICATE", authority.display().to_string()));
    }
    environment
}
