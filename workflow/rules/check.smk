# Prepares Snakemake's own process, and checks configuration files before Snakemake reads them.
import logging
import os

from snakemake.exceptions import WorkflowError

from slidesparse import program
from slidesparse.errors import SlideSparseError
from slidesparse.plan import text

logging.raiseExceptions = False  # a disk on which no log finds room is told once, not with each line
program.interrupt_once()

try:
    text.check_files([*filter(os.path.exists, ["config/config.yaml"]), *workflow.overwrite_configfiles])
except SlideSparseError as error:
    raise WorkflowError(str(error))
