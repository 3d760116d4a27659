//! Which containerds a kubelet can run with. Builder and installer ask this one table, so that none packs what the other refuses.

use std::ops::Range;

/// A containerd's version without its patch: major and minor number.
pub type ContainerdRelease = (u32, u32);

/// The containerds that the kubelet of Kubernetes 1.`minor` can run with, the end excluded.
///
/// Up to 1.22 it only knows CRI v1alpha2, which containerd 2.0 no longer serves; from 1.26 on it only knows CRI v1, which containerd serves from 1.6 on; from 1.35 on nobody
/// tells it which image the sandboxes run in, and containerd itself must keep it, as 1.7 does. Before 1.3 there is no configuration of version 2, which the installer
/// writes, and 3.0 is not known yet.
pub const fn containerds(minor: u16) -> Range<ContainerdRelease> {
    Range {
        start: match minor {
            35.. => (1, 7),
            26.. => (1, 6),
            _ => (1, 3),
        },
        end: match minor {
            23.. => (3, 0),
            _ => (2, 0),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kubelet_goes_with_the_containerds_that_serve_its_cri_and_keep_its_sandboxes() {
        for (minor, first, end) in [
            (14, (1, 3), (2, 0)),
            (22, (1, 3), (2, 0)),
            (23, (1, 3), (3, 0)),
            (25, (1, 3), (3, 0)),
            (26, (1, 6), (3, 0)),
            (34, (1, 6), (3, 0)),
            (35, (1, 7), (3, 0)),
            (36, (1, 7), (3, 0)),
        ] {
            assert_eq!(containerds(minor), first..end, "1.{minor}");
        }
    }
}
