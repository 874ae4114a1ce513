"""Packaging of fastdet.

``kernels/`` and ``benchmarks/`` are top-level folders that install as ``fastdet.kernels`` and
``fastdet.benchmarks``. In a checkout the same imports go through the symlinks ``fastdet/kernels``
and ``fastdet/benchmarks``; no package called ``kernels`` or ``benchmarks`` is installed.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.sdist import sdist

HERE = Path(__file__).parent
VERSION = re.search(r'"(.+)"', (HERE / "fastdet" / "version.py").read_text()).group(1)

# torch.onnx writes with these, and onnxruntime runs what it wrote.
ONNX = ["onnx>=1.17", "onnxscript>=0.3", "onnxruntime>=1.20"]
YAML = ["pyyaml>=6"]  # for configs in YAML
# What mmcv's names stand on. OpenCV 5 samples images at other places than 4 does, and pixels are
# part of the numbers.
MMCV = ["opencv-python-headless>=4.8,<5", "pillow>=9.5", "packaging>=23", "matplotlib>=3.7",
        "pycocotools>=2.0.7", "scikit-learn>=1.3", "scipy>=1.10", "terminaltables>=3.1", *YAML]
# detect, train, test and demo read and draw images and read COCO's annotations.
CLI = ["rich>=13", *MMCV]
# Whose models accelerate() and convert know.
PEERS = ["safetensors>=0.4", "timm>=1.0", "torchvision>=0.22", "transformers>=5"]
TEST = ["pytest>=8", "pytest-xdist>=3", "hypothesis>=6.100", "pytest-benchmark>=4",
        "mmdet==2.26.0", *CLI, *ONNX, *PEERS]
BENCH = ["pytest-benchmark>=4"]

LINKED = ("kernels", "benchmarks")

packages = find_packages(include=["fastdet", "fastdet.*"],
                         exclude=[f"fastdet.{p}{rest}" for p in LINKED for rest in ("", ".*")])
for folder in LINKED:
    packages += [f"fastdet.{folder}", *(f"fastdet.{folder}.{p}" for p in find_packages(folder))]


class SourceArchive(sdist):
    """A source archive with the links that a checkout has; setuptools leaves them out."""

    def make_release_tree(self, base_dir, files):
        super().make_release_tree(base_dir, files)
        for folder in LINKED:
            (Path(base_dir) / "fastdet" / folder).symlink_to(Path("..", folder))


# Links to files of the repository lead nowhere from a package index.
readme = re.sub(r"!?\[([^]]*)\]\((?!https?:|#)[^)]*\)", r"\1", (HERE / "README.md").read_text())

setup(
    name="fastdet",
    version=VERSION,
    description="The components of MMDetection 2.x on today's PyTorch, with Triton kernels",
    long_description=readme,
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.10",
    packages=packages,
    cmdclass={"sdist": SourceArchive},
    package_dir={f"fastdet.{folder}": folder for folder in LINKED},
    package_data={"fastdet": ["py.typed"], "fastdet.compat": ["*.json"],
                  "fastdet.runner": ["*.json"],
                  "fastdet.core.evaluation": ["*.json"],
                  "fastdet.kernels": ["*/README.md"],
                  "fastdet.benchmarks": ["ledger/*.json"]},
    install_requires=[
        "torch>=2.7",
        "numpy>=1.24",
        "triton>=3.3; platform_system == 'Linux'",
    ],
    extras_require={
        "cli": CLI,
        "mmcv": MMCV,
        "onnx": ONNX,
        "yaml": YAML,
        # Their own scripts judge. (LVIS's want the other OpenCV: pip install --no-deps lvis.)
        "cityscapes": ["cityscapesscripts>=2.2"],
        "test": TEST,
        "bench": BENCH,
        # Whose models accelerate() and convert know; their tests skip without. timm wants
        # torchvision, which need not match torch here: pip install --no-deps torchvision.
        "peers": ["timm>=1.0", "transformers>=5", "safetensors>=0.4"],
        "dev": [*TEST, "ruff>=0.6", "mypy>=1.11", "pre-commit>=3.5"],
    },
    entry_points={"console_scripts": ["fastdet = fastdet.cli:main"]},
    classifiers=[
        "Programming Language :: Python :: 3",
        "Operating System :: POSIX :: Linux",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
)
