//! The version data as a table: for each Kubernetes minor as many ranges of patches as it has different images.

use bundle_spec::KubeVersion;
use serde::Serialize;

use super::{Minor, OPEN, Releases, Tags};

/// Patches of one minor that need the same.
pub struct Range<'a> {
    /// Which ones.
    pub patches: Patches,
    /// What the whole minor has in common.
    pub minor: &'a Minor,
    /// The images of these patches.
    pub tags: Tags<'a>,
    /// Those among the patches whose tags were not seen for exactly them.
    pub unseen: Vec<Patches>,
}

/// Versions of one minor that follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Patches {
    /// The first one.
    pub first: KubeVersion,
    /// The last one; none where it goes on.
    pub last: Option<KubeVersion>,
}

impl Patches {
    fn new(minor: u16, first: u16, last: u16) -> Self {
        Self {
            first: KubeVersion::new(1, minor, first),
            last: (last < OPEN).then(|| KubeVersion::new(1, minor, last)),
        }
    }

    /// For people: `1.14`, `1.22.0 to 1.22.16`, `1.22.17 on`.
    pub fn text(&self) -> String {
        let number = |version: KubeVersion| version.to_string().trim_start_matches('v').to_owned();
        match self.last {
            None if self.first.patch == 0 => format!("{}.{}", self.first.major, self.first.minor),
            None => format!("{} on", number(self.first)),
            Some(last) if last == self.first => number(last),
            Some(last) => format!("{} to {}", number(self.first), number(last)),
        }
    }
}

impl Releases {
    /// Every range, oldest first.
    pub fn ranges(&self) -> Vec<Range<'_>> {
        self.kubernetes.iter().flat_map(Minor::ranges).collect()
    }
}

impl Minor {
    fn ranges(&self) -> Vec<Range<'_>> {
        let steps = [&self.registry, &self.etcd, &self.coredns];
        let mut starts: Vec<u16> = steps.into_iter().flatten().map(|step| step.from).collect();
        starts.sort_unstable();
        starts.dedup();
        let ends = starts.iter().skip(1).map(|start| start - 1).chain([OPEN]);
        starts
            .iter()
            .zip(ends)
            .map(|(start, end)| Range {
                patches: Patches::new(self.number, *start, end),
                minor: self,
                tags: self.tags(*start),
                unseen: self.unseen(*start, end),
            })
            .collect()
    }

    fn unseen(&self, start: u16, end: u16) -> Vec<Patches> {
        let within = |(first, last): &(u16, u16)| {
            let (first, last) = ((*first).max(start), (*last).min(end));
            (first <= last).then(|| Patches::new(self.number, first, last))
        };
        self.unverified.iter().filter_map(within).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_patch_is_in_one_range_with_its_own_tags() {
        let releases = Releases::shipped().unwrap();
        let ranges = releases.ranges();
        for row in &releases.kubernetes {
            for patch in 0..40 {
                let version = KubeVersion::new(1, row.number, patch);
                let mut holding = ranges.iter().filter(|range| {
                    range.minor.number == row.number && contains(&range.patches, patch)
                });
                let range = holding.next().unwrap();
                assert!(holding.next().is_none(), "{version} stands twice");
                let (told, own) = (&range.tags, row.tags(patch));
                assert_eq!(
                    (told.registry, told.etcd, told.coredns),
                    (own.registry, own.etcd, own.coredns),
                    "{version}"
                );
                let unseen = range.unseen.iter().any(|part| contains(part, patch));
                assert_eq!(unseen, !own.verified, "{version}");
            }
        }
    }

    #[test]
    fn ranges_are_written_for_people() {
        let releases = Releases::shipped().unwrap();
        let ranges = releases.ranges();
        let texts: Vec<String> = ranges.iter().map(|range| range.patches.text()).collect();
        for text in [
            "1.14",
            "1.19.0",
            "1.19.1 on",
            "1.22.0 to 1.22.16",
            "1.22.17 on",
        ] {
            assert!(texts.contains(&text.to_owned()), "{text}: {texts:?}");
        }
        let unseen: Vec<String> = ranges
            .iter()
            .flat_map(|range| range.unseen.iter().map(Patches::text))
            .collect();
        for text in ["1.28.12 to 1.28.13", "1.25.15 on"] {
            assert!(unseen.contains(&text.to_owned()), "{text}: {unseen:?}");
        }
    }

    fn contains(patches: &Patches, patch: u16) -> bool {
        patches.first.patch <= patch && patches.last.is_none_or(|last| patch <= last.patch)
    }
}
