"""Leaving early, never ending, eating memory, starting and hitting processes."""

from hostile.attack import Attack, attempt, syscalls

ATTACKS = [
    Attack("01_os_exit_0", "import os\nos._exit(0)", ("no_output",)),
    Attack("01_os_exit_7", "import os\noutput = 1\nos._exit(7)", ("exited",)),
    Attack("02_sys_exit", "import sys\nsys.exit(3)", ("exited",)),
    Attack("02_raise_system_exit", "raise SystemExit", ("no_output",)),
    Attack("02_exit_after_output", "output = 'blocked'\nquit = raise_it = None\nimport sys\nsys.exit()"),
    Attack("03_exit_in_thread", "import threading, os\nt = threading.Thread(target=lambda: os._exit(5))\nt.start()\nt.join()", ("exited",)),
    Attack("04_infinite_loop", "while True:\n    pass", ("timeout_cpu",), slow=True),
    Attack("04_infinite_loop_swallowing", "while True:\n    try:\n        while True: pass\n    except BaseException: pass", ("timeout_cpu",), slow=True),
    Attack("05_sleep_forever", "import time\ntime.sleep(1e6)", ("timeout_wall",), waits=True),
    Attack("05_wait_forever", "import threading\nthreading.Event().wait()", ("timeout_wall",), waits=True),
    Attack("06_recursion", "def f(): return f()\nf()", ("error",)),
    Attack("07_recursion_limit", "import sys\nsys.setrecursionlimit(10**9)\ndef f(): return f()\nf()", ("timeout_cpu", "oom", "signal"), slow=True),
    Attack("07_c_recursion", "import sys\nsys.setrecursionlimit(10**9)\nx = []\nfor _ in range(10**6): x = [x]\nrepr(x)", ("signal", "oom", "timeout_cpu", "error"), slow=True),
    attempt("08_fork_bomb", "import os\nfor _ in range(100):\n    os.fork()"),
    attempt("08_forkpty", "import os\nos.forkpty()"),
    syscalls("09_vfork_clone_raw", "refused(call(57, None), call(58, None), call(56, 220, 17, 0, 0, 0, 0), call(435, 435, None, 88), call(56, 220, 0x10000000, 0, 0, 0, 0))"),
    attempt("10_subprocess", "import subprocess\nsubprocess.run(['/bin/sh', '-c', 'true'])"),
    attempt("10_execv", "import os\nos.execv('/bin/sh', ['sh', '-c', 'true'])"),
    attempt("10_posix_spawn", "import os\nos.posix_spawn('/bin/sh', ['sh', '-c', 'true'], {})"),
    Attack("10_os_system", "import os\noutput = 'blocked' if os.system('touch {folder}/made; true') != 0 else 'ESCAPED'"),
    attempt("10_multiprocessing", "import multiprocessing\np = multiprocessing.Process(target=print)\np.start()"),
    Attack("11_alloc_loop", "x = []\nwhile True: x.append(bytearray(1 << 22))", ("oom", "timeout_cpu")),
    Attack("11_alloc_loop_swallowing", "x = []\nwhile True:\n    try: x.append(bytearray(1 << 22))\n    except MemoryError: pass", ("timeout_cpu",), slow=True),
    Attack("11_memory_full_at_the_end", "x = []\ntry:\n    while True: x.append([0])\nexcept MemoryError: pass\noutput = list(range(9000))", ("ok", "oom", "timeout_cpu"), output=list(range(9000))),
    Attack("11_memory_full_of_tuples", "x = None\nwhile True: x = (x,)", ("oom", "timeout_cpu")),
    Attack("11_memory_full_of_tuples_swallowing", "output = list(range(9000))\nx = None\ntry:\n    while True: x = [x]\nexcept MemoryError: pass", ("ok", "timeout_cpu"), output=list(range(9000))),
    Attack("11_memory_full_in_small_pieces", "import ctypes\nlibc = ctypes.CDLL(None)\nlibc.mmap.restype = ctypes.c_void_p\nfor size in (1 << 24, 1 << 20, 1 << 16, 1 << 12):\n    while libc.mmap(None, ctypes.c_size_t(size), 0, 0x22, -1, ctypes.c_long(0)) not in (None, 2**64 - 1): pass\noutput = list(range(9000))\nx = [[i] for i in range(10**6)]", ("oom",)),
    Attack("12_alloc_one_huge", "x = bytes(10**11)", ("oom",)),
    Attack("13_numpy_huge", "import numpy\nx = numpy.zeros(10**10)\nx[:] = 1", ("error", "oom")),
    attempt("14_mmap_anonymous", "import mmap\nx = [mmap.mmap(-1, 1 << 26) for _ in range(64)]"),
    attempt("14_mmap_shared_by_python", "import mmap\nmmap.mmap(-1, 4096)"),
    Attack("14_mmap_shared_kept_by_a_page", """
import ctypes
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
held = 0
for flags in (0x21, 0x23) * 8:  # 512 MB in all
    start = libc.mmap(None, ctypes.c_size_t(1 << 25), 3, flags, -1, ctypes.c_long(0))
    if start not in (None, 2**64 - 1):
        ctypes.memset(start, 1, 1 << 25)
        libc.munmap(ctypes.c_void_p(start + 4096), ctypes.c_size_t((1 << 25) - 4096))
        held += 1 << 25
output = 'ESCAPED' if held else 'blocked'
"""),
    Attack("14_huge_page_kept_by_a_page", """
import ctypes, resource
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
size = 1 << 21
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
before = faults()
for _ in range(8):
    start = libc.mmap(None, ctypes.c_size_t(2 * size), 3, 0x22, -1, ctypes.c_long(0))
    huge = (start + size - 1) // size * size
    for advice in (14, 25):  # MADV_HUGEPAGE, MADV_COLLAPSE
        libc.madvise(ctypes.c_void_p(huge), ctypes.c_size_t(size), advice)
    ctypes.memset(huge, 1, size)
output = 'blocked' if faults() - before >= 8 * size // resource.getpagesize() else 'ESCAPED'
"""),
    Attack("15_huge_int", "x = 10 ** 10 ** 8", ("timeout_cpu", "oom"), slow=True),
    Attack("16_huge_int_text", "output = str(7 ** 10 ** 6)", ("error",)),
    Attack("16_huge_int_output", "output = 1 << (1 << 24)", ("output_too_large",)),
    Attack("17_regex_catastrophe", "import re\nre.match('(a+)+$', 'a' * 40 + 'b')", ("timeout_cpu",), slow=True),
    Attack("18_segfault", "import ctypes\nctypes.string_at(0)", ("signal",)),
    Attack("19_abort", "import os\nos.abort()", ("signal",)),
    Attack("19_faulthandler", "import faulthandler\nfaulthandler._sigsegv()", ("signal", "no_output", "timeout_cpu")),
    Attack("29_trace", "import sys\ndef t(*a): return t\nsys.settrace(t)\nsys.setprofile(t)\nsys.addaudithook(lambda *a: 1 / 0)\noutput = 'blocked'", ("ok", "error", "exited", "protocol_violation")),
    Attack("29_trace_loops", "import sys\ndef t(*a):\n    while True: pass\noutput = 'x'\nsys.setprofile(t)", ("timeout_cpu",), slow=True),
    Attack("31_atexit", "import atexit, os\natexit.register(lambda: os._exit(9))\natexit.register(print, 'late')\noutput = 'blocked'"),
    Attack("32_thread_outlives", "import threading, time\nthreading.Thread(target=time.sleep, args=(1e6,)).start()\noutput = 'blocked'", ("timeout_wall",), waits=True),
    Attack("32_thread_outlives_unjoined", "import threading, _thread, time\n_thread.start_new_thread(time.sleep, (1e6,))\nthreading.Thread(target=time.sleep, args=(1e6,), daemon=True).start()\noutput = 'blocked'"),
    Attack("32_thread_after_join_is_patched", "import threading, time\nthreading._shutdown = lambda: None\nthreading.Thread(target=time.sleep, args=(1e6,)).start()\noutput = 'blocked'"),
    Attack("32_thread_ends_the_process", "import threading, os, time\nthreading.Thread(target=lambda: (time.sleep(0.01), os._exit(5))).start()\noutput = 'blocked'", ("exited",)),
    Attack("33_daemon_thread_busy", "import threading\ndef spin():\n    while True: pass\nthreading.Thread(target=spin, daemon=True).start()\noutput = 'blocked'"),
    Attack("34_thread_bomb", "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(1e6,)).start()", ("error", "oom")),
    Attack("34_thread_bomb_small_stacks", "import _thread, time\n_thread.stack_size(32768)\nfor _ in range(3000): _thread.start_new_thread(time.sleep, (1e6,))\noutput = 'blocked'", ("ok", "error", "oom", "timeout_cpu")),
    Attack("35_mask_signals", "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\nfor s in range(1, 32):\n    try: signal.signal(s, signal.SIG_IGN)\n    except OSError: pass\nwhile True: pass", ("timeout_cpu",), slow=True),
    Attack("36_sigxcpu_handler", "import signal\nsignal.signal(signal.SIGXCPU, lambda *a: None)\nwhile True: pass", ("timeout_cpu",), slow=True),
    Attack("37_timers", "import signal, time\nsignal.setitimer(signal.ITIMER_REAL, 0)\nsignal.setitimer(signal.ITIMER_PROF, 0)\nsignal.alarm(0)\ntime.sleep(1e6)", ("timeout_wall",), waits=True),
    Attack("37_alarm_self", "import signal, time\nsignal.alarm(1)\ntime.sleep(30)", ("signal", "timeout_wall"), waits=True),
    attempt("38_kill_parent", "import os\nos.kill(os.getppid(), 9)"),
    attempt("38_kill_owner", "import os\nos.kill({owner}, 9)"),
    attempt("39_kill_all", "import os\nos.kill(-1, 9)"),
    attempt("39_killpg", "import os\nos.killpg(0, 9)"),
    syscalls("39_tgkill_sigqueue_pidfd", "p = os.getppid()\nrefused(call(234, 131, p, p, 9), call(200, 130, p, 9), call(129, 138, p, 9, None), call(434, 434, p, 0), call(424, 424, 3, 9, None, 0))"),
    syscalls("39_signal_by_descriptor", "r, w = os.pipe()\nrefused(call(72, 25, r, 8, os.getppid()), call(72, 25, r, 10, 9))"),
    attempt("40_stop_self", "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)"),
    attempt("41_raise_own_limits", "import resource\nresource.setrlimit(resource.RLIMIT_CPU, (10**6, 10**6))"),
    syscalls("41_prlimit_others", "b = (ctypes.c_ulong * 2)(1, 1)\nrefused(call(302, 261, os.getppid(), 0, b, None), call(302, 261, 0, 0, b, None), call(302, 261, os.getppid(), 0, None, b))"),
    syscalls("42_ptrace_process_vm", "p = os.getppid()\nb = (ctypes.c_ulong * 2)(0, 8)\nrefused(call(101, 117, 16, p, 0, 0), call(101, 117, 0, 0, 0, 0), call(310, 270, p, b, 1, b, 1, 0), call(311, 271, p, b, 1, b, 1, 0), call(312, 272, p, p, 0, 0, 0), call(438, 438, 3, 0, 0))"),
    syscalls("52_namespaces_mounts", "refused(*[call(272, 97, f) for f in (0x20000, 0x10000000, 0x40000000, 0x20000000)], call(165, 40, b'none', b'/', b'tmpfs', 0, None), call(161, 51, b'/tmp'), call(308, 268, 3, 0), call(155, 41, b'/', b'/'), call(166, 39, b'/', 2), call(428, 428, -100, b'/', 0), call(430, 430, b'tmpfs', 0))"),
    syscalls("53_memfd_execveat", "refused(call(319, 279, b'x', 0), call(322, 281, -100, b'/bin/sh', None, None, 0), call(59, 221, b'/bin/sh', None, None))"),
    syscalls("54_kernel_surface", "b = (ctypes.c_ulong * 32)()\nrefused(call(425, 425, 4, b), call(321, 280, 0, b, 64), call(323, 282, 0), call(298, 241, b, 0, -1, -1, 0), call(248, 217, b'user', b'a', b'b', 1, -4), call(250, 219, 0, -4, 0), call(103, 116, 3, b, 8), call(246, 104, 0, 0, b, 0), call(175, 105, b, 1, b''), call(169, 142, 0xfee1dead, 672274793, 0, 0))"),
    syscalls("55_sysv_and_mq", "refused(call(29, 194, 0x1234, 4096, 0o1666), call(68, 186, 0x1234, 0o1666), call(64, 190, 0x1234, 1, 0o1666), call(240, 180, b'/caco', 0o102, 0o666, None))"),
    syscalls("70_weaken_the_seal", "b = (ctypes.c_ulong * 4)()\nrefused(call(157, 167, 4, 1, 0, 0, 0), call(157, 167, 1, 0, 0, 0, 0), call(157, 167, 22, 2, b, 0, 0), call(317, 277, 1, 0, b), call(446, 446, 3, 0), call(126, 91, b, b), call(105, 146, 0), call(141, 140, 0, 0, -20), call(203, 122, 0, 8, b))"),
    syscalls("70_other_call_tables", "refused(call(0x40000000 | 57, None), call(0x40000000 | 59, None, b'/bin/sh', None, None), call(520, 520, None, None, None), call(9999, 9999), call(-1, -1))"),
    Attack("70_int80", '''
import ctypes, platform
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
if platform.machine() == "x86_64":
    page = libc.mmap(None, ctypes.c_size_t(4096), 7, 0x22, -1, ctypes.c_long(0))
    ctypes.memmove(page, bytes.fromhex("b814000000cd80c3"), 8)  # mov eax, 20 (getpid of the 32-bit table); int 0x80; ret
    ctypes.CFUNCTYPE(ctypes.c_int)(page)()
    output = "ESCAPED"
else:
    output = "blocked"
''', ("signal", "ok")),
]  # fmt: skip
