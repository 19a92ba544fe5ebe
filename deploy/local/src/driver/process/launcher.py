"""Becomes the container's command: python -I -S -c THIS DIRECTORY PROGRAM ARGUMENT...

Waits on standard input until the driver knows this process group to be watched; when the driver dies before that, standard
input closes and nothing is started. Then resets what a parent may have ignored: Dagster, started with SIGINT ignored,
ignores SIGTERM too; Python itself ignores SIGPIPE.
"""
import os
import signal
import sys

if not os.read(0, 1):
    sys.exit(125)
null = os.open(os.devnull, os.O_RDONLY)
os.dup2(null, 0)
for number in (signal.SIGINT, signal.SIGPIPE, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_DFL)
directory, program = sys.argv[1:3]
try:
    os.chdir(directory)
    os.execv(program, sys.argv[2:])
except OSError as error:
    sys.stderr.write("cannot start %s in %s: %s\n" % (program, directory, error.strerror))
    sys.exit(126)
