//! The audit as a test reads it: loosely, for its exact form is tested where it is written.

use anyhow::Context;
use serde_json::Value;

/// One line of the audit.
#[derive(Clone, Debug)]
pub struct Record(Value);

impl Record {
    /// Parses a line.
    ///
    /// # Errors
    /// It is not one JSON object with a kind.
    pub fn parse(line: &str) -> anyhow::Result<Self> {
        let value: Value = serde_json::from_str(line).with_context(|| format!("audit line {line:?}"))?;
        anyhow::ensure!(value["kind"].is_string(), "no kind in audit line {line:?}");
        Ok(Self(value))
    }

    /// What kind of record it is.
    #[must_use]
    pub fn kind(&self) -> &str {
        self.0["kind"].as_str().unwrap_or_default()
    }

    /// What it says beside the fields that all kinds have.
    #[must_use]
    pub fn body(&self) -> &Value {
        &self.0["body"]
    }

    /// The sandbox it is about.
    #[must_use]
    pub fn sandbox(&self) -> Option<&str> {
        self.0["sandbox"]["id"].as_str()
    }

    /// Something was refused, in the kernel or by the gateway.
    #[must_use]
    pub fn is_denial(&self) -> bool {
        self.kind() == "denied" || self.body()["decision"] == "deny"
    }

    /// All these texts are in its body.
    #[must_use]
    pub fn says<S: AsRef<str>>(&self, texts: &[S]) -> bool {
        let body = self.body().to_string();
        texts.iter().all(|text| body.contains(text.as_ref()))
    }
}
