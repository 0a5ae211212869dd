//! The picture as SVG.

use std::fmt::Write;

use crate::{Cell, Contents, Picture, Share};

const WIDTH: f64 = 960.0;
const LEFT: f64 = 20.0;
const BAR: f64 = 56.0;
/// Where the first file is drawn, and how far the next lies below.
const FILES: f64 = 184.0;
const STEP: f64 = 96.0;
/// Files that are drawn; what more there are is told.
const MOST_FILES: usize = 16;

impl Picture {
    /// The picture as an SVG file: the disk with its partitions, and its files below it. `title` heads it.
    #[must_use]
    pub fn svg(&self, title: &str, contents: &Contents) -> String {
        let mut out = String::new();
        // Writing to a string does not fail.
        let _ = self.draw(&mut out, title, contents);
        out
    }

    fn draw(&self, out: &mut String, title: &str, contents: &Contents) -> std::fmt::Result {
        let whole = WIDTH + 2.0 * LEFT;
        let drawn = self.files.len().min(MOST_FILES);
        let foot = FILES + STEP * drawn as f64;
        let height = foot + 26.0;
        writeln!(
            out,
            r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {whole} {height}" font-family="system-ui, sans-serif" font-size="13" fill="#1f2933">"##
        )?;
        writeln!(
            out,
            r##"<rect width="{whole}" height="{height}" fill="#ffffff"/>"##
        )?;
        writeln!(
            out,
            r##"<text x="{LEFT}" y="30" font-size="17" font-weight="600">{}</text>"##,
            escaped(title)
        )?;
        writeln!(
            out,
            r##"<text x="{LEFT}" y="60">disk, {}</text>"##,
            size(self.disk_size)
        )?;
        bar(out, &self.disk, 70.0)?;
        self.partitions(out, contents)?;
        for (index, file) in self.files.iter().take(drawn).enumerate() {
            let top = FILES + STEP * index as f64;
            writeln!(
                out,
                r##"<text x="{LEFT}" y="{top}">{}, {}</text>"##,
                escaped(&file.name),
                size(file.size)
            )?;
            bar(out, &file.cells, top + 10.0)?;
        }
        self.legend(out, foot)?;
        writeln!(out, "</svg>")
    }

    /// A bracket below the disk for each partition, with its number, file system and label.
    fn partitions(&self, out: &mut String, contents: &Contents) -> std::fmt::Result {
        for part in &contents.partitions {
            let from = LEFT + share(part.start, self.disk_size) * WIDTH;
            let width = (share(part.len, self.disk_size) * WIDTH).max(2.0);
            let fs = part.file_system.as_ref();
            let kind = fs.map_or(part.type_name.unwrap_or("unknown"), |fs| fs.kind);
            let label = fs
                .and_then(|fs| fs.label.as_deref())
                .map_or(String::new(), |label| format!(" {label}"));
            let text = format!("{} {kind}{label}", part.number);
            writeln!(
                out,
                r##"<g><title>{}, {} at {}</title><path d="M{from:.1} 131v6h{width:.1}v-6" fill="none" stroke="#52606d"/>"##,
                escaped(&text),
                size(part.len),
                part.start
            )?;
            // About seven units a letter: what does not fit is left to the tool tip.
            if text.chars().count() as f64 * 7.0 < width {
                writeln!(
                    out,
                    r##"<text x="{:.1}" y="153" text-anchor="middle" fill="#52606d">{}</text>"##,
                    from + width / 2.0,
                    escaped(&text)
                )?;
            }
            writeln!(out, "</g>")?;
        }
        Ok(())
    }

    fn legend(&self, out: &mut String, foot: f64) -> std::fmt::Result {
        let (top, base) = (foot - 8.0, foot + 4.0);
        let mut at = LEFT;
        for kind in Share::ALL {
            let text = format!("{} {}", kind.name(), size(self.total.of(kind)));
            writeln!(
                out,
                r##"<rect x="{at:.1}" y="{top}" width="14" height="14" rx="3" fill="{}" stroke="#9aa5b1" stroke-width="0.5"/><text x="{:.1}" y="{base}">{text}</text>"##,
                color(kind),
                at + 20.0
            )?;
            at += 52.0 + text.chars().count() as f64 * 7.0;
        }
        if let Some(more @ 1..) = self.files.len().checked_sub(MOST_FILES) {
            writeln!(
                out,
                r##"<text x="{at:.1}" y="{base}">and {more} more files</text>"##
            )?;
        }
        Ok(())
    }
}

/// Each part as a column, filled by shares from below.
fn bar(out: &mut String, cells: &[Cell], top: f64) -> std::fmt::Result {
    let step = WIDTH / cells.len() as f64;
    writeln!(
        out,
        r##"<rect x="{LEFT}" y="{top}" width="{WIDTH}" height="{BAR}" rx="4" fill="{}" stroke="#9aa5b1"/>"##,
        color(Share::Hole)
    )?;
    // Without smoothed edges: no seams between columns.
    writeln!(out, r##"<g shape-rendering="crispEdges">"##)?;
    for (index, cell) in cells.iter().enumerate() {
        let total = Share::ALL.iter().map(|kind| cell.of(*kind)).sum::<u64>();
        let mut bottom = top + BAR;
        for kind in [Share::Data, Share::Compressed, Share::Zero] {
            let height = share(cell.of(kind), total) * BAR;
            if height < 0.05 {
                continue;
            }
            bottom -= height;
            writeln!(
                out,
                r##"<rect x="{:.2}" y="{bottom:.2}" width="{:.2}" height="{height:.2}" fill="{}"/>"##,
                LEFT + index as f64 * step,
                step + 0.1,
                color(kind)
            )?;
        }
    }
    writeln!(out, "</g>")
}

const fn color(kind: Share) -> &'static str {
    match kind {
        Share::Data => "#2563a8",
        Share::Compressed => "#8b5cb8",
        Share::Zero => "#d5dde5",
        Share::Hole => "#f7f9fb",
    }
}

/// A part of a whole, 0 to 1.
fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        0.0
    } else {
        part as f64 / whole as f64
    }
}

fn size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let unit = (bytes.max(1).ilog2() / 10) as usize;
    let value = bytes as f64 / (1_u64 << (10 * unit)) as f64;
    let text = format!("{value:.2}");
    format!(
        "{} {}",
        text.trim_end_matches('0').trim_end_matches('.'),
        UNITS[unit]
    )
}

fn escaped(text: &str) -> String {
    text.chars()
        .map(|letter| match letter {
            '&' => "&amp;".to_owned(),
            '<' => "&lt;".to_owned(),
            '>' => "&gt;".to_owned(),
            '"' => "&quot;".to_owned(),
            control if control.is_control() => "\u{fffd}".to_owned(),
            plain => plain.to_string(),
        })
        .collect()
}
