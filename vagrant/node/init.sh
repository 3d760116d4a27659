#!/bin/sh
# PID 1 of a lab node in a container until it hands over to systemd: makes the container look like a machine of a data
# centre without internet. Runs again on every restart of the container, and changes nothing outside it.
set -eu

# Docker mounts these three files one by one, so nobody can replace them by renaming another file over them, as every
# careful program does. A machine has plain files there.
for name in hostname hosts; do
    content=$(cat "/etc/$name")
    umount "/etc/$name"
    printf '%s\n' "$content" >"/etc/$name"
done
umount /etc/resolv.conf

# With a cgroup namespace of its own the node sees only its own groups, so that the kubelets of several nodes do not
# clean up each other's pods. Docker mounts them read-only unless the container is privileged.
awk '$2 ~ "^/sys/fs/cgroup(/|$)" { print $2 }' /proc/mounts | while read -r mounted; do
    mount -o remount,bind,rw "$mounted"
done
# The same for /proc/sys and /sys, which hold the sysctls that a machine's root may set.
awk '$2 == "/sys" || $2 == "/proc/sys" { print $2 }' /proc/mounts | while read -r mounted; do
    mount -o remount,rw "$mounted"
done

# kubelet mounts volumes that containers must see.
mount --make-rshared /

# Debian makes the host keys when openssh-server is installed; here every node needs its own.
ssh-keygen -A >/dev/null

/usr/local/sbin/lab-airgap

# On demand every execve of the whole machine, from systemd on, is written down with arguments and environment. Only those
# calls stop for the tracer, so the machine stays as fast as it is; but no program gains rights any more (sudo).
if [ "${KPOT_LAB_TRACE-}" = execve ]; then
    unset KPOT_LAB_TRACE
    exec strace -DDD -f --seccomp-bpf -qq -e trace=execve,execveat -e signal=none -v -s 1000000 -o /var/log/lab-execve \
        /sbin/init
fi
exec /sbin/init
