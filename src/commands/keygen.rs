//! `kpot keygen`

use super::print;
use crate::cli::Keygen;
use crate::keys;

pub(super) fn run(command: &Keygen) -> anyhow::Result<()> {
    let path = match &command.output {
        Some(path) => path.clone(),
        None => keys::default_path()?,
    };
    let key = keys::generate(&path)?;
    print(&format!(
        "private key: {} (keep it, and keep it secret)\n\
         public key:  {}\n\
         fingerprint: {}\n\
         \n\
         On each machine that shall trust it, put this line into /etc/kpot/trusted_signers:\n\
         {}\n",
        path.display(),
        keys::public_path(&path).display(),
        key.fingerprint(),
        keys::trusted_signers_line(&key)?
    ))
}
