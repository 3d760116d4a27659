//! How hard content is compressed, and what that takes: docs/decisions/compression.md has the figures.
//!
//! Every setting is fixed, and none depends on the machine: the same content at the same effort gives the same bytes.

use std::fmt;
use std::io::{self, Write};
use std::num::NonZeroUsize;

use bundle_spec::manifest::Windows;
use clap::ValueEnum;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use zstd::stream::raw::CParameter;
use zstd::zstd_safe::Strategy;

use crate::pack::Layers;

/// What everything but the compressing threads takes, in bytes.
const BASE: u64 = 44 << 20;

/// The effort of `--compression`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Effort {
    /// A fifth of the time of balanced, and a tenth larger.
    Fast,
    /// What the pots of most people are worth.
    Balanced,
    /// As small as it gets: minutes, and more memory here and where it is installed.
    Max,
}

impl fmt::Display for Effort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fast => "fast",
            Self::Balanced => "balanced",
            Self::Max => "max",
        })
    }
}

impl Effort {
    /// zstd's level, which the parameters below start from.
    pub const fn level(self, layers: Layers) -> i32 {
        match (self, layers) {
            (Self::Fast, Layers::Repacked) => 3,
            // There is less to gain: only programs are compressed.
            (Self::Fast, Layers::Verbatim) => 1,
            (Self::Balanced, _) => 11,
            (Self::Max, _) => 16,
        }
    }

    /// zstd's window, as a power of two: what a reader must keep in memory.
    pub const fn window_log(self) -> u32 {
        match self {
            Self::Fast | Self::Balanced => 23,
            Self::Max => self.windows().log(),
        }
    }

    /// What the pot's manifest says of its windows.
    pub const fn windows(self) -> Windows {
        match self {
            Self::Fast | Self::Balanced => Windows::Usual,
            Self::Max => Windows::Large,
        }
    }

    /// What an encoder is told besides this effort's level, for content that stands alone or behind a reference. A lock records it (`tuning`).
    pub fn settings(self, behind_reference: bool) -> Vec<CParameter> {
        let own: &[CParameter] = match self {
            // The level's own tables are so small that a reference is forgotten before it was of use, and larger ones are slow unless little is looked up in them.
            Self::Fast if behind_reference => &[
                CParameter::Strategy(Strategy::ZSTD_fast),
                CParameter::HashLog(20),
                CParameter::MinMatch(7),
            ],
            Self::Fast | Self::Balanced => &[],
            // The trees are larger than the level's own, so that they hold a reference and the window behind it; long matches are found apart from them.
            Self::Max => &[
                CParameter::Strategy(Strategy::ZSTD_btopt),
                CParameter::ChainLog(25),
                CParameter::HashLog(23),
                CParameter::SearchLog(4),
                CParameter::MinMatch(3),
                CParameter::TargetLength(48),
                CParameter::EnableLongDistanceMatching(true),
            ],
        };
        let window = [CParameter::WindowLog(self.window_log())];
        window.iter().chain(own).copied().collect()
    }

    /// Sets an encoder up that was made with this effort's level, for content that stands alone or behind a reference.
    ///
    /// # Errors
    /// Where zstd does not take a setting.
    pub fn tune<W: Write>(
        self,
        encoder: &mut zstd::Encoder<'_, W>,
        behind_reference: bool,
    ) -> io::Result<()> {
        let settings = self.settings(behind_reference);
        settings
            .into_iter()
            .try_for_each(|setting| encoder.set_parameter(setting))
    }

    /// What the whole builder may take, in bytes.
    pub const fn memory(self) -> u64 {
        match self {
            Self::Fast | Self::Balanced => 128 << 20,
            Self::Max => 768 << 20,
        }
    }

    /// What one compressing thread takes, in bytes, measured.
    const fn thread(self) -> u64 {
        match self {
            Self::Fast => 24 << 20,
            Self::Balanced => 38 << 20,
            Self::Max => 260 << 20,
        }
    }

    /// What the references in use take, in bytes, one copy for all threads. The usual ones are small and within [`BASE`].
    const fn references(self) -> u64 {
        match self {
            Self::Fast | Self::Balanced => 0,
            Self::Max => self.windows().references(),
        }
    }

    /// How many threads compress: no more than asked for or than there are cores, and no more than there is memory for; `available` is what the machine has left.
    ///
    /// # Errors
    /// A text for the user where the machine has not enough left for one.
    pub fn threads(
        self,
        asked: Option<NonZeroUsize>,
        cores: NonZeroUsize,
        available: Option<u64>,
    ) -> Result<usize, String> {
        let limit = available.map_or(self.memory(), |left| left.min(self.memory()));
        let room = limit.saturating_sub(BASE + self.references()) / self.thread();
        // The usual efforts are tried on any machine: their need is small beside what an operating system has in its caches.
        let room = match (usize::try_from(room).unwrap_or(usize::MAX), self) {
            (0, Self::Max) => {
                return Err(format!(
                    "--compression max needs {} MiB of memory, and this machine has {} MiB left: take --compression balanced",
                    (BASE + self.references() + self.thread()) >> 20,
                    limit >> 20
                ));
            }
            (room, _) => room.max(1),
        };
        Ok(asked.unwrap_or(cores).get().min(room))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn threads(effort: Effort, asked: usize, left: Option<u64>) -> Result<usize, String> {
        let cores = NonZeroUsize::new(16).unwrap();
        effort.threads(NonZeroUsize::new(asked), cores, left)
    }

    #[test]
    fn threads_keep_within_the_memory_of_their_effort() {
        for effort in [Effort::Fast, Effort::Balanced, Effort::Max] {
            let most = threads(effort, 0, None).unwrap();
            let taken = BASE + effort.references() + most as u64 * effort.thread();
            assert!(taken <= effort.memory(), "{effort:?} takes {taken}");
            assert!(most >= 2, "{effort:?}");
            assert_eq!(threads(effort, 1, None), Ok(1));
            assert_eq!(threads(effort, 1000, None), Ok(most));
        }
    }

    #[test]
    fn a_machine_with_little_memory_gets_fewer_threads_or_a_refusal() {
        assert_eq!(threads(Effort::Max, 2, Some(500 << 20)), Ok(1));
        let refused = threads(Effort::Max, 1, Some(300 << 20)).unwrap_err();
        assert!(refused.contains("300 MiB left"), "{refused}");
        assert_eq!(threads(Effort::Balanced, 2, Some(1 << 20)), Ok(1));
    }
}
