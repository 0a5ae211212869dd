//! `--limit NAME=VALUE`: what opening and reading an image may cost.

use std::str::FromStr;
use std::sync::Once;
use std::time::Duration;

use diskette::core::Limits;

use crate::args::size;
use crate::failure::tell;

/// Seconds that all of it may take. Not the library's: it ends the program.
const TIME: &str = "time";

/// One limit, as it was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Limit {
    name: String,
    value: u64,
}

impl FromStr for Limit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = text.split_once('=').ok_or("it is NAME=VALUE")?;
        if name != TIME && Limits::default().set(name, 0).is_err() {
            return Err(known(name));
        }
        Ok(Self {
            name: name.to_owned(),
            value: size(value)?,
        })
    }
}

/// What is said of a name that is none.
fn known(name: &str) -> String {
    let all = Limits::default().all().into_iter();
    let all: Vec<_> = all
        .map(|(name, value)| match value {
            u64::MAX => format!("{name} (none)"),
            value => format!("{name} ({value})"),
        })
        .collect();
    format!(
        "there is no limit {}; these are, with their defaults: {}, and {TIME} in seconds (none)",
        name.escape_debug(),
        all.join(", ")
    )
}

/// Sets them. From the first time on which there is one for the time, that runs.
pub(crate) fn apply(given: &[Limit], limits: &mut Limits) -> diskette::core::Result<()> {
    for Limit { name, value } in given {
        if name == TIME {
            end_after(*value);
        } else {
            limits.set(name, *value)?;
        }
    }
    Ok(())
}

/// A file that is being written has no name yet: nothing is left of it.
fn end_after(seconds: u64) {
    static STARTED: Once = Once::new();
    STARTED.call_once(|| {
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_secs(seconds));
            tell(format_args!(
                "diskette: not done within {seconds} s, the limit {TIME}\n"
            ));
            std::process::exit(1);
        });
    });
}
