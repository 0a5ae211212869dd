//! At the start of the service: machines that still run are found again, what ended meanwhile is recorded, what belongs to
//! nobody is removed.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::Path;

use super::live::watch;
use super::overlay::make_if_missing;
use super::run::attach;
use super::{Node, held, locked};
use crate::launch::arguments::monitor_argument;
use crate::launch::machine::Running;
use crate::launch::process::Process;
use crate::problem::{Problem, Result};
use crate::state::Shared;

/// Sets nodes and folders right.
pub(crate) async fn recover(app: &Shared) -> Result<()> {
    let nodes = Node::every(&app.db).await?;
    for node in &nodes {
        match adopt(app, node).await {
            Ok(()) => held::forget(&app.nodes.home(&node.id)),
            Err(problem) => tracing::error!(
                node = node.name,
                problem = problem.detail,
                "node not found again"
            ),
        }
    }
    end_orphans(app).await?;
    let known: HashSet<_> = nodes.iter().map(|node| node.id.clone()).collect();
    remove_others(&app.nodes.folder, &known).map_err(Problem::internal)
}

async fn adopt(app: &Shared, node: &Node) -> Result<()> {
    let home = app.nodes.home(&node.id);
    if ["defined", "stopped", "crashed"].contains(&node.state.as_str()) {
        home.remove_sockets()?;
        return match make_if_missing(app, node).await? {
            true => node.settle(&app.db, "defined", None).await,
            false => Ok(()),
        };
    }
    let Some(running) = Running::find(&home, node.uuid()).await? else {
        home.remove_sockets()?;
        let (state, reason) = match node.state.as_str() {
            "stopping" => ("stopped", None),
            _ => ("crashed", Some("QEMU ended while the service was away")),
        };
        return node.settle(&app.db, state, reason).await;
    };
    let status = running.status().await?;
    let live = attach(&app.nodes, node, running).await?;
    app.nodes.keep(&node.id, &live);
    watch(app, node, &live);
    tracing::info!(
        node = node.name,
        process = live.running.process.id(),
        status,
        "node found again"
    );
    match status.as_str() {
        // The service went away between its start and its first step.
        "prelaunch" => {
            live.running.go().await?;
            node.settle(&app.db, "running", None).await
        }
        "running" => node.settle(&app.db, "running", None).await,
        // Whatever it was held for, nobody does it any more.
        "paused" if held::was_held(&home) => {
            live.running.go().await?;
            node.settle(&app.db, "running", None).await
        }
        _ => node.settle(&app.db, "paused", None).await,
    }
}

/// Machines of ours that no record knows: the service was ended before it could write one, or after it struck it out.
async fn end_orphans(app: &Shared) -> Result<()> {
    let adopted: HashSet<_> = locked(&app.nodes.live)
        .values()
        .map(|live| live.running.process.id())
        .collect();
    let machines = Process::all_with_argument(&monitor_argument(&app.nodes.sockets));
    for process in machines.map_err(Problem::internal)? {
        if !adopted.contains(&process.id()) {
            tracing::warn!(
                process = process.id(),
                "a machine without a record is ended"
            );
            process.kill().await;
        }
    }
    Ok(())
}

fn remove_others(folder: &Path, known: &HashSet<String>) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // Only what this service makes has such a name.
        let is_ours = uuid::Uuid::try_parse(&name).is_ok();
        if is_ours && !known.contains(&name) {
            tracing::warn!(folder = %entry.path().display(), "a folder without a record is removed");
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}
