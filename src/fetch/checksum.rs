//! Checksum files as publishers serve them: bare hex, or hex and a file name as `sha256sum` prints them.

use crate::releases::Algorithm;

/// The largest checksum file that is read, in bytes.
pub const LIMIT: u64 = 4 << 10;

/// The hex digits in the checksum file `text` for the file called `name`.
///
/// # Errors
/// A text that continues "the checksum file …" where the file says nothing certain about `name`.
pub fn parse(text: &[u8], name: &str, algorithm: Algorithm) -> Result<String, String> {
    let text = std::str::from_utf8(text).map_err(|_| "is not text".to_owned())?;
    let mut lines = text.lines().filter(|line| !line.trim().is_empty());
    let line = lines.next().ok_or("is empty")?;
    if lines.next().is_some() {
        return Err("has more than one line".to_owned());
    }
    let mut words = line.split_whitespace();
    let digits = words.next().unwrap_or_default().to_ascii_lowercase();
    let length = match algorithm {
        Algorithm::Sha256 => 64,
        Algorithm::Sha512 => 128,
    };
    if digits.len() != length || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(format!("does not start with {length} hex digits"));
    }
    // `sha256sum` marks binary mode with an asterisk; some publishers name the file with its path.
    let file = words.next().map(|word| word.trim_start_matches('*'));
    let file = file.map(|path| path.rsplit('/').next().unwrap_or(path));
    match (file, words.next()) {
        (None, _) => Ok(digits),
        (Some(file), None) if file == name => Ok(digits),
        _ => Err(format!("is for another file than {name}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_usual_forms_are_read() {
        let hex = "ab".repeat(32);
        for text in [
            hex.clone(),
            format!("{hex}\n"),
            format!("{}\r\n", hex.to_uppercase()),
            format!("{hex}  x.tgz\n"),
            format!("{hex} *x.tgz\n"),
            format!("{hex}  ./out/x.tgz\n"),
        ] {
            assert_eq!(
                parse(text.as_bytes(), "x.tgz", Algorithm::Sha256),
                Ok(hex.clone()),
                "{text:?}"
            );
        }
        assert!(parse("cd".repeat(64).as_bytes(), "x", Algorithm::Sha512).is_ok());
    }

    #[test]
    fn anything_else_is_refused() {
        let hex = "ab".repeat(32);
        for text in [
            String::new(),
            "<html>not found</html>".to_owned(),
            hex[1..].to_owned(),
            format!("{hex}  other.tgz"),
            format!("{hex}  x.tgz more"),
            format!("{hex}\n{hex}\n"),
            "ab".repeat(64),
        ] {
            assert!(
                parse(text.as_bytes(), "x.tgz", Algorithm::Sha256).is_err(),
                "{text:?}"
            );
        }
        assert!(parse(&[0xff, 0xfe], "x.tgz", Algorithm::Sha256).is_err());
    }
}
