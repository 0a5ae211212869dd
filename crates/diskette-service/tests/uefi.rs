//! Machines with UEFI: OVMF starts, speaks, and keeps its variables for each node.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod common;

use std::time::Duration;

use common::bench::{Bench, console, hear_within, type_in};
use diskette_service::launch::arguments::Ovmf;
use diskette_service::launch::properties::Firmware;
use serde_json::json;

/// OVMF takes its time under emulation.
const PATIENCE: Duration = Duration::from_secs(300);

/// The firmware's files; a word where they are not installed, which CI does.
fn ovmf() -> Option<Ovmf> {
    let found = Ovmf::find(Firmware::Uefi);
    if found.is_none() {
        assert!(std::env::var_os("CI").is_none(), "ovmf is not installed");
        eprintln!("skipped: ovmf is not installed");
    }
    found
}

#[test]
fn a_machine_with_uefi_comes_to_its_shell_and_keeps_its_variables() {
    let Some(ovmf) = ovmf() else { return };
    let Some(bench) = Bench::new() else { return };
    // A disk without anything to boot from.
    let made = json!({"name": "blank"});
    bench
        .server
        .json("POST", "/api/v1/images", &made)
        .expect(201);
    let path = "/api/v1/images/blank/file";
    bench
        .server
        .call("PUT", path, &[], &vec![0; 1 << 20])
        .expect(200);
    let template = std::fs::read(&ovmf.variables).unwrap();

    let new = json!({
        "name": "modern", "image": "blank", "preset": "cloud", "start": true,
        "machine": {"memory_mib": 256, "hw_firmware_type": "uefi", "network": "none"},
    });
    let node = bench.server.json("POST", "/api/v1/nodes", &new).expect(201);
    let node = node["id"].as_str().unwrap();
    let log = format!("/api/v1/nodes/{node}/console/log?tail=1048576");
    let prompts = || bench.server.get(&log).text().matches("Shell>").count();
    // The console's past is replayed: a prompt counts if it is a new one.
    let at_prompt = |before: usize| {
        let start = std::time::Instant::now();
        while prompts() <= before {
            assert!(
                start.elapsed() < PATIENCE,
                "{}",
                bench.server.get(&log).text()
            );
            std::thread::sleep(Duration::from_millis(200));
        }
        let ticket = bench.ticket(node, "serial", false);
        let mut serial = console(&bench.server, &ticket, None).unwrap();
        hear_within(&mut serial, "Shell>", PATIENCE);
        serial
    };
    // Each command brings another prompt.
    let run = |serial: &mut common::bench::Socket, line: &str| {
        let before = prompts();
        type_in(serial, line);
        type_in(serial, "\r");
        at_prompt(before);
    };
    let mut serial = at_prompt(0);
    // What is not volatile outlives the machine.
    run(&mut serial, "set stays HERE");

    let snapshots = format!("/api/v1/nodes/{node}/snapshots");
    bench
        .server
        .json("POST", &snapshots, &json!({"name": "warm"}))
        .expect(201);
    bench.step(node, "pause").expect(200);
    bench.until(node, "paused");
    bench.step(node, "resume").expect(200);
    let restore = format!("{snapshots}/warm/restore");
    bench.server.json("POST", &restore, &json!({})).expect(200);
    bench.until(node, "running");
    let before = prompts();
    bench.step(node, "reset").expect(200);
    drop(at_prompt(before));
    drop(serial);
    bench.step(node, "stop").expect(200);
    bench.until(node, "stopped");

    let variables = bench
        .server
        .data
        .join("overlays")
        .join(node)
        .join("efivars.fd");
    let own = std::fs::read(&variables).unwrap();
    assert_eq!(own.len(), template.len());
    let wide: Vec<u8> = "HERE".encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert!(own.windows(wide.len()).any(|window| window == wide));
    assert!(std::fs::read(&ovmf.variables).unwrap() == template);

    let before = prompts();
    bench.step(node, "start").expect(200);
    let mut serial = at_prompt(before);
    run(&mut serial, "ver");
    drop(serial);
    bench.step(node, "stop").expect(200);
    bench.until(node, "stopped");
    let after = std::fs::read(&variables).unwrap();
    assert!(after.windows(wide.len()).any(|window| window == wide));
    bench.step(node, "wipe").expect(200);
    assert!(!variables.exists());
}
