//! How far a long operation has come, for people and for programs that watch.

use std::io::{self, IsTerminal, Write};
use std::sync::Mutex;

use diskette::engine::Progress;
use indicatif::{ProgressBar, ProgressStyle};

/// Shows progress: a bar on a terminal; elsewhere what qemu-img prints, `    (12.34/100%)` and a carriage return.
#[derive(Debug)]
pub(crate) struct Meter(Shown);

#[derive(Debug)]
enum Shown {
    Nothing,
    Bar(ProgressBar),
    /// The percent that were told last, and where they are printed.
    Percent(Mutex<Option<f64>>, fn() -> Box<dyn Write>),
}

/// Percent between two lines.
const STEP: f64 = 1.0;

impl Meter {
    pub(crate) fn new(wanted: bool) -> Self {
        Self(match wanted {
            false => Shown::Nothing,
            true if io::stdout().is_terminal() && io::stderr().is_terminal() => Shown::Bar(bar()),
            true => Shown::Percent(Mutex::new(None), || Box::new(io::stdout())),
        })
    }

    /// The same, but that nothing goes to the standard output, which is taken.
    pub(crate) fn beside(wanted: bool) -> Self {
        Self(match wanted {
            false => Shown::Nothing,
            true if io::stderr().is_terminal() => Shown::Bar(bar()),
            true => Shown::Percent(Mutex::new(None), || Box::new(io::stderr())),
        })
    }

    pub(crate) fn tell(&self, progress: Progress) {
        match &self.0 {
            Shown::Nothing => {}
            Shown::Bar(bar) => {
                bar.set_length(progress.total);
                bar.set_position(progress.done);
            }
            Shown::Percent(told, out) => {
                let Ok(mut told) = told.lock() else { return };
                let now = percent(progress);
                if told.is_none_or(|told| now >= told + STEP || now >= 100.0 && told < 100.0) {
                    print_percent(out(), now);
                    *told = Some(now);
                }
            }
        }
    }

    /// Shows that all is done.
    pub(crate) fn complete(&self) {
        match &self.0 {
            Shown::Percent(told, out) => {
                let told = told.lock().ok().and_then(|told| *told);
                if told.is_none_or(|told| told < 100.0) {
                    print_percent(out(), 100.0);
                }
            }
            Shown::Nothing | Shown::Bar(_) => {}
        }
        self.end();
    }

    /// Ends the line, or takes the bar away.
    pub(crate) fn end(&self) {
        match &self.0 {
            Shown::Nothing => {}
            Shown::Bar(bar) => bar.finish_and_clear(),
            Shown::Percent(_, out) => {
                let _ = writeln!(out());
            }
        }
    }
}

fn bar() -> ProgressBar {
    let bar = ProgressBar::new(0);
    let look = "{percent:>3}% [{bar:40}] {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left";
    if let Ok(style) = ProgressStyle::with_template(look) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar
}

#[expect(clippy::cast_precision_loss, reason = "two decimals are shown")]
fn percent(progress: Progress) -> f64 {
    match progress.total {
        0 => 0.0,
        total => progress.done as f64 * 100.0 / total as f64,
    }
}

fn print_percent(mut out: Box<dyn Write>, percent: f64) {
    // Whoever does not listen misses nothing that matters.
    let _ = write!(out, "    ({percent:.2}/100%)\r");
    let _ = out.flush();
}
