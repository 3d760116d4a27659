//! Programs of one archive that are nearly the same program: one of them is the reference, and the others are packed as what differs from it.
//!
//! Which one depends on names and sizes alone, so it is the same whatever the order of downloads and the number of threads. The reference is packed like any other
//! content and at any time: the others need its unpacked bytes, which lie in the spool from the beginning, so no piece of work waits for another one.

use std::fs::File;
use std::io::{self, Read as _};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bundle_spec::Sha256;

use crate::pack::archive::Program;
use crate::pack::compress::PackError;
use crate::pack::spool::FromStart;
use crate::plan::ArtifactName;

/// The largest reference, in bytes. Every thread that packs, and later the installer, has it in memory beside its window.
const LIMIT: u64 = 8 << 20;

/// What related programs are packed against.
#[derive(Debug)]
pub struct Reference {
    file: File,
    size: u64,
    digest: Sha256,
    /// The bytes, while somebody packs against them: one copy for all threads, and none at other times.
    shared: Mutex<Weak<Vec<u8>>>,
}

/// The reference for the programs of an archive; `None` where they are no relatives or none is small enough.
///
/// # Errors
/// Where the system gives out no second handle on the file.
pub fn reference(name: ArtifactName, programs: &[Program]) -> io::Result<Option<Reference>> {
    if !name.programs_are_alike() {
        return Ok(None);
    }
    let Some(program) = choose(programs) else {
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
        for name in ArtifactName::ALL {
            let reference = reference(name, &programs).unwrap();
            let expected = (name == ArtifactName::CniPlugins).then_some(programs[1].digest);
            assert_eq!(reference.map(|it| it.digest()), expected, "{name}");
        }
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
