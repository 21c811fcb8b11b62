#!/bin/bash
# Boot systemd as PID 1 of fresh namespaces, on an overlay of this machine's root file system with
# a tmpfs on top, and a cgroup version 2 tree without controllers.
#   bed.sh keep NAME WORK LOWER SHARE...
# What is below LOWER is copied over it, each SHARE is bound at its own path.  Says the PID of `unshare`, whose only
# child is that systemd.  Ends everything and cleans up at the end of its standard input, so that
# nothing stays when the tests are killed.
set -eu
mode=$1 name=$2 work=$3 lower=$4
shift 4

if [ "$mode" = keep ]; then
    tree=$(awk '$3 == "cgroup2" { print $2; exit }' /proc/mounts)
    for stale in "$tree"/rkt-bed-*; do # of a keeper that was killed itself
        [ -d "$stale" ] && [ ! -d "/proc/${stale##*-}" ] &&
            find "$stale" -depth -type d -exec rmdir {} + 2>/dev/null || true
    done
    group=$tree/rkt-bed-$name-$$
    mkdir "$group"
    ( echo "$BASHPID" >"$group/cgroup.procs"
      exec setpriv --pdeathsig KILL unshare --mount --pid --fork --uts --ipc --net --cgroup \
          --kill-child --propagation private bash "$0" boot "$name" "$work" "$lower" "$@" \
          </dev/null >"$work/boot.log" 2>&1 ) &
    echo $!
    exec </dev/stdin >/dev/null
    cat >/dev/null
    kill -KILL $! 2>/dev/null || true
    wait $! 2>/dev/null || true
    for _ in $(seq 200); do
        find "$group" -depth -type d -exec rmdir {} + 2>/dev/null || true
        [ -d "$group" ] || break
        sleep 0.05
    done
    rm -rf --one-file-system "$work"
    exit 0
fi

hostname "$name"
mount -t tmpfs -o mode=755 tmpfs "$work/top"
cd "$work/top"
mkdir upper work root keep
root=$PWD/root
mount -t overlay -o "lowerdir=/,upperdir=$PWD/upper,workdir=$PWD/work" overlay "$root"
cp -a "$lower/." "$root/"

# Units: what the distribution starts by itself is of no use here, and some of it does harm.
units=$root/etc/systemd/system
mkdir -p "$units" "$root/var/lib/rkt" "$root/var/log/journal" "$root/old"
rm -rf "$units"/*.wants
for unit in systemd-udevd systemd-udev-trigger systemd-binfmt systemd-remount-fs \
    systemd-sysctl systemd-modules-load systemd-networkd systemd-timesyncd; do
    ln -sf /dev/null "$units/$unit.service"
done
cat >"$units/rktbed.target" <<END
[Unit]
Requires=basic.target
Wants=dbus.socket dbus.service rktbed-ready.service
After=basic.target dbus.socket
END
cat >"$units/rktbed-ready.service" <<END
[Unit]
After=basic.target dbus.service
[Service]
Type=oneshot
ExecStart=/bin/touch $work/files/ready
END
echo 0123456789abcdef0123456789abcdef >"$root/etc/machine-id"
echo "$name" >"$root/etc/hostname"
: >"$root/etc/fstab"
rm -rf "$root"/var/log/journal/* "$root"/var/lib/systemd/timers

# The upper layer of a pod's overlay must not lie on an overlay.
mount -t tmpfs -o mode=755 tmpfs "$root/var/lib/rkt"
# Only this network namespace's part of /proc/sys may be written: the rest is the host's.
mount -t proc -o nosuid,nodev,noexec proc "$root/proc"
mount --bind "$root/proc/sys/net" keep
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,bind,ro,nosuid,nodev,noexec "$root/proc/sys"
mount --move keep "$root/proc/sys/net"
mount -t sysfs -o ro,nosuid,nodev,noexec sysfs "$root/sys"
mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 "$root/sys/fs/cgroup"

# Device nodes of its own: what systemd does to them must not be done to the host's.
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
mkdir -p "$root"/dev/{pts,shm,net,mqueue}
node() { mknod -m "$1" "$root/dev/$2" c "$3" "$4"; }
node 666 null 1 3; node 666 zero 1 5; node 666 full 1 7; node 666 random 1 8
node 666 urandom 1 9; node 666 tty 5 0; node 666 fuse 10 229; node 666 net/tun 10 200
node 600 console 1 3
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
for i in 0:stdin 1:stdout 2:stderr; do ln -s "/proc/self/fd/${i%:*}" "$root/dev/${i#*:}"; done

mount -t tmpfs -o mode=755,nosuid,nodev tmpfs "$root/run"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
for share in "$@"; do
    mkdir -p "$root$share"
    mount --bind "$share" "$root$share"
done
ip link set lo up

cd "$root"
pivot_root . old
exec chroot . /bin/sh -c 'umount -l /old; exec env -i container=rktbed TERM=dumb \
    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin \
    /lib/systemd/systemd --system --log-target=journal --unit=rktbed.target </dev/null'
