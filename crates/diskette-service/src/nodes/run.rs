//! A node's machine: started, paused, ended.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::live::{Live, watch};
use super::overlay::{blob, not_running, verify};
use super::record::Base;
use super::{Node, Nodes};
use crate::api::blocking;
use crate::consoles::serial::Hub;
use crate::launch::arguments::{Disks, Launch};
use crate::launch::boot_test;
use crate::launch::machine::Running;
use crate::problem::{CONSOLE_GONE, Problem, Result};
use crate::state::Shared;

/// Starts a node.
pub(crate) async fn start(app: &Shared, node: &Node) -> Result<()> {
    let _turn = app.nodes.turn(&node.id).await;
    not_running(app, node)?;
    let base = Base::ready(&app.db, &node.project, &node.image).await?;
    let path = blob(app, &base)?;
    let looked = (base.clone(), path.clone());
    blocking(move || verify(&looked.0, &looked.1)).await?;
    node.settle(&app.db, "starting", None).await?;
    match launch(&app.nodes, node, &base, path).await {
        Ok(live) => {
            app.nodes.keep(&node.id, &live);
            watch(app, node, &live);
            live.running.go().await?;
            tracing::info!(
                node = node.name,
                process = live.running.process.id(),
                "node started"
            );
            node.settle(&app.db, "running", None).await
        }
        Err(problem) => {
            node.settle(&app.db, "crashed", Some(&problem.detail))
                .await?;
            Err(problem)
        }
    }
}

async fn launch(nodes: &Nodes, node: &Node, base: &Base, blob: PathBuf) -> Result<Arc<Live>> {
    let home = nodes.home(&node.id);
    home.make()?;
    let ovmf = boot_test::firmware(node.machine.firmware, &home)?;
    let blob = std::path::absolute(blob).map_err(Problem::internal)?;
    let format = base.format.clone().unwrap_or_else(|| "raw".to_owned());
    let (backing, cdrom) = match base.is_iso() {
        true => (vec![], Some(blob)),
        false => (vec![(blob, format)], None),
    };
    let disks = Disks {
        backing,
        cdrom,
        has_seed: node.cloud_init.is_some(),
    };
    let launch = Launch {
        id: node.uuid(),
        name: &node.name,
        machine: &node.machine,
        home: &home,
        disks: &disks,
        accelerator: nodes.accelerator().await?,
        ovmf: ovmf.as_ref(),
    };
    let running = nodes.launcher.start(&launch).await?;
    attach(nodes, node, running).await
}

/// The consoles connect before the guest says its first word.
pub(super) async fn attach(nodes: &Nodes, node: &Node, running: Running) -> Result<Arc<Live>> {
    let home = nodes.home(&node.id);
    let serial = match node.machine.serial_ports {
        0 => None,
        _ => Some(
            Hub::connect(&home.serial(0), &home.serial_log())
                .await
                .map_err(Problem::internal)?,
        ),
    };
    Ok(Live::new(running, serial))
}

/// Asks the guest to end; after some time its machine is ended.
pub(crate) async fn shutdown(app: &Shared, node: &Node, grace: Duration) -> Result<()> {
    let live = running(app, node)?;
    node.settle(&app.db, "stopping", None).await?;
    let name = node.name.clone();
    tokio::spawn(async move {
        if let Err(problem) = live.shutdown(grace).await {
            tracing::warn!(node = name, detail = problem.detail, "not shut down");
        }
    });
    Ok(())
}

/// Ends the machine at once.
pub(crate) async fn stop(app: &Shared, node: &Node) -> Result<()> {
    let live = running(app, node)?;
    node.settle(&app.db, "stopping", None).await?;
    live.stop().await;
    until_told(app, node, |state| state != "stopping").await
}

/// Presses the reset button.
pub(crate) async fn reset(app: &Shared, node: &Node) -> Result<()> {
    command(app, node, "system_reset").await
}

/// Holds the guest.
pub(crate) async fn pause(app: &Shared, node: &Node) -> Result<()> {
    command(app, node, "stop").await?;
    until_told(app, node, |state| state != "running").await
}

/// Lets the guest go on.
pub(crate) async fn resume(app: &Shared, node: &Node) -> Result<()> {
    command(app, node, "cont").await?;
    until_told(app, node, |state| state != "paused").await
}

async fn command(app: &Shared, node: &Node, command: &str) -> Result<()> {
    let _turn = app.nodes.turn(&node.id).await;
    let live = running(app, node)?;
    live.running
        .monitor
        .execute(command, serde_json::Value::Null)
        .await?;
    Ok(())
}

/// The record follows what QEMU tells, which comes a moment after its answer; whoever has asked is told what has become of it.
async fn until_told(app: &Shared, node: &Node, done: impl Fn(&str) -> bool) -> Result<()> {
    for _ in 0..200 {
        let now = Node::load(&app.db, &node.project, &node.id).await?;
        if done(&now.state) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

pub(crate) fn running(app: &Shared, node: &Node) -> Result<Arc<Live>> {
    let live = app.nodes.live(&node.id);
    live.ok_or_else(|| {
        Problem::new(
            CONSOLE_GONE,
            format!("the node \"{}\" does not run", node.name),
        )
    })
}

/// The screen, as a PNG.
pub(crate) async fn screenshot(app: &Shared, node: &Node) -> Result<Vec<u8>> {
    let live = running(app, node)?;
    let _turn = app.nodes.turn(&node.id).await;
    // A folder that the machine can write into.
    let path = app.nodes.home(&node.id).sockets().join("screen.png");
    live.running.screenshot(&path).await?;
    let png = tokio::fs::read(&path).await.map_err(Problem::internal)?;
    tokio::fs::remove_file(&path)
        .await
        .map_err(Problem::internal)?;
    Ok(png)
}
