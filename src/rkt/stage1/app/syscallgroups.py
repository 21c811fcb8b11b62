"""The system call groups of systemd, for the wildcards @systemd/NAME (rkt-config 8.2).

As `systemd-analyze syscall-filter` of systemd 252 lists them, groups within groups resolved.
Loaded only for an app that names one.
"""

from __future__ import annotations

GROUPS = {
    "clock": """
        adjtimex clock_adjtime clock_adjtime64 clock_settime clock_settime64 settimeofday
    """,
    "default-whitelist": """
        arch_prctl brk cacheflush clock_getres clock_getres_time64 clock_gettime
        clock_gettime64 clock_nanosleep clock_nanosleep_time64 execve exit exit_group futex
        futex_time64 futex_waitv get_robust_list get_thread_area getegid getegid32 geteuid
        geteuid32 getgid getgid32 getgroups getgroups32 getpgid getpgrp getpid getppid
        getrandom getresgid getresgid32 getresuid getresuid32 getrlimit getsid gettid
        gettimeofday getuid getuid32 membarrier mmap mmap2 mprotect munmap nanosleep pause
        prlimit64 restart_syscall riscv_flush_icache riscv_hwprobe rseq rt_sigreturn
        sched_getaffinity sched_yield set_robust_list set_thread_area set_tid_address
        set_tls sigreturn time ugetrlimit uretprobe
    """,
    "mount": """
        chroot fsconfig fsmount fsopen fspick mount mount_setattr move_mount open_tree
        pivot_root umount umount2
    """,
    "network-io": """
        accept accept4 bind connect getpeername getsockname getsockopt listen recv recvfrom
        recvmmsg recvmmsg_time64 recvmsg send sendmmsg sendmsg sendto setsockopt shutdown
        socket socketcall socketpair
    """,
    "obsolete": """
        _sysctl afs_syscall bdflush break create_module ftime get_kernel_syms getpmsg gtty
        idle lock mpx prof profil putpmsg query_module security sgetmask ssetmask stime stty
        sysfs tuxcall ulimit uselib ustat vserver
    """,
    "privileged": """
        _sysctl acct adjtimex bpf capset chown chown32 chroot clock_adjtime clock_adjtime64
        clock_settime clock_settime64 delete_module fanotify_init fanotify_mark fchown
        fchown32 fchownat finit_module init_module ioperm iopl kexec_file_load kexec_load
        lchown lchown32 nfsservctl open_by_handle_at pciconfig_iobase pciconfig_read
        pciconfig_write pivot_root quotactl quotactl_fd reboot s390_pci_mmio_read
        s390_pci_mmio_write setdomainname setfsuid setfsuid32 setgroups setgroups32
        sethostname setresuid setresuid32 setreuid setreuid32 settimeofday setuid setuid32
        swapoff swapon vhangup
    """,
    "process": """
        capget clone clone3 execveat fork getrusage kill pidfd_open pidfd_send_signal prctl
        rt_sigqueueinfo rt_tgsigqueueinfo setns swapcontext tgkill times tkill unshare vfork
        wait4 waitid waitpid
    """,
    "raw-io": """
        ioperm iopl pciconfig_iobase pciconfig_read pciconfig_write s390_pci_mmio_read
        s390_pci_mmio_write
    """,
}
