//! Whom a pot is accepted from, and what is said when it is not.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bundle_spec::signature::{sign, verify};
use bundle_spec::{Error, Signer, SigningKey, Trust, UnverifiedPot};

use crate::pots::{key, on_disk, small_pot};

fn verdict(trust: &Trust) -> Result<Signer, Error> {
    let signature = sign(&key(), b"text").unwrap();
    verify(b"text", signature.as_bytes(), trust)
}

fn listed(options: &str, now: SystemTime) -> Result<Signer, Error> {
    let line = format!("ops,kpot {options}{}", key().public_openssh().unwrap());
    verdict(&Trust::from_allowed_signers(&line, now).unwrap())
}

#[test]
fn a_fingerprint_off_paper_is_enough() {
    let signer = verdict(&Trust::from_fingerprint(&key().fingerprint()).unwrap()).unwrap();
    assert_eq!(signer.fingerprint, key().fingerprint());
    assert_eq!(signer.principal, None);
}

#[test]
fn the_principals_of_the_list_are_named() {
    let signer = listed("", SystemTime::now()).unwrap();
    assert_eq!(signer.principal.as_deref(), Some("ops,kpot"));
}

#[test]
fn an_unknown_signer_is_refused_with_all_that_is_needed_to_trust_him() {
    let stranger = SigningKey::generate().unwrap();
    let (_folder, path) = on_disk(&small_pot());
    for trust in [
        Trust::from_fingerprint(&stranger.fingerprint()).unwrap(),
        Trust::from_allowed_signers("", SystemTime::now()).unwrap(),
        Trust::from_allowed_signers(
            &format!("kpot {}", stranger.public_openssh().unwrap()),
            SystemTime::now(),
        )
        .unwrap(),
    ] {
        let refused = UnverifiedPot::open(&path).unwrap().verify(&trust, &|_| {});
        let Err(Error::UntrustedSigner {
            fingerprint,
            public_key,
        }) = refused
        else {
            panic!("{refused:?}");
        };
        assert_eq!(fingerprint, key().fingerprint());
        // The line that the error names is one that makes the pot trusted.
        let line = format!("kpot {public_key}\n");
        let trust = Trust::from_allowed_signers(&line, SystemTime::now()).unwrap();
        UnverifiedPot::open(&path)
            .unwrap()
            .verify(&trust, &|_| {})
            .unwrap();
    }
}

#[test]
fn texts_that_are_no_fingerprint_are_refused() {
    let good = key().fingerprint();
    for text in [
        String::new(),
        "SHA256:".to_owned(),
        good.replace("SHA256:", ""),
        good.replace("SHA256", "sha256"),
        format!("{good}="),
        format!("{good} "),
        good[..good.len() - 1].to_owned(),
        format!("MD5:{}", "00:".repeat(16)),
    ] {
        let refused = Trust::from_fingerprint(&text);
        assert!(matches!(refused, Err(Error::Key(_))), "{text}");
    }
}

#[test]
fn times_count_to_the_second_and_the_refusal_says_which_one() {
    // 2024-02-29T12:30:15Z, by `date -u -d '2024-02-29 12:30:15' +%s`.
    let moment = UNIX_EPOCH + Duration::from_secs(1_709_209_815);
    let second = Duration::from_secs(1);
    let after = "valid-after=\"20240229123015Z\" ";
    let before = "valid-before=\"20240229123015Z\" ";
    assert!(listed(after, moment).is_ok());
    assert!(listed(before, moment).is_ok());
    for (options, now) in [(after, moment - second), (before, moment + second)] {
        let error = listed(options, now).unwrap_err();
        assert!(
            matches!(&error, Error::SignerRefused { reason, .. } if reason.contains("20240229123015Z")),
            "{error:?}"
        );
        assert!(error.is_untrusted());
    }
    let error = listed("namespaces=\"git\" ", moment).unwrap_err();
    assert!(error.to_string().contains("\"git\""), "{error}");
}

#[test]
fn a_line_that_is_not_understood_is_refused_with_its_number() {
    let key = key().public_openssh().unwrap();
    for line in [
        // A time of the machine's own zone: means something else on every machine.
        format!("kpot valid-before=\"20990101\" {key}"),
        format!("kpot valid-after=\"20230229Z\" {key}"),
        format!("kpot valid-after=\"20240101Z\",valid-before=\"20240101Z\" {key}"),
        format!("kpot valid-after=\"2023022912Z\" {key}"),
        format!("kpot valid-after=\"202302281260Z\" {key}"),
        format!("kpot valid-after=\"19691231Z\" {key}"),
        format!("kpot namespaces=\"kpot\"valid-after=\"20230228Z\" {key}"),
        format!("kpot cert-authority,namespaces=\"kpot\" {key}"),
        format!("kpot {}", &key[..60]),
        format!("kpot ssh-ed25519{}", &key[12..]),
        "kpot".to_owned(),
        "kpot ssh-ed25519".to_owned(),
        "kpot ssh-ed25519 AAAA".to_owned(),
        format!("\"\" {key}"),
    ] {
        let list = format!("# signers\n\nops {key}\n{line}\n");
        let refused = Trust::from_allowed_signers(&list, SystemTime::now());
        let Err(Error::Key(text)) = refused else {
            panic!("{line}: {refused:?}");
        };
        assert!(text.starts_with("line 4 of the trusted signers "), "{text}");
    }
}

#[test]
fn keys_of_other_types_may_stand_in_the_list() {
    let list = format!(
        "git@example.com ssh-rsa AAAAB3NzaC1yc2E= laptop\ngit@example.com namespaces=\"git\" sk-ecdsa-sha2-nistp256@openssh.com AAAA token\nkpot {}\n",
        key().public_openssh().unwrap()
    );
    verdict(&Trust::from_allowed_signers(&list, SystemTime::now()).unwrap()).unwrap();
}

#[test]
fn the_armor_has_one_spelling() {
    let armor = sign(&key(), b"text").unwrap();
    let trust = Trust::from_fingerprint(&key().fingerprint()).unwrap();
    let body: Vec<&str> = armor.lines().collect();
    for other in [
        armor.replace('\n', "\r\n"),
        armor.trim_end().to_owned(),
        format!("{armor}\n"),
        format!("\n{armor}"),
        format!("A preface.\n{armor}"),
        format!("{armor}{armor}"),
        armor.replacen(
            body[1],
            &format!("{}\n{}", &body[1][..64], &body[1][64..]),
            1,
        ),
        armor.replace("SSH SIGNATURE", "SSH  SIGNATURE"),
        format!(
            "{}\n{}\n{}\n",
            body[0],
            body[1..body.len() - 1].concat(),
            body[body.len() - 1]
        ),
        String::new(),
    ] {
        let refused = verify(b"text", other.as_bytes(), &trust);
        assert!(
            matches!(refused, Err(Error::Signature(_))),
            "{other}: {refused:?}"
        );
    }
    verify(b"text", armor.as_bytes(), &trust).unwrap();
}
