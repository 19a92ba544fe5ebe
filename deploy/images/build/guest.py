"""Runs foreign code for codeloc: builds projects and packages, resolves requirements, runs commands.

Guarantees: foreign processes get no secrets and do not outlive their step; the output has regular files only.
Assumes: the task has no credentials and serves one location; uv caches what it builds as sdists-v*/**/NAME.whl.
Exit codes: 0: complete. 1: a step failed, the output is only report.json. 2: no output. 124: the time is over.
"""
import ctypes, hashlib, io, json, os, re, shutil, signal, subprocess, sys, tarfile, tempfile, threading, zipfile
from pathlib import Path
from tempfile import mkdtemp
from urllib.request import Request, urlopen

# Fields of order.json with their defaults, which also give the types. null means the default.
FIELDS = {"python": "", "commit_time": 0, "index_url": "", "indexes": [], "find_links": "", "no_index": False,
          "projects": [], "resolve": False, "complete": False, "commands": [], "limit_bytes": 8 << 30}
order, env, sources, outputs, where = {}, {}, [], {}, {"step": None, "what": None}
report = {"error": None, "resolved": None, "built": [], "projects": []}


class Failure(Exception):
    pass


def orphans():
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            if path.read_bytes().rpartition(b")")[2].split()[1] == b"%d" % os.getpid():
                yield int(path.parent.name)
        except OSError:
            pass  # It ended.


def run(argv, cwd, **extra):
    """Run a program in a new session, then kill every process that it started."""
    tail = bytearray()
    process = subprocess.Popen(argv, cwd=cwd, env=env | extra, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, start_new_session=True)

    def copy():
        while chunk := process.stdout.read1(1 << 16):
            sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()
            tail.extend(chunk)
            del tail[:-32000]  # 8000 characters of at most 4 bytes

    reader = threading.Thread(target=copy)
    reader.start()
    # WNOWAIT keeps a zombie, so that no other group gets this id.
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    os.killpg(process.pid, signal.SIGKILL)
    code = process.wait()
    # A process that left the group is a child of this one. When it ends, its children are.
    while found := list(orphans()):
        for pid in found:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    reader.join()
    if code:
        raise Failure(f"{tail.decode('utf-8', 'replace')[-8000:]}\nexit code {code}")


def uv(*argv):
    return ["uv", *argv, *sources]


def join(*parts):
    return "/".join(filter(None, parts))


def check(path):
    if path.startswith("/") or ".." in path.split("/"):
        raise ValueError(f"{path!r} leaves its folder")
    return path


def canonical(name):
    return re.sub("[-_.]+", "-", name).lower()


def copy_tree():
    """A copy, because builds write into their sources. In git, because tools like setuptools-scm need it."""
    copy = f"{mkdtemp()}/tree"
    shutil.copytree("tree", copy, symlinks=True)
    if not os.path.lexists(f"{copy}/.git"):
        date = f"{order['commit_time']} +0000"
        commit = "git init -q; git add -Af; git -c user.name=codeloc -c user.email= commit -qm x --allow-empty"
        run(["sh", "-ec", commit], copy, GIT_AUTHOR_DATE=date, GIT_COMMITTER_DATE=date)
    return copy


def projects():
    for project in order["projects"]:
        where["what"] = project
        out, source = mkdtemp(), join(copy_tree(), project)
        run(uv("build", "--wheel", "--out-dir", out, source), source)
        with zipfile.ZipFile(*Path(out).glob("*.whl")) as wheel:
            texts = {name.split("/")[1]: wheel.read(name).decode("utf-8", "replace") for name in wheel.namelist()
                     if re.fullmatch(r"[^/]+\.dist-info/(METADATA|entry_points\.txt)", name)}
            report["projects"].append({"folder": project, "metadata": texts["METADATA"],
                                       "entry_points": texts.get("entry_points.txt"), **place(project, wheel)})


def place(project, wheel):
    """Find the roots of the packages in the tree, and output the files that only the wheel has."""
    candidates = [join(project, name) for name in ("src", "lib", "python", "", ".codeloc-build")]
    roots = {}  # by top-level name
    for entry in wheel.infolist():
        name = check(re.sub(r"^[^/]+\.data/(purelib|platlib)/", "", entry.filename))
        top = name.split("/")[0]
        if entry.is_dir() or top.endswith((".dist-info", ".data")):
            continue
        top = re.sub(r"\..*", "", top) if top.endswith((".py", ".so")) else top
        if top not in roots:
            found = (root for root in candidates for end in ("", ".py") if os.path.exists("tree/" + join(root, top + end)))
            roots[top] = next(found, candidates[-1])
        name = join(roots[top], name)
        if not os.path.lexists(f"tree/{name}"):
            outputs[f"files/{name}"] = path = Path("stage", name)
            path.parent.mkdir(parents=True, exist_ok=True)
            with wheel.open(entry) as source, path.open("wb") as file:
                shutil.copyfileobj(source, file)
            path.chmod(0o755 if entry.external_attr >> 16 & 0o111 else 0o644)
    return {"roots": [root for root in candidates if root in roots.values()],
            "missing": sorted(top for top, root in roots.items() if root == candidates[-1])}


def without_wheel(pins, path):
    """Pins without a usable wheel, by bisection, which needs only exit codes."""
    path.write_text("\n".join(pins))
    dry_run = uv("pip", "install", "--dry-run", "--target=none", "--no-deps", "--only-binary=:all:", "-r", path)
    if not pins or not subprocess.run(dry_run, env=env, capture_output=True).returncode:
        return []
    half = len(pins) // 2
    return without_wheel(pins[:half], path) + without_wheel(pins[half:], path) if half else pins


def build_packages(argv, cwd):
    """Run uv, and again with an older setuptools if a package needs its module pkg_resources."""
    try:
        run(argv, cwd)
    except Failure as error:
        if "pkg_resources" not in str(error):
            raise
        print("again, with setuptools<81, which still has pkg_resources")
        path = Path(mkdtemp(), "build.txt")
        path.write_text("setuptools<81")
        run([*argv, "--build-constraints", path], cwd)


def download(line):
    """Output the wheel of a direct reference."""
    url = re.search(r"\w+://[^\s#;]+", line)[0]
    digest = re.search(r"sha256[:=]([0-9a-f]{64})", line)
    with urlopen(url, timeout=60) as response:
        content = response.read()
    if digest and hashlib.sha256(content).hexdigest() != digest[1]:
        raise Failure(f"{url} has another hash than the index of uv says")
    name = url.rpartition("/")[2].replace("%2B", "+")
    outputs[f"wheels/{name}"] = path = Path(mkdtemp(), name)
    path.write_bytes(content)
    report["built"].append({"wheel": name, "why": f"direct reference: {name}"})


def resolve():
    tree, folder, here = copy_tree(), Path(mkdtemp()), os.getcwd()
    path, target, options = folder / "requirements.txt", folder / "target", ["--no-deps"] * order["complete"]
    for name in ("constraints", "overrides"):
        if os.path.exists(f"{name}.txt"):
            options += [f"--{name}", f"{here}/{name}.txt"]
    build_packages(uv("pip", "compile", f"{here}/requirements.in", "--python-version", order["python"], "--no-header", "--no-annotate",
           "--generate-hashes", "--emit-index-annotation", "-q", "-o", path, *options), tree)
    report["resolved"] = text = path.read_text()
    lines = [line.removeprefix("-e ") for line in text.replace("\\\n", "").splitlines() if line[:1].strip("# ")]
    pins = [line for line in lines if re.match(r"[\w.-]+(\[.*?\])?==", line)]
    direct = [line for line in lines if line not in pins]
    build = [line for line in direct if not re.search(r"\.whl([?#\s]|$)", line)]
    for line in direct:
        if line not in build:
            download(line)
    build += without_wheel(pins, path)
    path.write_text("\n".join(build))
    if build:
        build_packages(uv("pip", "install", "--target", target, "--no-deps", "-r", path), tree)
    # uv has no command that saves the wheel of a requirement. Sources, which may contain other wheels, are in src/.
    cache = Path(env["UV_CACHE_DIR"])
    wheels = {tuple(map(canonical, path.name.split("-")[:2])): path for path in cache.glob("sdists-v*/**/*.whl")
              if "src" not in path.relative_to(cache).parts}
    installed = sorted(target.glob("*.dist-info"))
    for info in installed:
        name, version = map(canonical, info.stem.split("-"))
        path = wheels.get((name, version))
        if not path or len(installed) != len(build):
            raise Failure(f"uv's cache has no wheel of {info.stem}; use another release of uv")
        kind = "direct reference" if (info / "direct_url.json").exists() else "sdist"
        report["built"].append({"wheel": path.name, "why": f"{kind}: {name} {info.stem.split('-')[1]}"})
        outputs[f"wheels/{path.name}"] = path


def snapshot():
    """Hashes of files; a link has the hash of nothing."""
    found = {}
    for path in Path("tree").rglob("*"):
        if {".git", "__pycache__"}.isdisjoint(path.parts) and path.suffix != ".pyc":
            digest = hashlib.sha256()
            if path.is_file() and not path.is_symlink():
                with path.open("rb") as file:
                    while chunk := file.read(1 << 20):
                        digest.update(chunk)
            if path.is_symlink() or not path.is_dir():
                found[path] = digest.digest()
    return found


def commands():
    tree, venv = os.path.abspath("tree"), f"{mkdtemp()}/env"
    run(uv("venv", venv), ".")
    if os.path.isfile("lock.txt"):
        run(uv("pip", "install", "--no-deps", "--require-hashes", "--only-binary=:all:", "-r", "lock.txt",
               "--python", f"{venv}/bin/python"), ".")
    shutil.copytree("stage", "tree", dirs_exist_ok=True)
    before = snapshot()
    for command in order["commands"]:
        where["what"], folder = command["run"], join(tree, command["folder"])
        # Logs of dbt differ each time.
        run(["sh", "-e", "-c", command["run"]], folder, VIRTUAL_ENV=venv, PATH=f"{venv}/bin:{env['PATH']}",
            PYTHONPATH=f"{folder}:{tree}:{folder}/src", PYTHONDONTWRITEBYTECODE="1", DBT_LOG_PATH=env["TMPDIR"],
            DO_NOT_TRACK="1")
    for path, state in snapshot().items():
        if before.get(path) != state:
            outputs[f"files/{path.relative_to('tree')}"] = path


def pack(file):
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name in sorted([*outputs, "report.json"]):
            member, path = tarfile.TarInfo(name), outputs.get(name)
            member.mode = 0o755 if path and path.stat().st_mode & 0o111 else 0o644
            with path.open("rb") if path else io.BytesIO(json.dumps(report).encode()) as source:
                member.size = source.seek(0, 2)
                source.seek(0)
                tar.addfile(member, source)


def prepare(url):
    """Download and unpack the input, and set order, env and sources."""
    def keep(member, path):
        try:
            return tarfile.data_filter(member, path)
        except tarfile.FilterError as error:
            print(f"skip {error}")

    tar = tarfile.open(fileobj=urlopen(url, timeout=60), mode="r|gz")
    tar.extraction_filter = keep  # Old releases ignore it.
    tar.extractall()
    given = json.loads(Path("order.json").read_text())
    for key, default in FIELDS.items():
        order[key] = default if given.get(key) is None else given[key]
        if type(order[key]) is not type(default):
            raise TypeError(f"{key} is not a {type(default).__name__}")
    for folder in order["projects"] + [command["folder"] for command in order["commands"]]:
        if not os.path.isdir(join("tree", check(folder))):
            raise ValueError(f"the tree has no folder {folder}")
    kept = "(?i)(https?|all|no)_proxy|SSL_CERT_(FILE|DIR)|REQUESTS_CA_BUNDLE"
    env.update({name: value for name, value in os.environ.items() if re.fullmatch(kept, name)})
    # UV_NO_CONFIG: the order configures uv, not a file of the commit.
    env.update(PATH=os.environ.get("PATH", os.defpath), HOME=mkdtemp(), TMPDIR=mkdtemp(), LANG="C.UTF-8",
               LC_ALL="C.UTF-8", PYTHONHASHSEED="0", SOURCE_DATE_EPOCH=str(order["commit_time"]), UV_CACHE_DIR=mkdtemp(),
               UV_NO_CONFIG="1", UV_PYTHON_DOWNLOADS="never", UV_INDEX=" ".join(order["indexes"]))
    if order["index_url"]:
        env["UV_DEFAULT_INDEX"] = order["index_url"]
    if order["no_index"]:
        sources.append("--no-index")
    for folder in (order["find_links"], os.path.isdir("wheels") and os.path.abspath("wheels")):
        if folder:
            sources.extend(["--find-links", folder])
    # A path, because for a version uv would accept a virtual environment of the commit.
    env["UV_PYTHON"] = subprocess.check_output(["uv", "python", "find", "--system", order["python"]], env=env, text=True).strip()


def work():
    try:
        source, target = os.environ.pop("CODELOC_INPUT"), os.environ.pop("CODELOC_OUTPUT")
        prepare(source)
    except Exception as error:
        print(f"unusable input: {error!r}")
        return 2
    try:
        code, file = 0, tempfile.TemporaryFile()
        for step in (projects, resolve, commands):
            if order[step.__name__]:
                where.update(step=step.__name__, what=None)
                step()
                for name, path in list(outputs.items()):
                    # Foreign code can replace a file or its folder by a link.
                    if not path.is_file() or os.path.realpath(path) != os.path.abspath(path):
                        print(f"skip {name}: not a regular file")
                        del outputs[name]
                size, limit = sum(path.stat().st_size for path in outputs.values()), order["limit_bytes"]
                if len(outputs) > 200_000 or size > limit:
                    raise Failure(f"the output has {len(outputs)} files, {size} bytes (limit: 200000, {limit})")
        pack(file)
    except Exception as error:  # Foreign code wrote what the step reads.
        message = str(error) if isinstance(error, Failure) else f"{type(error).__name__}: {error}"
        print(f"{where['step']} failed: {message}")
        outputs.clear()
        report.update(error={**where, "message": message}, resolved=None, built=[], projects=[])
        code, file = 1, io.BytesIO()  # In memory, because the disk may be full.
        pack(file)
    size = str(file.tell())
    for _ in range(3):
        try:
            file.seek(0)
            urlopen(Request(target, file, {"Content-Length": size}, method="PUT"), timeout=60)
            return code
        except Exception as error:
            print(f"cannot upload: {error!r}")
    return 2


if __name__ == "__main__":
    prctl = ctypes.CDLL(None).prctl
    prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: orphans become children of this process.
    prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE: other processes cannot read the URLs from /proc/PID/environ.
    # No output and no cleaning up: the end of this process ends the task.
    signal.signal(signal.SIGALRM, lambda *_: os._exit(124))
    signal.alarm(int(os.environ.pop("CODELOC_SECONDS", 0)))
    sys.stdout.reconfigure(errors="backslashreplace", line_buffering=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        os.chdir(folder)
        tempfile.tempdir = os.getcwd()
        os.mkdir("tree")
        os.mkdir("stage")
        sys.exit(work())
