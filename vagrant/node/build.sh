#!/bin/sh
# Makes the root of a lab node for containers: Debian 12, smallest variant, with systemd, sshd and what a Kubernetes node
# needs from its distribution. Nothing of Docker or Kubernetes is in it.
#
#   build.sh MIRROR OUT.tar
#
# MIRROR is the Debian mirror to take packages from; OUT.tar appears only when all went well. Needs root, debootstrap and
# Debian's vagrant package.
set -eu

here=$(dirname "$0") mirror=$1 out=$2
key=$(cat "$(ruby -e 'puts Gem::Specification.find_by_name("vagrant").gem_dir')/keys/vagrant.pub")
root=$out.root
trap 'rm -rf "$root" "$out.part"' EXIT
rm -rf "$root"

# A node makes no file systems, and nothing there asks for another time zone.
debootstrap --variant=minbase --exclude=e2fsprogs,tzdata --include="$(xargs <"$here/packages" | tr ' ' ',')" \
    bookworm "$root" "$mirror"

install -m 0755 "$here/init.sh" "$root/usr/local/sbin/lab-init"
install -m 0755 "$here/airgap.sh" "$root/usr/local/sbin/lab-airgap"
install -m 0755 "$here/setup.sh" "$root/setup.sh"
chroot "$root" /setup.sh "$key"
rm "$root/setup.sh"

# A container has no console and no hardware to discover, and no mirror to ask for updates.
chroot "$root" systemctl mask --quiet getty@tty1.service console-getty.service systemd-udevd.service \
    systemd-udev-trigger.service systemd-udevd-kernel.socket systemd-udevd-control.socket systemd-logind.service \
    apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer
chroot "$root" systemctl set-default --quiet multi-user.target
chroot "$root" systemctl enable --quiet ssh.service

rm -rf "$root"/etc/ssh/ssh_host_* "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/* "$root"/usr/share/doc/* \
    "$root"/usr/share/man/* "$root"/usr/share/locale/* "$root"/etc/hostname "$root"/etc/resolv.conf
find "$root/var/log" -type f -delete
: >"$root/etc/machine-id"

tar -C "$root" --numeric-owner -cf "$out.part" .
mv "$out.part" "$out"
