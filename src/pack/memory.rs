//! How much memory this machine has left, asked before much of it is needed.

use std::fs::File;
use std::io::Read as _;

/// More than any kernel tells, in bytes.
const LIMIT: u64 = 64 << 10;

/// What the kernel could hand out without swapping, in bytes; `None` where it does not tell. What a control group allows is not looked at.
pub fn available() -> Option<u64> {
    let mut text = String::new();
    let file = File::open("/proc/meminfo").ok()?;
    file.take(LIMIT).read_to_string(&mut text).ok()?;
    parse(&text)
}

fn parse(text: &str) -> Option<u64> {
    let mut lines = text.lines();
    let line = lines.find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kilobytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    kilobytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_own_estimate_is_read() {
        let text = "MemTotal:       24683612 kB\nMemFree:        21454848 kB\nMemAvailable:   23862272 kB\n";
        assert_eq!(parse(text), Some(23_862_272 * 1024));
        for odd in [
            "",
            "MemAvailable: much",
            "MemAvailable: 1 MB",
            "MemFree: 1 kB",
        ] {
            assert_eq!(parse(odd), None, "{odd}");
        }
        assert!(available().is_some(), "Linux tells");
    }
}
