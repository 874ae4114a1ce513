"""Hold ``Config.fromfile`` against the real mmcv's, over a folder of config files.

    python tests/utils/compare_configs.py FOLDER --mmcv /path/to/a/python/that/has/mmcv

The other Python runs mmcv 1.x on every ``.py`` file below the folder; the dicts, their order, the
types of their values and the dumped text, read back, must be equal.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

THERE = """
import json, pathlib, sys
from mmcv import Config

def plain(v):
    if isinstance(v, dict):
        return ["dict", [[plain(k), plain(i)] for k, i in v.items()]]
    if isinstance(v, (list, tuple)):
        return [type(v).__name__, [plain(i) for i in v]]
    if isinstance(v, (set, frozenset)):
        return ["set", sorted(map(repr, v))]
    return [type(v).__name__, repr(v)]

for path in map(str.strip, sys.stdin):
    try:
        config = Config.fromfile(path, import_custom_modules=False)
        found = [plain(config._cfg_dict), config.text]
    except BaseException as e:
        found = ["error", f"{type(e).__name__}: {e}"[:300]]
    print(json.dumps([path, found]))
"""

AGAIN = """
import tempfile
folder = pathlib.Path(tempfile.mkdtemp())

def dumped(config):
    config.dump(folder / "again.py")
    return plain(Config.fromfile(folder / "again.py", import_custom_modules=False)._cfg_dict)

"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--mmcv", required=True, metavar="PYTHON")
    args = parser.parse_args()
    files = "\n".join(sorted(str(p.absolute()) for p in args.folder.rglob("*.py")))

    def read(python: str, code: str) -> dict[str, list]:
        done = subprocess.run([python, "-W", "ignore", "-c", code], input=files, text=True,
                              capture_output=True, check=True)
        return dict(json.loads(line) for line in done.stdout.splitlines())

    ours_code = THERE.replace("from mmcv import", "from fastdet.utils import").replace(
        "config.text]", "config.text, dumped(config)]").replace("for path", AGAIN + "for path", 1)
    theirs, ours = read(args.mmcv, THERE), read(sys.executable, ours_code)
    counts = dict(equal=0, different=0, both_refuse=0, only_ours_refuses=0, only_mmcv_refuses=0,
                  dump_differs=0)
    for path, found in ours.items():
        want = theirs[path]
        refused = (found[0] == "error", want[0] == "error")
        if any(refused):
            kind = {(True, True): "both_refuse", (True, False): "only_ours_refuses",
                    (False, True): "only_mmcv_refuses"}[refused]
        else:
            kind = "equal" if found[:2] == want else "different"
            if found[2] != found[0]:
                counts["dump_differs"] += 1
        counts[kind] += 1
        if kind != "equal":
            print(f"{kind}: {path}: {found[1][:200] if found[0] == 'error' else ''}")
    print(counts)
    return int(counts["equal"] + counts["both_refuse"] < len(ours))


if __name__ == "__main__":
    sys.exit(main())
