//! How far things are: two bars on a terminal, a line now and then elsewhere; always on the error output.

use std::io::{self, IsTerminal, Write};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::Client;
use super::show::size;

/// Between two lines.
const PAUSE: Duration = Duration::from_secs(5);

/// What shows how far something is, by one measure or two.
#[derive(Debug)]
pub(super) struct Meter(Shown);

#[derive(Debug)]
enum Shown {
    Nothing,
    Bars(Vec<ProgressBar>),
    Lines(Mutex<Lines>),
}

#[derive(Debug)]
struct Lines {
    names: Vec<&'static str>,
    done: Vec<(u64, u64)>,
    began: Instant,
    told: Instant,
}

impl Meter {
    /// For measures of these names.
    pub(super) fn new(client: &Client, names: &[&'static str]) -> Self {
        if client.quiet {
            return Self(Shown::Nothing);
        }
        if !io::stderr().is_terminal() {
            let now = Instant::now();
            return Self(Shown::Lines(Mutex::new(Lines {
                names: names.to_vec(),
                done: vec![(0, 0); names.len()],
                began: now,
                told: now,
            })));
        }
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(10));
        let bars = names.iter().map(|name| {
            let bar = all.add(ProgressBar::new(0).with_prefix(*name));
            bar.set_style(look());
            bar
        });
        Self(Shown::Bars(bars.collect()))
    }

    /// So much of so much is done, by the measure of this number.
    pub(super) fn tell(&self, measure: usize, done: u64, total: u64) {
        match &self.0 {
            Shown::Nothing => {}
            Shown::Bars(bars) => {
                let bar = &bars[measure];
                // Going on with what was begun before counts for no speed.
                if bar.length() != Some(total) {
                    bar.set_length(total);
                    bar.set_position(done);
                    bar.reset_eta();
                }
                bar.set_position(done);
            }
            Shown::Lines(lines) => {
                let Ok(mut lines) = lines.lock() else { return };
                lines.done[measure] = (done, total);
                if lines.told.elapsed() >= PAUSE {
                    lines.told = Instant::now();
                    say(&lines.to_string());
                }
            }
        }
    }

    /// The end: bars stay as they are, and what follows stands below.
    pub(super) fn end(&self) {
        match &self.0 {
            Shown::Nothing => {}
            Shown::Bars(bars) => bars.iter().for_each(ProgressBar::abandon),
            Shown::Lines(lines) => {
                if let Ok(lines) = lines.lock()
                    && lines.done.iter().any(|(_, total)| *total > 0)
                {
                    say(&lines.to_string());
                }
            }
        }
    }
}

impl std::fmt::Display for Lines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (name, (done, total)) in self.names.iter().zip(&self.done) {
            write!(f, "{name} {} of {}, ", size(*done), size(*total))?;
        }
        write!(f, "{} s", self.began.elapsed().as_secs())
    }
}

fn look() -> ProgressStyle {
    let look = "{prefix:>9} {wide_bar} {percent:>3} % {bytes:>10} of {total_bytes:10} {bytes_per_sec:>12} {eta:>4}";
    ProgressStyle::with_template(look).map_or_else(
        |_| ProgressStyle::default_bar(),
        |style| style.progress_chars("━╸ "),
    )
}

/// For whoever looks; whoever does not misses nothing that matters.
pub(super) fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}
