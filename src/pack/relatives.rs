//! Programs that are nearly the same program: one of them is the reference, and the others are packed as what differs from it.
//!
//! Which one depends on names and sizes alone, so it is the same whatever the order of downloads and the number of threads. The reference is packed like any other
//! content and at any time: the others need its unpacked bytes, which lie in the spool. Those of one archive are there together, so no piece of work waits for another
//! one; only at the most effort all that has no reference of its own waits for one download ([`Common`]).

use std::fs::File;
use std::io::{self, Read as _};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bundle_spec::Sha256;

use crate::pack::archive::Program;
use crate::pack::compress::{PackError, Source};
use crate::pack::effort::Effort;
use crate::pack::spool::FromStart;
use crate::plan::ArtifactName;

/// The largest reference of related programs, in bytes. Every thread that packs, and later the installer, has it in memory beside its window.
pub(super) const LIMIT: u64 = 8 << 20;

/// The largest reference of a runtime's programs, in bytes: Docker's archive has those of containerd, too.
pub(super) const RUNTIME_LIMIT: u64 = 28 << 20;

/// The largest reference of all the rest, in bytes. With the two above it comes to what a pot with large windows may have.
pub(super) const COMMON_LIMIT: u64 = 48 << 20;

/// The program that all the rest is packed against at the most effort: Kubernetes' programs and images share the most with it, and it is small.
pub const COMMON: ArtifactName = ArtifactName::Kubeadm;

/// What related programs are packed against.
#[derive(Debug)]
pub struct Reference {
    file: File,
    size: u64,
    digest: Sha256,
    /// The bytes, while somebody packs against them: one copy for all threads, and none at other times.
    shared: Mutex<Weak<Vec<u8>>>,
}

/// The one reference of all that has none of its own, and what waits until it is known.
#[derive(Debug)]
pub enum Common {
    /// There is none.
    None,
    /// It is on its way.
    Awaited(Vec<Waiting>),
    /// It is there.
    There(Arc<Reference>),
}

/// A piece of work that waits: its weight, its name, and what is to be packed.
pub type Waiting = (u64, String, Source);

impl Common {
    /// What there is to wait for at this effort.
    pub const fn at(effort: Effort) -> Self {
        match effort {
            Effort::Fast | Effort::Balanced => Self::None,
            Effort::Max => Self::Awaited(Vec::new()),
        }
    }

    /// What is to be packed now that `piece` is there: it, behind the reference where there is one, or nothing yet.
    pub fn behind(&mut self, mut piece: Waiting) -> Option<Waiting> {
        match self {
            Self::None => Some(piece),
            Self::Awaited(waiting) => {
                waiting.push(piece);
                None
            }
            Self::There(reference) => {
                if reference.digest() != piece.2.unpacked {
                    piece.2.reference = Some(Arc::clone(reference));
                }
                Some(piece)
            }
        }
    }

    /// The download that may be the reference has come: all that waited for it. One that is too large is none.
    ///
    /// # Errors
    /// Where the system gives out no second handle on the file.
    pub fn arrived(&mut self, file: &File, size: u64, digest: Sha256) -> io::Result<Vec<Waiting>> {
        let Self::Awaited(waiting) = self else {
            return Ok(Vec::new());
        };
        let waiting = std::mem::take(waiting);
        *self = if size <= COMMON_LIMIT {
            let file = file.try_clone()?;
            Self::There(Arc::new(Reference::new(file, size, digest)))
        } else {
            Self::None
        };
        Ok(waiting
            .into_iter()
            .filter_map(|piece| self.behind(piece))
            .collect())
    }
}

/// The reference for the programs of an archive; `None` where they are no relatives, or none is small enough.
///
/// # Errors
/// Where the system gives out no second handle on the file.
pub fn reference(
    name: ArtifactName,
    programs: &[Program],
    effort: Effort,
) -> io::Result<Option<Reference>> {
    let chosen = match (name, effort) {
        (ArtifactName::CniPlugins, _) => choose(programs),
        (ArtifactName::Containerd | ArtifactName::Docker, Effort::Max) => {
            largest(programs, RUNTIME_LIMIT)
        }
        _ => None,
    };
    let Some(program) = chosen else {
        return Ok(None);
    };
    let file = program.file.try_clone()?;
    Ok(Some(Reference::new(file, program.size, program.digest)))
}

/// The program in the middle by size, of those within the limit: a small one lacks what others share, and a large one has much that nobody shares.
fn choose(programs: &[Program]) -> Option<&Program> {
    let mut small: Vec<&Program> = programs
        .iter()
        .filter(|program| program.size <= LIMIT)
        .collect();
    small.sort_by_key(|program| (program.size, &program.name));
    small.get(small.len() / 2).copied()
}

/// The largest program within the limit: of a few that differ much in size, it has the most that others may share.
fn largest(programs: &[Program], limit: u64) -> Option<&Program> {
    programs
        .iter()
        .filter(|program| program.size <= limit)
        .max_by_key(|program| (program.size, &program.name))
}

impl Reference {
    /// The reference with `size` bytes of this digest in `file`.
    pub fn new(file: File, size: u64, digest: Sha256) -> Self {
        Self {
            file,
            size,
            digest,
            shared: Mutex::default(),
        }
    }

    /// The digest of its bytes.
    pub fn digest(&self) -> Sha256 {
        self.digest
    }

    /// Its bytes, checked: what is packed against others than these could never be unpacked again.
    ///
    /// # Errors
    /// [`PackError`] where they cannot be read or are others by now.
    pub fn bytes(&self) -> Result<Arc<Vec<u8>>, PackError> {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bytes) = shared.upgrade() {
            return Ok(bytes);
        }
        // Within the limit, so it fits.
        let mut bytes = Vec::with_capacity(usize::try_from(self.size).unwrap_or(0));
        let file = self.file.try_clone().map_err(PackError::Unpack)?;
        FromStart::new(file)
            .read_to_end(&mut bytes)
            .map_err(PackError::Unpack)?;
        let seen = Sha256::of(&bytes);
        if seen != self.digest {
            return Err(PackError::Content {
                expected: self.digest,
                seen,
            });
        }
        let bytes = Arc::new(bytes);
        *shared = Arc::downgrade(&bytes);
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fetch::registry::Compression;
    use std::io::Write as _;

    fn program(name: &str, content: &[u8]) -> Program {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        Program {
            name: name.to_owned(),
            file,
            digest: Sha256::of(content),
            size: content.len() as u64,
        }
    }

    fn chosen(sizes: &[(&str, u64)]) -> Option<String> {
        let sized = |(name, size): &(&str, u64)| Program {
            size: *size,
            ..program(name, b"")
        };
        let mut programs: Vec<Program> = sizes.iter().map(sized).collect();
        let first = choose(&programs).map(|program| program.name.clone());
        programs.reverse();
        let again = choose(&programs).map(|program| program.name.clone());
        assert_eq!(first, again, "the order in the archive does not matter");
        first
    }

    #[test]
    fn the_program_in_the_middle_is_the_reference() {
        let name = |name: &str| Some(name.to_owned());
        let sizes = [("a", 3), ("b", 5), ("c", 4), ("d", LIMIT + 1)];
        assert_eq!(chosen(&sizes), name("c"));
        assert_eq!(chosen(&[("c", 5), ("b", 5), ("a", 5)]), name("b"));
        assert_eq!(chosen(&[("a", LIMIT), ("b", 5)]), name("a"));
        assert_eq!(chosen(&[("a", 1)]), name("a"));
        assert_eq!(chosen(&[("a", LIMIT + 1)]), None);
        assert_eq!(chosen(&[]), None);
    }

    #[test]
    fn only_programs_that_are_alike_have_a_reference() {
        let programs = [program("one", b"1"), program("other", b"22")];
        for effort in [Effort::Fast, Effort::Balanced, Effort::Max] {
            for name in ArtifactName::ALL {
                let reference = reference(name, &programs, effort).unwrap();
                let alike = match name {
                    ArtifactName::CniPlugins => true,
                    ArtifactName::Containerd | ArtifactName::Docker => effort == Effort::Max,
                    _ => false,
                };
                let expected = alike.then_some(programs[1].digest);
                let seen = reference.map(|it| it.digest());
                assert_eq!(seen, expected, "{name} at {effort:?}");
            }
        }
    }

    #[test]
    fn all_references_of_a_pot_are_within_what_it_may_have() {
        assert!(LIMIT <= Effort::Balanced.windows().references());
        let all = LIMIT + RUNTIME_LIMIT + COMMON_LIMIT;
        assert!(all <= Effort::Max.windows().references());
    }

    fn piece(content: &[u8]) -> Waiting {
        let program = program("x", content);
        let source = Source {
            file: program.file,
            compression: Compression::None,
            unpacked: program.digest,
            reference: None,
        };
        (program.size, program.name, source)
    }

    #[test]
    fn the_rest_waits_for_the_common_reference_and_is_packed_behind_it() {
        let behind = |piece: &Waiting| piece.2.reference.as_ref().map(|it| it.digest());
        let kubeadm = program("kubeadm", b"kubeadm");
        let mut common = Common::at(Effort::Max);
        assert!(common.behind(piece(b"kubelet")).is_none());
        assert!(common.behind(piece(b"kubeadm")).is_none());
        let freed = common
            .arrived(&kubeadm.file, kubeadm.size, kubeadm.digest)
            .unwrap();
        let freed: Vec<_> = freed.iter().map(behind).collect();
        // Never behind itself.
        assert_eq!(freed, [Some(kubeadm.digest), None]);
        let later = common.behind(piece(b"a layer")).unwrap();
        assert_eq!(behind(&later), Some(kubeadm.digest));
        // One that is too large frees what waited all the same.
        let mut common = Common::at(Effort::Max);
        assert!(common.behind(piece(b"kubelet")).is_none());
        let freed = common
            .arrived(&kubeadm.file, COMMON_LIMIT + 1, kubeadm.digest)
            .unwrap();
        assert_eq!(freed.iter().map(behind).collect::<Vec<_>>(), [None]);
        assert!(matches!(common, Common::None));
    }

    #[test]
    fn its_bytes_are_one_copy_while_they_are_used_and_none_afterwards() {
        let Program {
            file, size, digest, ..
        } = program("x", b"some bytes");
        let reference = Reference::new(file, size, digest);
        let one = reference.bytes().unwrap();
        let other = reference.bytes().unwrap();
        assert_eq!(*one, b"some bytes");
        assert!(Arc::ptr_eq(&one, &other));
        let watch = Arc::downgrade(&one);
        drop((one, other));
        assert!(watch.upgrade().is_none());
        assert_eq!(*reference.bytes().unwrap(), b"some bytes");
    }

    #[test]
    fn other_bytes_than_those_that_were_checked_are_refused() {
        let mut program = program("x", b"some bytes");
        let file = program.file.try_clone().unwrap();
        let reference = Reference::new(file, program.size, program.digest);
        program.file.write_all(b" and more").unwrap();
        assert!(matches!(
            reference.bytes(),
            Err(PackError::Content { expected, .. }) if expected == program.digest
        ));
    }
}
