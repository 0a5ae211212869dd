//! The options of new headers, by qemu-img's names.

use std::time::Duration;

use diskette_core::{Error, OptionSpec, Options, Result};

use super::create::{Iterations, NewLuks};
use crate::{Algorithm, Hash, Iv, Mode};

/// The options of a new header, with a prefix before each name: "" or "encrypt.".
macro_rules! specs {
    ($($prefix:literal)?) => {
        &[
            OptionSpec {
                name: concat!($($prefix,)? "cipher-alg"),
                takes: "aes-128|aes-192|aes-256|serpent-...|twofish-...",
                default: "aes-256",
                help: "the cipher, with the bits of its key",
            },
            OptionSpec {
                name: concat!($($prefix,)? "cipher-mode"),
                takes: "xts|cbc",
                default: "xts",
                help: "how the blocks of a sector are enciphered",
            },
            OptionSpec {
                name: concat!($($prefix,)? "hash-alg"),
                takes: "sha1|sha224|sha256|sha384|sha512|ripemd160",
                default: "sha256",
                help: "by which keys are derived from passphrases",
            },
            OptionSpec {
                name: concat!($($prefix,)? "iter-time"),
                takes: "milliseconds",
                default: "2000",
                help: "how long it takes here to try a passphrase",
            },
            OptionSpec {
                name: concat!($($prefix,)? "iterations"),
                takes: "number",
                default: "",
                help: "how many iterations it takes to try a passphrase, instead of a time",
            },
            OptionSpec {
                name: concat!($($prefix,)? "ivgen-alg"),
                takes: "plain|plain64|essiv",
                default: "plain64",
                help: "what a sector's number becomes",
            },
            OptionSpec {
                name: concat!($($prefix,)? "ivgen-hash-alg"),
                takes: "sha256|...",
                default: "sha256",
                help: "the hash of ivgen-alg=essiv",
            },
            OptionSpec {
                name: concat!($($prefix,)? "key-secret"),
                takes: "id",
                default: "",
                help: "the secret that is the passphrase",
            },
        ]
    };
}

/// The options of a new header; those of an encrypted image in another format begin with "encrypt.".
#[must_use]
pub const fn option_specs(within: bool) -> &'static [OptionSpec] {
    const OWN: &[OptionSpec] = specs!();
    const WITHIN: &[OptionSpec] = specs!("encrypt.");
    if within { WITHIN } else { OWN }
}

impl NewLuks {
    /// What options ask for; their names begin with `prefix`.
    pub fn of_options(format: &'static str, prefix: &str, options: &Options) -> Result<Self> {
        let text = |name: &str| options.text(&format!("{prefix}{name}"));
        let invalid =
            |name: &str, why| Error::invalid_option(format, format!("{prefix}{name}"), why);
        let mut new = Self::default();
        if let Some(name) = text("cipher-alg") {
            let known = Algorithm::named(name);
            new.suite.algorithm = known.ok_or_else(|| invalid("cipher-alg", "no such cipher"))?;
        }
        if let Some(name) = text("cipher-mode") {
            let known = Mode::named(name);
            new.suite.mode = known.ok_or_else(|| invalid("cipher-mode", "neither xts nor cbc"))?;
        }
        if let Some(name) = text("hash-alg") {
            let known = Hash::named(name);
            new.hash = known.ok_or_else(|| invalid("hash-alg", "no such hash"))?;
        }
        if let Some(name) = text("ivgen-alg") {
            let hash = (name == "essiv").then(|| text("ivgen-hash-alg").unwrap_or("sha256"));
            let known = Iv::named(name, hash);
            new.suite.iv = known.ok_or_else(|| {
                invalid(
                    "ivgen-alg",
                    "none of plain, plain64 and essiv, or no hash of essiv",
                )
            })?;
        }
        if new.suite.essiv_algorithm().is_none() {
            return Err(invalid(
                "ivgen-hash-alg",
                "no digest of a length that the cipher takes for a key",
            ));
        }
        new.iterations = iterations(format, prefix, options)?;
        Ok(new)
    }
}

/// How much it is to cost to try a passphrase.
pub(super) fn iterations(
    format: &'static str,
    prefix: &str,
    options: &Options,
) -> Result<Iterations> {
    let time_name = format!("{prefix}iter-time");
    let count_name = format!("{prefix}iterations");
    if let Some(count) = options.number(format, &count_name)? {
        let count = u32::try_from(count).ok().filter(|count| *count > 0);
        let count = count
            .ok_or_else(|| Error::invalid_option(format, count_name, "not within 1 to 4294967295"));
        return count.map(Iterations::Fixed);
    }
    const LONGEST: u64 = 10 * 60 * 1000;
    let time = options.number(format, &time_name)?.unwrap_or(2000);
    if time == 0 || time > LONGEST {
        return Err(Error::invalid_option(
            format,
            time_name,
            "not within 1 to 600000",
        ));
    }
    Ok(Iterations::Time(Duration::from_millis(time)))
}
