"""The part of the sandbox that a shell cannot do. sandbox.sh runs it, inside.

    bridge.py listen PORT PROGRAM ARG...   as the root of the network namespace
    bridge.py serve SOCKET                 without privileges, the bridge
    bridge.py run COMMAND ARG...           without privileges, the command
"""

import os
import socket
import sys

# Where `listen` leaves the listening socket for `serve`.
LISTENER = 3

# Each connection takes two threads and two descriptors of the bridge; further
# ones wait in the queue of the listening socket.
CONNECTIONS = 256


def fail(message, status=125):
    print(f"sandbox: {message}", file=sys.stderr)
    sys.exit(status)


def close_descriptors(first):
    for name in os.listdir("/proc/self/fd"):
        if int(name) >= first:
            try:
                os.close(int(name))
            except OSError:
                pass  # The descriptor of the listing itself.


def listen(port, program):
    """Brings up the loopback interface and listens on it, then starts PROGRAM
    with the listening socket and returns without waiting for it: connections
    queue from now on, so the command can start at once."""
    import fcntl
    import struct

    get_flags, set_flags, up = 0x8913, 0x8914, 1
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sH22x", b"lo", 0)
        (flags,) = struct.unpack_from("H", fcntl.ioctl(control, get_flags, request), 16)
        fcntl.ioctl(control, set_flags, struct.pack("16sH22x", b"lo", flags | up))

    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(1024)
    if os.fork() == 0:
        # Out of reach of the signals that end the sandbox from a terminal.
        os.setsid()
        copy = os.dup(listener.fileno())
        os.dup2(copy, LISTENER)
        close_descriptors(LISTENER + 1)
        os.execvp(program[0], program)
    os._exit(0)


def serve(path):
    """Forwards each connection byte by byte to the unix socket, and to nothing
    else."""
    import resource
    import threading

    close_descriptors(LISTENER + 1)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    threading.stack_size(256 * 1024)
    free = threading.BoundedSemaphore(min(CONNECTIONS, (most - 16) // 2))

    def copy(source, target):
        try:
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            # One side is gone; this ends the other direction too.
            for end in (source, target):
                try:
                    end.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass

    def connection(client):
        try:
            with client, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as proxy:
                proxy.connect(path)
                answers = threading.Thread(target=copy, args=(proxy, client))
                answers.start()
                copy(client, proxy)
                answers.join()
        except OSError as error:
            print(f"sandbox: proxy: {error}", file=sys.stderr)
        finally:
            free.release()

    with socket.socket(fileno=LISTENER) as listener:
        while True:
            free.acquire()
            client, _ = listener.accept()
            threading.Thread(target=connection, args=(client,), daemon=True).start()


# What the namespaces leave open. Not every address family belongs to a network
# namespace (AF_VSOCK reaches the host of a virtual machine), keyrings belong to
# none, nor does the log of the kernel, shared memory and message queues of
# System V escape the limits of memory, and the others are a large attack
# surface that a build does not need.
# io_uring could create the sockets that the filter forbids.
FAMILIES = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK)
# Machine: AUDIT_ARCH, socket, then in this order shmget, msgget, syslog, add_key,
# request_key, keyctl, perf_event_open, bpf, userfaultfd, io_uring_setup,
# io_uring_enter, io_uring_register.
CALLS = {
    "x86_64": (0xC000003E, 41, (29, 68, 103, 248, 249, 250, 298, 321, 323, 425, 426, 427)),
    "aarch64": (0xC00000B7, 198, (194, 186, 116, 217, 218, 219, 241, 280, 282, 425, 426, 427)),
}


def filter_calls():
    """Installs the seccomp filter, which needs no_new_privs (setpriv set it)."""
    import ctypes
    import errno
    import struct

    machine = os.uname().machine
    if machine not in CALLS:
        fail(f"there is no filter of system calls for {machine}")
    arch, socket_call, forbidden = CALLS[machine]
    load, equal, at_least, answer = 0x20, 0x15, 0x35, 0x06
    allow, error = 0x7FFF0000, 0x00050000

    # Each line: operation, how many lines to skip if true, if false, operand.
    program = [
        # System calls of another architecture have other numbers.
        (load, 0, 0, 4),
        (equal, 1, 0, arch),
        (answer, 0, 0, error | errno.ENOSYS),
        (load, 0, 0, 0),
        # x32 on x86_64; no other machine has such numbers.
        (at_least, 0, 1, 0x40000000),
        (answer, 0, 0, error | errno.ENOSYS),
    ]
    for call in forbidden:
        program += [(equal, 0, 1, call), (answer, 0, 0, error | errno.ENOSYS)]
    program += [(equal, 1, 0, socket_call), (answer, 0, 0, allow), (load, 0, 0, 16)]
    for family in FAMILIES:
        program += [(equal, 0, 1, family), (answer, 0, 0, allow)]
    program += [(answer, 0, 0, error | errno.EAFNOSUPPORT)]

    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))

    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_void_p)]

    block = Program(len(program), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    set_seccomp, mode_filter = 22, 2
    if libc.prctl(set_seccomp, ctypes.c_ulong(mode_filter), ctypes.byref(block)) != 0:
        fail(f"cannot filter system calls: {os.strerror(ctypes.get_errno())}")


def run(command):
    import resource
    import signal

    settings = {k: v for k, v in os.environ.items() if k.startswith("SANDBOX_")}
    environment = {k: v for k, v in os.environ.items() if k not in settings}
    for name in ("OLDPWD", "SHLVL", "_"):
        environment.pop(name, None)
    environment.update(PATH=settings["SANDBOX_PATH"], HOME="/work/home", PWD="/work")
    if settings["SANDBOX_PROXY"]:
        proxy = f"http://127.0.0.1:{settings['SANDBOX_PORT']}"
        for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            environment[name] = proxy

    close_descriptors(3)
    os.chdir("/work")
    # Without the terminal of the caller, which could be typed into.
    os.setsid()
    # The shell ignores some for a command in the background, Python others.
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    try:
        filter_calls()
    except ImportError as error:
        fail(f"this Python cannot filter system calls: {error}")

    disk = int(settings["SANDBOX_DISK"])
    for limit, value in (
        # 0 would still start the program that the host may have set to take
        # core dumps; 1 stops that too.
        (resource.RLIMIT_CORE, 1),
        # Also the size of a file in memory (memfd), which no tmpfs limits.
        # A bit more than the tmpfs has, which answers with an error instead of
        # a signal.
        (resource.RLIMIT_FSIZE, disk + (1 << 20)),
        (resource.RLIMIT_NOFILE, int(settings["SANDBOX_NOFILE"])),
        (resource.RLIMIT_NPROC, int(settings["SANDBOX_NPROC"])),
        (resource.RLIMIT_AS, int(settings["SANDBOX_MEM"])),
    ):
        _, most = resource.getrlimit(limit)
        if most != resource.RLIM_INFINITY:
            value = min(value, most)
        resource.setrlimit(limit, (value, value))
    try:
        os.execvpe(command[0], command, environment)
    except FileNotFoundError:
        fail(f"{command[0]}: not found", 127)
    except OSError as error:
        fail(f"{command[0]}: {error.strerror}", 126)


def main():
    mode, *arguments = sys.argv[1:]
    if mode == "listen":
        listen(int(arguments[0]), arguments[1:])
    elif mode == "serve":
        serve(arguments[0])
    elif mode == "run":
        run(arguments)


main()
