"""Tests of the script that runs in isolated builds. Tests of class Index use the package index of uv, the others no network."""
import hashlib
import http.server
import io
import json
import os
import pathlib
import subprocess
import sys
import tarfile
import tempfile
import textwrap
import threading
import unittest
import zipfile

HERE = pathlib.Path(__file__).resolve().parent
SCRIPT = (HERE / "guest.py").read_text()
TOOLS = HERE.parents[2] / ".local/tools/bin"
PYTHON = "%d.%d" % sys.version_info[:2]

# A build backend in the project itself, so that a build needs no index.
BACKEND = """
import os, tarfile, zipfile
NAME, FILES, ENTRY_POINTS = {name!r}, {files!r}, {entry_points!r}
def build_wheel(folder, settings=None, metadata=None):
    {code}
    info = NAME + "-1.0.dist-info"
    with zipfile.ZipFile(os.path.join(folder, NAME + "-1.0-py3-none-any.whl"), "w") as wheel:
        for path, text in FILES.items():
            wheel.writestr(zipfile.ZipInfo(path), text)
        wheel.writestr(info + "/METADATA", "Metadata-Version: 2.1\\nName: " + NAME + "\\nVersion: 1.0\\n")
        wheel.writestr(info + "/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        if ENTRY_POINTS:
            wheel.writestr(info + "/entry_points.txt", ENTRY_POINTS)
        wheel.writestr(info + "/RECORD", "")
    return NAME + "-1.0-py3-none-any.whl"
"""


def project(name, files=None, entry_points="", code="pass"):
    """Files of a project that needs nothing to build."""
    files = {f"{name}.py": ""} if files is None else files
    return {
        "pyproject.toml": f'[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
                          f'[project]\nname = "{name}"\nversion = "1.0"\n',
        "backend.py": BACKEND.format(name=name, files=files, entry_points=entry_points, code=code),
    }


def below(folder, files):
    return {f"{folder}/{path}": text for path, text in files.items()}


def write(folder, files):
    for name, text in files.items():
        path = pathlib.Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def sdist(folder, name, **options):
    with tarfile.open(f"{folder}/{name}-1.0.tar.gz", "w:gz") as tar:
        for path, text in {**project(name, **options), "PKG-INFO": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"}.items():
            member = tarfile.TarInfo(f"{name}-1.0/{path}")
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))


def wheel(folder, name):
    code = BACKEND.format(name=name, files={f"{name}.py": ""}, entry_points="", code="pass")
    space = {}
    exec(code, space)
    return f"{folder}/{space['build_wheel'](str(folder))}"


class Result:
    def __init__(self, code, log, body):
        self.code, self.log, self.body = code, log, body
        self.files, self.members = {}, []
        if body is not None:
            with tarfile.open(fileobj=io.BytesIO(body), mode="r:") as tar:
                self.members = tar.getmembers()
                self.files = {member.name: tar.extractfile(member).read() for member in self.members}
            self.report = json.loads(self.files["report.json"])


class Case(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.packages = self.folder / "packages"
        self.packages.mkdir()

    def guest(self, order, files=None, links=None, status=200, environment=None, offline=True):
        """Run the script as codeloc does, with an input of these files."""
        order = {"python": PYTHON, "commit_time": 1700000000, "index_url": None, "indexes": [], **order}
        if offline:
            order = {"find_links": str(self.packages), "no_index": True, **order}
        archive, received = io.BytesIO(), []
        with tarfile.open(fileobj=archive, mode="w:gz") as tar:
            for name, text in {"order.json": json.dumps(order), **(files or {})}.items():
                data = text if isinstance(text, bytes) else text.encode()
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
            for name, target in (links or {}).items():
                member = tarfile.TarInfo(name)
                member.type, member.linkname = tarfile.SYMTYPE, target
                tar.addfile(member)

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.end_headers()
                self.wfile.write(archive.getvalue())

            def do_PUT(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if status == 200:
                    received.append(body)
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"
        path = [str(TOOLS), os.path.dirname(os.path.realpath(sys.executable)), os.environ["PATH"]]
        kept = {name: os.environ[name] for name in ("SSL_CERT_FILE", "SSL_CERT_DIR") if name in os.environ}
        temporary = self.folder / "tmp"
        temporary.mkdir(exist_ok=True)
        try:
            done = subprocess.run(
                [sys.executable, "-I", "-c", SCRIPT], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                env={**kept, "PATH": ":".join(path), "TMPDIR": str(temporary), "CODELOC_INPUT": url + "/input?signature",
                     "CODELOC_OUTPUT": url + "/output?signature", **(environment or {})})
        finally:
            server.shutdown()
            thread.join()
            server.server_close()
        self.assertEqual(list(temporary.iterdir()), [], "the script leaves no files")
        return Result(done.returncode, done.stdout.decode(), received[0] if received else None)

    def good(self, *arguments, **options):
        result = self.guest(*arguments, **options)
        self.assertEqual(result.code, 0, result.log)
        self.assertIsNone(result.report["error"])
        return result

    def failed(self, *arguments, **options):
        """The error of a run that must upload nothing else."""
        result = self.guest(*arguments, **options)
        self.assertEqual(result.code, 1, result.log)
        self.assertEqual(list(result.files), ["report.json"])
        self.assertEqual((result.report["resolved"], result.report["built"], result.report["projects"]), (None, [], []))
        return result.report["error"]


class Script(Case):
    def test_the_script_fits_into_a_task_definition(self):
        self.assertLess(len(SCRIPT.encode()), 16 * 1024)


class Resolve(Case):
    def test_an_sdist_becomes_a_wheel(self):
        sdist(self.packages, "shop_lib")
        result = self.good({"resolve": True}, {"requirements.in": "shop-lib"})
        self.assertIn("shop-lib==1.0 \\\n    --hash=sha256:", result.report["resolved"])
        self.assertEqual(result.report["built"], [{"wheel": "shop_lib-1.0-py3-none-any.whl", "why": "sdist: shop-lib 1.0"}])
        names = zipfile.ZipFile(io.BytesIO(result.files["wheels/shop_lib-1.0-py3-none-any.whl"])).namelist()
        self.assertIn("shop_lib.py", names)

    def test_only_packages_without_a_wheel_are_built(self):
        for name in ("a", "b", "c"):
            wheel(self.packages, name)
        for name in ("x", "y"):
            sdist(self.packages, name)
        result = self.good({"resolve": True}, {"requirements.in": "a\nx\nb\ny\nc\n"})
        self.assertEqual([built["why"] for built in result.report["built"]], ["sdist: x 1.0", "sdist: y 1.0"])

    def test_nothing_is_built_if_every_package_has_a_wheel(self):
        wheel(self.packages, "a")
        result = self.good({"resolve": True}, {"requirements.in": "a"})
        self.assertEqual(list(result.files), ["report.json"])

    def test_wheels_of_the_input_are_found(self):
        data = pathlib.Path(wheel(self.folder, "a")).read_bytes()
        result = self.good({"resolve": True}, {"requirements.in": "a", "wheels/a-1.0-py3-none-any.whl": data})
        self.assertIn("a==1.0", result.report["resolved"])
        self.assertEqual(result.report["built"], [])

    def test_constraints_and_overrides_apply(self):
        wheel(self.packages, "a")
        error = self.failed({"resolve": True}, {"requirements.in": "a", "constraints.txt": "a<1"})
        self.assertEqual((error["step"], error["what"]), ("resolve", None))
        self.assertIn("exit code 1", error["message"])
        self.good({"resolve": True}, {"requirements.in": "a<1", "overrides.txt": "a>=1"})

    def test_direct_references_are_built(self):
        git = self.folder / "git"
        write(git, project("from_git"))
        for command in (["init", "-q"], ["add", "-A"], ["-c", "user.name=a", "-c", "user.email=a", "commit", "-qm", "a"]):
            subprocess.run(["git", *command], cwd=git, check=True)
        with zipfile.ZipFile(self.folder / "a.zip", "w") as archive:
            for name, text in project("from_zip").items():
                archive.writestr(name, text)
        ready = wheel(self.folder, "from_wheel")
        text = (f"from_git @ git+file://{git}\nfrom_zip @ file://{self.folder}/a.zip\n./libs/a\n"
                f"from_wheel @ file://{ready}\n")
        result = self.good({"resolve": True}, {"requirements.in": text, **below("tree/libs/a", project("from_tree"))})
        self.assertEqual([built["why"] for built in result.report["built"]],
                         ["direct reference: from_wheel-1.0-py3-none-any.whl"]
                         + [f"direct reference: from-{kind} 1.0" for kind in ("git", "tree", "zip")])
        self.assertEqual(result.files["wheels/from_wheel-1.0-py3-none-any.whl"], pathlib.Path(ready).read_bytes())
        self.assertIn(f"from-git @ git+file://{git}@", result.report["resolved"])
        self.assertIn("./libs/a", result.report["resolved"])
        self.assertEqual([name for name in result.files if name.startswith("files/")], [])

    def test_packages_that_need_pkg_resources_get_an_older_setuptools(self):
        sdist(self.packages, "a", code="import sys; marker = __import__('pathlib').Path('MARKER')\n"
              "    if not marker.exists(): marker.touch(); raise ImportError('No module named pkg_resources')"
              .replace("MARKER", str(self.folder / "marker")))
        result = self.good({"resolve": True}, {"requirements.in": "a"})
        self.assertIn("again, with setuptools<81", result.log)
        self.assertEqual([built["why"] for built in result.report["built"]], ["sdist: a 1.0"])

    def test_a_failed_build_reports_its_output(self):
        sdist(self.packages, "a", code="print('cannot find libpq'); raise SystemExit(3)")
        error = self.failed({"resolve": True}, {"requirements.in": "a"})
        self.assertEqual(error["step"], "resolve")
        self.assertIn("cannot find libpq", error["message"])


class Projects(Case):
    def test_a_project_reports_metadata_and_roots(self):
        files = below("tree/libs/a", {**project("a", {"a/__init__.py": "", "tool.py": ""}, "[console_scripts]\na = a:main\n"),
                                      "src/a/__init__.py": "", "tool.py": ""})
        result = self.good({"projects": ["libs/a"]}, files)
        (found,) = result.report["projects"]
        self.assertEqual((found["folder"], found["roots"], found["missing"]), ("libs/a", ["libs/a/src", "libs/a"], []))
        self.assertIn("Name: a\n", found["metadata"])
        self.assertEqual(found["entry_points"], "[console_scripts]\na = a:main\n")
        self.assertEqual(list(result.files), ["report.json"])

    def test_generated_files_become_output(self):
        files = below("tree", {**project("a", {"a/__init__.py": "", "a/_version.py": "version = 1"}), "a/__init__.py": "x = 1"})
        result = self.good({"projects": [""]}, files)
        self.assertEqual(result.report["projects"][0]["roots"], [""])
        self.assertEqual(result.files["files/a/_version.py"], b"version = 1")
        self.assertNotIn("files/a/__init__.py", result.files)

    def test_a_package_without_sources_gets_its_own_root(self):
        files = {"a/__init__.py": "", "a/deep/data.txt": "data", "b.py": ""}
        result = self.good({"projects": ["p"]}, below("tree/p", {**project("a", files), "b.py": ""}))
        found = result.report["projects"][0]
        self.assertEqual((found["roots"], found["missing"]), (["p", "p/.codeloc-build"], ["a"]))
        self.assertEqual(sorted(result.files), ["files/p/.codeloc-build/a/__init__.py", "files/p/.codeloc-build/a/deep/data.txt",
                                                "report.json"])

    def test_files_that_a_build_leaves_are_no_output(self):
        code = "os.makedirs('build/lib', exist_ok=True); open('build/lib/a.py', 'w').close(); open('late.py', 'w').close()"
        files = below("tree/p", {**project("a", code=code), "a.py": ""})
        result = self.good({"projects": ["p"], "commands": [{"folder": "", "run": "true"}]}, files)
        self.assertEqual(list(result.files), ["report.json"])

    def test_a_wheel_cannot_write_outside_its_root(self):
        error = self.failed({"projects": [""]}, below("tree", project("a", {"a/../../../evil.py": ""})))
        self.assertEqual((error["step"], error["what"]), ("projects", ""))
        self.assertIn("evil.py", error["message"])

    def test_a_background_process_ends_with_its_step(self):
        # It leaves the session of the build and writes into the original tree.
        loop = """
            import glob, os, sys
            while True:
                for folder in glob.glob(sys.argv[1] + "/*/tree/p"):
                    open(folder + "/late", "w").write(str(os.getpid()))
            """
        code = (f"import subprocess, sys; print('process', subprocess.Popen([sys.executable, '-c', {textwrap.dedent(loop)!r}, "
                f"{str(self.folder / 'tmp')!r}], stdin=-3, stdout=-3, stderr=-3, start_new_session=True).pid)")
        files = below("tree/p", {**project("a", code=code), "a.py": ""})
        result = self.good({"projects": ["p"], "commands": [{"folder": "", "run": "rm -f p/late; echo done > done"}]}, files)
        self.assertEqual(list(result.files), ["files/done", "report.json"])
        pid = int(result.log.split("process ")[1].split()[0])
        self.assertRaises(ProcessLookupError, os.kill, pid, 0)

    def test_a_background_process_of_a_command_ends(self):
        command = """setsid sh -c 'echo $$ > pid; while :; do :; done' & until test -s pid; do :; done"""
        result = self.good({"commands": [{"folder": "", "run": command}]})
        self.assertRaises(ProcessLookupError, os.kill, int(result.files["files/pid"]), 0)


class Commands(Case):
    def run_command(self, command, folder="", files=None, **options):
        return self.good({"commands": [{"folder": folder, "run": command}]}, files, **options)

    def test_new_and_changed_files_become_output(self):
        command = """
            mkdir -p target __pycache__ sub/.git && echo '{}' > target/manifest.json
            echo changed > changed; echo same > same; rm removed
            echo x > a.pyc; echo x > __pycache__/a; echo x > sub/.git/a
            printf '#!/bin/sh\\n' > tool && chmod 700 tool"""
        files = below("tree/shop", {"changed": "old\n", "same": "same\n", "removed": ""})
        result = self.run_command(textwrap.dedent(command), "shop", files)
        self.assertEqual(list(result.files), ["files/shop/changed", "files/shop/target/manifest.json", "files/shop/tool", "report.json"])
        self.assertEqual(result.files["files/shop/changed"], b"changed\n")
        for member in result.members:
            self.assertEqual((member.mtime, member.uid, member.gid, member.uname, member.gname), (0, 0, 0, "", ""))
        self.assertEqual([member.mode for member in result.members], [0o644, 0o644, 0o755, 0o644])

    def test_links_and_special_files_are_skipped(self):
        result = self.run_command("ln -s /etc/passwd a; ln -s /etc folder; mkfifo pipe; echo x > file")
        self.assertEqual(list(result.files), ["files/file", "report.json"])
        for name in ("a", "folder", "pipe"):
            self.assertIn(f"skip files/{name}: not a regular file", result.log)

    def test_a_link_in_a_folder_above_is_not_followed(self):
        # The build adds a/_version.py; the command then moves its folder away.
        files = below("tree", {**project("a", {"a/__init__.py": "", "a/_version.py": ""}), "a/__init__.py": ""})
        command = "cd ../stage; rm -r a; mkdir ../b; echo x > ../b/_version.py; ln -s ../b a"
        result = self.good({"projects": [""], "commands": [{"folder": "", "run": command}]}, files)
        self.assertEqual(list(result.files), ["report.json"])

    def test_commands_see_generated_files(self):
        files = below("tree", {**project("a", {"a/__init__.py": "", "a/_version.py": "v = 7"}), "a/__init__.py": ""})
        command = "python -c 'import a._version; print(a._version.v)' > result"
        result = self.good({"projects": [""], "commands": [{"folder": "", "run": command}]}, files)
        self.assertEqual(result.files["files/result"], b"7\n")

    def test_commands_run_in_the_locked_environment(self):
        path = pathlib.Path(wheel(self.folder, "a"))
        data = path.read_bytes()
        lock = f"a==1.0 --hash=sha256:{hashlib.sha256(data).hexdigest()}\n"
        files = {"lock.txt": lock, "wheels/" + path.name: data, "tree/shop/src/b.py": "", "tree/c.py": ""}
        result = self.run_command("python -c 'import a, b, c, sys; print(sys.prefix)' > out; echo $VIRTUAL_ENV >> out", "shop", files)
        prefix, environment = result.files["files/shop/out"].split()
        self.assertEqual(prefix, environment)

    def test_a_wrong_hash_stops_the_commands(self):
        wheel(self.packages, "a")
        error = self.failed({"commands": [{"folder": "", "run": "true"}]}, {"lock.txt": f"a==1.0 --hash=sha256:{'0' * 64}\n"})
        self.assertEqual(error["step"], "commands")
        self.assertIn("Hash mismatch", error["message"])

    def test_a_failed_command_reports_the_end_of_its_output(self):
        command = "python -c 'print(\"é\" * 20000)'; echo last line >&2; exit 7"
        error = self.failed({"commands": [{"folder": "", "run": command}]})
        self.assertEqual((error["step"], error["what"]), ("commands", command))
        self.assertTrue(error["message"].endswith("last line\n\nexit code 7"), error["message"][-100:])
        self.assertEqual(len(error["message"].removesuffix("\nexit code 7")), 8000)

    def test_children_get_no_secrets(self):
        secrets = {"AWS_SECRET_ACCESS_KEY": "a", "ECS_CONTAINER_METADATA_URI_V4": "b", "CODELOC_OTHER": "c", "no_proxy": "127.0.0.1"}
        result = self.run_command("env > out", environment=secrets)
        names = {line.split("=")[0] for line in result.files["files/out"].decode().splitlines()}
        allowed = ("PATH HOME TMPDIR LANG LC_ALL PYTHONHASHSEED SOURCE_DATE_EPOCH PYTHONPATH PYTHONDONTWRITEBYTECODE VIRTUAL_ENV "
                   "UV_CACHE_DIR UV_NO_CONFIG UV_PYTHON UV_PYTHON_DOWNLOADS UV_INDEX no_proxy SSL_CERT_FILE SSL_CERT_DIR PWD OLDPWD "
                   "SHLVL _ DBT_LOG_PATH DO_NOT_TRACK").split()
        self.assertEqual(names - set(allowed), set())
        self.assertIn("no_proxy", names)
        self.assertNotIn(b"signature", result.files["files/out"])

    @unittest.skipIf(os.geteuid() == 0, "root can read every environment")
    def test_children_cannot_read_the_urls(self):
        error = self.failed({"commands": [{"folder": "", "run": "cat /proc/$PPID/environ"}]})
        self.assertIn("Permission denied", error["message"])

    def test_the_same_input_gives_the_same_output(self):
        files = {f"tree/{name}": name for name in "cab"}
        order = {"commands": [{"folder": "", "run": "for i in z y x; do echo $SOURCE_DATE_EPOCH > $i; done"}]}
        first, second = self.good(order, files), self.good(order, files)
        self.assertEqual(first.body, second.body)
        self.assertEqual(first.files["files/x"], b"1700000000\n")

    def test_an_output_over_the_limit_is_an_error(self):
        error = self.failed({"limit_bytes": 10, "commands": [{"folder": "", "run": "echo more than ten bytes. > out"}]})
        self.assertEqual(error["step"], "commands")
        self.assertEqual(error["message"], "the output has 1 files, 21 bytes (limit: 200000, 10)")


class Protocol(Case):
    def test_an_invalid_input_uploads_nothing(self):
        orders = [{"python": 3}, {"python": "2.1"}, {"projects": ["../a"]}, {"projects": ["/etc"]}, {"projects": ["a"]},
                  {"commands": [{"run": "true"}]}, {"commands": "true"}]
        for order in orders:
            with self.subTest(order=order):
                result = self.guest(order)
                self.assertEqual((result.code, result.body), (2, None), result.log)
                self.assertIn("unusable input", result.log)

    def test_missing_urls_exit_with_2(self):
        done = subprocess.run([sys.executable, "-I", "-c", SCRIPT], env={"PATH": os.environ["PATH"]}, stdout=subprocess.PIPE)
        self.assertEqual(done.returncode, 2)
        self.assertIn(b"CODELOC_INPUT", done.stdout)

    def test_a_failed_upload_exits_with_2(self):
        result = self.guest({}, status=403)
        self.assertEqual(result.code, 2)
        self.assertIn("cannot upload: <HTTPError 403", result.log)
        self.assertNotIn("signature", result.log)

    def test_links_that_leave_the_tree_are_skipped(self):
        result = self.good({"commands": [{"folder": "", "run": "cat inner > out"}]}, {"tree/file": "text"},
                           {"tree/outer": "/etc/passwd", "tree/inner": "file"})
        self.assertEqual(result.files["files/out"], b"text")
        self.assertIn("skip ", result.log)


class Index(Case):
    """These tests need a package index."""

    def test_an_sdist_of_the_index_becomes_a_wheel(self):
        result = self.good({"resolve": True}, {"requirements.in": "docopt==0.6.2\n"}, offline=False)
        self.assertEqual(list(result.files), ["report.json", "wheels/docopt-0.6.2-py2.py3-none-any.whl"])

    def test_setup_py_can_compute_metadata(self):
        setup = """
            import setuptools
            requires = [line for line in open("requires.txt").read().split()]
            setuptools.setup(name="shop", version="1." + str(len(requires)), packages=["shop"], install_requires=requires)"""
        result = self.good({"projects": ["p"]}, below("tree/p", {
            "setup.py": textwrap.dedent(setup), "requires.txt": "dagster\npandas\n", "shop/__init__.py": ""}), offline=False)
        found = result.report["projects"][0]
        self.assertIn("Version: 1.2\n", found["metadata"])
        self.assertIn("Requires-Dist: pandas\n", found["metadata"])
        self.assertEqual((found["roots"], found["missing"], list(result.files)), (["p"], [], ["report.json"]))

    def test_setuptools_scm_writes_a_version(self):
        text = """
            [build-system]
            requires = ["setuptools", "setuptools-scm"]
            build-backend = "setuptools.build_meta"
            [project]
            name = "shop"
            dynamic = ["version"]
            [tool.setuptools_scm]
            version_file = "src/shop/_version.py"
            """
        files = {"pyproject.toml": textwrap.dedent(text), "src/shop/__init__.py": "", "src/shop/data.sql": "select 1"}
        result = self.good({"projects": [""]}, below("tree", files), offline=False)
        self.assertEqual(list(result.files), ["files/src/shop/_version.py", "report.json"])
        self.assertIn("Version: 0.1.dev", result.report["projects"][0]["metadata"])


if __name__ == "__main__":
    unittest.main()
