#!/bin/sh
# Cuts this node off from everything but its own network: packets to the outside get no answer, not even a refusal, as
# behind a data centre's firewall. The way out leads to a hardware address that nobody has, so the frames are lost.
# Addresses are from the ranges for documentation (RFC 5737).
set -eu

interface=${1:-eth0}
nowhere=198.51.100.1

ip neigh replace "$nowhere" lladdr 02:00:00:00:00:01 nud permanent dev "$interface"
ip route del default 2>/dev/null || true
ip route add default via "$nowhere" dev "$interface" onlink

# Names are asked of a server that is never reached. Not Docker's 127.0.0.11: CoreDNS forwards to what stands here and
# would meet itself ("Loop detected").
rm -f /etc/resolv.conf
printf 'nameserver 203.0.113.53\noptions timeout:1 attempts:1\n' >/etc/resolv.conf
