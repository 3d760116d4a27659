//! The way from the backup machine to the healthy master, as an administrator prepares it: a key of its own, let in over
//! there, and the master's host key known beforehand.

use anyhow::Result;

use crate::node::Node;

/// Gives `from` a key that `user` on `to` accepts, and `to`'s host key.
pub fn grant(from: &Node, to: &Node, user: &str) -> Result<()> {
    let key = from.output(
        "mkdir -p -m 0700 /root/.ssh
         [ -f /root/.ssh/id_ed25519 ] || ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/id_ed25519
         cat /root/.ssh/id_ed25519.pub",
    )?;
    to.sh(&format!(
        "home=$(getent passwd {user} | cut -d: -f6); key=$(cat)
         grep -qxF \"$key\" $home/.ssh/authorized_keys || echo \"$key\" >>$home/.ssh/authorized_keys"
    ))?
    .stdin(key)
    .run()?;
    know(from, to, to)
}

/// Makes `from` know `to` by the host key of `real`, which is another machine where a scenario wants a wrong key. What it
/// knew of `to` before is forgotten: a machine that was made anew has other keys.
pub fn know(from: &Node, to: &Node, real: &Node) -> Result<()> {
    let host_key = real.output("cut -d ' ' -f 1,2 /etc/ssh/ssh_host_ed25519_key.pub")?;
    from.sh(&format!(
        "cd /root/.ssh; touch known_hosts; {{ grep -vF '{0} ' known_hosts || true; printf '%s\\n' '{0} {host_key}'; }} >new
         cat new >known_hosts; rm new",
        to.address()
    ))?
    .run()
}

/// Makes `from` know nobody.
pub fn know_nobody(from: &Node) -> Result<()> {
    from.run("rm -f /root/.ssh/known_hosts")
}

/// Takes the key of `from` away from root on `to`.
pub fn revoke(from: &Node, to: &Node) -> Result<()> {
    let key = from.output("cat /root/.ssh/id_ed25519.pub")?;
    to.sh(
        "key=$(cat); cd /root/.ssh; grep -vxF \"$key\" authorized_keys >new || true
         cat new >authorized_keys; rm new",
    )?
    .stdin(key)
    .run()
}
