"""What is on the GPU machine: our programs, NVIDIA's tools and libraries; for first_gpu.py. Standard library only."""

import glob
import importlib.metadata
import os
import platform
import re
import shutil
import site
import sys
import sysconfig

# A program has one name in the kit and another where it is built to run without a device.
ALIASES = {"fathom-cuda-selftest": "selftest", "fathom-cuda-bench": "kernel-bench", "fathom-cuda-step": "step-bench"}
CUBLAS = "libcublas.so.13"
NCCL = "libnccl.so.2"  # for models on several devices; the self-test says where it is missing
TOOLS = ("ncu", "compute-sanitizer")
ASKED = "name,driver_version,memory.total,clocks.max.sm,clocks.max.mem,power.limit,ecc.mode.current"
STATE = "clocks.sm,clocks.mem,temperature.gpu,power.draw,memory.used"


def executable(path):
    """The path; its mode may have been lost on the way here."""
    if not os.access(path, os.X_OK):
        try:
            os.chmod(path, 0o755)
        except OSError:
            pass  # starting it will tell
    return path


class Programs:
    """Finds programs in folders, the first of which has precedence."""

    def __init__(self, folders):
        self.folders = [os.path.abspath(f) for f in folders]

    def find(self, name):
        for folder in self.folders:
            for file in (name, ALIASES.get(name, name)):
                path = os.path.join(folder, file)
                if os.path.isfile(path):
                    return executable(path)
        return os.path.join(self.folders[0], name)  # starting it fails, and says where it was sought


def package_folders():
    """site-packages, where the CUDA of PyTorch lies: of the running Python, then of others."""
    paths = sysconfig.get_paths()
    found = [paths["purelib"], paths["platlib"], site.getusersitepackages(), *site.getsitepackages(),
             *(p for p in sys.path if p.endswith("-packages"))]
    for root in ("/opt/*", "/opt/*/*", "/usr/local", "/usr"):
        found += sorted(glob.glob(f"{root}/lib/python3*/*-packages"))
    return list(dict.fromkeys(found))


def python_with_torch(runner):
    """The running Python if it has torch, or another that has; None where none has."""
    others = [shutil.which("python3"), *sorted(glob.glob("/opt/*/bin/python3")), *sorted(glob.glob("/opt/*/*/bin/python3")),
              "/usr/local/bin/python3", "/usr/bin/python3"]
    ask = "import importlib.util, sys; sys.exit(importlib.util.find_spec('torch') is None)"
    for python in dict.fromkeys([sys.executable, *others]):
        if python and os.path.exists(python) and runner.run("torch", 5, [python, "-c", ask], dict(os.environ)).rc == 0:
            return python
    return None


def library_folder(library, package, ldconfig_text=""):
    """Where one of NVIDIA's libraries is, in Python under the name `package`; "" where it is not."""
    folders = [*sorted(glob.glob("/usr/local/cuda*/lib64")), *sorted(glob.glob("/usr/local/cuda*/targets/x86_64-linux/lib"))]
    folders += [os.path.dirname(p) for p in re.findall(rf"{re.escape(library)} .*=> (\S+)", ldconfig_text)]
    for packages in package_folders():
        folders += [os.path.join(packages, "nvidia", "cu13", "lib"), os.path.join(packages, "nvidia", package, "lib")]
    return next((f for f in folders if os.path.exists(os.path.join(f, library))), "")


def tool(name):
    """The path of one of NVIDIA's tools, or None."""
    places = sorted(glob.glob(f"/usr/local/cuda*/bin/{name}")) + sorted(glob.glob(f"/opt/nvidia/*/*/{name}"))
    return shutil.which(name) or next(iter(places), None)


def environment(*folders):
    """Ours, with folders put before LD_LIBRARY_PATH. What is in it stays: it may name the driver's folder."""
    env = dict(os.environ, CUDA_MODULE_LOADING="LAZY")
    folders = [*dict.fromkeys(folders), os.environ.get("LD_LIBRARY_PATH")]
    env["LD_LIBRARY_PATH"] = ":".join(f for f in folders if f)
    return env


def read(path, pattern, group=1):
    try:
        with open(path, encoding="utf-8") as f:
            found = re.search(pattern, f.read(), re.M)
            return found[group] if found else ""
    except OSError:
        return ""


def torch_version():
    try:
        return importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return ""


def free_gb(folder):
    try:
        return round(shutil.disk_usage(folder).free / 1e9, 1)
    except OSError:
        return 0


class Machine:
    """Asked once, at the start: every unknown is answered even if all else fails."""

    def __init__(self, runner, programs):
        self.runner = runner
        known = runner.run("ldconfig", 5, ["/sbin/ldconfig", "-p"], dict(os.environ)).out
        self.cublas = library_folder(CUBLAS, "cublas", known)
        self.nccl = library_folder(NCCL, "nccl", known)
        self.tools = {name: tool(name) for name in TOOLS}
        self.env = environment(self.cublas, self.nccl)
        self.programs = programs

    def fathom_env(self):
        """The kit's libraries are for `fathom` alone: others might take an older one than they were built for."""
        libraries = os.path.join(os.path.dirname(self.programs.find("fathom")), "lib")
        return environment(libraries if os.path.isdir(libraries) else None, self.cublas, self.nccl)

    def ask_gpu(self, fields):
        return self.runner.run("nvidia-smi", 10, ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"], self.env).out.strip()

    def missing_libraries(self):
        missing = {}
        for name in ("fathom", "fathom-cuda.so", *ALIASES):
            said = self.runner.run("ldd", 5, ["ldd", self.programs.find(name)], self.env)
            lines = re.findall(r"^\s*(.*not found.*)$", said.out + said.err, re.M)
            missing[name] = [line.strip() for line in lines] if os.path.exists(self.programs.find(name)) else ["no such program"]
        return missing

    def describe(self):
        said = self.runner.run("nvcc", 5, [tool("nvcc") or "nvcc", "--version"], self.env).out
        return {"gpu": self.ask_gpu(ASKED), "glibc": " ".join(platform.libc_ver()), "python": platform.python_version(),
                "torch": torch_version(), "os": read("/etc/os-release", r'^PRETTY_NAME="(.*)"'), "cpus": os.cpu_count(),
                "cpu": read("/proc/cpuinfo", r"^model name\s*: (.*)"), "memory": read("/proc/meminfo", r"^MemTotal:\s*(.*)"),
                "shared_memory_free_gb": free_gb("/dev/shm"), "nvcc": "".join(re.findall(r"release.*", said)),
                "cuda": sorted(glob.glob("/usr/local/cuda*")), "cublas": self.cublas, "nccl": self.nccl, "tools": self.tools,
                "missing": self.missing_libraries()}
