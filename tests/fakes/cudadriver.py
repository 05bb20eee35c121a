"""Stand-ins for NVIDIA's driver library, which a C compiler makes here."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
compiled = pytest.mark.skipif(COMPILER is None or sys.platform == "win32", reason="there is no C compiler")

# as much of a driver as the probe asks for; INIT, COUNT, FIRST_UUID and BROKEN_NAME are set by each test
SOURCE = r"""
#include <string.h>
static const char *names[] = {"NVIDIA GeForce RTX 2080 Ti", "NVIDIA H100 80GB HBM3 MIG 1g.10gb"};
static const int major[] = {7, 9}, minor[] = {5, 0};
int cuInit(unsigned flags) { return INIT; }
int cuGetErrorName(int code, const char **text) {
  if (code == 100) { *text = "CUDA_ERROR_NO_DEVICE"; return 0; }
  if (code == 803) { *text = "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH"; return 0; }
  if (code == 999) { *text = "CUDA_ERROR_UNKNOWN"; return 0; }
  *text = 0; return 1;
}
int cuDriverGetVersion(int *version) { *version = 13010; return 0; }
int cuDeviceGetCount(int *count) { *count = COUNT; return 0; }
int cuDeviceGet(int *device, int index) { *device = index; return 0; }
int cuDeviceGetName(char *name, int size, int device) {
#ifdef BROKEN_NAME
  return 46;
#endif
  strncpy(name, names[device], size); return 0;
}
int cuDeviceGetAttribute(int *value, int attribute, int device) {
  if (attribute == 75) { *value = major[device]; return 0; }
  if (attribute == 76) { *value = minor[device]; return 0; }
  return 1;
}
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = (size_t) 11264 * 1048576 + 5; return 0; }
static int uuid(unsigned char *bytes, int device) {
  for (int i = 0; i < 16; i++) bytes[i] = i + 16 * device;
  return 0;
}
#ifdef FIRST_UUID
int cuDeviceGetUuid(unsigned char *bytes, int device) { return uuid(bytes, device); }
#else
int cuDeviceGetUuid_v2(unsigned char *bytes, int device) { return uuid(bytes, device); }
#endif
"""


def library(
    folder: Path, *, init: int = 0, count: int = 2, source: str = SOURCE, defines: tuple[str, ...] = ()
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    code, built = folder / "stub.c", folder / "libcuda.so.1"
    code.write_text(source, encoding="utf-8")
    macros = [f"-D{macro}" for macro in (f"INIT={init}", f"COUNT={count}", *defines)]
    assert COMPILER
    flags = ["-shared", "-fPIC", "-include", "stddef.h"]
    subprocess.run([COMPILER, *flags, *macros, "-o", str(built), str(code)], check=True)
    return built
