"""Reaching for files, secrets, descriptors, sockets and the harness."""

import json

from hostile.attack import Attack, attempt, syscalls

_FORGED = "import os, struct\nbody = b'{body}'\nos.write(3, struct.pack('>4sI', b'CACO', {size}) + body)\nos._exit(0)"
_HONEST = '{"status": "ok", "error": null, "mutated": false, "input": {"state": "absent", "value": null}, "output": {"state": "plain", "value": "41"}, "stdout": ""}'

_ARRAYS = "1"
for _ in range(60):  # each of 64 dimensions: together deeper than any walk
    _ARRAYS = '{"$ndarray":["x",[' + ",".join("1" * 64) + "],[" + _ARRAYS + "]]}"

def _forge(
    name: str,
    body: str,
    expect: tuple[str, ...],
    *,
    size: int | None = None,
    after: str = "os._exit(0)",
    output: object = None,
    waits: bool = False,
) -> Attack:
    """Writes a frame of its own to the reply pipe; claims `size` bytes."""
    text = f"import os, struct\nbody = {body!r}.encode()\nos.write(3, struct.pack('>4sI', b'CACO', {'len(body)' if size is None else size}) + body)\n{after}"
    return Attack(name, text, expect, output, waits=waits)


ATTACKS = [
    Attack("20_close_all", "import os\nos.closerange(0, 1024)\noutput = 1", ("exited", "no_output", "protocol_violation")),
    Attack("20_close_all_and_stay", "import os, time\nos.closerange(0, 1024)\ntime.sleep(1e6)", ("protocol_violation",)),
    _forge("21_forge_own_reply", _HONEST, ("ok",), output=41),  # its own answer, as good as `output = 41`: nobody else's
    _forge("21_forge_timeout", _HONEST.replace('"ok"', '"timeout_cpu"'), ("protocol_violation",)),
    _forge("21_forge_sandbox_error", _HONEST.replace('"ok"', '"sandbox_error"'), ("protocol_violation",)),
    _forge("21_forge_ok_then_loop", _HONEST, ("timeout_cpu",), after="while True: pass"),
    _forge("21_forge_bad_value", _HONEST.replace('"41"', '"{}[1e999"'), ("protocol_violation",)),
    _forge("21_forge_tag", _HONEST.replace('"41"', '"{\\\\"$call\\\\":\\\\"os.system\\\\"}"'), ("protocol_violation",)),
    _forge("21_forge_nan", _HONEST.replace('"41"', '"NaN"'), ("protocol_violation",)),
    _forge("21_forge_extra_key", _HONEST.replace('"error": null', '"error": null, "level": "L3"'), ("protocol_violation",)),
    _forge("21_forge_unhashable_status", _HONEST.replace('"ok"', "[]"), ("protocol_violation",)),
    _forge("21_forge_unhashable_state", _HONEST.replace('"plain"', "{}"), ("protocol_violation",)),
    _forge("21_forge_long_fraction", _HONEST.replace('"41"', json.dumps('{"$fraction":[{"$int":"' + "f" * 9000 + '"},7]}')), ("protocol_violation",)),
    _forge("21_forge_long_int", _HONEST.replace('"41"', json.dumps('{"$int":"' + "f" * 3572 + '"}')), ("protocol_violation",)),
    _forge("21_forge_huge_range", _HONEST.replace('"41"', json.dumps('{"$range":[0,' + "9" * 30 + ',1]}')), ("protocol_violation",)),
    _forge("21_forge_many_ranges", _HONEST.replace('"41"', json.dumps("[" + ",".join(['{"$range":[0,9999,1]}'] * 1000) + "]")), ("protocol_violation",)),
    _forge("21_forge_array_of_arrays", _HONEST.replace('"41"', json.dumps(_ARRAYS)), ("protocol_violation",)),
    _forge("21_forge_nested_array", _HONEST.replace('"41"', json.dumps('{"$ndarray":["x",[1000000000,0],[]]}')), ("protocol_violation",)),
    _forge("21_forge_unterminated_strings", _HONEST.replace('"41"', json.dumps('"' + '\\"' * 30000)), ("protocol_violation",)),
    _forge("21_forge_float_out_of_range", _HONEST.replace('"41"', '"1e999"'), ("protocol_violation",)),
    _forge("21_forge_spaces", _HONEST.replace('"41"', '"[1, 2]"'), ("protocol_violation",)),
    _forge("21_forge_numpy_of_four", _HONEST.replace('"41"', json.dumps('{"$np":["int64",1,2,3]}')), ("protocol_violation",)),
    _forge("21_forge_many_dimensions", _HONEST.replace('"41"', json.dumps('{"$ndarray":["x",[' + ",".join("1" * 900) + '],[1]]}')), ("protocol_violation",)),
    _forge("21_forge_surrogate_error", _HONEST.replace('"error": null', '"error": "\\ud800"'), ("ok",), output=41),
    _forge("21_forge_surrogate_symbol", _HONEST.replace('"41"', json.dumps('{"$sympy":["Symbol","\\ud800"]}')), ("ok",)),
    _forge("21_forge_deep", "[" * 20000, ("protocol_violation",)),
    _forge("21_forge_deep_value", _HONEST.replace('"41"', '"' + "[" * 20000 + '"'), ("protocol_violation",)),
    _forge("22_two_frames", _HONEST, ("protocol_violation",), after="output = 5"),
    _forge("22_trailing", _HONEST, ("protocol_violation",), after="os.write(3, b'x')\nos._exit(0)"),
    _forge("23_length_lie", _HONEST, ("protocol_violation",), size=2**32 - 1),
    Attack("23_flood_the_pipe", "import os\nwhile True: os.write(3, b'x' * 65536)", ("protocol_violation",)),
    _forge("24_half_frame_then_sleep", "{", ("timeout_wall",), size=1000, after="import time\ntime.sleep(1e6)", waits=True),
    Attack("25_write_everywhere", "import os\nfor fd in range(4096):\n    try: os.write(fd, b'junk')\n    except OSError: pass\noutput = 1", ("protocol_violation",)),
    Attack("25_read_everywhere", "import os, select\nseen = b''\nfor fd in range(4096):\n    poll = select.poll()\n    poll.register(fd, select.POLLIN)\n    try:\n        if poll.poll(0) == [(fd, select.POLLIN)]: seen += os.read(fd, 65536)\n    except OSError: pass\noutput = 'ESCAPED' if seen else 'blocked'"),
    Attack("25_flags_of_shared_descriptors", "import ctypes\nlibc = ctypes.CDLL(None)\nfor fd in (0, 1, 2): libc.fcntl(fd, 4, 0o6000)\noutput = 'ESCAPED' if libc.fcntl(0, 3) & 0o6000 else 'blocked'"),
    Attack("26_override_builtins", "import builtins\nfor n in ('repr', 'open', 'print', 'type', 'len', 'isinstance', 'str', 'dict', 'list'):\n    setattr(builtins, n, lambda *a, **k: 1 / 0)\noutput = 'blocked'", ("ok", "error", "exited", "protocol_violation")),
    Attack("27_patch_modules", "import sys, json, io\njson.dumps = json.loads = lambda *a, **k: '{}'\nio.StringIO = None\nfor name in list(sys.modules): sys.modules[name] = None\noutput = 'blocked'", ("ok", "error", "exited", "protocol_violation")),
    Attack("28_hunt_objects", "import gc, sys, socket\nfound = [o for o in gc.get_objects() if isinstance(o, socket.socket)]\nframes = []\nf = sys._getframe()\nwhile f: frames.append(f.f_locals); f = f.f_back\nfor s in found:\n    try: s.send(b'K'); output = 'ESCAPED'\n    except OSError: pass\noutput = globals().get('output', 'blocked')", ("ok", "error")),
    Attack("28_patch_the_harness", "import sys\nm = sys.modules['caco_ray.sandbox.guest.zygote']\nm.write_all = lambda *a: None\nm._run_in_fork = None\noutput = 'blocked'", ("no_output", "ok", "protocol_violation")),
    Attack("30_close_stdout", "import sys\nsys.stdout.close()\nsys.stdout = None\noutput = 'blocked'"),
    attempt("43_own_environ", "open('/proc/self/environ', 'rb').read()"),
    attempt("43_own_memory_file", "open('/proc/self/mem', 'rb')"),
    attempt("43_own_maps", "open('/proc/self/maps').read()"),
    attempt("44_parent_proc", "import os\nopen('/proc/%d/environ' % os.getppid(), 'rb').read()"),
    attempt("44_owner_proc", "open('/proc/{owner}/environ', 'rb').read()"),
    attempt("44_owner_fd", "import os\nos.listdir('/proc/{owner}/fd')"),
    attempt("44_owner_root", "open('/proc/{owner}/root/etc/passwd').read()"),
    Attack("45_secret_in_environment", "import os\noutput = repr(dict(os.environ))", output=None),
    Attack("45_secret_in_memory", "import gc\noutput = [o for o in gc.get_objects() if type(o) is str and 'caco-secret' in o][:1] + [str(v) for v in globals().values() if 'bait' in str(v)][:0]", output=[]),
    attempt("46_passwd", "open('/etc/passwd').read()"),
    attempt("46_ssh", "import os\nos.listdir(os.path.expanduser('~root') + '/.ssh')"),
    attempt("46_service_account", "open('/var/run/secrets/kubernetes.io/serviceaccount/token').read()"),
    attempt("46_secret_file", "open('{folder}/secret.txt').read()"),
    attempt("46_secret_file_by_dots", "import sys\nopen(sys.modules['os'].__file__ + '/../../../../../../../../../..{folder}/secret.txt').read()"),
    attempt("46_list_root", "import os\nif set(os.listdir('/')) <= {'lib', 'lib64', 'usr', 'root', 'tmp', 'work', 'home', 'opt', 'etc'} and not os.listdir('/etc'): raise OSError"),
    attempt("47_write_tmp", "open('/tmp/caco_hostile', 'w').write('x')"),
    attempt("47_write_shm", "open('/dev/shm/caco_hostile', 'w').write('x')"),
    attempt("47_write_cwd", "open('caco_hostile', 'w').write('x')"),
    attempt("47_write_bait", "open('{folder}/made', 'w').write('x')"),
    attempt("47_append_bait", "open('{folder}/secret.txt', 'a').write('x')"),
    attempt("47_tempfile", "import tempfile\ntempfile.TemporaryFile()"),
    attempt("48_symlink", "import os\nos.symlink('/etc/passwd', '{folder}/link')"),
    attempt("48_hardlink", "import os\nos.link('{folder}/secret.txt', '{folder}/hard')"),
    attempt("48_rename", "import os\nos.rename('{folder}/secret.txt', '{folder}/moved')"),
    syscalls("48_handles_and_openat2", "b = (ctypes.c_ulong * 16)()\nrefused(call(304, 265, -100, b, 0), call(437, 437, -100, b'/etc/passwd', b, 24), call(303, 264, -100, b'/etc/passwd', b, b, 0), call(257, 56, -100, b'{folder}/made', 0o102, 0o644), call(257, 56, -100, b'/tmp', 0o20000002, 0o600), call(85, None, b'{folder}/made', 0o644), call(257, 56, -100, b'/etc/passwd', 0o10000000))"),
    attempt("49_sparse_file", "import os\nfd = os.open('{folder}/made', os.O_CREAT | os.O_RDWR)\nos.ftruncate(fd, 1 << 40)"),
    attempt("49_many_files", "import os\nmade = 0\nfor n in range(5000):\n    try: os.close(os.open('{folder}/made%d' % n, os.O_CREAT | os.O_WRONLY)); made += 1\n    except OSError: pass\nif not made: raise OSError"),
    attempt("49_big_file", "import os\nfd = os.open('{folder}/made', os.O_CREAT | os.O_WRONLY)\nfor _ in range(1024): os.write(fd, b'x' * (1 << 20))"),
    attempt("49_grow_a_file", "import os\nos.write(os.open('{folder}/secret.txt', os.O_WRONLY | os.O_APPEND), b'x' * (1 << 20))"),
    attempt("50_delete_library", "import os\nos.remove(os.__file__)"),
    attempt("50_chmod_library", "import os\nos.chmod(os.__file__, 0o777)"),
    attempt("50_write_library", "import numpy\nopen(numpy.__file__, 'a').write('#')"),
    attempt("50_utime_and_xattr", "import os\nos.utime(os.__file__)"),
    syscalls("50_chown_truncate_mkdir", "refused(call(92, None, b'{folder}', 0, 0), call(76, 45, b'{folder}/secret.txt', 0), call(83, None, b'{folder}/made', 0o777), call(258, 34, -100, b'{folder}/made', 0o777), call(259, 33, -100, b'{folder}/made', 0o10666, 0), call(263, 35, -100, b'{folder}/secret.txt', 0), call(188, 5, b'{folder}', b'user.a', b'b', 1, 0), call(80, 49, b'/'), call(95, 166, 0))"),
    attempt("51_tcp", "import socket\nsocket.create_connection(('127.0.0.1', {port}), 2)"),
    attempt("51_tcp_listen", "import socket\nsocket.create_server(('127.0.0.1', 0))"),
    attempt("51_udp", "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', {port}))"),
    attempt("51_dns", "import socket\nsocket.getaddrinfo('example.com', 80)"),
    attempt("51_unix", "import socket\nsocket.socket(socket.AF_UNIX).connect('/var/run/docker.sock')"),
    attempt("51_abstract", "import socket\nsocket.socket(socket.AF_UNIX).connect(chr(0) + '{abstract}')"),
    attempt("51_netlink", "import socket\nsocket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)"),
    attempt("51_socketpair", "import socket\nsocket.socketpair()"),
    attempt("51_http", "import urllib.request\nurllib.request.urlopen('http://127.0.0.1:{port}/', timeout=2)"),
    syscalls("51_raw", "b = (ctypes.c_ulong * 16)()\nrefused(call(41, 198, 2, 1, 0), call(41, 198, 17, 3, 0), call(53, 199, 1, 1, 0, b), call(42, 203, 3, b, 16), call(44, 206, 3, b, 1, 0, b, 16), call(46, 211, 3, b, 0), call(47, 212, 3, b, 0))"),
    Attack("69_import_side_effects", "import antigravity, webbrowser\noutput = 'blocked'", ("ok", "error")),
]  # fmt: skip
