//! Numbers and names as people read them: the way qemu-img prints them.

use std::fmt::Write;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

/// A number of bytes with three digits and a unit, which changes at 1000: `1 MiB`, `0.977 MiB`, `512 B`.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut unit = 0;
    let mut step = 1_u64;
    while unit + 1 < UNITS.len() && u128::from(bytes) >= u128::from(step) * 1000 {
        unit += 1;
        step <<= 10;
    }
    // Three digits are shown; the precision of an f64 is far beyond.
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let value = bytes as f64 / step as f64;
    format!("{} {}", three_digits(value), UNITS[unit])
}

/// Seconds since 1970 as local date and time.
pub(crate) fn local_time(seconds: u32) -> String {
    let time = Timestamp::UNIX_EPOCH + SignedDuration::from_secs(seconds.into());
    let local = time.to_zoned(TimeZone::system());
    local.strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// How long a guest has run: hours, minutes, seconds, milliseconds.
pub(crate) fn clock(nanoseconds: u64) -> String {
    let milliseconds = nanoseconds / 1_000_000;
    let seconds = milliseconds / 1000;
    format!(
        "{:04}:{:02}:{:02}.{:03}",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60,
        milliseconds % 1000
    )
}

/// As C's `%.3g` prints a number that is not negative.
fn three_digits(value: f64) -> String {
    let scientific = format!("{value:.2e}");
    let exponent = scientific
        .split_once('e')
        .and_then(|(_, exponent)| exponent.parse::<i32>().ok())
        .unwrap_or(0);
    if exponent > 2 {
        let (mantissa, _) = scientific.split_once('e').unwrap_or((&scientific, ""));
        return format!("{}e+{exponent:02}", without_trailing_zeros(mantissa));
    }
    let decimals = usize::try_from(2 - exponent).unwrap_or(0);
    without_trailing_zeros(&format!("{value:.decimals$}")).to_owned()
}

fn without_trailing_zeros(number: &str) -> &str {
    if number.contains('.') {
        number.trim_end_matches('0').trim_end_matches('.')
    } else {
        number
    }
}

/// Text from an image, without what could steer a terminal.
pub(crate) fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for char in text.chars() {
        if char.is_control() {
            // Writing to a string does not fail.
            let _ = write!(plain, "{}", char.escape_default());
        } else {
            plain.push(char);
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits_and_change_their_unit_at_1000() {
        for (bytes, text) in [
            (0, "0 B"),
            (512, "512 B"),
            (999, "999 B"),
            (1000, "0.977 KiB"),
            (1024, "1 KiB"),
            (197_120, "192 KiB"),
            (852_480, "832 KiB"),
            (1_048_576, "1 MiB"),
            (1_023_900, "1e+03 KiB"),
            (1_024_000, "0.977 MiB"),
            (2_415_919_104, "2.25 GiB"),
            (u64::MAX, "16 EiB"),
        ] {
            assert_eq!(size(bytes), text, "{bytes}");
        }
    }

    #[test]
    fn text_from_an_image_cannot_steer_the_terminal() {
        assert_eq!(plain("a b\u{1b}[31m\nü"), "a b\\u{1b}[31m\\nü");
    }
}
