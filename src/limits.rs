//! Times and sizes as people write them: `30d`, `2GB`.

use std::str::FromStr;
use std::time::Duration;

/// A time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Age(pub Duration);

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Amount(pub u64);

const TIMES: [(&str, u64); 5] = [
    ("s", 1),
    ("m", 60),
    ("h", 60 * 60),
    ("d", 24 * 60 * 60),
    ("w", 7 * 24 * 60 * 60),
];

const SIZES: [(&str, u64); 8] = [
    ("", 1),
    ("B", 1),
    ("kB", 1000),
    ("MB", 1000 * 1000),
    ("GB", 1000 * 1000 * 1000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
];

impl FromStr for Age {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let seconds = number(text, &TIMES)
            .ok_or_else(|| format!("{text:?} is no time such as 90s, 30m, 12h, 30d or 2w"))?;
        Ok(Self(Duration::from_secs(seconds)))
    }
}

impl FromStr for Amount {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        number(text, &SIZES)
            .map(Self)
            .ok_or_else(|| format!("{text:?} is no size such as 500MB, 2GB, 2GiB or 0"))
    }
}

/// A whole number and its unit, in the smallest one.
fn number(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let end = text
        .find(|character: char| !character.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    let (_, factor) = units
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(unit))?;
    digits.parse::<u64>().ok()?.checked_mul(*factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes_are_read() {
        for (text, seconds) in [
            ("0s", 0),
            ("90s", 90),
            ("2w", 1_209_600),
            ("30d", 2_592_000),
        ] {
            assert_eq!(
                text.parse(),
                Ok(Age(Duration::from_secs(seconds))),
                "{text}"
            );
        }
        for (text, bytes) in [
            ("0", 0),
            ("17", 17),
            ("500MB", 500_000_000),
            ("2gb", 2_000_000_000),
            ("1GiB", 1 << 30),
        ] {
            assert_eq!(text.parse(), Ok(Amount(bytes)), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "d",
            "30",
            "-1d",
            "1.5h",
            "30 d",
            "1y",
            "99999999999999999999s",
        ] {
            assert!(text.parse::<Age>().is_err(), "{text}");
        }
        for text in [
            "",
            "GB",
            "-1",
            "1.5GB",
            "2 GB",
            "2TBB",
            "99999999999999999999",
            "18446744073709551615kB",
        ] {
            assert!(text.parse::<Amount>().is_err(), "{text}");
        }
    }
}
