//! `base`: images that publishers offer, and that the service fetches by itself.

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::{Value, json};

use super::show::{self, bytes, text};
use super::{Client, Failure, Result, operations};

pub(super) const EXAMPLES: &str = "\
Examples:
  diskette-service base list
  diskette-service base fetch debian-12 alpine-3
  diskette-service base fetch --all
  diskette-service base updates --fetch";

/// What is done with base images.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// All that the catalog has, and which of them are there
    #[command(visible_alias = "ls")]
    List,
    /// Fetch base images that are missing, and wait until they are ready
    Fetch {
        /// Names, or aliases
        #[arg(required_unless_present = "all")]
        names: Vec<String>,
        /// All that are missing
        #[arg(long, conflicts_with = "names")]
        all: bool,
    },
    /// Look for newer ones of those that are there
    Updates {
        /// Names, or aliases [default: all that are there]
        names: Vec<String>,
        /// Fetch them as new versions, too; nodes stay with those that they have
        #[arg(long)]
        fetch: bool,
    },
}

pub(super) fn run(client: &Client, verb: &Verb) -> Result<ExitCode> {
    match verb {
        Verb::List => {
            let catalog = client.get("/api/v1/catalog")?;
            match client.json {
                true => show::json(&catalog)?,
                false => table(&catalog["items"])?,
            }
        }
        Verb::Fetch { names, all } => {
            let names = Some(names).filter(|_| !all);
            let begun = client.call(
                "POST",
                "/api/v1/catalog/fetch",
                Some(&json!({"names": names})),
            )?;
            return finished(client, &begun["operations"]);
        }
        Verb::Updates { names, fetch } => updates(client, names, *fetch)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn table(items: &Value) -> Result<()> {
    let row = |base: &Value| {
        vec![
            text(&base["name"]),
            state(base),
            text(&base["os"]),
            text(&base["version"]),
            text(&base["arch"]),
            bytes(&base["size"]),
            text(&base["checksum_kind"]),
            text(&base["newer"]),
        ]
    };
    let rows: Vec<_> = items.as_array().into_iter().flatten().map(row).collect();
    let head = [
        "NAME", "STATE", "OS", "VERSION", "ARCH", "SIZE", "CHECKSUM", "NEWER",
    ];
    show::table(&head, &rows)
}

/// The state, with how far it is, or why it failed.
fn state(base: &Value) -> String {
    let state = text(&base["state"]);
    let fetching = &base["fetching"];
    let number = |name: &str| fetching[name].as_u64();
    match (number("bytes_received"), number("bytes_total")) {
        (Some(done), Some(total @ 1..)) => {
            format!("{state} {} %", done.saturating_mul(100) / total)
        }
        _ if state == "failed" => format!("failed {}", text(&base["problem"]["code"])),
        _ => state,
    }
}

/// Waits for all, whatever becomes of each.
fn finished(client: &Client, begun: &Value) -> Result<ExitCode> {
    let mut done = Vec::new();
    let mut well = true;
    for operation in begun.as_array().into_iter().flatten() {
        let name = text(&operation["request"]["name"]);
        match operations::finished(client, operation.clone(), "fetched") {
            Ok(operation) => {
                if !client.json {
                    let id = text(&operation["image"]);
                    show::print(&format!("{name}: ready, image {id}"))?;
                }
                done.push(operation);
            }
            Err(Failure::Refused(refusal)) => {
                well = false;
                if !client.json {
                    show::print(&format!("{name}: {refusal}"))?;
                }
                done.push(json!({"request": operation["request"], "problem": refusal.body}));
            }
            Err(failure) => return Err(failure),
        }
    }
    if client.json {
        show::json(&Value::Array(done))?;
    } else if begun.as_array().is_none_or(Vec::is_empty) {
        show::print("nothing is missing")?;
    }
    Ok(ExitCode::from(u8::from(!well)))
}

fn updates(client: &Client, names: &[String], fetch: bool) -> Result<()> {
    let names = Some(names).filter(|names| !names.is_empty());
    let wanted = json!({"names": names, "check": !fetch});
    let begun = client.call("POST", "/api/v1/catalog/refresh", Some(&wanted))?;
    let looked = operations::finished(client, begun, "looked at")?;
    if client.json {
        return show::json(&looked);
    }
    let result = &looked["result"];
    for failure in result["failures"].as_array().into_iter().flatten() {
        show::print(&text(failure))?;
    }
    let newer = client.get("/api/v1/catalog/updates")?;
    match newer.as_array().is_none_or(Vec::is_empty) {
        true => show::print(&format!(
            "{} looked at, none newer",
            text(&result["looked_at"])
        )),
        false => table(&newer),
    }
}
