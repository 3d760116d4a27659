//! Checksum files as publishers serve them: bare hex; hex and a file name as `sha256sum` prints them; or many such lines, one for each file of a release.
//!
//! A list may stand in a clear-signed OpenPGP message (RFC 9580, section 7), as runc's does. The signature is not looked at: kpot knows no publisher's key, and the list
//! comes from the same server over https.

use crate::releases::Algorithm;

/// The largest checksum file that is read, in bytes; runc's has some 2,000.
pub const LIMIT: u64 = 4 << 10;

const SIGNED: &str = "-----BEGIN PGP SIGNED MESSAGE-----";
const SIGNATURE: &str = "-----BEGIN PGP SIGNATURE-----";

/// The hex digits in the checksum file `text` for the file called `name`.
///
/// # Errors
/// A text that continues "the checksum file …" where the file says nothing certain about `name`.
pub fn parse(text: &[u8], name: &str, algorithm: Algorithm) -> Result<String, String> {
    let text = std::str::from_utf8(text).map_err(|_| "is not text".to_owned())?;
    let mut rows = Vec::new();
    for line in lines(text)? {
        rows.push(Row::parse(line, algorithm)?);
    }
    match &rows[..] {
        [] => Err("is empty".to_owned()),
        [Row { digits, file: None }] => Ok(digits.clone()),
        [
            Row {
                file: Some(file), ..
            },
        ] if *file != name => Err(format!("is for another file than {name}")),
        [row] => Ok(row.digits.clone()),
        rows => of_list(rows, name),
    }
}

/// Its digits in a list, which must name every file, and this one once.
fn of_list(rows: &[Row<'_>], name: &str) -> Result<String, String> {
    if rows.iter().any(|row| row.file.is_none()) {
        return Err("has several lines, not all with a file's name".to_owned());
    }
    let mut own = rows.iter().filter(|row| row.file == Some(name));
    match (own.next(), own.next()) {
        (Some(row), None) => Ok(row.digits.clone()),
        (Some(_), Some(_)) => Err(format!("names {name} more than once")),
        (None, _) => Err(format!("does not name {name}")),
    }
}

/// The lines that hold something; of a clear-signed message those that are signed.
fn lines(text: &str) -> Result<Vec<&str>, String> {
    let mut lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    if lines.first() == Some(&SIGNED) {
        // Headers, such as "Hash: SHA256", end at the first empty line.
        let start = lines.iter().position(|line| line.is_empty());
        let end = lines.iter().position(|line| *line == SIGNATURE);
        lines = match (start, end) {
            (Some(start), Some(end)) if start < end => lines[start..end].to_vec(),
            _ => return Err("is a signed message that is cut off".to_owned()),
        };
    }
    lines.retain(|line| !line.trim().is_empty());
    Ok(lines)
}

/// A line: a digest, and whose it is.
struct Row<'a> {
    /// In lower case.
    digits: String,
    /// Without folders.
    file: Option<&'a str>,
}

impl<'a> Row<'a> {
    fn parse(line: &'a str, algorithm: Algorithm) -> Result<Self, String> {
        let length = match algorithm {
            Algorithm::Sha256 => 64,
            Algorithm::Sha512 => 128,
        };
        let mut words = line.split_whitespace();
        let digits = words.next().unwrap_or_default().to_ascii_lowercase();
        if digits.len() != length || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(format!(
                "has a line that does not start with {length} hex digits"
            ));
        }
        // `sha256sum` marks binary mode with an asterisk; some publishers name the file with its path.
        let file = words.next().map(|word| word.trim_start_matches('*'));
        let file = file.map(|path| path.rsplit('/').next().unwrap_or(path));
        if words.next().is_some() {
            return Err("has a line with more than a digest and a file's name".to_owned());
        }
        Ok(Self { digits, file })
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

    /// As `runc.sha256sum` looks.
    fn signed(lines: &str) -> String {
        format!(
            "{SIGNED}\nHash: SHA256\n\n{lines}{SIGNATURE}\n\niQJDBAEBCAAtFiEEwklu\n=r9F3\n-----END PGP SIGNATURE-----\n"
        )
    }

    #[test]
    fn of_a_list_the_line_of_that_very_file_is_read_signed_or_not() {
        let (one, other) = ("ab".repeat(32), "cd".repeat(32));
        let list = format!("{one}  runc.amd64\n{other}  runc.arm64\n{other} *runc.tar.xz\n");
        for text in [list.clone(), signed(&list), format!("\n{list}\n")] {
            let read = |name| parse(text.as_bytes(), name, Algorithm::Sha256);
            assert_eq!(read("runc.amd64"), Ok(one.clone()), "{text}");
            assert_eq!(read("runc.arm64"), Ok(other.clone()), "{text}");
            let refused = read("runc.s390x").unwrap_err();
            assert!(refused.contains("does not name runc.s390x"), "{refused}");
            assert!(read("runc").is_err(), "a name is compared whole");
        }
        // A message of one line is read as that line.
        let text = signed(&format!("{one}  runc.amd64\n"));
        let read = |name| parse(text.as_bytes(), name, Algorithm::Sha256);
        assert_eq!(read("runc.amd64"), Ok(one));
        assert!(read("runc.arm64").is_err());
    }

    #[test]
    fn a_list_that_leaves_a_doubt_is_refused() {
        let (one, other) = ("ab".repeat(32), "cd".repeat(32));
        for (text, word) in [
            (format!("{one}  x.tgz\n{other}  x.tgz\n"), "more than once"),
            (format!("{one}  x.tgz\n{one}  a/x.tgz\n"), "more than once"),
            (format!("{one}  x.tgz\n{other}\n"), "not all with"),
            (format!("{one}  x.tgz\nnot a digest\n"), "hex digits"),
            (format!("{SIGNED}\n\n{one}  x.tgz\n"), "cut off"),
            (
                format!("{SIGNED}\n{one}  x.tgz\n{SIGNATURE}\n\n"),
                "cut off",
            ),
            (signed(""), "empty"),
        ] {
            let refused = parse(text.as_bytes(), "x.tgz", Algorithm::Sha256).unwrap_err();
            assert!(refused.contains(word), "{text}: {refused}");
        }
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
