//! Consoles: a ticket, and the WebSocket that it opens.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::broadcast::error::RecvError;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::auth::{Caller, Scope};
use crate::consoles::rfb::LookAlone;
use crate::consoles::serial::{Keyboard, Viewer};
use crate::consoles::{GOOD_FOR, Kind, Ticket};
use crate::nodes::{self, Live, Node};
use crate::problem::{CONSOLE_GONE, Problem, ProblemBody, Result};
use crate::state::Shared;

/// A browser's message is never longer.
const LONGEST: usize = 1 << 20;

/// All routes of consoles.
pub(super) fn router() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(ticket))
        .routes(routes!(serial))
        .routes(routes!(vnc))
}

/// Which console is wanted.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ConsoleWanted)]
pub(crate) struct Wanted {
    kind: Kind,
    /// Look alone, type nothing.
    #[serde(default)]
    view_only: bool,
}

/// What opens a console, once.
#[derive(Serialize, ToSchema)]
pub(crate) struct Issued {
    ticket: String,
    /// Where to, with the ticket.
    path: String,
    /// Seconds for which it is good.
    good_for: u64,
}

/// Get a ticket for a console
#[utoipa::path(post, path = "/api/v1/nodes/{id}/console-ticket", tag = "consoles", params(("id" = String, Path)), request_body = Wanted,
    responses((status = 201, body = Issued), (status = "4XX", body = ProblemBody)))]
pub(crate) async fn ticket(
    State(app): State<Shared>,
    caller: Caller,
    Path(id): Path<String>,
    Json(wanted): Json<Wanted>,
) -> Result<(StatusCode, Json<Issued>)> {
    caller.need(if wanted.view_only {
        Scope::Read
    } else {
        Scope::Write
    })?;
    let node = Node::load(&app.db, &caller.project, &id).await?;
    nodes::running(&app, &node)?;
    let ticket = app
        .tickets
        .issue(&caller.project, &node.id, wanted.kind, !wanted.view_only)?;
    let kind = match wanted.kind {
        Kind::Serial => "serial",
        Kind::Vnc => "vnc",
    };
    let path = format!("/api/v1/nodes/{}/console/{kind}?ticket={ticket}", node.id);
    let good_for = GOOD_FOR.as_secs();
    Ok((
        StatusCode::CREATED,
        Json(Issued {
            ticket,
            path,
            good_for,
        }),
    ))
}

/// What opens it.
#[derive(Deserialize, IntoParams)]
pub(crate) struct Key {
    ticket: String,
}

/// The serial console, over a WebSocket: binary messages are what is said and typed. Text messages are JSON: the service
/// tells `{"writer": true}` to who has the keyboard, and `"free": true` where nobody has it: whoever types next does.
/// `{"take": true}` takes it from another, `{"take": false}` asks for it where it is free; `{"break": true}` is the break of a serial
/// line, from who has it.
#[utoipa::path(get, path = "/api/v1/nodes/{id}/console/serial", tag = "consoles", params(("id" = String, Path), Key), security(()),
    responses((status = 101), (status = "4XX", body = ProblemBody)))]
pub(crate) async fn serial(
    State(app): State<Shared>,
    Path(id): Path<String>,
    Query(Key { ticket }): Query<Key>,
    upgrade: WebSocketUpgrade,
) -> Result<Response> {
    let ticket = app.tickets.redeem(&ticket, &id, Kind::Serial)?;
    let node = Node::load(&app.db, &ticket.project, &ticket.node).await?;
    let live = nodes::running(&app, &node)?;
    let hub = live
        .serial
        .as_ref()
        .ok_or_else(|| Problem::new(CONSOLE_GONE, "the node has no serial port"))?;
    let viewer = hub.view();
    Ok(upgrade
        .max_message_size(LONGEST)
        .on_upgrade(move |socket| view(socket, viewer, live, ticket)))
}

async fn view(mut socket: WebSocket, mut viewer: Viewer, live: Arc<Live>, ticket: Ticket) {
    let past = std::mem::take(&mut viewer.past);
    if !past.is_empty() && socket.send(Message::Binary(past)).await.is_err() {
        return;
    }
    let Some(mut now) = viewer.now.take() else {
        return close(socket, "the console is closed").await;
    };
    let mut told = None;
    if ticket.writes {
        viewer.claim(false);
    }
    loop {
        let keyboard = viewer.keyboard();
        if told != Some(keyboard) {
            told = Some(keyboard);
            let (writer, free) = (keyboard == Keyboard::Mine, keyboard == Keyboard::Free);
            let text = json!({"writer": writer, "free": free}).to_string();
            if socket.send(Message::Text(text.into())).await.is_err() {
                return;
            }
        }
        tokio::select! {
            said = now.recv() => match said {
                Ok(bytes) => if socket.send(Message::Binary(bytes)).await.is_err() { return },
                // Too slow for the guest: what was missed stands in the log.
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return close(socket, "the node has ended").await,
            },
            typed = socket.recv() => match typed {
                Some(Ok(Message::Binary(bytes))) if ticket.writes => viewer.write(bytes).await,
                Some(Ok(Message::Text(text))) if ticket.writes => {
                    let wish: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
                    viewer.claim(wish["take"] == true);
                    if wish["break"] == true && viewer.keyboard() == Keyboard::Mine {
                        send_break(&live).await;
                    }
                }
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) => {}
            },
            () = viewer.keyboard_changed() => {}
        }
    }
}

/// What a terminal's break key does to the line.
async fn send_break(live: &Live) {
    let line = json!({"id": "serial0"});
    let monitor = &live.running.monitor;
    if let Err(error) = monitor.execute("chardev-send-break", line).await {
        tracing::warn!(%error, "a break was not sent");
    }
}

/// The screen by VNC, over a WebSocket: binary messages are the RFB protocol
#[utoipa::path(get, path = "/api/v1/nodes/{id}/console/vnc", tag = "consoles", params(("id" = String, Path), Key), security(()),
    responses((status = 101), (status = "4XX", body = ProblemBody)))]
pub(crate) async fn vnc(
    State(app): State<Shared>,
    Path(id): Path<String>,
    Query(Key { ticket }): Query<Key>,
    upgrade: WebSocketUpgrade,
) -> Result<Response> {
    let ticket = app.tickets.redeem(&ticket, &id, Kind::Vnc)?;
    let node = Node::load(&app.db, &ticket.project, &ticket.node).await?;
    nodes::running(&app, &node)?;
    let path = app.nodes.home(&node.id).vnc();
    let screen = UnixStream::connect(&path).await;
    let screen = screen.map_err(|_| Problem::new(CONSOLE_GONE, "the node has no screen"))?;
    let upgrade = upgrade.protocols(["binary"]).max_message_size(LONGEST);
    Ok(upgrade.on_upgrade(move |socket| relay(socket, screen, ticket.writes)))
}

async fn relay(mut socket: WebSocket, mut screen: UnixStream, writes: bool) {
    let mut look_alone = LookAlone::default();
    let mut part = vec![0; 64 << 10];
    loop {
        tokio::select! {
            drawn = screen.read(&mut part) => match drawn {
                Ok(len @ 1..) => {
                    let bytes = Bytes::copy_from_slice(&part[..len]);
                    if socket.send(Message::Binary(bytes)).await.is_err() { return }
                }
                _ => return close(socket, "the node has ended").await,
            },
            done = socket.recv() => match done {
                Some(Ok(Message::Binary(bytes))) => {
                    let passed = if writes { Ok(bytes.into()) } else { look_alone.pass(&bytes) };
                    let Ok(passed) = passed else { return close(socket, "this message is not known").await };
                    if screen.write_all(&passed).await.is_err() { return }
                }
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) => {}
            },
        }
    }
}

async fn close(mut socket: WebSocket, reason: &'static str) {
    const GOING_AWAY: u16 = 1001;
    let frame = CloseFrame {
        code: GOING_AWAY,
        reason: reason.into(),
    };
    // The other side may be gone already.
    let _ = socket.send(Message::Close(Some(frame))).await;
}
