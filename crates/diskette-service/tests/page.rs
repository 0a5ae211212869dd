//! The page, in a real browser, before a real server.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod common;

use common::Server;
use common::bench::Bench;
use common::browser::Browser;
use serde_json::json;

/// A server with an image of a guest, and a browser; nothing where one of them cannot be.
fn bench() -> Option<(Browser, Bench)> {
    Some((Browser::find()?, Bench::new()?))
}

#[test]
fn the_terminal_and_the_vnc_client_that_are_carried_run() {
    let Some(browser) = Browser::find() else {
        return;
    };
    browser.run(&Server::start(), "vendored.js", &json!({}));
}

#[test]
fn a_node_is_launched_and_typed_to_by_two_viewers() {
    let Some((browser, bench)) = bench() else {
        return;
    };
    browser.run(&bench.server, "serial.js", &json!({}));
}

#[test]
fn a_nodes_screen_shows_something() {
    let Some((browser, bench)) = bench() else {
        return;
    };
    browser.run(&bench.server, "screen.js", &json!({}));
}

#[test]
fn a_node_is_launched_and_typed_to_without_a_mouse() {
    let Some((browser, bench)) = bench() else {
        return;
    };
    browser.run(&bench.server, "keyboard.js", &json!({}));
}

#[test]
fn an_image_in_use_stays_and_a_node_becomes_an_image() {
    let Some((browser, bench)) = bench() else {
        return;
    };
    bench.node("edge", true);
    browser.run(&bench.server, "publish.js", &json!({"image": bench.image}));
}

#[test]
fn base_images_are_fetched_given_up_and_launched() {
    let Some(browser) = Browser::find() else {
        return;
    };
    let server = Server::with(&["--allow-private-urls", "true"]);
    browser.run(&server, "base.js", &json!({}));
}

#[test]
fn who_may_look_alone_types_nothing() {
    let Some((browser, bench)) = bench() else {
        return;
    };
    let node = bench.node("edge", true);
    browser.run(&bench.server, "viewer.js", &json!({"node": node}));
}

#[test]
fn eight_tabs_have_enough_connections_and_miss_nothing() {
    let Some((browser, bench)) = bench() else {
        return;
    };
    browser.run(&bench.server, "tabs.js", &json!({}));
}

#[test]
fn every_screen_of_nodes_is_accessible_in_light_and_dark_and_on_a_phone() {
    let Some((browser, bench)) = bench() else {
        return;
    };
    let node = bench.node("edge", true);
    browser.run(&bench.server, "accessible.js", &json!({"node": node}));
}
