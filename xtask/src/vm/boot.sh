#!/bin/sh
# The second program of a guest: the rest of a system, the command, and the end. With busybox, which is in memory already: each
# program of the host's is read over 9p first. /run/vm is shared with the host.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/run LANG=C.UTF-8 TMPDIR=/run/tmp
exec </dev/null >/dev/ttyS1 2>&1
B=/run/busybox
$B stty -F /dev/ttyS1 raw -echo
$B mkdir -m 1777 -p /run/tmp /dev/pts /dev/shm
mount_at() { $B mount -t "$1" "$1" "$2"; }
mount_at tmpfs /run/tmp
mount_at devpts /dev/pts
mount_at tmpfs /dev/shm
mount_at cgroup2 /sys/fs/cgroup
mount_at bpf /sys/fs/bpf
mount_at debugfs /sys/kernel/debug
mount_at tracefs /sys/kernel/tracing
$B ip link set lo up
$B hostname guest
sh /run/vm/command
echo $? >/run/vm/code
$B sync
$B poweroff -f
