//! The builder where it runs in production: Fargate gives no root, no capabilities, no user namespaces, and a read-only
//! root.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use super::process::Order;
use super::python::{python, uv, wheels};
use super::{CODE, Repository, TestRegistry, Workshop, digest};

/// Nobody.
const USER: u32 = 65534;

/// Becomes the jail: `$1` is the writable folder, then come programs that are shown in it under names, until `--`.
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

/// What must not work in it, and what the kernel says about it.
const PROBE: &str = r#"
for folder in / /tmp /var/tmp /dev/shm /usr "$HOME"; do
    if touch "$folder/probe" 2>/dev/null; then echo "can write to $folder"; fi
done
if unshare --user true 2>/dev/null; then echo "can make a user namespace"; fi
if [ "$(id -u)" != 65534 ]; then echo "is user $(id -u)"; fi
grep -E '^(CapInh|CapPrm|CapEff|CapBnd|CapAmb|NoNewPrivs):' /proc/self/status | tr -d '\t' | tr '\n' ' '
"#;

/// A user namespace of its own, in which nobody can make another.
struct Namespace(Child);

impl Namespace {
    fn new() -> std::io::Result<Self> {
        let held = Self(Command::new("unshare").args(["--user", "cat"]).stdin(Stdio::piped()).spawn()?);
        let namespace = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/user"));
        let (own, id) = (namespace("self")?, held.0.id().to_string());
        while namespace(&id)? == own {
            std::thread::yield_now();
        }
        // Only root may lend a namespace more than one user.
        for map in ["uid_map", "gid_map"] {
            std::fs::write(format!("/proc/{id}/{map}"), "0 0 65536\n")?;
        }
        Ok(held)
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

fn give(folder: &Path) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        std::os::unix::fs::lchown(entry.path(), Some(USER), Some(USER)).unwrap();
        if entry.file_type().unwrap().is_dir() {
            give(&entry.path());
        }
    }
    std::os::unix::fs::chown(folder, Some(USER), Some(USER)).unwrap();
}

#[tokio::test]
async fn the_builder_needs_no_root_no_capability_and_one_writable_folder() {
    let (registry, repository, folder) = (TestRegistry::start().await, Repository::new(), tempfile::tempdir().unwrap());
    let work = folder.path().to_owned();
    let home = work.join("not-there");
    let mut probe = Command::new("/bin/sh");
    probe.args(["-c", PROBE]).env("HOME", &home).env("PATH", "/usr/bin:/bin");
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: the jail is made by root alone");
        return;
    }
    give(&work);
    let jail = match Namespace::new() {
        Ok(jail) => jail,
        Err(error) => {
            eprintln!("SKIPPED: this machine makes no such jail: {error}");
            return;
        }
    };
    let probed = jail.run(&work, &[], &probe).unwrap();
    if !probed.status.success() {
        let complaint = String::from_utf8_lossy(&probed.stderr).into_owned();
        eprintln!("SKIPPED: this machine makes no such jail: {complaint}");
        return;
    }
    let none = "0000000000000000";
    let expected = format!("CapInh:{none} CapPrm:{none} CapEff:{none} CapBnd:{none} CapAmb:{none} NoNewPrivs:1 ");
    assert_eq!(String::from_utf8_lossy(&probed.stdout), expected);

    let uv = uv();
    let requirements = [("requirements.txt", "needy\n")];
    let packages: &[(&str, &str)] = if uv.is_some() { &requirements } else { &[] };
    let commit = repository.commit(&[CODE.as_slice(), packages].concat());
    // What the jail cannot see elsewhere: /root, say.
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
    give(&work);
    let mut shown = vec![(std::env::current_exe().unwrap(), "builder")];
    let uv_inside = work.join("uv");
    if let Some(uv) = &uv {
        shown.push((uv.clone(), "uv"));
    }
    let order = Order {
        repository: &copy,
        packages: uv.as_ref().map(|_| (uv_inside.as_path(), python.as_path(), wheels.as_path())),
        ..Order::new(&repository, &registry, &commit, &work)
    };
    let mut command = Command::new(work.join("builder"));
    command.args(Order::arguments()).envs(order.environment()).env("HOME", &home);
    // Away from this test's own thread, which serves the registry.
    let inside = work.clone();
    let output = tokio::task::spawn_blocking(move || jail.run(&inside, &shown, &command));
    let output = output.await.unwrap().unwrap();
    let told = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(output.status.success(), "{told}");

    // It is the image that everyone else builds.
    let outside = Workshop::with(|settings| {
        settings.find_links = Some(wheels.clone());
        settings.python = uv.is_some().then(|| python.clone());
        settings.uv = uv.clone().unwrap_or_default();
    });
    let registry = TestRegistry::start().await;
    let image = outside.build(&repository.request(&registry, &commit)).await.unwrap();
    assert_eq!(digest(&image), order.digest());
}
