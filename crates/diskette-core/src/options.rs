//! Named options, as a command or a configuration gives them.

use std::collections::BTreeSet;

use crate::{Error, Result};

/// What can be said about one option of a format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionSpec {
    /// Its name, as qemu-img has it.
    pub name: &'static str,
    /// What it takes: "on|off", "size", "zlib|zstd".
    pub takes: &'static str,
    /// What it is where it is not given; empty where that depends.
    pub default: &'static str,
    /// What it does, in one line.
    pub help: &'static str,
}

impl OptionSpec {
    /// An option, for a format's list.
    #[must_use]
    pub const fn new(
        name: &'static str,
        takes: &'static str,
        default: &'static str,
        help: &'static str,
    ) -> Self {
        Self {
            name,
            takes,
            default,
            help,
        }
    }
}

/// Options by name, in the order in which they were given. The last of a name counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    pairs: Vec<(String, String)>,
}

impl Options {
    /// No options.
    #[must_use]
    pub const fn new() -> Self {
        Self { pairs: Vec::new() }
    }

    /// Adds one.
    pub fn set(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.pairs.push((name.into(), value.into()));
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// All of them, as they were given.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// That no option is given which is not among `known`.
    pub fn expect_only(&self, format: &'static str, known: &[OptionSpec]) -> Result<()> {
        let known: BTreeSet<_> = known.iter().map(|spec| spec.name).collect();
        match self
            .pairs
            .iter()
            .find(|(name, _)| !known.contains(name.as_str()))
        {
            Some((name, _)) => Err(Error::invalid_option(format, name, "no such option")),
            None => Ok(()),
        }
    }

    /// The options for the image below: what stands behind "backing." counts there, and goes before what is given for all.
    #[must_use]
    pub fn below(&self) -> Self {
        let for_it = |(name, value): &(String, String)| {
            let name = name.strip_prefix("backing.")?;
            Some((name.to_owned(), value.clone()))
        };
        let (own, of_below): (Vec<_>, Vec<_>) = self
            .pairs
            .iter()
            .cloned()
            .partition(|(name, _)| !name.starts_with("backing."));
        let of_below = of_below.iter().filter_map(for_it);
        Self {
            pairs: own.into_iter().chain(of_below).collect(),
        }
    }

    /// An option as it was given.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        self.pairs
            .iter()
            .rev()
            .find(|(given, _)| given == name)
            .map(|(_, value)| value.as_str())
    }

    /// An option that is a size: a number with a suffix, as [`parse_size`] takes it.
    pub fn size(&self, format: &'static str, name: &str) -> Result<Option<u64>> {
        self.text(name)
            .map(|text| {
                parse_size(text).ok_or_else(|| Error::invalid_option(format, name, "not a size"))
            })
            .transpose()
    }

    /// An option that is a plain number.
    pub fn number(&self, format: &'static str, name: &str) -> Result<Option<u64>> {
        self.text(name)
            .map(|text| {
                text.parse()
                    .map_err(|_| Error::invalid_option(format, name, "not a number"))
            })
            .transpose()
    }

    /// An option that is on or off.
    pub fn flag(&self, format: &'static str, name: &str) -> Result<Option<bool>> {
        self.text(name)
            .map(|text| match text {
                "on" | "yes" | "true" | "y" => Ok(true),
                "off" | "no" | "false" | "n" => Ok(false),
                _ => Err(Error::invalid_option(format, name, "neither on nor off")),
            })
            .transpose()
    }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Options {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Self {
        Self {
            pairs: pairs
                .into_iter()
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
        }
    }
}

/// A size in bytes as qemu-img takes it: digits, or a decimal fraction, and one of the suffixes `b`, `k`, `M`, `G`,
/// `T`, `P`, `E` (powers of 1024, in either case); without a suffix, bytes. Hexadecimal after `0x`, without a suffix.
///
/// ```
/// use diskette_core::parse_size;
/// assert_eq!(parse_size("64k"), Some(65536));
/// assert_eq!(parse_size("1.5G"), Some(1610612736));
/// assert_eq!(parse_size("0x200"), Some(512));
/// assert_eq!(parse_size("ten"), None);
/// ```
#[must_use]
pub fn parse_size(text: &str) -> Option<u64> {
    if let Some(digits) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        return u64::from_str_radix(digits, 16).ok();
    }
    let (number, shift) = match text.char_indices().next_back()? {
        (_, '0'..='9' | '.') => (text, 0),
        (at, suffix) => {
            let shift = match suffix.to_ascii_lowercase() {
                'b' => 0,
                'k' => 10,
                'm' => 20,
                'g' => 30,
                't' => 40,
                'p' => 50,
                'e' => 60,
                _ => return None,
            };
            (&text[..at], shift)
        }
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || whole.is_empty() && fraction.is_empty() {
        return None;
    }
    if !fraction.is_empty() && shift == 0 {
        return None; // There is no part of a byte.
    }
    let whole: u64 = if whole.is_empty() {
        0
    } else {
        whole.parse().ok()?
    };
    let bytes = whole.checked_mul(1 << shift)?;
    // Nine digits tell bytes of a terabyte apart; a fraction of more digits is cut there.
    let fraction = &fraction[..fraction.len().min(9)];
    let scale = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    let part: u128 = if fraction.is_empty() {
        0
    } else {
        fraction.parse().ok()?
    };
    let part = (part << shift) / scale;
    bytes.checked_add(u64::try_from(part).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_suffixes_and_fractions() {
        for (text, bytes) in [
            ("0", 0),
            ("512", 512),
            ("512b", 512),
            ("1K", 1024),
            ("1.5k", 1536),
            (".5M", 524_288),
            ("8E", 8 << 60),
        ] {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
        }
        for text in [
            "", "k", ".", "1.5", "1x", "-1", "1 k", "16E", "1kk", "+1", "0x", "1.k.", "é",
        ] {
            assert_eq!(parse_size(text), None, "{text}");
        }
    }

    #[test]
    fn the_image_below_has_options_of_its_own() {
        let given = [
            ("backing.backing.key", "3"),
            ("backing.key", "2"),
            ("key", "1"),
            ("flag", "on"),
        ];
        let options: Options = given.into_iter().collect();
        let below = options.below();
        assert_eq!(
            (options.text("key"), below.text("key")),
            (Some("1"), Some("2"))
        );
        assert_eq!(below.below().text("key"), Some("3"));
        assert_eq!(below.text("flag"), Some("on"));
        assert_eq!(below.below().below().text("key"), Some("3"));
    }

    #[test]
    fn the_last_of_a_name_counts() {
        let options: Options = [("a", "1"), ("b", "on"), ("a", "2")].into_iter().collect();
        assert_eq!(options.text("a"), Some("2"));
        assert_eq!(options.flag("test", "b").unwrap(), Some(true));
        assert_eq!(options.flag("test", "c").unwrap(), None);
        let error = options.flag("test", "a").unwrap_err();
        assert_eq!(error.to_string(), "test: option a: neither on nor off");
    }
}
