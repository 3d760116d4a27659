//! What decides about the bytes of a compressed blob besides its content, level and window: zstd itself, what an encoder is told, and the limits that say what is packed how.
//!
//! One table for both who set encoders up and what a lock records, so that a change of it is a change that locks tell.

use std::fmt;

use serde::{Deserialize, Serialize};
use zstd::zstd_safe;

use crate::pack::compress::SMALL;
use crate::pack::effort::Effort;
use crate::pack::relatives;

/// Raised whenever the same content makes other bytes although all the rest of [`Tuning`] is as it was: another rule for references, say. `tests/compression.rs` notices.
pub const REVISION: u32 = 1;

/// How blobs are compressed at one effort.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tuning {
    /// [`REVISION`]
    pub revision: u32,
    /// zstd's version.
    pub zstd: String,
    /// What an encoder is told for content that stands alone, in the words of zstd's bindings.
    pub alone: Vec<String>,
    /// What it is told for content behind a reference.
    pub referring: Vec<String>,
    /// Up to how many bytes content is compressed with its length known.
    pub small: u64,
    /// The largest reference of related programs, in bytes.
    pub related_reference: u64,
    /// The largest reference of a runtime's programs, in bytes.
    pub runtime_reference: u64,
    /// The largest reference of all the rest, in bytes.
    pub common_reference: u64,
}

impl Tuning {
    /// What this kpot does.
    pub fn of(effort: Effort) -> Self {
        let words = |behind_reference| {
            let settings = effort.settings(behind_reference);
            settings.iter().map(|it| format!("{it:?}")).collect()
        };
        Self {
            revision: REVISION,
            zstd: zstd_safe::version_string().to_owned(),
            alone: words(false),
            referring: words(true),
            small: SMALL as u64,
            related_reference: relatives::LIMIT,
            runtime_reference: relatives::RUNTIME_LIMIT,
            common_reference: relatives::COMMON_LIMIT,
        }
    }
}

impl fmt::Display for Tuning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            revision,
            zstd,
            alone,
            referring,
            small,
            related_reference: related,
            runtime_reference: runtime,
            common_reference: common,
        } = self;
        write!(
            f,
            "revision {revision}, zstd {zstd}, {}, behind references {}, small to {small}, references to {related}, {runtime} and {common} bytes",
            alone.join(" "),
            referring.join(" ")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_effort_is_recorded_by_what_its_encoders_are_told() {
        let fast = Tuning::of(Effort::Fast);
        assert_eq!(fast.alone, ["WindowLog(23)"]);
        assert_eq!(
            fast.referring,
            [
                "WindowLog(23)",
                "Strategy(ZSTD_fast)",
                "HashLog(20)",
                "MinMatch(7)"
            ]
        );
        let max = Tuning::of(Effort::Max);
        assert_eq!(max.alone, max.referring);
        assert_eq!(max.alone.len(), 8, "{max}");
        assert_eq!(max.alone[0], "WindowLog(26)");
        assert!(!max.zstd.is_empty());
        assert_ne!(fast.to_string(), max.to_string());
    }
}
