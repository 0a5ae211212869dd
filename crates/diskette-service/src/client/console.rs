//! `console`: a node's serial port in this terminal, over a WebSocket. Every key goes to the guest, but the one that leaves.

use std::io::{self, IsTerminal, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use rustix::event::{PollFd, PollFlags, poll};
use serde_json::{Value, json};
use tungstenite::client::IntoClientRequest;
use tungstenite::stream::MaybeTlsStream;
use tungstenite::{Message, WebSocket};

use super::meter::say;
use super::stop::Stop;
use super::{Client, Failure, Result, nodes};

pub(super) const EXAMPLES: &str = "\
Examples:
  diskette-service console one
  diskette-service console one --view-only
  diskette-service console one --take          # from another who types
  echo reboot | diskette-service console one   # without a terminal, until the console closes

Ctrl-] leaves; the node goes on.";

/// Which console.
#[derive(Args, Debug)]
pub(crate) struct Asked {
    /// The node: its id or its name
    node: String,
    /// Look, and type nothing
    #[arg(long)]
    view_only: bool,
    /// Take the right to type from whoever has it
    #[arg(long, conflicts_with = "view_only")]
    take: bool,
}

/// Ctrl-], as telnet and virsh have it.
const LEAVE: u8 = 0x1d;

type Socket = WebSocket<MaybeTlsStream<TcpStream>>;

pub(super) fn run(client: &Client, asked: &Asked) -> Result<ExitCode> {
    let path = format!("{}/console-ticket", nodes::path_of(&asked.node));
    let wanted = json!({"kind": "serial", "view_only": asked.view_only});
    let issued = client.call("POST", &path, Some(&wanted))?;
    let (socket, stream) = open(client, issued["path"].as_str().unwrap_or_default())?;
    let mut console = Console {
        socket,
        stream,
        typing: !asked.view_only,
        quiet: client.quiet,
        stop: Stop::listen()?,
        unsent: false,
    };
    if asked.take {
        console.send(Message::Text(json!({"take": true}).to_string().into()))?;
    }
    let raw = Raw::enter()?;
    if raw.is_some() && !client.quiet {
        say(&format!(
            "the console of {}; Ctrl-] leaves\r",
            super::show::plain(&asked.node)
        ));
    }
    let ended = console.talk();
    drop(raw);
    let why = ended?;
    if !client.quiet {
        say(&format!("\n{why}"));
    }
    Ok(ExitCode::SUCCESS)
}

struct Console {
    socket: Socket,
    /// The same line, to be waited for.
    stream: TcpStream,
    typing: bool,
    quiet: bool,
    stop: Stop,
    /// Whether the line was full when something was to be sent.
    unsent: bool,
}

impl Console {
    /// Until one side ends; tells which.
    fn talk(&mut self) -> Result<String> {
        let mut input = self.typing;
        loop {
            if let Some(why) = self.listen()? {
                return Ok(why);
            }
            if self.stop.is_asked() {
                return Ok("left".to_owned());
            }
            let (typed, full) = self.wait(input)?;
            if full {
                self.flush()?;
            }
            if !typed {
                continue;
            }
            match keys()? {
                None => input = false,
                Some(keys) => match keys.iter().position(|key| *key == LEAVE) {
                    Some(at) if io::stdin().is_terminal() => {
                        self.send(Message::Binary(keys[..at].to_vec().into()))?;
                        let _ = self.socket.close(None);
                        return Ok("left; the node goes on".to_owned());
                    }
                    _ => self.send(Message::Binary(keys.into()))?,
                },
            }
        }
    }

    /// Waits until something is typed or said; tells whether the one, and whether more can be sent.
    fn wait(&self, input: bool) -> Result<(bool, bool)> {
        let stdin = io::stdin();
        let line = match self.unsent {
            true => PollFlags::IN | PollFlags::OUT,
            false => PollFlags::IN,
        };
        let mut watched = vec![PollFd::from_borrowed_fd(self.stream.as_fd(), line)];
        if input {
            watched.push(PollFd::from_borrowed_fd(stdin.as_fd(), PollFlags::IN));
        }
        let pause = rustix::event::Timespec {
            tv_sec: 0,
            tv_nsec: 250_000_000,
        };
        match poll(&mut watched, Some(&pause)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(Failure::of("the terminal")(error.into())),
        }
        let happened = |at: usize| watched.get(at).map_or(PollFlags::empty(), PollFd::revents);
        Ok((
            happened(1).intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR),
            self.unsent && happened(0).contains(PollFlags::OUT),
        ))
    }

    /// Prints what has been said meanwhile; tells why, if that was the end.
    fn listen(&mut self) -> Result<Option<String>> {
        let mut out = io::stdout().lock();
        loop {
            match self.socket.read() {
                Ok(Message::Binary(bytes)) => {
                    out.write_all(&bytes).map_err(Failure::of("the terminal"))?;
                    out.flush().map_err(Failure::of("the terminal"))?;
                }
                Ok(Message::Text(text)) => self.told(&text),
                Ok(Message::Close(frame)) => {
                    let reason = frame.map(|frame| frame.reason.to_string());
                    let reason = reason.filter(|reason| !reason.is_empty());
                    return Ok(Some(reason.unwrap_or_else(|| "closed".to_owned())));
                }
                Ok(_) => {}
                Err(tungstenite::Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(None);
                }
                Err(tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed) => {
                    return Ok(Some("closed".to_owned()));
                }
                Err(error) => return Err(lost(&error)),
            }
        }
    }

    /// Who has the keyboard.
    fn told(&self, text: &str) {
        let told: Value = serde_json::from_str(text).unwrap_or_default();
        if told["writer"] == true || !self.typing || self.quiet {
            return;
        }
        say(match told["free"] == true {
            true => "\r\n[the other has left: type]\r",
            false => "\r\n[another types; --take takes that]\r",
        });
    }

    fn send(&mut self, message: Message) -> Result<()> {
        let sent = self.socket.send(message);
        self.settled(sent)
    }

    fn flush(&mut self) -> Result<()> {
        let sent = self.socket.flush();
        self.settled(sent)
    }

    fn settled(&mut self, sent: tungstenite::Result<()>) -> Result<()> {
        self.unsent = false;
        match sent {
            Ok(()) => Ok(()),
            // It is kept, and goes out when the line has room.
            Err(tungstenite::Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                self.unsent = true;
                Ok(())
            }
            // What was said last is still to be read.
            Err(tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed) => Ok(()),
            Err(error) => Err(lost(&error)),
        }
    }
}

/// What has been typed; nothing at its end.
fn keys() -> Result<Option<Vec<u8>>> {
    let mut keys = vec![0; 4096];
    match rustix::io::read(io::stdin(), &mut keys) {
        Ok(0) => Ok(None),
        Ok(len) => {
            keys.truncate(len);
            Ok(Some(keys))
        }
        Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => Ok(Some(Vec::new())),
        Err(error) => Err(Failure::of("the terminal")(error.into())),
    }
}

fn open(client: &Client, path: &str) -> Result<(Socket, TcpStream)> {
    let (secure, place) = match client.server.split_once("://") {
        Some(("https", place)) => (true, place),
        Some((_, place)) => (false, place),
        None => (false, client.server.as_str()),
    };
    let unreachable = |why: String| Failure::Unreachable {
        server: client.server.clone(),
        why,
    };
    let host = place.split('/').next().unwrap_or_default();
    let default = if secure { ":443" } else { ":80" };
    let address = match host.rsplit_once(':') {
        Some((_, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host.to_owned(),
        _ => format!("{host}{default}"),
    };
    let stream = TcpStream::connect(address).map_err(|error| unreachable(error.to_string()))?;
    let machine = |error: io::Error| unreachable(error.to_string());
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .map_err(machine)?;
    let watched = stream.try_clone().map_err(machine)?;
    let scheme = if secure { "wss" } else { "ws" };
    let request = format!("{scheme}://{place}{path}").into_client_request();
    let request = request.map_err(|error| unreachable(error.to_string()))?;
    let opened = tungstenite::client_tls(request, stream);
    let (socket, _) = opened.map_err(|error| unreachable(error.to_string()))?;
    watched.set_nonblocking(true).map_err(machine)?;
    Ok((socket, watched))
}

fn lost(error: &tungstenite::Error) -> Failure {
    Failure::Told(format!("the console is lost: {error}"))
}

/// A terminal whose keys all come through, until this is dropped.
struct Raw(Termios);

impl Raw {
    /// Nothing where there is no terminal.
    fn enter() -> Result<Option<Self>> {
        if !io::stdin().is_terminal() {
            return Ok(None);
        }
        let machine = |error: nix::Error| Failure::of("the terminal")(error.into());
        let before = tcgetattr(io::stdin()).map_err(machine)?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(io::stdin(), SetArg::TCSADRAIN, &raw).map_err(machine)?;
        Ok(Some(Self(before)))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), SetArg::TCSADRAIN, &self.0);
    }
}
