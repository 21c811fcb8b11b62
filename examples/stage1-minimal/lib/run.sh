# The pod: check what is asked, make namespaces, wait.      run.sh ROOT [FLAG...] UUID
root=$1
shift
. "$root/lib/common.sh"

hostname=
for word; do
    case $word in
        --hostname=*) hostname=${word#*=} ;;
        --net=host | --net= | --debug | --interactive | --local-config=*) ;;
        --net=*) die "no network but the host's: ${word#*=}" ;;
        --mds-token=* | --dns-conf-mode=* | --disable-*) ;;
        --mutable | --private-users=*) die "not supported: $word" ;;
        -*) die "unknown argument: $word" ;;
        *) uuid=$word ;;
    esac
done
[ -n "${uuid:-}" ] || die "which pod?"

"$bb" mkdir -p stage1/rootfs/rkt/status
"$bb" awk -f "$root/lib/json.awk" pod >stage1/rootfs/rkt/pod.flat || die "the pod manifest is damaged"
if "$bb" grep -q '^volumes\.\|^apps\.[0-9]*\.mounts\.' stage1/rootfs/rkt/pod.flat; then
    die "this stage1 has no volumes"
fi

# Signals end the pod by way of its first process, which is asked once it is there.
asked=
forward() {
    asked=yes
    [ -n "$unshare" ] && (init_pid && kill -TERM "$init") 2>/dev/null
}
unshare=
trap forward TERM INT HUP

# In a pipe, so that the first process waits until `ppid` is written.
"$bb" mkfifo stage1/rootfs/rkt/go
"$bb" unshare -m -u -i -p -f "$bb" sh "$root/lib/init.sh" "$root" "${hostname:-rkt-$uuid}" <&0 &
unshare=$!
echo "$unshare" >ppid.new
"$bb" mv ppid.new ppid
echo go >stage1/rootfs/rkt/go
[ -z "$asked" ] || forward

ended "$unshare"
exit "$code"
