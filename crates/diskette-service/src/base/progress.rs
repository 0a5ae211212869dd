//! How far a download is: on the terminal as a bar, or as lines in the log; and in its operation.

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::Ordering;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::sync::oneshot::Receiver;

use crate::operations::Steering;
use crate::problem::{CANCELLED, Problem};
use crate::state::Shared;

/// All bars: they are drawn on a terminal alone.
static BARS: LazyLock<MultiProgress> = LazyLock::new(|| {
    let target = match io::stderr().is_terminal() {
        true => ProgressDrawTarget::stderr(),
        false => ProgressDrawTarget::hidden(),
    };
    MultiProgress::with_draw_target(target)
});

/// Where the log goes: between the bars, not through them.
#[derive(Debug)]
pub(crate) struct Log;

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match io::stderr().is_terminal() {
            true => BARS.suspend(|| io::stderr().write(bytes)),
            false => io::stderr().write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// Time between two lines of the log, where there is no terminal.
const LINES: Duration = Duration::from_secs(10);
const LOOKS: Duration = Duration::from_millis(250);

/// Tells how far it is, until it has ended; and has it end, if it is not wanted any more.
pub(super) async fn tell(
    app: Shared,
    image: String,
    name: String,
    steering: Arc<Steering>,
    mut ended: Receiver<()>,
) {
    let bar = BARS.add(bar(&name));
    let is_hidden = bar.is_hidden();
    let mut told = Instant::now();
    while tokio::time::timeout(LOOKS, &mut ended).await.is_err() {
        let Some(job) = app.job(&image) else {
            continue;
        };
        if steering.cancel.load(Ordering::Relaxed) && !*app.ending.borrow() {
            job.give_up(Problem::new(CANCELLED, "the operation was cancelled"));
        }
        let (received, total) = (job.spool.received(), job.spool.total());
        steering.done.store(received, Ordering::Relaxed);
        steering.total.store(total.unwrap_or(0), Ordering::Relaxed);
        bar.set_position(received);
        if let Some(total) = total {
            bar.set_length(total);
        }
        if is_hidden && told.elapsed() >= LINES && total != Some(received) {
            told = Instant::now();
            let percent = total.map(|total| received.saturating_mul(100) / total.max(1));
            let rate = job.rate();
            let left = total.map(|total| total.saturating_sub(received) / rate.max(1));
            tracing::info!(
                name,
                percent,
                received = %HumanBytes(received),
                rate = %format!("{}/s", HumanBytes(rate)),
                seconds_left = left,
                "downloading"
            );
        }
    }
    bar.finish_and_clear();
}

fn bar(name: &str) -> ProgressBar {
    let bar = ProgressBar::no_length().with_message(name.to_owned());
    let style = ProgressStyle::with_template(
        "{msg:24} {bar:32} {percent:>3}% {bytes:>10} of {total_bytes:10} {bytes_per_sec:>12} {eta:>6}",
    );
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
