//! `diskette inspect`: what is inside of an image.

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use diskette::core::{BlockReader, Chain};
use diskette::inside::{self, Contents, FileSystem, Partition, Picture, Share};
use serde_json::{Map, Value as Json, json};

use crate::args::{Opening, Output};
use crate::failure::{Failure, Outcome};
use crate::{human, json as print};

/// Show what is inside: chain, partitions, file systems, what it boots by, and a picture of what is stored where
///
/// A few sectors are read, and the map. The picture has a bar for the disk as the guest sees it, and one for each file;
/// what no data lies in there is the format's own (header and tables), or not used.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  diskette inspect disk.vmdk
  diskette inspect --svg disk.svg disk.qcow2
  diskette inspect --output=json disk.vhdx")]
pub(crate) struct Inspect {
    /// The image
    filename: PathBuf,

    /// The image's format; without it, the content tells
    #[arg(short, long, value_name = "FMT")]
    format: Option<String>,

    /// How to print it
    #[arg(long, value_enum, default_value_t = Output::Human)]
    output: Output,

    /// Draw the picture into this file, too
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,

    #[command(flatten)]
    opening: Opening,
}

/// Signs of a bar on the terminal.
const SIGNS: usize = 64;
/// Columns of a bar in an SVG.
const COLUMNS: usize = 480;

pub(crate) fn run(args: &Inspect) -> Outcome {
    let (path, options) = args.opening.image(&args.filename, args.format.as_deref())?;
    let disk = diskette::open_with(&path, &options)?;
    let inspection = Inspection {
        name: args.filename.display().to_string(),
        contents: inside::contents(&disk)?,
        picture: diskette::picture(&disk, SIGNS)?,
        disk: &disk,
    };
    if let Some(path) = &args.svg {
        let picture = diskette::picture(&disk, COLUMNS)?;
        let svg = picture.svg(&inspection.name, &inspection.contents);
        fs::write(path, svg)
            .map_err(|error| Failure::new(format!("cannot write '{}': {error}", path.display())))?;
    }
    let mut out = io::stdout().lock();
    match args.output {
        Output::Human => inspection.print(&mut out)?,
        Output::Json => print::print(&mut out, &inspection.json())?,
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// What was found.
struct Inspection<'a> {
    name: String,
    disk: &'a Chain,
    contents: Contents,
    picture: Picture,
}

impl Inspection<'_> {
    fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        let size = self.disk.size();
        writeln!(out, "image: {}", human::plain(&self.name))?;
        writeln!(out, "file format: {}", self.disk.top().info.format)?;
        writeln!(out, "virtual size: {} ({size} bytes)", human::size(size))?;
        self.print_chain(out)?;
        self.print_contents(out)?;
        self.print_picture(out)?;
        for warning in &self.contents.warnings {
            writeln!(out, "warning: {}", human::plain(warning))?;
        }
        Ok(())
    }

    fn print_chain(&self, out: &mut dyn Write) -> io::Result<()> {
        for layer in self.disk.layers().iter().skip(1) {
            let name = layer.info.files.first().map_or("", String::as_str);
            writeln!(out, "over: {} ({})", human::plain(name), layer.info.format)?;
        }
        Ok(())
    }

    fn print_contents(&self, out: &mut dyn Write) -> io::Result<()> {
        let contents = &self.contents;
        writeln!(out, "boots by: {}", boots_by(contents))?;
        if let Some(whole) = &contents.file_system {
            writeln!(out, "file system: {}", described(whole))?;
        }
        let Some(table) = &contents.table else {
            return writeln!(out, "partition table: none");
        };
        writeln!(
            out,
            "partition table: {}, {}, sectors of {} bytes",
            table.kind.name(),
            table.id,
            table.sector_size
        )?;
        let mut rows = vec![["", "start", "size", "type", "file system"].map(str::to_owned)];
        rows.extend(contents.partitions.iter().map(row));
        print_table(out, &rows)
    }

    fn print_picture(&self, out: &mut dyn Write) -> io::Result<()> {
        let picture = &self.picture;
        writeln!(out, "disk, {}:", human::size(picture.disk_size))?;
        writeln!(out, "  [{}]", picture.bar())?;
        for file in picture.files.iter().filter(|file| file.size > 0) {
            let name = human::plain(&file.name);
            writeln!(out, "{name}, {}:", human::size(file.size))?;
            writeln!(out, "  [{}]", file.bar())?;
        }
        let legend = Share::ALL.map(|share| {
            let total = human::size(picture.total.of(share));
            format!("{} {} {total}", share.sign(), share.name())
        });
        writeln!(out, "  {}", legend.join("   "))
    }

    fn json(&self) -> Json {
        let contents = &self.contents;
        let layers = self.disk.layers().iter().map(|layer| {
            json!({
                "filename": layer.info.files.first(),
                "format": layer.info.format,
                "virtual-size": layer.info.size,
            })
        });
        let mut object = json!({
            "filename": self.name,
            "format": self.disk.top().info.format,
            "virtual-size": self.disk.size(),
            "chain": layers.collect::<Json>(),
            "boot": {
                "bios-code": contents.boot.bios_code,
                "bios-partition": contents.boot.bios_partition,
                "efi-system-partition": contents.boot.esp,
                "el-torito": contents.boot.el_torito,
            },
        });
        if let Some(whole) = &contents.file_system {
            object["file-system"] = file_system_json(whole);
        }
        if let Some(table) = &contents.table {
            object["partition-table"] = json!({
                "type": table.kind.name(),
                "id": table.id,
                "sector-size": table.sector_size,
            });
            object["partitions"] = contents.partitions.iter().map(partition_json).collect();
        }
        let total = Share::ALL.map(|share| (share.name().to_owned(), self.picture.total.of(share)));
        let mut allocation: Map<_, Json> = Map::new();
        allocation.extend(total.map(|(name, bytes)| (name, bytes.into())));
        allocation.insert("extents".to_owned(), self.picture.extents.into());
        object["allocation"] = allocation.into();
        object["warnings"] = contents.warnings.iter().map(String::as_str).collect();
        object
    }
}

fn boots_by(contents: &Contents) -> String {
    let boot = &contents.boot;
    let signs = [
        (boot.bios_code, "BIOS (code in the first sector)"),
        (boot.bios_partition, "a partition marked for it"),
        (boot.esp, "UEFI (an EFI system partition)"),
        (boot.el_torito, "El Torito (a CD's boot catalog)"),
    ];
    let found = signs.iter().filter(|(there, _)| *there);
    let found: Vec<_> = found.map(|(_, name)| *name).collect();
    match found.is_empty() {
        true => "nothing that is known".to_owned(),
        false => found.join(", "),
    }
}

fn row(part: &Partition) -> [String; 5] {
    let kind = part.type_name.unwrap_or(&part.type_id);
    let kind = match &part.name {
        Some(name) => format!("{kind} \"{}\"", human::plain(name)),
        None => kind.to_owned(),
    };
    [
        part.number.to_string(),
        human::size(part.start),
        human::size(part.len),
        if part.bootable {
            kind + ", active"
        } else {
            kind
        },
        part.file_system.as_ref().map_or(String::new(), described),
    ]
}

fn described(found: &FileSystem) -> String {
    let mut text = found.kind.to_owned();
    if let Some(label) = &found.label {
        text += &format!(" \"{}\"", human::plain(label));
    }
    if let Some(uuid) = &found.uuid {
        text += &format!(" {}", human::plain(uuid));
    }
    text
}

/// Rows with their cells below one another.
fn print_table(out: &mut dyn Write, rows: &[[String; 5]]) -> io::Result<()> {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.max().unwrap_or(0)
    };
    let widths: [usize; 5] = std::array::from_fn(width);
    for row in rows {
        let cells = row.iter().zip(widths);
        let line: String = cells
            .map(|(cell, width)| format!("  {cell:<width$}"))
            .collect();
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

fn partition_json(part: &Partition) -> Json {
    let mut object = json!({
        "number": part.number,
        "start": part.start,
        "size": part.len,
        "type": part.type_id,
        "bootable": part.bootable,
    });
    let texts = [
        ("type-name", part.type_name),
        ("name", part.name.as_deref()),
        ("uuid", part.uuid.as_deref()),
    ];
    for (name, text) in texts {
        if let Some(text) = text {
            object[name] = text.into();
        }
    }
    if let Some(found) = &part.file_system {
        object["file-system"] = file_system_json(found);
    }
    object
}

fn file_system_json(found: &FileSystem) -> Json {
    let mut object = json!({"type": found.kind});
    if let Some(label) = &found.label {
        object["label"] = label.as_str().into();
    }
    if let Some(uuid) = &found.uuid {
        object["uuid"] = uuid.as_str().into();
    }
    object
}
