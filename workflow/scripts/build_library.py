"""Compile the library of a GPU backend, resources/build/cu{major}_cc{cc}/lib….so. Needs nvcc and headers, no GPU."""

import argparse

from slidesparse.gemm import build
from slidesparse.points import records

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--library", required=True, choices=sorted(build.HEADERS))
parser.add_argument("--cc", required=True, type=int, help="compute capability, such as 90")
parser.add_argument("--cuda", type=int, help="CUDA major version; default: that of the installed torch, else of nvcc")
parser.add_argument("--output", required=True, help="path of the library; its record is written beside it (.json)")


def main(arguments):
    build.build(arguments.library, arguments.cc, arguments.output, arguments.cuda)


if __name__ == "__main__":
    records.run_making(main, parser)
