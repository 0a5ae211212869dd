//! What `-o help` prints.

use std::io::{self, Write};

use diskette::core::OptionSpec;

/// Prints the options that a new image of this format can have.
pub(crate) fn print(out: &mut dyn Write, name: &str, options: &[OptionSpec]) -> io::Result<()> {
    writeln!(out, "Supported {name} options:")?;
    print_list(out, options)
}

/// Prints options, a line each.
pub(crate) fn print_list(out: &mut dyn Write, options: &[OptionSpec]) -> io::Result<()> {
    for option in options {
        let head = format!("{}=<{}>", option.name, option.takes);
        write!(out, "  {head:<22} - {}", option.help)?;
        if !option.default.is_empty() {
            write!(out, " (default: {})", option.default)?;
        }
        writeln!(out)?;
    }
    Ok(())
}
