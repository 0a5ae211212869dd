//! `images`: what is in the catalog.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::http::segment;
use super::show::{self, bytes, text};
use super::{Client, Failure, Result, download, operations, upload};

pub(super) const EXAMPLES: &str = "\
Examples:
  diskette-service images add router.vmdk --name router
  diskette-service images add https://example.org/disk.img.xz --sha256 9f86d0...
  xz -dc disk.img.xz | diskette-service images add - --name disk
  diskette-service images list --state ready --sort=-size
  diskette-service images download router --format vhdx
  diskette-service images compact router --compress zstd
  diskette-service images verify --all";

/// What is done with images.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// List images
    #[command(visible_alias = "ls")]
    List(List),
    /// Send a file, or what comes on the standard input (`-`), or have an address fetched; wait until it is ready
    ///
    /// Cut off, sending the same file again goes on where it was.
    #[command(visible_alias = "import")]
    Add(upload::Add),
    /// What is known of an image
    Get {
        /// Its id, its name, or an alias
        image: String,
        /// Also what is on its disk
        #[arg(long)]
        contents: bool,
        /// Also what was found, refused and rewritten when it came in
        #[arg(long)]
        report: bool,
    },
    /// Get an image's bytes: as stored, or in another format
    #[command(visible_alias = "export")]
    Download(download::Download),
    /// Delete images that nothing uses
    Rm {
        /// Ids, names, or aliases
        #[arg(required = true)]
        images: Vec<String>,
    },
    /// Look whether stored images are what they were when they became ready
    Verify {
        /// Ids, names, or aliases
        #[arg(required_unless_present = "all")]
        images: Vec<String>,
        /// All that are ready
        #[arg(long, conflicts_with = "images")]
        all: bool,
    },
    /// Make a new version without what the guest has freed
    Compact {
        /// Its id, its name, or an alias
        image: String,
        /// Compress it, too
        #[arg(long, value_parser = ["zlib", "zstd"])]
        compress: Option<String>,
    },
    /// Make a new version stored in another way
    Convert {
        /// Its id, its name, or an alias
        image: String,
        /// The format in which it is stored: qcow2 or raw
        #[arg(long, short = 'O')]
        format: Option<String>,
        /// Compress it
        #[arg(long, value_parser = ["zlib", "zstd"])]
        compress: Option<String>,
    },
    /// Make a new version with a disk of another size
    Resize {
        /// Its id, its name, or an alias
        image: String,
        /// 20G, or +5G
        size: String,
        /// Let the disk become smaller, and lose what lies behind
        #[arg(long)]
        shrink: bool,
    },
}

/// Which images.
#[derive(Args, Debug)]
pub(crate) struct List {
    /// A part of the name or of the description
    #[arg(long, short, value_name = "TEXT")]
    search: Option<String>,
    #[arg(long)]
    tag: Option<String>,
    /// queued, receiving, fetching, converting, verifying, ready, deactivated, failed or expired
    #[arg(long)]
    state: Option<String>,
    /// qcow2 or iso
    #[arg(long)]
    format: Option<String>,
    #[arg(long)]
    os: Option<String>,
    /// The SHA-256 of what is stored, of what was sent, or of the disk
    #[arg(long)]
    sha256: Option<String>,
    /// All versions
    #[arg(long)]
    versions: bool,
    /// created, name or size; with - in front, the other way round
    #[arg(long, allow_hyphen_values = true)]
    sort: Option<String>,
    /// So many at most
    #[arg(long)]
    limit: Option<usize>,
}

pub(super) fn run(client: &Client, verb: &Verb) -> Result<ExitCode> {
    match verb {
        Verb::List(wanted) => list(client, wanted)?,
        Verb::Add(add) => upload::run(client, add)?,
        Verb::Get {
            image,
            contents,
            report,
        } => get(client, image, *contents, *report)?,
        Verb::Download(wanted) => download::run(client, wanted)?,
        Verb::Rm { images } => {
            for image in images {
                client.call("DELETE", &path_of(image), None)?;
            }
        }
        Verb::Verify { images, all } => return verify(client, images, *all),
        Verb::Compact { image, compress } => {
            rewrite(client, image, "compact", &json!({"compress": compress}))?;
        }
        Verb::Convert {
            image,
            format,
            compress,
        } => {
            let wanted = json!({"format": format, "compress": compress});
            rewrite(client, image, "convert", &wanted)?;
        }
        Verb::Resize {
            image,
            size,
            shrink,
        } => {
            let wanted = json!({"size": size, "shrink": shrink});
            rewrite(client, image, "resize", &wanted)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Where an image is asked for.
pub(super) fn path_of(image: &str) -> String {
    format!("/api/v1/images/{}", segment(image))
}

/// What has become of an image, or why it failed.
pub(super) fn outcome(image: &Value) -> Result<()> {
    match image["state"].as_str() {
        Some("ready" | "deactivated") => Ok(()),
        state => Err(super::http::problem(&image["problem"]).unwrap_or_else(|| {
            Failure::Told(format!("the image is `{}`", state.unwrap_or_default()))
        })),
    }
}

fn list(client: &Client, wanted: &List) -> Result<()> {
    let items = all(client, &filter(wanted), wanted.limit)?;
    if client.json {
        return show::json(&Value::Array(items));
    }
    let rows: Vec<_> = items.iter().map(row).collect();
    let head = [
        "NAME", "VERSION", "STATE", "FORMAT", "CAME AS", "DISK", "STORED", "NODES", "ID",
    ];
    show::table(&head, &rows)
}

fn row(image: &Value) -> Vec<String> {
    vec![
        text(&image["name"]),
        text(&image["version"]),
        state(image),
        text(&image["format"]),
        text(&image["source"]["format"]),
        bytes(&image["virtual_size"]),
        bytes(&image["stored_size"]),
        text(&image["in_use_by"]),
        text(&image["id"]),
    ]
}

/// The state, with how far it is, or why it failed.
fn state(image: &Value) -> String {
    let state = text(&image["state"]);
    let progress = &image["progress"];
    let number = |name: &str| progress[name].as_u64().unwrap_or(0);
    match state.as_str() {
        "failed" => format!("failed {}", text(&image["problem"]["code"])),
        "receiving" | "fetching" => {
            let (done, total) = (number("bytes_received"), number("bytes_total"));
            match total {
                0 => format!("{state} {}", show::size(done)),
                total => format!("{state} {} %", done.saturating_mul(100) / total),
            }
        }
        _ => state,
    }
}

fn filter(wanted: &List) -> String {
    let pairs = [
        ("q", &wanted.search),
        ("tag", &wanted.tag),
        ("state", &wanted.state),
        ("format", &wanted.format),
        ("os", &wanted.os),
        ("sha256", &wanted.sha256),
        ("sort", &wanted.sort),
    ];
    let mut query = String::new();
    for (name, value) in pairs {
        if let Some(value) = value {
            query.push_str(&format!("&{name}={}", segment(value)));
        }
    }
    if wanted.versions {
        query.push_str("&versions=true");
    }
    query
}

/// All pages of a list.
fn all(client: &Client, filter: &str, limit: Option<usize>) -> Result<Vec<Value>> {
    let limit = limit.unwrap_or(usize::MAX);
    let mut items = Vec::new();
    let mut after = String::new();
    while items.len() < limit {
        let path = format!(
            "/api/v1/images?limit={}{filter}{after}",
            (limit - items.len()).min(1000)
        );
        let mut page = client.get(&path)?;
        if let Value::Array(found) = page["items"].take() {
            items.extend(found);
        }
        match page["next"].as_str() {
            Some(next) => after = format!("&cursor={}", segment(next)),
            None => break,
        }
    }
    Ok(items)
}

fn get(client: &Client, image: &str, contents: bool, report: bool) -> Result<()> {
    let path = path_of(image);
    let mut found = client.get(&path)?;
    for (wanted, name) in [(contents, "info"), (report, "report")] {
        if wanted {
            found[name] = client.get(&format!("{path}/{name}"))?;
        }
    }
    if client.json {
        return show::json(&found);
    }
    facts(&found)?;
    for name in ["info", "report"] {
        if let Some(more) = found.get(name) {
            show::print(&format!("\n{name}: {more:#}"))?;
        }
    }
    Ok(())
}

/// An image, for people.
pub(super) fn facts(image: &Value) -> Result<()> {
    let list = |name: &str| {
        let items = image[name].as_array().into_iter().flatten();
        items.map(text).collect::<Vec<_>>().join(", ")
    };
    let properties: &Map<String, Value> = match image["properties"].as_object() {
        Some(properties) => properties,
        None => &Map::new(),
    };
    let properties: Vec<_> = properties
        .iter()
        .map(|(name, value)| format!("{}={}", show::plain(name), text(value)))
        .collect();
    show::facts(&[
        ("name", text(&image["name"])),
        ("id", text(&image["id"])),
        ("version", text(&image["version"])),
        ("state", state(image)),
        ("why", text(&image["problem"]["detail"])),
        ("format", text(&image["format"])),
        ("came as", text(&image["source"]["format"])),
        ("file", text(&image["source"]["name"])),
        ("url", text(&image["source"]["url"])),
        ("os", text(&image["os"])),
        ("description", text(&image["description"])),
        ("tags", list("tags")),
        ("flags", list("flags")),
        ("properties", properties.join(", ")),
        ("disk", bytes(&image["virtual_size"])),
        ("stored", bytes(&image["stored_size"])),
        ("sha256", text(&image["sha256"])),
        ("guest sha256", text(&image["guest_sha256"])),
        ("nodes", text(&image["in_use_by"])),
        ("created", text(&image["created_at"])),
    ])
}

fn rewrite(client: &Client, image: &str, action: &'static str, wanted: &Value) -> Result<()> {
    let path = format!("{}/actions/{action}", path_of(image));
    let begun = client.call("POST", &path, Some(wanted))?;
    let done = operations::finished(client, begun, action)?;
    if client.json {
        return show::json(&done);
    }
    let result = &done["result"];
    let new = client.get(&path_of(result["image"].as_str().unwrap_or(image)))?;
    show::print(&format!(
        "{}: version {}, {} before, {} now",
        text(&new["name"]),
        text(&new["version"]),
        bytes(&result["stored_size_before"]),
        bytes(&result["stored_size"]),
    ))
}

/// All are looked at, whatever is found.
fn verify(client: &Client, images: &[String], all_of_them: bool) -> Result<ExitCode> {
    let names: Vec<(String, String)> = match all_of_them {
        true => all(client, "&state=ready&versions=true", None)?
            .iter()
            .map(|image| (text(&image["name"]), text(&image["id"])))
            .collect(),
        false => images
            .iter()
            .map(|name| (show::plain(name), name.clone()))
            .collect(),
    };
    let mut found = Vec::new();
    let mut sound = true;
    for (name, id) in names {
        let path = format!("{}/actions/verify", path_of(&id));
        let looked = client
            .call("POST", &path, Some(&json!({})))
            .and_then(|begun| operations::finished(client, begun, "verify"));
        match looked {
            Ok(done) => {
                if !client.json {
                    let sha256 = text(&done["result"]["sha256"]);
                    show::print(&format!("{name}: sound, sha256 {sha256}"))?;
                }
                found.push(json!({"image": id, "sound": true, "result": done["result"]}));
            }
            Err(Failure::Refused(refusal)) => {
                sound = false;
                if !client.json {
                    show::print(&format!("{name}: {refusal}"))?;
                }
                found.push(json!({"image": id, "sound": false, "problem": refusal.body}));
            }
            Err(failure) => return Err(failure),
        }
    }
    if client.json {
        show::json(&Value::Array(found))?;
    }
    Ok(ExitCode::from(u8::from(!sound)))
}
