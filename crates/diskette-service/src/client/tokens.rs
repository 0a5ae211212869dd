//! `token`: who may do what.

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::json;

use super::http::segment;
use super::show::{self, text};
use super::{Client, Result};

pub(super) const EXAMPLES: &str = "\
Examples:
  diskette-service token list
  diskette-service token create laptop --scope write --expires 2027-01-01T00:00:00Z
  diskette-service token revoke 0123456789abcdef";

/// What is done with tokens.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// All tokens, without what they are known by
    List,
    /// Make a token; it is shown this once
    Create {
        /// A name, for people
        name: String,
        /// What it allows: read, write or admin
        #[arg(long, default_value = "read", value_parser = ["read", "write", "admin"])]
        scope: String,
        /// Whose images it is for [default: default]
        #[arg(long)]
        project: Option<String>,
        /// Until when it is of use (RFC 3339)
        #[arg(long, value_name = "TIME")]
        expires: Option<String>,
    },
    /// Make a token useless
    Revoke {
        /// Its id, as `token list` shows it
        id: String,
    },
}

pub(super) fn run(client: &Client, verb: &Verb) -> Result<ExitCode> {
    match verb {
        Verb::List => {
            let all = client.get("/api/v1/tokens")?;
            if client.json {
                show::json(&all)?;
            } else {
                let row = |token: &serde_json::Value| {
                    let columns = [
                        "id",
                        "name",
                        "scope",
                        "project",
                        "created_at",
                        "expires_at",
                        "used_at",
                    ];
                    columns.map(|name| text(&token[name])).to_vec()
                };
                let rows: Vec<_> = all.as_array().into_iter().flatten().map(row).collect();
                show::table(
                    &[
                        "ID", "NAME", "SCOPE", "PROJECT", "CREATED", "EXPIRES", "USED",
                    ],
                    &rows,
                )?;
            }
        }
        Verb::Create {
            name,
            scope,
            project,
            expires,
        } => {
            let new =
                json!({"name": name, "scope": scope, "project": project, "expires_at": expires});
            let made = client.call("POST", "/api/v1/tokens", Some(&new))?;
            match client.json {
                true => show::json(&made)?,
                false => show::print(&text(&made["token"]))?,
            }
        }
        Verb::Revoke { id } => {
            client.call("DELETE", &format!("/api/v1/tokens/{}", segment(id)), None)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
