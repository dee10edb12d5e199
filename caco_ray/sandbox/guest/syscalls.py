"""Which system calls a sealed program may make, for x86-64 and aarch64. Everything else fails with an error number, never with a kill:
libraries probe for calls and fall back (see the failures that killing caused in https://github.com/langgenius/dify-sandbox/issues/274).

What stays out, and why: fork/exec (no second process), kill and its kin (no signal to anybody), sockets, every call that changes a file,
its name or its rights, shared memory (it outlives the process, or is held whole by a page of it that RLIMIT_AS counts: memfd, shmget,
mmap of shared anonymous memory) and message queues, ptrace/process_vm/pidfd (other processes), new rlimits,
scheduling, namespaces, mounts, keys, bpf, perf, io_uring, userfaultfd, memfd (kernel surface with no use here).
"""

import platform

EPERM, EACCES, ENOTTY, ENOSYS = 1, 13, 25, 38

# Allowed whatever the arguments. A call that an architecture lacks is simply absent from its table.
_PLAIN = """
read write readv writev pread64 close close_range lseek fstat mprotect munmap mremap brk madvise dup dup2 dup3 pipe pipe2
poll ppoll select pselect6 nanosleep clock_nanosleep clock_gettime clock_getres gettimeofday time times getitimer setitimer alarm
pause rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigtimedwait rt_sigsuspend sigaltstack restart_syscall getpid
getppid gettid getuid geteuid getgid getegid getresuid getresgid getpgrp getpgid getsid getpriority sched_yield sched_getaffinity
sched_getparam sched_getscheduler getrlimit getrusage sysinfo uname getcpu getrandom futex set_robust_list set_tid_address
membarrier rseq exit exit_group
"""
# Reading files: harmless where Landlock decides which; left out where there is no Landlock.
_PATHS = """
stat lstat newfstatat statx access faccessat faccessat2 readlink readlinkat getdents64 getcwd
"""

PLAIN, PATHS = tuple(_PLAIN.split()), tuple(_PATHS.split())

X86_64 = {
    "read": 0, "write": 1, "open": 2, "close": 3, "stat": 4, "fstat": 5, "lstat": 6, "poll": 7, "lseek": 8, "mmap": 9, "mprotect": 10,
    "munmap": 11, "brk": 12, "rt_sigaction": 13, "rt_sigprocmask": 14, "rt_sigreturn": 15, "ioctl": 16, "pread64": 17, "readv": 19,
    "writev": 20, "access": 21, "pipe": 22, "select": 23, "sched_yield": 24, "mremap": 25, "madvise": 28, "dup": 32, "dup2": 33,
    "pause": 34, "nanosleep": 35, "getitimer": 36, "alarm": 37, "setitimer": 38, "getpid": 39, "clone": 56, "fork": 57, "vfork": 58,
    "execve": 59, "exit": 60, "kill": 62, "uname": 63, "fcntl": 72, "getcwd": 79, "readlink": 89, "gettimeofday": 96, "getrlimit": 97,
    "getrusage": 98, "sysinfo": 99, "times": 100, "ptrace": 101, "getuid": 102, "getgid": 104, "geteuid": 107, "getegid": 108,
    "getppid": 110, "getpgrp": 111, "getresuid": 118, "getresgid": 120, "getpgid": 121, "getsid": 124, "rt_sigpending": 127,
    "rt_sigtimedwait": 128, "rt_sigsuspend": 130, "sigaltstack": 131, "getpriority": 140, "sched_getparam": 143,
    "sched_getscheduler": 145, "pivot_root": 155, "prctl": 157, "gettid": 186, "time": 201, "futex": 202, "sched_getaffinity": 204,
    "getdents64": 217, "set_tid_address": 218, "restart_syscall": 219, "clock_gettime": 228, "clock_getres": 229,
    "clock_nanosleep": 230, "exit_group": 231, "openat": 257, "newfstatat": 262, "readlinkat": 267, "faccessat": 269, "pselect6": 270,
    "ppoll": 271, "set_robust_list": 273, "dup3": 292, "pipe2": 293, "prlimit64": 302, "getcpu": 309, "seccomp": 317, "getrandom": 318,
    "membarrier": 324, "statx": 332, "rseq": 334, "clone3": 435, "close_range": 436, "openat2": 437, "faccessat2": 439,
    "socket": 41, "unshare": 272,
}  # fmt: skip
AARCH64 = {
    "getcwd": 17, "dup": 23, "dup3": 24, "fcntl": 25, "ioctl": 29, "pivot_root": 41, "faccessat": 48, "openat": 56, "close": 57,
    "pipe2": 59, "getdents64": 61, "lseek": 62, "read": 63, "write": 64, "readv": 65, "writev": 66, "pread64": 67, "pselect6": 72,
    "ppoll": 73, "readlinkat": 78, "newfstatat": 79, "fstat": 80, "exit": 93, "exit_group": 94, "set_tid_address": 96, "unshare": 97,
    "futex": 98, "set_robust_list": 99, "nanosleep": 101, "getitimer": 102, "setitimer": 103, "clock_gettime": 113, "clock_getres": 114,
    "clock_nanosleep": 115, "ptrace": 117, "sched_getscheduler": 120, "sched_getparam": 121, "sched_getaffinity": 123,
    "sched_yield": 124, "restart_syscall": 128, "kill": 129, "sigaltstack": 132, "rt_sigsuspend": 133, "rt_sigaction": 134,
    "rt_sigprocmask": 135, "rt_sigpending": 136, "rt_sigtimedwait": 137, "rt_sigreturn": 139, "getpriority": 141, "getresuid": 148,
    "getresgid": 150, "times": 153, "getpgid": 155, "getsid": 156, "uname": 160, "getrlimit": 163, "getrusage": 165, "prctl": 167,
    "getcpu": 168, "gettimeofday": 169, "getpid": 172, "getppid": 173, "getuid": 174, "geteuid": 175, "getgid": 176, "getegid": 177,
    "gettid": 178, "sysinfo": 179, "socket": 198, "brk": 214, "munmap": 215, "mremap": 216, "clone": 220, "execve": 221, "mmap": 222,
    "mprotect": 226, "madvise": 233, "prlimit64": 261, "seccomp": 277, "getrandom": 278, "membarrier": 283, "statx": 291, "rseq": 293,
    "clone3": 435, "close_range": 436, "openat2": 437, "faccessat2": 439,
}  # fmt: skip
TABLES = {"x86_64": X86_64, "aarch64": AARCH64}
AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


def machine() -> str:
    """`x86_64` or `aarch64`; "" where the tables know nothing of this machine."""
    return {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "aarch64", "arm64": "aarch64"}.get(platform.machine().lower(), "")
