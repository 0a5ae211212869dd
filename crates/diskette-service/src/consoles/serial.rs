//! The serial console: QEMU takes one client, and that is this hub; it has any number of viewers, of whom one writes. When that
//! one leaves, whoever types next does. Who comes late sees what was said before.

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::body::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedReadHalf;
use tokio::sync::{broadcast, mpsc, watch};

use crate::launch::home::tail;

/// What late viewers see of the past.
const REPLAYED: usize = 256 << 10;
/// Parts that a slow viewer may lag behind.
const BEHIND: usize = 256;

/// One console, shared.
#[derive(Debug)]
pub(crate) struct Hub {
    past: Mutex<Past>,
    input: mpsc::Sender<Bytes>,
    /// Who writes; `None` where whoever types next does.
    writer: watch::Sender<Option<u64>>,
    next: AtomicU64,
}

#[derive(Debug)]
struct Past {
    bytes: VecDeque<u8>,
    /// `None` when the console is closed.
    now: Option<broadcast::Sender<Bytes>>,
}

/// Somebody who looks at the console, and may write if nobody else does.
#[derive(Debug)]
pub(crate) struct Viewer {
    hub: Arc<Hub>,
    id: u64,
    /// What was said before.
    pub(crate) past: Bytes,
    /// What is said from then on.
    pub(crate) now: Option<broadcast::Receiver<Bytes>>,
    writer: watch::Receiver<Option<u64>>,
}

/// Who has the keyboard, as one viewer sees it. Complete by nature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keyboard {
    /// This one.
    Mine,
    /// Nobody: it is had by typing.
    Free,
    /// Another.
    Taken,
}

impl Hub {
    /// Connects to QEMU. What an earlier run of the service has seen stands in the `log`.
    pub(crate) async fn connect(socket: &Path, log: &Path) -> io::Result<Arc<Self>> {
        let (reader, mut writer) = UnixStream::connect(socket).await?.into_split();
        let (input, mut typed) = mpsc::channel::<Bytes>(64);
        let past = Past {
            bytes: tail(log, REPLAYED as u64).into(),
            now: Some(broadcast::channel(BEHIND).0),
        };
        let hub = Arc::new(Self {
            past: Mutex::new(past),
            input,
            writer: watch::Sender::new(None),
            next: AtomicU64::new(1),
        });
        tokio::spawn(async move {
            while let Some(bytes) = typed.recv().await {
                if writer.write_all(&bytes).await.is_err() {
                    break;
                }
            }
        });
        tokio::spawn(listen(reader, Arc::downgrade(&hub)));
        Ok(hub)
    }

    /// A new viewer.
    pub(crate) fn view(self: &Arc<Self>) -> Viewer {
        let mut past = locked(&self.past);
        let now = past.now.as_ref().map(broadcast::Sender::subscribe);
        Viewer {
            hub: Arc::clone(self),
            id: self.next.fetch_add(1, Ordering::Relaxed),
            past: Bytes::copy_from_slice(past.bytes.make_contiguous()),
            now,
            writer: self.writer.subscribe(),
        }
    }

    /// Ends all views.
    pub(crate) fn close(&self) {
        locked(&self.past).now = None;
    }

    fn heard(&self, bytes: Bytes) {
        let mut past = locked(&self.past);
        past.bytes.extend(bytes.iter());
        let over = past.bytes.len().saturating_sub(REPLAYED);
        past.bytes.drain(..over);
        if let Some(now) = &past.now {
            // Nobody may be looking.
            let _ = now.send(bytes);
        }
    }
}

impl Viewer {
    /// Becomes the one who writes, unless another does. `take` takes it from the other.
    pub(crate) fn claim(&self, take: bool) {
        self.hub.writer.send_if_modified(|writer| {
            let changes = *writer != Some(self.id) && (take || writer.is_none());
            if changes {
                *writer = Some(self.id);
            }
            changes
        });
    }

    /// Who has the keyboard.
    pub(crate) fn keyboard(&self) -> Keyboard {
        match *self.hub.writer.borrow() {
            None => Keyboard::Free,
            Some(id) if id == self.id => Keyboard::Mine,
            Some(_) => Keyboard::Taken,
        }
    }

    /// Waits until another has the keyboard than at the last time.
    pub(crate) async fn keyboard_changed(&mut self) {
        // The sender is the hub's, which we hold.
        let _ = self.writer.changed().await;
    }

    /// Types; what is typed while another has the keyboard is lost.
    pub(crate) async fn write(&self, bytes: Bytes) {
        self.claim(false);
        if self.keyboard() == Keyboard::Mine {
            // Where nobody listens any more the machine has ended, and all views do.
            let _ = self.hub.input.send(bytes).await;
        }
    }
}

impl Drop for Viewer {
    fn drop(&mut self) {
        self.hub.writer.send_if_modified(|writer| {
            let held = *writer == Some(self.id);
            if held {
                *writer = None;
            }
            held
        });
    }
}

async fn listen(mut reader: OwnedReadHalf, hub: std::sync::Weak<Hub>) {
    let mut part = vec![0; 16 << 10];
    while let Ok(len @ 1..) = reader.read(&mut part).await {
        let Some(hub) = hub.upgrade() else { return };
        hub.heard(Bytes::copy_from_slice(&part[..len]));
    }
    if let Some(hub) = hub.upgrade() {
        hub.close();
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;

    #[tokio::test]
    async fn who_comes_late_sees_the_past_and_one_writes() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("serial");
        let log = folder.path().join("log");
        std::fs::write(&log, "before\n").unwrap();
        let listener = UnixListener::bind(&socket).unwrap();
        let hub = Hub::connect(&socket, &log).await.unwrap();
        let (mut guest, _) = listener.accept().await.unwrap();

        let first = hub.view();
        guest.write_all(b"login: ").await.unwrap();
        let late = loop {
            let late = hub.view();
            if late.past.ends_with(b"login: ") {
                break late;
            }
            tokio::task::yield_now().await;
        };
        assert_eq!(&late.past[..], b"before\nlogin: ");

        first.claim(false);
        late.claim(false);
        late.write(Bytes::from_static(b"no")).await;
        first.write(Bytes::from_static(b"root")).await;
        let mut typed = [0; 4];
        guest.read_exact(&mut typed).await.unwrap();
        assert_eq!(&typed, b"root");
        late.claim(true);
        assert_eq!(first.keyboard(), Keyboard::Taken);
        drop(late);
        assert_eq!(first.keyboard(), Keyboard::Free);
        first.write(Bytes::from_static(b"back")).await;
        guest.read_exact(&mut typed).await.unwrap();
        assert_eq!(&typed, b"back");
        drop(guest);
        while hub.view().now.is_some() {
            tokio::task::yield_now().await;
        }
    }
}
