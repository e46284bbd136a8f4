#!/bin/sh
# The first program of a guest: loads the modules, puts a tmpfs over the host's root, and goes on there. Its faults go to
# the console, which the host shows when no answer comes.
B=/bin/busybox
$B mount -t proc proc /proc
$B mount -t sysfs sysfs /sys
$B mount -t devtmpfs devtmpfs /dev
for file in $($B cat /modules/order); do $B insmod "/modules/$file" || echo "no $file"; done
P=trans=virtio,version=9p2000.L,msize=524288
$B mount -t 9p -o $P,ro,cache=loose root /lower || $B poweroff -f
$B mount -t tmpfs -o mode=755 tmpfs /upper
$B mkdir /upper/u /upper/w
$B mount -t overlay -o lowerdir=/lower,upperdir=/upper/u,workdir=/upper/w overlay /new
for d in proc sys dev run tmp lib/modules; do $B mkdir -p /new/$d; done
$B mount -t tmpfs -o mode=755 tmpfs /new/run
$B mkdir -p /new/run/vm
$B cp $B /new/run/busybox
$B mount -t 9p -o $P,rw shared /new/run/vm || $B poweroff -f
$B mount --bind "/lower$($B cat /modules/tree)" /new/lib/modules
for d in proc sys dev; do $B mount --move /$d /new/$d; done
exec $B switch_root /new /bin/sh /run/vm/boot
