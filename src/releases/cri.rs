//! The CRI: the language between the kubelet and its runtime, of which there were several forms. A kubelet and a containerd that share none never come up together, which
//! would be noticed on a machine in a data centre, long after the pot was made. So would a containerd that the installer refuses for another reason: what it takes stands in
//! bundle-spec, for both.

use std::fmt;
use std::str::FromStr;

use bundle_spec::containerds::containerds;
use serde::Deserialize;

use super::Releases;

/// One form of the CRI, and who speaks it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dialect {
    /// Its name, as `kubelet` and `containerd` log it.
    pub name: String,
    /// The kubelets that speak it, by the minor of their version 1.x: the first, and the last where there is one.
    pub kubelet: Span<u16>,
    /// The containerds that speak it.
    pub containerd: Span<Series>,
}

/// From the first to the last, or on.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Span<T> {
    pub(super) first: T,
    pub(super) last: Option<T>,
}

/// A version without its patch: `1.7`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct Series(u16, u16);

impl<T: PartialOrd> Span<T> {
    fn contains(&self, it: &T) -> bool {
        self.first <= *it && self.last.as_ref().is_none_or(|last| it <= last)
    }
}

impl Series {
    /// The series of a whole version, such as `1.7.30` or `2.0.0-rc.1`.
    pub fn of(version: &str) -> Option<Self> {
        let mut numbers = version.splitn(3, '.');
        let (major, minor) = (numbers.next()?, numbers.next()?);
        numbers.next()?;
        format!("{major}.{minor}").parse().ok()
    }
}

impl FromStr for Series {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let numbers = text
            .split_once('.')
            .and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
        let (major, minor) = numbers.ok_or_else(|| format!("{text:?} is no series like 1.7"))?;
        Ok(Self(major, minor))
    }
}

impl TryFrom<String> for Series {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl fmt::Display for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

/// `containerd 1.1 to 1.7`, `containerd 2.0 and later`
impl fmt::Display for Span<Series> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.last {
            Some(last) => write!(f, "containerd {} to {last}", self.first),
            None => write!(f, "containerd {} and later", self.first),
        }
    }
}

impl Releases {
    /// Whether the kubelet of 1.`minor` and containerd `version` share a form of the CRI, and the installer takes the two together.
    ///
    /// # Errors
    /// A text that says which forms that kubelet speaks, and which containerds do; or which containerds are taken with it.
    pub fn can_speak(&self, minor: u16, version: &str) -> Result<(), String> {
        let series = Series::of(version)
            .ok_or_else(|| format!("{version:?} is no version of containerd, such as 1.7.30"))?;
        let dialects = self.cri.iter().filter(|it| it.kubelet.contains(&minor));
        if !dialects.clone().any(|it| it.containerd.contains(&series)) {
            let spoken: Vec<String> = dialects
                .map(|it| format!("CRI {}, which {} speaks", it.name, it.containerd))
                .collect();
            return Err(format!(
                "the kubelet of 1.{minor} cannot speak to containerd {version}: it speaks {}",
                spoken.join("; or ")
            ));
        }
        let taken = containerds(minor);
        if taken.contains(&(u32::from(series.0), u32::from(series.1))) {
            return Ok(());
        }
        let (start, end) = (taken.start, taken.end);
        Err(format!(
            "the installer takes no containerd {version} with the kubelet of 1.{minor}: it takes {}.{} and later, before {}.{}",
            start.0, start.1, end.0, end.1
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kubelet_and_a_containerd_need_one_form_of_the_cri() {
        let releases = Releases::shipped().unwrap();
        for (minor, version, good) in [
            (14, "1.7.30", true),
            (14, "2.0.0", false),
            (22, "1.5.18", true),
            (22, "2.1.4", false),
            (23, "1.5.18", true),
            (23, "2.1.4", true),
            (25, "1.5.18", true),
            (26, "1.5.18", false),
            (26, "1.6.39", true),
            (34, "2.1.4", true),
            (34, "1.7.30", true),
            (34, "1.6.39", true),
            (36, "2.2.1", true),
        ] {
            let told = releases.can_speak(minor, version);
            assert_eq!(
                told.is_ok(),
                good,
                "1.{minor}, containerd {version}: {told:?}"
            );
        }
        let told = releases.can_speak(22, "2.1.4").unwrap_err();
        assert!(
            told.contains("CRI v1alpha2, which containerd 1.1 to 1.7 speaks"),
            "{told}"
        );
        let told = releases.can_speak(26, "1.5.18").unwrap_err();
        assert!(
            told.contains("CRI v1, which containerd 1.6 and later speaks"),
            "{told}"
        );
    }

    #[test]
    fn what_the_installer_refuses_is_not_packed_and_what_it_takes_is() {
        let releases = Releases::shipped().unwrap();
        for minor in 14..=36 {
            // 1.7 was the last of 1.
            for (major, of_major) in [(1, 0..=7), (2, 0..=9), (3, 0..=1)] {
                for series in of_major {
                    let told = releases.can_speak(minor, &format!("{major}.{series}.1"));
                    let taken = containerds(minor).contains(&(major, series));
                    assert_eq!(
                        told.is_ok(),
                        taken,
                        "1.{minor}, containerd {major}.{series}: {told:?}"
                    );
                }
            }
        }
        for (minor, version, word) in [
            (14, "1.2.14", "it takes 1.3 and later, before 2.0"),
            (35, "1.6.39", "it takes 1.7 and later, before 3.0"),
            (36, "3.0.0", "before 3.0"),
        ] {
            let told = releases.can_speak(minor, version).unwrap_err();
            assert!(told.contains(word), "{told}");
        }
    }

    #[test]
    fn a_series_is_read_off_a_whole_version_alone() {
        for (version, series) in [
            ("1.7.30", Some(Series(1, 7))),
            ("2.0.0-rc.1", Some(Series(2, 0))),
            ("1.10.0", Some(Series(1, 10))),
            ("2.1", None),
            ("2", None),
            ("v2.1.4", None),
            ("2.x.1", None),
        ] {
            assert_eq!(Series::of(version), series, "{version}");
        }
        assert!(Series(1, 7) < Series(1, 10) && Series(1, 10) < Series(2, 0));
    }
}
