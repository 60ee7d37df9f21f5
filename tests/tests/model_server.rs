//! The scripted model server itself: what the session tests rely on.

use std::process::Command;
use std::time::Duration;

use anyhow::ensure;
use skep_tests::Outcome;
use skep_tests::ground::Ground;
use skep_tests::model::{Script, Server, Turn};
use skep_tests::process::run;

const PATIENCE: Duration = Duration::from_secs(10);

/// Asks like an agent, with a tool that makes the request use a turn.
fn ask(ground: &Ground, url: &str, options: &[&str]) -> anyhow::Result<String> {
    let body = r#"{"model": "m", "stream": true, "tools": [{"name": "Bash"}], "messages": [], "input": []}"#;
    let key = format!("x-api-key: {}", ground.mark());
    let mut curl = Command::new("curl");
    curl.args(["-sS", "-i", "--max-time", "2", "-H", &key, "-d", body]).args(options).arg(url);
    let finished = run(&mut curl, PATIENCE)?;
    Ok(finished.stdout + &finished.stderr)
}

fn served(turns: Vec<Turn>) -> anyhow::Result<(Ground, Server)> {
    let (ground, server) = (Ground::new()?, Server::start()?);
    server.script(ground.mark(), Script { turns });
    Ok((ground, server))
}

#[test]
fn both_apis_stream_a_text() -> Outcome {
    let (ground, server) = served(vec![Turn::Text("hello".to_owned()), Turn::Text("hello".to_owned())])?;
    for (path, last) in [("messages", "event: message_stop"), ("responses", "event: response.completed")] {
        let said = ask(&ground, &format!("http://{}/v1/{path}", server.http()), &[])?;
        ensure!(said.contains("hello") && said.contains(last), "{said}");
    }
    Ok(())
}

#[test]
fn the_real_names_are_served_with_tls_for_those_who_trust_the_authority() -> Outcome {
    let (ground, server) = served(vec![Turn::Text("hello".to_owned())])?;
    let authority = ground.beside("authority.pem");
    server.authority().write(&authority)?;
    let url = format!("https://api.anthropic.com:{}/v1/messages", server.https().port());
    let resolve = format!("api.anthropic.com:{}:127.0.0.1", server.https().port());
    let distrusted = ask(&ground, &url, &["--resolve", &resolve])?;
    ensure!(distrusted.contains("certificate"), "{distrusted}");
    let authority = authority.to_string_lossy();
    let trusted = ["--resolve", &resolve, "--cacert", &authority];
    let said = ask(&ground, &url, &trusted)?;
    ensure!(said.contains("hello"), "{said}");
    Ok(())
}

#[test]
fn an_error_has_its_status_and_headers() -> Outcome {
    let headers = vec![("retry-after".to_owned(), "7".to_owned())];
    let refusal = Turn::Refusal { status: 429, kind: "rate_limit_error".to_owned(), headers };
    let (ground, server) = served(vec![refusal])?;
    let said = ask(&ground, &format!("http://{}/v1/messages", server.http()), &[])?;
    ensure!(said.contains("HTTP/1.1 429") && said.contains("retry-after: 7"), "{said}");
    ensure!(said.contains("rate_limit_error"), "{said}");
    Ok(())
}

#[test]
fn a_cut_stream_ends_without_its_end() -> Outcome {
    let (ground, server) = served(vec![Turn::Cut {}])?;
    let said = ask(&ground, &format!("http://{}/v1/messages", server.http()), &[])?;
    ensure!(said.contains("message_start") && !said.contains("message_stop"), "{said}");
    // What curl says of a connection that is closed before the last chunk.
    ensure!(said.contains("curl: (18)"), "{said}");
    Ok(())
}

#[test]
fn a_hang_says_nothing_and_keeps_the_connection() -> Outcome {
    let (ground, server) = served(vec![Turn::Hang {}])?;
    let said = ask(&ground, &format!("http://{}/v1/messages", server.http()), &[])?;
    ensure!(said.contains("timed out"), "{said}");
    Ok(())
}

#[test]
fn a_script_that_has_run_out_is_an_error_and_leaves_a_trace() -> Outcome {
    let (ground, server) = served(Vec::new())?;
    let said = ask(&ground, &format!("http://{}/v1/messages", server.http()), &[])?;
    ensure!(said.contains("script_exhausted"), "{said}");
    ensure!(server.exchanges(ground.mark()).iter().all(|exchange| exchange.turn.is_none()));
    Ok(())
}
