//! `nodes`: machines that run images.

use std::path::PathBuf;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};
use ureq::SendBody;

use super::http::segment;
use super::show::{self, text};
use super::stop::Stop;
use super::{Client, Failure, Result, images, operations};
use crate::size::Size;

pub(super) const EXAMPLES: &str = "\
Examples:
  diskette-service nodes create one router --start
  diskette-service nodes create web debian-12 --memory 2G --cpus 2 --ssh-key ~/.ssh/id_ed25519.pub --start
  diskette-service console one
  diskette-service nodes snapshot one before
  diskette-service nodes restore one before
  diskette-service nodes shutdown one --wait
  diskette-service nodes publish one router-configured";

/// What is done with nodes.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// List nodes
    #[command(visible_alias = "ls")]
    List,
    /// What is known of a node
    Get { node: String },
    /// Make a node of an image
    Create(Box<Create>),
    /// Start it
    Start { node: String },
    /// Ask the guest to end
    Shutdown {
        node: String,
        /// Seconds after which it is ended
        #[arg(long, default_value_t = 60)]
        grace: u64,
        /// Wait until it has ended
        #[arg(long)]
        wait: bool,
    },
    /// End it at once; what was written stays
    Stop { node: String },
    /// Press its reset button
    Reset { node: String },
    /// Hold it
    Pause { node: String },
    /// Let it go on
    Resume { node: String },
    /// Drop all that was written; it must not run
    Wipe { node: String },
    /// List its snapshots
    Snapshots { node: String },
    /// Take a snapshot; with the memory, if it runs
    Snapshot {
        node: String,
        name: String,
        /// Drop the snapshot instead
        #[arg(long)]
        delete: bool,
    },
    /// Make it what it was at a snapshot
    Restore { node: String, name: String },
    /// Make an image of its disk, also while it runs
    Publish {
        node: String,
        /// The new image's name
        name: String,
        #[arg(long)]
        description: Option<String>,
        /// Store it compressed
        #[arg(long, value_parser = ["zlib", "zstd"])]
        compress: Option<String>,
        /// Have a name that is taken stand for this image from now on
        #[arg(long)]
        overwrite: bool,
    },
    /// End nodes and remove their disks
    Rm {
        #[arg(required = true)]
        nodes: Vec<String>,
    },
    /// QEMU's command line, as it was started last
    Command { node: String },
    /// What the guest has said on its serial console
    Log {
        node: String,
        /// Bytes of its end
        #[arg(long, default_value = "64K")]
        tail: Size,
    },
    /// Its screen, as a PNG
    Screenshot {
        node: String,
        /// The file
        #[arg(long, short)]
        output: PathBuf,
    },
}

/// A node to be made.
#[derive(Args, Debug)]
pub(crate) struct Create {
    /// Letters, digits, `-`, `_` and `.`
    name: String,
    /// The image: its id or its name
    image: String,
    /// cloud, generic, router, installer or windows [default: as the image's content tells]
    #[arg(long)]
    preset: Option<String>,
    /// Memory: 512M, 2G
    #[arg(long, short)]
    memory: Option<Size>,
    /// Processors
    #[arg(long, short)]
    cpus: Option<u16>,
    /// The disk's size, where it is to be larger than the image's: 20G
    #[arg(long, value_name = "SIZE")]
    disk: Option<Size>,
    /// Another property, such as hw_disk_bus=ide or network=user; can be said several times
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = property)]
    properties: Vec<(String, Value)>,
    /// cloud-init: the guest's name
    #[arg(long)]
    hostname: Option<String>,
    /// cloud-init: a file with public keys of SSH; can be said several times
    #[arg(long = "ssh-key", value_name = "FILE")]
    ssh_keys: Vec<PathBuf>,
    /// cloud-init: a file with user-data
    #[arg(long, value_name = "FILE")]
    user_data: Option<PathBuf>,
    /// cloud-init: a file with the network's configuration
    #[arg(long, value_name = "FILE")]
    network_config: Option<PathBuf>,
    /// Start it at once
    #[arg(long)]
    start: bool,
}

fn property(text: &str) -> Result<(String, Value), String> {
    let (name, value) = text.split_once('=').ok_or("it is NAME=VALUE")?;
    // Numbers, true and false are what they look like; all else is text.
    let value = serde_json::from_str(value)
        .ok()
        .filter(|value: &Value| !value.is_null())
        .unwrap_or_else(|| json!(value));
    Ok((name.to_owned(), value))
}

pub(super) fn run(client: &Client, verb: &Verb) -> Result<ExitCode> {
    match verb {
        Verb::List => list(client)?,
        Verb::Get { node } => tell(client, &client.get(&path_of(node))?)?,
        Verb::Create(new) => create(client, new)?,
        Verb::Start { node } => step(client, node, "start")?,
        Verb::Stop { node } => step(client, node, "stop")?,
        Verb::Reset { node } => step(client, node, "reset")?,
        Verb::Pause { node } => step(client, node, "pause")?,
        Verb::Resume { node } => step(client, node, "resume")?,
        Verb::Wipe { node } => step(client, node, "wipe")?,
        Verb::Shutdown { node, grace, wait } => shutdown(client, node, *grace, *wait)?,
        Verb::Snapshots { node } => {
            snapshots(
                client,
                &client.get(&format!("{}/snapshots", path_of(node)))?,
            )?;
        }
        Verb::Snapshot { node, name, delete } => {
            let path = format!("{}/snapshots", path_of(node));
            if *delete {
                client.call("DELETE", &format!("{path}/{}", segment(name)), None)?;
            } else {
                let all = client.call("POST", &path, Some(&json!({"name": name})))?;
                snapshots(client, &all)?;
            }
        }
        Verb::Restore { node, name } => {
            let path = format!("{}/snapshots/{}/restore", path_of(node), segment(name));
            tell_state(client, &client.call("POST", &path, None)?)?;
        }
        Verb::Publish {
            node,
            name,
            description,
            compress,
            overwrite,
        } => {
            let wanted = json!({
                "name": name, "description": description, "compress": compress, "overwrite": overwrite,
            });
            publish(client, node, &wanted)?;
        }
        Verb::Rm { nodes } => {
            for node in nodes {
                client.call("DELETE", &path_of(node), None)?;
            }
        }
        Verb::Command { node } => command(client, node)?,
        Verb::Log { node, tail } => {
            let path = format!("{}/console/log?tail={}", path_of(node), tail.0);
            let log = client.request("GET", &path, &[], SendBody::none())?;
            let log = client.whole(log)?;
            show::print(String::from_utf8_lossy(&log).trim_end())?;
        }
        Verb::Screenshot { node, output } => {
            let path = format!("{}/screenshot", path_of(node));
            let screen = client.request("GET", &path, &[], SendBody::none())?;
            let screen = client.whole(screen)?;
            std::fs::write(output, screen).map_err(Failure::of(output.display().to_string()))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Where a node is asked for.
pub(super) fn path_of(node: &str) -> String {
    format!("/api/v1/nodes/{}", segment(node))
}

fn list(client: &Client) -> Result<()> {
    let nodes = client.get("/api/v1/nodes")?;
    if client.json {
        return show::json(&nodes);
    }
    let rows: Vec<_> = nodes
        .as_array()
        .into_iter()
        .flatten()
        .map(|node| {
            let machine = &node["machine"];
            vec![
                text(&node["name"]),
                state(node),
                text(&machine["cpus"]),
                format!("{} MiB", text(&machine["memory_mib"])),
                show::bytes(&node["disk_size"]),
                text(&node["image"]),
                text(&node["id"]),
            ]
        })
        .collect();
    let head = ["NAME", "STATE", "CPUS", "MEMORY", "DISK", "IMAGE", "ID"];
    show::table(&head, &rows)
}

fn state(node: &Value) -> String {
    match node["reason"].as_str() {
        Some(reason) => format!("{} ({})", text(&node["state"]), show::plain(reason)),
        None => text(&node["state"]),
    }
}

fn tell(client: &Client, node: &Value) -> Result<()> {
    if client.json {
        return show::json(node);
    }
    let machine = node["machine"].as_object().cloned().unwrap_or_default();
    let machine: Vec<_> = machine
        .iter()
        .map(|(name, value)| format!("{}={}", show::plain(name), text(value)))
        .collect();
    show::facts(&[
        ("name", text(&node["name"])),
        ("id", text(&node["id"])),
        ("state", state(node)),
        ("image", text(&node["image"])),
        ("disk", show::bytes(&node["disk_size"])),
        ("machine", machine.join(", ")),
        ("created", text(&node["created_at"])),
    ])
}

fn tell_state(client: &Client, node: &Value) -> Result<()> {
    match client.json {
        true => show::json(node),
        false => show::print(&format!("{}: {}", text(&node["name"]), state(node))),
    }
}

fn create(client: &Client, new: &Create) -> Result<()> {
    let mut machine: Map<String, Value> = new.properties.iter().cloned().collect();
    if let Some(memory) = new.memory {
        machine.insert("memory_mib".to_owned(), json!(memory.0 >> 20));
    }
    if let Some(cpus) = new.cpus {
        machine.insert("cpus".to_owned(), json!(cpus));
    }
    let body = json!({
        "name": new.name,
        "image": new.image,
        "preset": new.preset,
        "machine": Some(machine).filter(|machine| !machine.is_empty()),
        "cloud_init": cloud_init(new)?,
        "disk_size": new.disk.map(|size| size.0),
        "start": new.start,
    });
    tell_state(client, &client.call("POST", "/api/v1/nodes", Some(&body))?)
}

fn cloud_init(new: &Create) -> Result<Option<Value>> {
    let read = |path: &PathBuf| {
        std::fs::read_to_string(path).map_err(Failure::of(path.display().to_string()))
    };
    let mut seed = Map::new();
    if let Some(name) = &new.hostname {
        seed.insert("hostname".to_owned(), json!(name));
    }
    let mut keys = Vec::new();
    for path in &new.ssh_keys {
        let text = read(path)?;
        let lines = text.lines().map(str::trim);
        keys.extend(
            lines
                .filter(|line| !line.is_empty() && !line.starts_with('#'))
                .map(str::to_owned),
        );
    }
    if !keys.is_empty() {
        seed.insert("ssh_keys".to_owned(), json!(keys));
    }
    for (name, path) in [
        ("user_data", &new.user_data),
        ("network_config", &new.network_config),
    ] {
        if let Some(path) = path {
            seed.insert(name.to_owned(), json!(read(path)?));
        }
    }
    Ok(match seed.is_empty() {
        true => None,
        false => Some(Value::Object(seed)),
    })
}

fn step(client: &Client, node: &str, step: &str) -> Result<()> {
    let path = format!("{}/{step}", path_of(node));
    tell_state(client, &client.call("POST", &path, None)?)
}

fn shutdown(client: &Client, node: &str, grace: u64, wait: bool) -> Result<()> {
    let path = format!("{}/shutdown?grace={grace}", path_of(node));
    let mut asked = client.call("POST", &path, None)?;
    if wait {
        let stop = Stop::listen()?;
        while ["running", "stopping"].contains(&asked["state"].as_str().unwrap_or_default()) {
            if stop.is_asked() {
                return Err(Failure::Interrupted(String::new()));
            }
            sleep(Duration::from_millis(200));
            asked = client.get(&path_of(node))?;
        }
    }
    tell_state(client, &asked)
}

fn snapshots(client: &Client, all: &Value) -> Result<()> {
    if client.json {
        return show::json(all);
    }
    let rows: Vec<_> = all
        .as_array()
        .into_iter()
        .flatten()
        .map(|one| {
            let taken = one["taken_at"].as_i64().unwrap_or(0);
            let taken = jiff::Timestamp::from_second(taken).unwrap_or_default();
            let memory = match one["with_memory"] == true {
                true => "yes",
                false => "no",
            };
            vec![text(&one["name"]), taken.to_string(), memory.to_owned()]
        })
        .collect();
    show::table(&["NAME", "TAKEN", "MEMORY"], &rows)
}

fn publish(client: &Client, node: &str, wanted: &Value) -> Result<()> {
    let path = format!("{}/publish", path_of(node));
    let begun = client.call("POST", &path, Some(wanted))?;
    let done = operations::finished(client, begun, "publish")?;
    if client.json {
        return show::json(&done);
    }
    let image = done["result"]["image"].as_str().unwrap_or_default();
    images::facts(&client.get(&images::path_of(image))?)
}

fn command(client: &Client, node: &str) -> Result<()> {
    let command = client.get(&format!("{}/command", path_of(node)))?;
    if client.json {
        return show::json(&command);
    }
    let words = command["arguments"].as_array().into_iter().flatten();
    let words = words.filter_map(Value::as_str);
    let program = command["program"].as_str().unwrap_or_default();
    let line: Vec<_> = std::iter::once(program).chain(words).map(quoted).collect();
    show::print(&line.join(" "))
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let harmless = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    match !word.is_empty() && word.chars().all(harmless) {
        true => word.to_owned(),
        false => format!("'{}'", show::plain(&word.replace('\'', "'\\''"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_are_numbers_switches_or_text() {
        let value = |text: &str| property(text).unwrap().1;
        assert_eq!(value("cpus=2"), json!(2));
        assert_eq!(value("rng=true"), json!(true));
        assert_eq!(value("hw_disk_bus=ide"), json!("ide"));
        assert_eq!(value("cpu_model="), json!(""));
        assert!(property("cpus").is_err());
    }

    #[test]
    fn a_shell_takes_words_as_they_are() {
        assert_eq!(quoted("a=b,c"), "a=b,c");
        assert_eq!(quoted("it's {\"x\"}"), "'it'\\''s {\"x\"}'");
    }
}
