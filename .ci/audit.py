"""Known faults of the installed packages, by pip-audit in an environment of its own.

Exit code 1 if there are any. Without a network, or with an index that has no reports, nothing can be said, and that is
what is said: exit code 0.
"""

import json
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from typing import Any

#: seconds for the installation, and for the questions about all packages
LIMIT = 180


def reports(folder: Path) -> list[dict[str, Any]] | None:
    """What pip-audit says of each installed package; None if it cannot be installed or asked in time."""
    python = folder / "bin" / "python"
    try:
        if not python.exists():
            venv.create(folder, with_pip=True)
        install = [str(python), "-m", "pip", "install", "--quiet", "pip-audit"]
        subprocess.run(install, check=True, timeout=LIMIT, capture_output=True)
        command = [str(python), "-m", "pip_audit", "--progress-spinner", "off", "--format", "json"]
        command += ["--path", sysconfig.get_path("purelib")]
        ended = subprocess.run(command, check=False, timeout=LIMIT, capture_output=True, text=True)
        return json.loads(ended.stdout)["dependencies"]
    except (OSError, subprocess.SubprocessError, ValueError, KeyError):
        return None


def main() -> int:
    """Print one line for each known fault, then how many packages were looked up."""
    found = reports(Path(sys.prefix) / "audit")
    checked = [each for each in found or () if "vulns" in each]
    if not checked:
        print("pip-audit was skipped: the package index cannot be reached, or has no reports about faults.")
        return 0
    faults = [(each, fault) for each in checked for fault in each["vulns"]]
    for each, fault in faults:
        remedy = ", ".join(fault.get("fix_versions") or ()) or "no version yet"
        print(f"{each['name']} {each['version']}: {fault['id']}, corrected in {remedy}")
    others = len(found or ()) - len(checked)
    print(f"pip-audit: {len(faults)} known faults in {len(checked)} packages; nothing is known about {others} others.")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
