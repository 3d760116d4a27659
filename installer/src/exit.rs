//! How the program ends: a number for scripts, one message for people.
//!
//! 0 done (or nothing to do), 1 failed, 2 the command line is wrong, 3 this host or cluster is not eligible, 4 the pot is not trusted.

use std::process::ExitCode;

/// A refusal before anything was changed on the cluster, because of this machine or the cluster.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NotEligible(pub String);

/// The same of a run that is at work on this machine already, with each cause and remedy: the one JSON document of such a run is its last word, and tells them.
#[derive(Debug, thiserror::Error)]
#[error("{words}")]
pub struct Refused {
    /// What people read.
    pub words: String,
    /// What scripts read.
    pub refusals: serde_json::Value,
}

/// A command line that says too little or too much, beyond what the parser can tell.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

/// The number for an error.
pub fn status(error: &anyhow::Error) -> u8 {
    for cause in error.chain() {
        if cause.is::<NotEligible>() || cause.is::<Refused>() {
            return 3;
        }
        if cause.is::<Usage>() {
            return 2;
        }
        if cause
            .downcast_ref::<bundle_spec::Error>()
            .is_some_and(bundle_spec::Error::is_untrusted)
        {
            return 4;
        }
    }
    1
}

/// The word for an error in a JSON document.
pub fn outcome(error: &anyhow::Error) -> &'static str {
    match status(error) {
        3 | 4 => "refused",
        _ => "failed",
    }
}

/// Ends with the number for `result`, after its message.
pub fn code(result: anyhow::Result<()>) -> ExitCode {
    let Err(error) = result else {
        return ExitCode::SUCCESS;
    };
    eprintln!("kpot-install: {error:#}");
    ExitCode::from(status(&error))
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn every_kind_of_end_has_its_number_however_deep_it_lies() {
        let wrapped =
            |error: anyhow::Error| status(&Err::<(), _>(error).context("outer").unwrap_err());
        assert_eq!(wrapped(NotEligible("x".to_owned()).into()), 3);
        let refused = Refused {
            words: "x".to_owned(),
            refusals: serde_json::Value::Null,
        };
        assert_eq!(wrapped(refused.into()), 3);
        assert_eq!(wrapped(Usage("x".to_owned()).into()), 2);
        assert_eq!(wrapped(bundle_spec::Error::Unsigned.into()), 4);
        assert_eq!(wrapped(anyhow::anyhow!("x")), 1);
    }
}
