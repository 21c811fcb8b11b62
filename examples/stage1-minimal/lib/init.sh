# The first process of the pod: starts the apps, collects their ends.      init.sh ROOT HOSTNAME
root=$1
. "$root/lib/common.sh"
"$bb" hostname "$2"
read -r _ <stage1/rootfs/rkt/go

get() { # PATH: what the manifest says there, or nothing
    "$bb" awk -F '\t' -v path="$1" '$1 == path { sub(/^[^\t]*\t/, ""); print; exit }' "$from"
}

has() { # PATH
    "$bb" awk -F '\t' -v path="$1" '$1 == path { found = 1 } END { exit !found }' "$from"
}

word() { # TEXT: without what json.awk escaped, as one word of the shell
    text=$(printf '%b\n' "$1" | "$bb" sed "s/'/'\\\\''/g; 1s/^/'/; \$s/\$/'/")
    printf '%s ' "$text"
}

command_of() { # SECTION
    i=0
    while has "$1.exec.$i"; do
        word "$(get "$1.exec.$i")"
        i=$((i + 1))
    done
}

environment_of() { # SECTION
    i=0
    while has "$1.environment.$i.name"; do
        word "$(get "$1.environment.$i.name")=$(get "$1.environment.$i.value")"
        i=$((i + 1))
    done
}

number_of() { # KIND NAME
    case $2 in
        root) echo 0 ;;
        '' | *[!0-9]*) die "app $app: only a number as $1, not \"$2\"" ;;
        *) echo "$2" ;;
    esac
}

read_app() { # NUMBER: set what start_app needs
    from=stage1/rootfs/rkt/pod.flat
    app=$(get "apps.$1.name")
    section=apps.$1.app
    if ! has "$section.exec.0"; then # then the image says it
        from=stage1/rootfs/rkt/$app.flat section=app
        "$bb" awk -f "$root/lib/json.awk" "appsinfo/$app/manifest" >"$from" || exit 254
    fi
    user=$(number_of user "$(get "$section.user")") || exit
    group=$(number_of group "$(get "$section.group")") || exit
    cwd=$(get "$section.workingDirectory")
    command=$(command_of "$section")
    environment=$(environment_of "$section")
    [ -n "$command" ] || die "app $app: nothing to execute"
}

start_app() { # runs beside the first process, until the app has ended
    trap : TERM # of this shell: the app gets one of its own
    rootfs=$PWD/$stage2/$app/rootfs
    # Of busybox, nsenter is what changes root, directory, group and user in this order.
    eval "exec \"\$bb\" env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        SHELL=/bin/sh USER=root LOGNAME=root HOME=/root $environment AC_APP_NAME=\$app \
        \"\$bb\" nsenter -F -r\"\$rootfs\" -w\"\$rootfs\${cwd:-/}\" -S $user -G $group -- \
        $command <&0 $RKT_LOCK_FD>&-" <&0 &
    ended "$!"
    echo "$code" >"stage1/rootfs/rkt/status/$app"
    [ "$code" = 0 ] || kill -USR1 1
}

end() { # everybody but this process; there may be nobody left
    kill -TERM -1 2>/dev/null
}

mount_kernel() { # what every app finds: /proc, and the devices of /dev
    rootfs=$stage2/$app/rootfs
    for place in proc dev; do
        [ ! -L "$rootfs/$place" ] || die "app $app: /$place is a symbolic link"
        "$bb" mkdir -p "$rootfs/$place"
    done
    "$bb" mount -t proc proc "$rootfs/proc" &&
        "$bb" mount -t tmpfs -o mode=755,size=64k dev "$rootfs/dev" || exit 254
    for device in null zero full random urandom tty; do
        : >"$rootfs/dev/$device"
        "$bb" mount --bind "/dev/$device" "$rootfs/dev/$device" || exit 254
    done
}
trap end TERM USR1

count=0
pids=
while from=stage1/rootfs/rkt/pod.flat && has "apps.$count.name"; do
    read_app "$count"
    mount_kernel
    start_app <&0 &
    pids="$pids $!"
    count=$((count + 1))
done

for pid in $pids; do
    ended "$pid"
done
status=0
for file in $("$bb" ls -tr stage1/rootfs/rkt/status); do # the first failure first
    read -r code <"stage1/rootfs/rkt/status/$file"
    [ "$status" != 0 ] || status=$code
done
exit "$status"
