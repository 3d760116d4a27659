#!/bin/sh
# Sets up what every lab node has besides its packages: the ways to log in. Runs inside the node, as root: in a chroot
# while the container image is made, and as a provisioner of virtual machines. Doing it twice changes nothing.
#
#   setup.sh PUBLIC_KEY
#
# PUBLIC_KEY is usually Vagrant's well-known one, whose private half everybody has: such a node must never be reachable
# from another machine.
set -eu

key=$1
for user in root vagrant ops opspw; do
    id "$user" >/dev/null 2>&1 || useradd --create-home --shell /bin/bash "$user"
    ssh=$(getent passwd "$user" | cut -d: -f6)/.ssh
    install -d -m 0700 -o "$user" -g "$user" "$ssh"
    printf '%s\n' "$key" >"$ssh/authorized_keys"
    chown "$user:$user" "$ssh/authorized_keys"
    chmod 0600 "$ssh/authorized_keys"
done

# `ops` administers without a password; `opspw` has to give one, to sudo and, where it brings no key, to sshd.
echo 'opspw:lab-operator' | chpasswd
cat >/etc/sudoers.d/lab <<'SUDO'
vagrant ALL=(ALL:ALL) NOPASSWD: ALL
ops ALL=(ALL:ALL) NOPASSWD: ALL
opspw ALL=(ALL:ALL) ALL
SUDO
chmod 0440 /etc/sudoers.d/lab

# Nobody waits for the name of who connects, and scenarios may open many connections at once.
printf 'UseDNS no\nMaxStartups 100\nMaxSessions 100\n' >/etc/ssh/sshd_config.d/lab.conf
