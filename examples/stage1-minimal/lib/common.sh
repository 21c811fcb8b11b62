# What the programs share.  They are called in the pod's directory.
bb=$root/bin/busybox
stage2=stage1/rootfs/opt/stage2

die() {
    echo "stage1-minimal: $*" >&2
    exit 254
}

# The pod's first process as the host sees it: the only child of the one in `ppid`.
init_pid() {
    [ -f ppid ] || die "the pod is not running"
    read -r parent <ppid
    read -r init rest <"/proc/$parent/task/$parent/children" 2>/dev/null
    [ -n "$init" ] && [ -z "$rest" ] || die "the pod is not running"
}

# Wait until a child has ended, and set `code`.  A trapped signal ends `wait` early, with a status
# that looks like a death: then the shell is asked again, which answers 127 if that was the death.
ended() { # PID
    while :; do
        wait "$1"
        code=$?
        [ "$code" -gt 128 ] || return 0
        kill -0 "$1" 2>/dev/null || break
    done
    wait "$1"
    set -- $?
    [ "$1" = 127 ] || code=$1
}
