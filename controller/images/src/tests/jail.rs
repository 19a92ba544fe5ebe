//! The builder with the restrictions of Fargate: no root, no capabilities, no user namespaces and a read-only root folder.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use super::process::ChildBuild;
use super::python::{python, uv, wheels};
use super::{CODE, Repository, TestBuilder, TestRegistry, digest};

/// The id of the user `nobody`.
const USER: u32 = 65534;

/// Sets up the jail. `$1` is the writable folder; then come pairs of a program and its name in the folder, until `--`.
const JAIL: &str = r#"
set -eu
mount --make-rprivate /
work=$1; shift
mount --bind "$work" "$work"
while [ "$1" != -- ]; do touch "$work/$2"; mount --bind "$1" "$work/$2"; shift 2; done; shift
if [ -d /dev/shm ]; then mount -t tmpfs -o ro tmpfs /dev/shm; fi
mount -o remount,bind,ro /
echo 0 > /proc/sys/user/max_user_namespaces
exec setpriv --reuid=65534 --regid=65534 --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all -- "$@"
"#;

/// Prints what works in the jail and must not, and the process status of the kernel.
const PROBE: &str = r#"
for folder in / /tmp /var/tmp /dev/shm /usr "$HOME"; do
    if touch "$folder/probe" 2>/dev/null; then echo "can write to $folder"; fi
done
if unshare --user true 2>/dev/null; then echo "can make a user namespace"; fi
if [ "$(id -u)" != 65534 ]; then echo "is user $(id -u)"; fi
grep -E '^(CapInh|CapPrm|CapEff|CapBnd|CapAmb|NoNewPrivs):' /proc/self/status | tr -d '\t' | tr '\n' ' '
"#;

/// A new user namespace.
struct Namespace(Child);

impl Namespace {
    fn new() -> std::io::Result<Self> {
        let child = Self(Command::new("unshare").args(["--user", "cat"]).stdin(Stdio::piped()).spawn()?);
        let namespace = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/user"));
        let (own, id) = (namespace("self")?, child.0.id().to_string());
        while namespace(&id)? == own {
            std::thread::yield_now();
        }
        // Only root can map more than one user.
        for map in ["uid_map", "gid_map"] {
            std::fs::write(format!("/proc/{id}/{map}"), "0 0 65536\n")?;
        }
        Ok(child)
    }

    /// Runs a command in the jail.
    fn run(&self, work: &Path, shown: &[(PathBuf, &str)], command: &Command) -> std::io::Result<Output> {
        let mut jail = Command::new("nsenter");
        jail.arg(format!("--user=/proc/{}/ns/user", self.0.id()));
        jail.args(["--setuid=0", "--setgid=0", "--", "unshare", "--mount", "/bin/sh", "-c", JAIL, "jail"]).arg(work);
        for (program, name) in shown {
            jail.arg(program).arg(name);
        }
        jail.arg("--").arg(command.get_program()).args(command.get_args());
        jail.env_clear().envs(command.get_envs().filter_map(|(name, value)| Some((name, value?)))).output()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn chown_to_user(folder: &Path) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        std::os::unix::fs::lchown(entry.path(), Some(USER), Some(USER)).unwrap();
        if entry.file_type().unwrap().is_dir() {
            chown_to_user(&entry.path());
        }
    }
    std::os::unix::fs::chown(folder, Some(USER), Some(USER)).unwrap();
}

#[tokio::test]
async fn the_builder_runs_without_root_and_with_one_writable_folder() {
    let (registry, repository, folder) = (TestRegistry::start().await, Repository::new(), tempfile::tempdir().unwrap());
    let work = folder.path().to_owned();
    let home = work.join("not-there");
    let mut probe = Command::new("/bin/sh");
    probe.args(["-c", PROBE]).env("HOME", &home).env("PATH", "/usr/bin:/bin");
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: only root can create the jail");
        return;
    }
    chown_to_user(&work);
    let jail = match Namespace::new() {
        Ok(jail) => jail,
        Err(error) => {
            eprintln!("SKIPPED: this machine cannot create the jail: {error}");
            return;
        }
    };
    let probed = jail.run(&work, &[], &probe).unwrap();
    if !probed.status.success() {
        eprintln!("SKIPPED: this machine cannot create the jail: {}", String::from_utf8_lossy(&probed.stderr));
        return;
    }
    let none = "0000000000000000";
    let expected = format!("CapInh:{none} CapPrm:{none} CapEff:{none} CapBnd:{none} CapAmb:{none} NoNewPrivs:1 ");
    assert_eq!(String::from_utf8_lossy(&probed.stdout), expected);

    let uv = uv();
    let requirements = [("requirements.txt", "needy\n")];
    let packages: &[(&str, &str)] = if uv.is_some() { &requirements } else { &[] };
    let commit = repository.commit(&[CODE.as_slice(), packages].concat());
    // The jail cannot read a Python below /root.
    let system_python = PathBuf::from("/usr/bin/python3");
    let python = if system_python.is_file() { system_python } else { python() };
    let wheels_here = wheels();
    let (wheels, copy) = (work.join("wheels"), work.join("repository"));
    std::fs::create_dir(&wheels).unwrap();
    for wheel in std::fs::read_dir(wheels_here.path()).unwrap() {
        let wheel = wheel.unwrap();
        std::fs::copy(wheel.path(), wheels.join(wheel.file_name())).unwrap();
    }
    repository.git(&["clone", "--quiet", "--no-local", ".", copy.to_str().unwrap()]);
    chown_to_user(&work);
    let mut shown = vec![(std::env::current_exe().unwrap(), "builder")];
    let uv_inside = work.join("uv");
    if let Some(uv) = &uv {
        shown.push((uv.clone(), "uv"));
    }
    let build = ChildBuild {
        repository: &copy,
        packages: uv.as_ref().map(|_| (uv_inside.as_path(), python.as_path(), wheels.as_path())),
        ..ChildBuild::new(&repository, &registry, &commit, &work)
    };
    let mut command = Command::new(work.join("builder"));
    command.args(ChildBuild::arguments()).envs(build.environment()).env("HOME", &home);
    // On another thread, because this one serves the registry.
    let inside = work.clone();
    let output = tokio::task::spawn_blocking(move || jail.run(&inside, &shown, &command));
    let output = output.await.unwrap().unwrap();
    let printed = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(output.status.success(), "{printed}");

    // A build outside the jail gives the same image.
    let outside = TestBuilder::with(|settings| {
        settings.find_links = Some(wheels.clone());
        settings.python = uv.is_some().then(|| python.clone());
        settings.uv = uv.clone().unwrap_or_default();
    });
    let registry = TestRegistry::start().await;
    let image = outside.build(&repository.request(&registry, &commit)).await.unwrap();
    assert_eq!(digest(&image), build.digest());
}
