//! What only skepd knows: `ls`, `status`, and the audit for those who may not read the log themselves.

use std::io::{self, Write};
use std::time::SystemTime;

use skep_runtime::audit::Entry;
use skep_runtime::places::Places;
use skep_runtime::protocol::{Refusal, Reply, Request, Sandbox};

use crate::access::sudo;
use crate::arguments;
use crate::client::{Client, ClientError};
use crate::show::audit::{Printer, filter};
use crate::show::render::{Screen, foreign};
use crate::show::sandboxes;

/// Prints every sandbox the caller may see. Where no skepd runs there is none, and none is started to say so.
///
/// # Errors
/// When there is a daemon and it does not answer.
pub fn list(places: &Places, json: bool) -> Result<(), ClientError> {
    let found = running(places)?;
    if json {
        found.iter().for_each(|sandbox| print_line(&sandboxes::json(sandbox)));
    } else if found.is_empty() {
        print_line(NONE);
    } else {
        print_line(sandboxes::list(&Screen::of_output(), &found).trim_end());
    }
    Ok(())
}

/// What is said instead of a list without entries.
const NONE: &str = "no sandbox is running";

fn running(places: &Places) -> Result<Vec<Sandbox>, ClientError> {
    let client = match Client::ask_running(places, &Request::List) {
        Err(ClientError::NotRunning { .. }) => return Ok(Vec::new()),
        client => client?,
    };
    let mut found = Vec::new();
    loop {
        match client.receive()?.0 {
            Reply::Sandbox(sandbox) => found.push(*sandbox),
            Reply::Done => return Ok(found),
            _ => return Err(ClientError::Protocol),
        }
    }
}

/// Prints one sandbox, or all of them.
///
/// # Errors
/// When there is no such sandbox, or no daemon.
pub fn status(places: &Places, arguments: &arguments::Status) -> Result<(), ClientError> {
    let found = match &arguments.sandbox {
        None => running(places)?,
        Some(name) => vec![one(places, name)?],
    };
    if found.is_empty() && !arguments.output.json {
        print_line(NONE);
    }
    for sandbox in &found {
        print_line(&match arguments.output.json {
            true => sandboxes::json(sandbox),
            false => sandboxes::status(&Screen::of_output(), sandbox),
        });
    }
    Ok(())
}

fn one(places: &Places, name: &str) -> Result<Sandbox, ClientError> {
    let client = match Client::ask_running(places, &Request::Status { sandbox: name.to_owned() }) {
        Err(ClientError::NotRunning { .. }) => {
            let advice =
                format!("{} {} shows what it did, if it was there before", audit_for_caller(), foreign(name));
            return Err(ClientError::Refused(Refusal::new("sandbox", NONE, advice)));
        }
        client => client?,
    };
    match client.receive()?.0 {
        Reply::Sandbox(sandbox) => Ok(*sandbox),
        _ => Err(ClientError::Protocol),
    }
}

/// Prints the records of the caller's own sandboxes.
///
/// # Errors
/// When there is no daemon, or it cannot read the log.
pub fn audit(places: &Places, arguments: &arguments::Audit) -> Result<(), ClientError> {
    let filter = filter(arguments, SystemTime::now()).map_err(|message| {
        ClientError::Refused(Refusal { exit: 2, ..Refusal::new("usage", message, "see skep audit --help") })
    })?;
    let request = Request::Audit { filter, follow: arguments.follow };
    let client = Client::ask_running(places, &request).map_err(|error| match error {
        ClientError::NotRunning { socket, .. } => {
            let message =
                format!("the audit is root's, and no skepd is running at {socket} to show you yours");
            let advice = format!(
                "read it with sudo: {}; or have root keep one running: {}",
                audit_for_caller(),
                sudo("skepd")
            );
            ClientError::Refused(Refusal::new("audit", message, advice))
        }
        error => error,
    })?;
    let printer = Printer { screen: Screen::of_output(), json: arguments.json };
    let mut out = io::stdout().lock();
    let mut shown = 0;
    loop {
        match client.receive()?.0 {
            Reply::Lines(text) => {
                for entry in text.lines().filter_map(Entry::parse) {
                    shown += 1;
                    if printer.print(&mut out, &entry).is_err() {
                        return Ok(());
                    }
                }
            }
            Reply::Done => {
                printer.none(shown);
                return Ok(());
            }
            _ => return Err(ClientError::Protocol),
        }
    }
}

/// How the caller reads his own records without a skepd: what he is shown with sudo is everybody's.
fn audit_for_caller() -> String {
    let uid = nix::unistd::getuid();
    if uid.is_root() { "skep audit".to_owned() } else { format!("{} audit --owner {uid}", sudo("skep")) }
}

/// A line on standard output. Whoever stops reading has read enough.
fn print_line(text: &str) {
    let _closed = writeln!(io::stdout(), "{text}");
}
